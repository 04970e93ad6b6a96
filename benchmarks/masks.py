"""Masks beside FlexAttention, in one run on one GPU: `python benchmarks/masks.py [--length N ...]`.

Forward passes in bf16 on random data through a cold L2 cache, medians, the candidates in turns (A, B, B, A);
outputs are compared first. FlexAttention runs its Triton backend with its default configuration, or its FLASH
backend where that is installed; its block masks are made beforehand, from the predicate asked of a stripe of
rows at a time. Work is measured in live tiles, of attncc's own tiles, beside a dense pass of the same length.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from forward import milliseconds
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

import attncc
from attncc.explain.costs import environment, tile_of, work
from attncc.pipeline import meaning, streamed
from attncc.schedule.plan import partition
from attncc.schedule.tiles import GPUS
from attncc.source import Source

torch._dynamo.config.recompile_limit = 64
DEVICE = "cuda"
PATTERNS = Path(__file__).parents[1] / "patterns"
HEADS, FEATURES, SIDE = 16, 128, 128

Mask = Callable[[Any, Any, Any, Any], Any]


@dataclass(frozen=True)
class Case:
    """A pattern, its numbers and tables at a length, and the same mask for FlexAttention."""

    pattern: str
    words: str
    given: Callable[[int], dict[str, Any]]
    mask: Callable[[int], Mask | None]
    heads: bool = False


def lengths(n: int) -> list[int]:
    """Eight documents of n positions, the longest 3.7 times the shortest."""
    parts = [1600, 3100, 900, 2500, 1200, 3300, 2700, 1084]
    return [part * (n // 16384) for part in parts]


def numbers_of(n: int) -> torch.Tensor:
    """The document of every position, (1, n)."""
    many = torch.tensor(lengths(n))
    return torch.repeat_interleave(torch.arange(len(many)), many)[None].int().to(DEVICE)


def document(n: int) -> Mask:
    doc = numbers_of(n)[0]
    return lambda b, h, q, k: (q >= k) & (doc[q] == doc[k])


def neighbours(n: int) -> Mask:
    side, window = round(n**0.5), 25

    def start(x: Any) -> Any:
        return (x - window // 2).clamp(0, side - window)

    def inside(x: Any, y: Any) -> Any:
        return (start(x) <= y) & (y < start(x) + window)

    return lambda b, h, q, k: inside(q // side, k // side) & inside(q % side, k % side)


CASES = [
    Case("dense", "", lambda n: {}, lambda n: None),
    Case("causal", "", lambda n: {}, lambda n: lambda b, h, q, k: q >= k),
    Case(
        "window",
        "1024",
        lambda n: {"window": 1024},
        lambda n: lambda b, h, q, k: (q >= k) & (q - k < 1024),
    ),
    Case(
        "streaming",
        "1024, 64 sinks",
        lambda n: {"window": 1024, "sinks": 64},
        lambda n: lambda b, h, q, k: (q >= k) & ((q - k < 1024) | (k < 64)),
    ),
    Case(
        "s2",
        "16 local blocks of 64, every 16th",
        lambda n: {"block": 64, "local": 16, "stride": 16},
        lambda n: lambda b, h, q, k: (q >= k) & ((q // 64 - k // 64 < 16) | ((k // 64 + h) % 16 == 0)),
        heads=True,
    ),
    Case(
        "prefix_lm",
        "an eighth",
        lambda n: {"prefix": n // 8},
        lambda n: lambda b, h, q, k: (k < n // 8) | (q >= k),
    ),
    Case("document", "8", lambda n: {"doc": numbers_of(n)}, document),
    Case(
        "block_causal",
        "256",
        lambda n: {"block": 256},
        lambda n: lambda b, h, q, k: k // 256 <= q // 256,
    ),
    Case(
        "dilated",
        "1024 of every 4th",
        lambda n: {"dilation": 4, "window": 1024},
        lambda n: lambda b, h, q, k: (q >= k) & (q - k < 4096) & ((q - k) % 4 == 0),
    ),
    Case(
        "neighborhood2d",
        "25 by 25",
        lambda n: {"width": round(n**0.5), "window": 25},
        neighbours,
    ),
]


def striped(mask: Mask, n: int, heads: bool) -> tuple[BlockMask, int]:
    """The block mask of a predicate, made a stripe of rows at a time, and how many cells it shows."""
    every = torch.arange(n, device=DEVICE)
    h = torch.arange(HEADS if heads else 1, device=DEVICE)[:, None, None]
    blocks, cells = -(-n // SIDE), 0
    part = torch.zeros(len(h), blocks, blocks, dtype=torch.bool, device=DEVICE)
    full = torch.zeros_like(part)
    for row in range(blocks):
        rows = every[row * SIDE : (row + 1) * SIDE]
        seen = mask(0, h, rows[None, :, None], every[None, None, :]).expand(len(h), len(rows), n)
        cells += int(seen.sum()) * (1 if heads else HEADS)
        count = seen.reshape(len(h), len(rows), blocks, SIDE).sum((1, 3))
        full[:, row] = count == SIDE * SIDE
        part[:, row] = (count > 0) & (count < SIDE * SIDE)

    def listed(found: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        order = torch.argsort(found.int(), dim=-1, descending=True, stable=True)
        return found.sum(-1).int()[None], order.int()[None]

    made = BlockMask.from_kv_blocks(
        *listed(part), *listed(full), BLOCK_SIZE=SIDE, mask_mod=mask, seq_lengths=(n, n)
    )
    return made, cells


def live(case: Case, n: int) -> float:
    """The share of the square that attncc's tiles cover."""
    cascade = meaning(Source.read(PATTERNS / f"{case.pattern}.attn"))
    plan = partition(streamed(cascade))
    given = {name: x.cpu().numpy() if torch.is_tensor(x) else x for name, x in case.given(n).items()}
    extents = {i.name: HEADS for kernel in plan.kernels for i in kernel.batch if i.name == "h"}
    env = environment(cascade, n, given, {**extents, "g": HEADS}) | given
    tile = tile_of(plan, GPUS["H100"])
    counted, _ = work(plan, env, tile)
    return counted.live * tile.rows * tile.columns / (HEADS * n * n)


def measure(case: Case, n: int, flash: bool) -> dict[str, Any]:
    """Times of one case; the outputs agree, or it raises."""
    torch.manual_seed(0)
    shape = (1, HEADS, n, FEATURES)
    q, k, v = (torch.randn(shape, device=DEVICE, dtype=torch.bfloat16) for _ in range(3))
    kernel = attncc.load(PATTERNS / f"{case.pattern}.attn")
    given, mask = case.given(n), case.mask(n)
    runs: dict[str, Callable[[], Any]] = {"attncc": lambda: kernel(q, k, v, **given)}
    block, cells = (None, HEADS * n * n) if mask is None else striped(mask, n, case.heads)
    compiled = torch.compile(flex_attention, dynamic=False)
    options = {"kernel_options": {"BACKEND": "FLASH"}} if flash else {}
    runs["flex"] = lambda: compiled(q, k, v, block_mask=block, **options)
    mine, other = (run() for run in runs.values())
    error = ((mine.float() - other.float()).norm(dim=-1) / other.float().norm(dim=-1)).max()
    assert error < 0.05, f"{case.pattern} at {n}: {error}"
    del mine, other
    times = milliseconds(runs)
    return {
        "case": f"{case.pattern} {case.words}".strip(),
        "length": n,
        "ms": times,
        "density": cells / (HEADS * n * n),
        "live": live(case, n),
        "tflops": {name: 4 * cells * FEATURES / ms / 1e9 for name, ms in times.items()},
    }


def shards() -> dict[str, Any]:
    """Strided shards beside FlashAttention-2, at the shape of the published headline (arXiv 2407.17678)."""
    shape = (4, HEADS, 65536, FEATURES)
    q, k, v = (torch.randn(shape, device=DEVICE, dtype=torch.bfloat16) for _ in range(3))
    kernel = attncc.load(PATTERNS / "s2.attn")
    runs = {"attncc": lambda: kernel(q, k, v, block=64, local=8, stride=16)}
    times = milliseconds(runs)
    for name, causal in (("fa2", False), ("fa2 causal", True)):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            times |= milliseconds({name: partial(scaled_dot_product_attention, q, k, v, is_causal=causal)})
    times |= {"attncc again": milliseconds(runs)["attncc"]}
    return {"case": "strided shards, 512 local, 16 shards", "shape": shape, "ms": times}


def million() -> list[dict[str, Any]]:
    """What a mask costs at 1,048,576 positions beside its own tables: memory, and time of the host."""
    n, rows = 1 << 20, []
    q, k, v = (torch.randn((1, 1, n, 64), device=DEVICE, dtype=torch.bfloat16) for _ in range(3))
    for case in CASES:
        if case.pattern in ("dense", "causal", "prefix_lm", "block_causal"):
            continue
        kernel, given = attncc.load(PATTERNS / f"{case.pattern}.attn"), case.given(n)
        few = 16384
        kernel(q[:, :, :few], k[:, :, :few], v[:, :, :few], **case.given(few))
        torch.cuda.synchronize()
        compiled = triton_compilations(kernel)
        kernel(q, k, v, **given)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        made = kernel(q, k, v, **given)
        extra = torch.cuda.max_memory_allocated() - before - made.numel() * made.element_size()
        times = []
        for _ in range(20):
            torch.cuda.synchronize()
            began = time.perf_counter()
            kernel(q, k, v, **given)
            times.append((time.perf_counter() - began) * 1e3)
        rows.append(
            {
                "case": f"{case.pattern} {case.words}".strip(),
                "extra bytes": extra,
                "host ms": statistics.median(times),
                "compiled again": triton_compilations(kernel) - compiled,
            }
        )
    return rows


def triton_compilations(kernel: Any) -> int:
    """How many binaries Triton made of a pattern's kernels."""
    jitted = triton.runtime.jit.JITFunction
    found = 0
    for text in kernel.modules.values():
        module = next(m for m in list(sys.modules.values()) if getattr(m, "__attncc_text__", None) == text)
        kernels = [
            x for name, x in vars(module).items() if isinstance(x, jitted) and name.endswith("_kernel")
        ]
        found += sum(len(caches[0]) for x in kernels for caches in x.device_caches.values())
    return found


def flash() -> bool:
    """Whether FlexAttention's FLASH backend is there."""
    return importlib.util.find_spec("flash_attn") is not None and (
        importlib.util.find_spec("flash_attn.cute") is not None
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, nargs="*", default=[16384, 65536])
    parser.add_argument("--only", nargs="*", help="names of patterns")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    backend = "FLASH" if flash() else "Triton"
    date = datetime.date.today().isoformat()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, {date},")
    print(f"FlexAttention's {backend} backend; (1, {HEADS}, length, {FEATURES}), bf16 forward")
    rows = []
    for n in arguments.length:
        dense = None
        for case in CASES:
            if arguments.only and case.pattern not in [*arguments.only, "dense"]:
                continue
            began = time.time()
            row = measure(case, n, flash())
            row["of dense"] = row["ms"]["attncc"] / row["live"]
            dense = dense or row["of dense"]
            row["of dense"] /= dense
            rows.append(row)
            ms, flops = row["ms"], row["tflops"]
            print(
                f"{n:6} {row['case']:36} {row['density']:6.1%} attncc {ms['attncc']:8.3f} ms"
                f" {flops['attncc']:4.0f} TFLOP/s  flex {ms['flex']:8.3f} {flops['flex']:4.0f}"
                f"  {ms['flex'] / ms['attncc']:5.2f}x  a live tile {row['of dense']:.2f} of a dense one"
                f" ({row['live']:.1%} live, {time.time() - began:.0f} s)",
                flush=True,
            )
            torch._dynamo.reset()
            gc.collect()
            torch.cuda.empty_cache()
    if not arguments.only or "s2" in arguments.only:
        row = shards()
        rows.append(row)
        ms = row["ms"]
        print(
            f"{row['case']} {row['shape']}: {ms['attncc']:.2f}, {ms['attncc again']:.2f} ms;"
            f" FlashAttention-2 {ms['fa2']:.1f} ms, {ms['fa2'] / ms['attncc']:.1f}x;"
            f" causal {ms['fa2 causal']:.1f} ms, {ms['fa2 causal'] / ms['attncc']:.1f}x"
        )
    if not arguments.only:
        for row in million():
            rows.append(row)
            print(
                f"1048576 {row['case']:36} {row['extra bytes']} bytes beside its tables and the output,"
                f" {row['host ms']:.2f} ms of the host, {row['compiled again']} compiled again",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
