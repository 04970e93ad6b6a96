"""Run patterns' Triton kernels through the interpreter: `python -m tests.codegen.interpreted NAME...`, one
line a case.

In a process of its own, because the interpreter has to be chosen before Triton is imported, and because a
pointer that leaves its tensor ends the process.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch

import attncc
from attncc.verify.criterion import worst
from tests.shapes import FOLDED, KERNELS, MANY, MASKS, Shape, arguments, doubled, numbers, output

CASES = (
    [Shape(1, 2, 2, n, n, 16, 16) for n in (1, 15, 63, 65, 127, 129, 250)]
    + [Shape(2, 3, 1, 33, 90, 32, 16), Shape(1, 6, 2, 70, 31, 16, 24), Shape(1, 1, 1, 1, 200, 80, 96)]
    + [Shape(1, 2, 1, 0, 40, 16, 16), Shape(1, 2, 1, 40, 0, 16, 16)]
)


FEW = [CASES[n] for n in (0, 3, 5, 7, 9, 11)]
"""For patterns whose tiles and masks are those of others."""

SMALL = [Shape(1, 2, 2, 1, 1, 7, 5), Shape(1, 2, 1, 65, 65, 7, 5), Shape(2, 3, 1, 33, 70, 5, 16), CASES[11]]
"""For patterns that fold features one after the other: the interpreter takes its time for each."""

BRIEF = [CASES[n] for n in (2, 7, 8)]
"""For patterns that are others but for a mask."""

MAKE = torch.Tensor.new_empty


def shapes(name: str) -> list[Shape]:
    """Where a pattern is tried."""
    if name in FOLDED:
        return SMALL
    if name in MASKS:
        return BRIEF
    return CASES if name in KERNELS[:MANY] else FEW


def poisoned(*arguments: Any, **options: Any) -> torch.Tensor:
    """What is left unwritten is NaN."""
    made: torch.Tensor = MAKE(*arguments, **options)
    return made.fill_(torch.nan) if made.is_floating_point() else made


def main(name: str) -> None:
    kernel = attncc.load(f"patterns/{name}.attn", backend="triton")
    plain = attncc.load(f"patterns/{name}.attn", backend="reference")
    for dtype in (torch.float32, torch.float16):
        for shape in shapes(name):
            shape = Shape(**{**vars(shape), "numbers": {**numbers(name), "cap": 20.0, "bias": -3.0}})
            given = arguments(kernel.cascade, shape, dtype, "cpu")
            torch.Tensor.new_empty = poisoned  # type: ignore[method-assign]
            made = kernel(**given, outputs=output(name))
            torch.Tensor.new_empty = MAKE  # type: ignore[method-assign]
            exact = plain(**doubled(given), outputs=output(name))
            ratio = worst(made, plain(**given, outputs=output(name)), exact, dtype, features=True)
            print(f"{ratio:.3f} {name} {dtype} {shape}", flush=True)


if __name__ == "__main__":
    for pattern in sys.argv[1:]:
        main(pattern)
