"""Uneven work, most of it first or as it comes, on one GPU: `python benchmarks/balance.py [--json FILE]`.

One module runs with its order and without, bf16 forward, cold L2 cache, medians, in turns (A, B, B, A); both
outputs are the same bits, or it raises. Without an order late rows come first, one place of the batch after
the other. The last column is what making an order takes, launches by the host included; a star marks calls
for which the module makes one by itself.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from forward import milliseconds

from attncc.pipeline import compile
from attncc.runtime.module import load
from attncc.runtime.target import target_of
from attncc.schedule.spec import Specialisation
from attncc.source import Source

DEVICE = "cuda"
PATTERNS = Path(__file__).parents[1] / "patterns"
NEVER = 1 << 30


@dataclass(frozen=True)
class Case:
    """A pattern at a shape, with its tables."""

    pattern: str
    words: str
    shape: tuple[int, int, int, int]
    given: dict[str, torch.Tensor]


def documents(lengths: list[int]) -> dict[str, torch.Tensor]:
    """The document of every position."""
    return {"doc": torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))[None].int()}


def spans(heads: int) -> list[int]:
    """From 64 to 8192, each as much longer than the one before."""
    return [round(64 * 128 ** (h / (heads - 1))) for h in range(heads)]


LENGTHS = [12000, 3000, 1384]
MANY = [1600, 3100, 900, 2500, 1200, 3300, 2700, 1084]
PADDED = [8192, 1024, 6000, 512, 3000, 8192, 2048, 256]

CASES = [
    *(
        Case("document", f"{words} {lengths}", (1, heads, 16384, 128), documents(lengths))
        for heads in (1, 4, 16)
        for words, lengths in (("long first", LENGTHS), ("long last", LENGTHS[::-1]))
    ),
    Case("document", "8 of 900 to 3300", (1, 16, 16384, 128), documents(MANY)),
    *(
        Case("per_head_window", f"64 to 8192, {words}", (1, 16, 16384, 128), {"span": torch.tensor(found)})
        for words, found in (("ascending", spans(16)), ("descending", spans(16)[::-1]))
    ),
    *(
        Case("padded", f"256 to 8192, {words}", (8, 8, 8192, 128), {"length": torch.tensor(found)})
        for words, found in (("mixed", PADDED), ("ascending", sorted(PADDED)))
    ),
    Case("padded", "all 8192", (8, 8, 8192, 128), {"length": torch.tensor([8192] * 8)}),
    Case("padded", "a token each", (32, 8, 8192, 128), {"length": torch.tensor(PADDED * 4)}),
]


def made(pattern: str) -> Any:
    """The module of a pattern for this GPU."""
    _, target = target_of("triton", [torch.empty(0, device=DEVICE)])
    spec = Specialisation("triton", target, ("bfloat16",), ((("d", 128), ("e", 128)),))
    return load(compile(Source.read(PATTERNS / f"{pattern}.attn"), spec), pattern)


class Programs:
    """Stands in for a kernel, and counts the programs it is asked for."""

    count = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        (self.count,) = grid
        return lambda *arguments, **tile: None


def measure(case: Case) -> dict[str, Any]:
    """Times of one case; the outputs agree, or it raises."""
    torch.manual_seed(0)
    batch, heads, length, features = case.shape
    rows = 1 if case.words == "a token each" else length
    q = torch.randn(batch, heads, rows, features, device=DEVICE, dtype=torch.bfloat16)
    k, v = (torch.randn(case.shape, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    given = {name: table.to(DEVICE) for name, table in case.given.items()}
    module = made(case.pattern)
    name = f"{case.pattern}_kernel"
    kernel = getattr(module, name)
    usual = module.AT_ONCE, module.MANY, module.LONG

    def run(limits: tuple[int, int, int]) -> torch.Tensor:
        module.AT_ONCE, module.MANY, module.LONG = limits
        return getattr(module, case.pattern)(q, k, v, **given)

    runs = {"plain": lambda: run((NEVER, NEVER, 0)), "ordered": lambda: run((0, NEVER, 0))}
    plain, ordered = (call() for call in runs.values())
    assert torch.equal(plain, ordered), f"{case} differs by its order"
    del plain, ordered
    times = milliseconds(runs)
    programs = Programs()
    setattr(module, name, programs)
    alone = milliseconds(runs)
    setattr(module, name, kernel)
    return {
        "case": f"{case.pattern} ({batch},{heads},{rows},{features}) {case.words}",
        "programs": programs.count,
        "ms": times,
        "order_us": 1e3 * (alone["ordered"] - alone["plain"]),
        "by itself": usual[0] < programs.count <= usual[1] and length > usual[2] * tile_of(module),
    }


def tile_of(module: Any) -> int:
    """Columns of a tile."""
    (tile,) = module.TILES.values()
    columns: int = tile["BLOCK_K"]
    return columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    date = datetime.date.today().isoformat()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}, {date}")
    print(f"{'':76} programs    plain  ordered            order")
    rows = []
    for case in CASES:
        row = measure(case)
        rows.append(row)
        plain, ordered = row["ms"]["plain"], row["ms"]["ordered"]
        print(
            f"{row['case']:76} {row['programs']:7}{'*' if row['by itself'] else ' '}"
            f" {plain:8.3f} {ordered:8.3f} ms {plain / ordered:5.2f}x {row['order_us']:6.0f} us",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
