"""Predicates of every sort, on both backends: `python -m tests.codegen.corners`, one line a case.

Without a GPU, `TRITON_INTERPRET=1` has Triton interpret its kernels; it is read when Triton is imported.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import attncc

TEXT = """pattern corner(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]{parameters}) -> O[b,h,q,e]:
    over b, h
    align q to k{assumed}
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    O[q,e] = sum(k) (softmax(k where {predicate}) S[q,k]) * V[k,e]
"""

CORNERS = {
    "a window for each head": ("span[h]: int", "k <= q and q - k < span[h]"),
    "a length for each sequence": ("len[b]: int", "k < len[b]"),
    "both": ("span[h]: int, len[b]: int", "k < len[b] and q - k < span[h] and k <= q"),
    "a row's own start": ("start[b,q]: int", "k >= start[q] and k <= q"),
    "documents": ("doc[b,k]: int", "doc[k] == doc[q] and k <= q"),
    "sorted documents": ("sorted doc[b,k]: int", "doc[k] == doc[q] and k <= q"),
    "sorted documents seen whole": ("sorted doc[b,k]: int", "doc[k] == doc[q]"),
    "documents before": ("sorted doc[b,k]: int", "doc[k] < doc[q] or k == q"),
    "a truth value": ("flag: bool", "not flag or k <= q"),
    "a truth value with more": ("flag: bool", "(not flag and k < 9) or k <= q"),
    "a number or a table": ("flag: bool, span[h]: int", "k <= (if not flag then q else span)"),
    "a number or an element": ("flag: bool, doc[b,k]: int", "(if flag then 3 else doc[q]) != k"),
    "a column that cancels out": ("n: int", "q // 3 < n + k - k"),
    "a choice by what is not there": ("doc[b,k]: int", "(if doc[q + 9] == doc[k] then 0 else 1) > 0"),
    "a root": ("n: int", "q - k < sqrt(n) * 4"),
    "a real number": ("n: int", "k % n == 0 or Q[|q| - 1,0] < 0.3"),
    "spans without end": ("far[h]: int", "q - k < far[h] and k - q <= far[h]"),
    "distances without end": ("far[h]: int", "abs(q - k) <= far[h]"),
    "a span from a table, doubled": ("far[h]: int", "k <= q and q - k < 2 * far[h]"),
    "the largest number": ("most: int", "k // 7 < most and q - k < most + most + most + most"),
    "the least number": ("least: int", "k > least * 9 and k * 3 + least * 6 < q"),
    "a cube": ("n: int", "k <= (q % 3 + 2000) * (q % 5 + 2000) * (q % 7 + 2000)"),
    "a square": ("n: int", "k * 100000000 <= (q - 9) * (q - 9) * 10000000"),
    "a column scaled": ("n: int", "k * 100000000 <= q * 100000000 + 5"),
    "a table scaled": ("doc[b,k]: int", "doc[k] * 200000000 <= doc[q] * 200000000"),
    "names of the kernel": (
        "k_whole: int, k_steps0: int, last: int, first: int, k0: int",
        "q - k < k_whole and k - q < k_steps0 and k > k0 - last - first",
    ),
}
NUMBERS = {"k_whole": 9, "k_steps0": 3, "last": 4, "first": 4, "k0": 12, "n": 4}
NUMBERS |= {"most": 2**29 - 1, "least": 1 - 2**29}


def text_of(name: str) -> str:
    """The pattern of a corner."""
    parameters, predicate = CORNERS[name]
    bare = parameters.removeprefix("sorted ")
    assumed = "" if bare == parameters else f"\n    assume sorted {bare.split('[')[0]}"
    return TEXT.format(parameters=f", {bare}", predicate=predicate, assumed=assumed)


def argument(tensor: Any, lengths: dict[str, int], flag: bool) -> Any:
    """A number, or a table that makes sense."""
    if tensor.origin in ("scalar", "static"):
        return flag if tensor.kind == "bool" else NUMBERS[tensor.name]
    shape = [lengths[i.name] for i in tensor.indices]
    if tensor.kind == "float":
        return torch.randn(shape)
    match tensor.name:
        case "far":
            return torch.tensor([2**31 - 1, 5, -(2**31)], dtype=torch.int32)
        case "start" | "doc":
            return (torch.arange(shape[-1]) // 20 * 20).expand(shape).to(torch.int32)
        case _:
            return torch.randint(0, lengths["k"] + 1, shape, dtype=torch.int32)


def cases() -> Iterator[tuple[str, float]]:
    """A name, and how far a backend is from the reference in float64."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        for name in CORNERS:
            path = Path(folder) / "corner.attn"
            path.write_text(text_of(name))
            reference = attncc.load(path, backend="reference")
            for rows, columns, flag in ((33, 33, True), (70, 130, False), (0, 5, True), (5, 0, True)):
                lengths = {"b": 2, "h": 3, "q": rows, "k": columns, "d": 16, "e": 16}
                given = [argument(t, lengths, flag) for t in reference.cascade.inputs]
                exact = reference(
                    *(x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in given)
                )
                for backend in ("triton", "torch"):
                    made = attncc.load(path, backend=backend)(*given)
                    error = (made - exact).abs().max().item() if exact.numel() else 0.0
                    yield f"{backend}, {rows} x {columns}, {name}", error


if __name__ == "__main__":
    for case, error in cases():
        print(f"{error:.2e} {case}", flush=True)
