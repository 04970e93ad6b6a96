"""What more than a softmax costs, beside the plain one: `python benchmarks/passes.py [--json FILE]`; a GPU.

Causal forwards in bf16 at (2, 16, 8192, 128): sums that move with companions, which stay in one pass, and
weights that wait for a sum, which take two. Each is checked against its dense reference first; medians
through a cold L2 cache, in turns.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import torch
import triton

import attncc
from attncc.bench.clock import milliseconds
from attncc.verify.criterion import worst

PATTERNS = Path(__file__).parents[1] / "patterns"
SHAPE = (2, 16, 8192, 128)
SHORT = (1, 2, 777, 128)
ABOVE = """pattern above(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    mu[q] = mean(k where k <= q) S[q,k]
    W[q,k] = relu(S[q,k] - mu[q])
    O[q,e] = (sum(k where k <= q) W[q,k] * V[k,e]) / (1 + sum(k where k <= q) W[q,k])
"""


def pattern(name: str, backend: str | None = None) -> attncc.Attention:
    """A pattern of the repository, or the weights above a row's mean."""
    return (
        attncc.compile(ABOVE, backend) if name == "above" else attncc.load(PATTERNS / f"{name}.attn", backend)
    )


def tensors(shape: tuple[int, ...]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3)]


def checked(name: str) -> float:
    """The worst row of the first output over its bound, at a short length."""
    given = tensors(SHORT)
    plain = pattern(name, "reference")
    found, near, exact = (
        x[0] if isinstance(x, tuple) else x
        for x in (pattern(name)(*given), plain(*given), plain(*(x.double() for x in given)))
    )
    ratio = worst(found, near, exact, torch.bfloat16, features=True)
    assert ratio <= 1, f"{name} is wrong: {ratio} of its bound"
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    names = ("causal", "entropy", "z_loss", "above", "lssa", "lssar")
    right = {name: checked(name) for name in names}
    given = tensors(SHAPE)
    calls = {name: pattern(name) for name in names}
    with torch.no_grad():
        times = milliseconds({n: partial(call, *given) for n, call in calls.items()}, "cuda", 6.0)
    print(torch.cuda.get_device_name(), torch.__version__, triton.__version__, SHAPE)
    for name, ms in times.items():
        print(
            f"{name:10} {ms:.3f} ms, {ms / times['causal']:.2f}x a plain softmax; worst row {right[name]:.2f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"ms": times, "worst": right}, indent=1))


if __name__ == "__main__":
    main()
