"""Run one pattern's Triton kernel through the interpreter: `python -m tests.codegen.interpreted NAME`, one
line a case.

In a process of its own, because the interpreter has to be chosen before Triton is imported, and because a
pointer that leaves its tensor ends the process.
"""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch

import attncc
from tests.criterion import worst
from tests.shapes import Shape, arguments, numbers

CASES = (
    [Shape(1, 2, 2, n, n, 16, 16) for n in (1, 15, 63, 65, 127, 129, 250)]
    + [Shape(2, 3, 1, 33, 90, 32, 16), Shape(1, 6, 2, 70, 31, 16, 24), Shape(1, 1, 1, 1, 200, 80, 96)]
    + [Shape(1, 2, 1, 0, 40, 16, 16), Shape(1, 2, 1, 40, 0, 16, 16)]
)


def main(name: str) -> None:
    kernel = attncc.load(f"patterns/{name}.attn", backend="triton")
    plain = attncc.load(f"patterns/{name}.attn", backend="reference")
    make = torch.Tensor.new_empty
    for dtype in (torch.float32, torch.float16):
        for shape in CASES:
            shape = Shape(**{**vars(shape), "numbers": {**numbers(name), "cap": 20.0, "bias": -3.0}})
            given = arguments(kernel.cascade, shape, dtype, "cpu")
            torch.Tensor.new_empty = lambda *a, **k: make(*a, **k).fill_(torch.nan)  # type: ignore[method-assign]
            made = kernel(**given)
            torch.Tensor.new_empty = make  # type: ignore[method-assign]
            exact = plain(**{n: x.double() if torch.is_tensor(x) else x for n, x in given.items()})
            ratio = worst(made, plain(**given), exact, dtype, features=True)
            print(f"{ratio:.3f} {dtype} {shape}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
