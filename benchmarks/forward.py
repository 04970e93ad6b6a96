"""Forward passes against PyTorch's own, in one run on one GPU: `python benchmarks/forward.py [--json FILE]`.

Random data, cold L2 cache, medians, the candidates in turns (A, B, C, C, B, A); every output is checked
against SDPA first. FLOPs are 4 * batch * heads * cells seen * features.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch.nn.functional import scaled_dot_product_attention

import attncc

torch._dynamo.config.recompile_limit = 64
DEVICE = "cuda"
PATTERNS = Path(__file__).parents[1] / "patterns"


@dataclass(frozen=True)
class Case:
    """A pattern at a shape, with its numbers and tables, and the same mask for FlexAttention."""

    pattern: str
    shape: tuple[int, int, int, int]
    given: dict[str, Any]
    mask: Callable[[Any, Any, Any, Any], Any] | None
    cells: int
    words: str = ""


def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
    return q >= k


def window(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (q >= k) & (q - k < 1024)


def streaming(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (q >= k) & ((q - k < 1024) | (k < 64))


def prefix(b: Any, h: Any, q: Any, k: Any) -> Any:
    return (k < 2048) | (q >= k)


LENGTHS = [1600, 3100, 900, 2500, 1200, 3300, 2700, 1084]
"""Eight documents of 16,384 positions."""


def numbers_of(lengths: list[int]) -> torch.Tensor:
    """The document of every position, (1, N)."""
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None].int()


def same_document(number: torch.Tensor) -> Callable[[Any, Any, Any, Any], Any]:
    return lambda b, h, q, k: (q >= k) & (number[0, q] == number[0, k])


def banded(n: int, width: int, sinks: int = 0) -> int:
    """Cells of a causal window of `width` keys, and of sinks before it."""
    return sum(min(q + 1, width) + min(max(q + 1 - width, 0), sinks) for q in range(n))


CASES = [
    Case("dense", (2, 16, 8192, 128), {}, None, 8192**2),
    Case("causal", (2, 16, 8192, 128), {}, causal, banded(8192, 8192)),
    Case("causal", (1, 16, 32768, 128), {}, causal, banded(32768, 32768)),
    Case("dense", (1, 16, 32768, 128), {}, None, 32768**2),
    Case("dense", (2, 32, 8192, 64), {}, None, 8192**2),
    Case("causal", (2, 32, 8192, 64), {}, causal, banded(8192, 8192)),
    Case("window", (1, 16, 16384, 128), {"window": 1024}, window, banded(16384, 1024), "1024"),
    Case(
        "streaming",
        (1, 16, 16384, 128),
        {"window": 1024, "sinks": 64},
        streaming,
        banded(16384, 1024, 64),
        "1024, 64 sinks",
    ),
    Case(
        "document",
        (1, 16, 16384, 128),
        {"doc": numbers_of(LENGTHS)},
        same_document(numbers_of(LENGTHS).to(DEVICE)),
        sum(banded(n, n) for n in LENGTHS),
        "8 of 900 to 3300",
    ),
    Case(
        "prefix_lm",
        (1, 16, 16384, 128),
        {"prefix": 2048},
        prefix,
        banded(16384, 16384) + 2048 * 2047 // 2,
        "2048",
    ),
]


def milliseconds(runs: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median time of each, measured forwards and backwards through the list."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for names in (list(runs), list(runs)[::-1]):
        for name in names:
            found[name].append(triton.testing.do_bench(runs[name], warmup=50, rep=200, return_mode="median"))
    return {name: statistics.median(times) for name, times in found.items()}


def measure(case: Case) -> dict[str, Any]:
    """Times of one case; the outputs agree, or it raises."""
    batch, heads, _, features = case.shape
    torch.manual_seed(0)
    q, k, v = (torch.randn(case.shape, device=DEVICE, dtype=torch.bfloat16) for _ in range(3))
    kernel = attncc.load(PATTERNS / f"{case.pattern}.attn")
    given = {name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in case.given.items()}
    runs: dict[str, Callable[[], Any]] = {"attncc": lambda: kernel(q, k, v, **given)}
    if case.mask is None or case.pattern == "causal":
        runs["sdpa"] = lambda: scaled_dot_product_attention(q, k, v, is_causal=case.mask is not None)
    runs["flex"] = _flex(case, q, k, v)
    outputs = {name: run() for name, run in runs.items()}
    reference = outputs["flex"].float()
    for name, output in outputs.items():
        error = (output.float() - reference).norm(dim=-1) / reference.norm(dim=-1).mean()
        assert error.max() < 0.05, f"{name} differs on {case}: {error.max()}"
    times = milliseconds(runs)
    flops = 4 * batch * heads * case.cells * features
    return {
        "case": f"{case.pattern} {case.words}".strip() + f" {case.shape}",
        "ms": times,
        "tflops": {name: flops / ms / 1e9 for name, ms in times.items()},
    }


def _flex(case: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Callable[[], Any]:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    length = case.shape[2]
    mask = (
        None if case.mask is None else create_block_mask(case.mask, None, None, length, length, device=DEVICE)
    )
    return lambda: compiled(q, k, v, block_mask=mask)


def stamp() -> str:
    """Device, versions and date."""
    date = datetime.date.today().isoformat()
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, {date}"


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the README."""
    lines = [
        f"bf16 forward, milliseconds (TFLOP/s over the cells seen): {stamp()}.",
        "",
        "| pattern (batch, heads, length, features) | attncc | FlexAttention | SDPA | attncc is faster by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        shown = {name: f"{ms:.3f} ({row['tflops'][name]:.0f})" for name, ms in row["ms"].items()}
        ratios = [
            f"{row['ms'][name] / row['ms']['attncc']:.2f}x {label}"
            for name, label in (("flex", "FlexAttention"), ("sdpa", "SDPA"))
            if name in row["ms"]
        ]
        cells = [row["case"], shown["attncc"], shown["flex"], shown.get("sdpa", ""), ", ".join(ratios)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    rows = [measure(case) for case in CASES]
    for row in rows:
        parts = [f"{name} {row['ms'][name]:.3f} ms {row['tflops'][name]:.0f} TFLOP/s" for name in row["ms"]]
        ratios = [f"{row['ms'][n] / row['ms']['attncc']:.2f}x {n}" for n in row["ms"] if n != "attncc"]
        print(f"{row['case']:50} {'; '.join(parts)}; {', '.join(ratios)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
