"""Cascade → passes: how often each index must be walked, and which reads force it (theory §A.2).

A pass over `k` visits every position of it once. A reduction over `k` that waits for another one over `k`
needs one pass more, unless it can be corrected while the other still runs (`passes.online`). A tensor read
along `k` at the same position rides in the pass that makes it; read anywhere else, it has to be complete.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attncc.ir.cascade import Cascade, Equation, Expr, Index, Read, Reduce, children, free
from attncc.ir.graph import recurrent


@dataclass(frozen=True)
class Edge:
    """`reader` cannot begin its walk before `read` is complete."""

    read: str
    reader: str


@dataclass(frozen=True)
class Passes:
    """Walks over one index, the walk each equation belongs to, and the reads that force more than one."""

    index: Index
    count: int
    of: tuple[tuple[str, int], ...]
    blocking: tuple[Edge, ...]


Corrected = Callable[[Equation, str], bool]
"""Whether an equation can follow a value that is still changing."""


def never(equation: Equation, read: str) -> bool:
    """No equation is corrected: the passes of the cascade as it is written."""
    return False


def analyse(cascade: Cascade, index: Index, corrected: Corrected = never) -> Passes:
    """Passes over one index."""
    groups = {name: group for group in recurrent(cascade) for name in group}
    streams: dict[str, int] = {}
    complete: dict[str, int] = {}
    of: list[tuple[str, int]] = []
    edges: list[Edge] = []
    for equation in cascade.equations:
        name = equation.tensor.name
        need, blame = 0, ""
        for tensor, along in _reads(equation.body, index):
            if tensor in groups.get(name, ()) or corrected(equation, tensor):
                continue
            wait = (
                streams[tensor] - 1
                if along and tensor in streams
                else complete.get(tensor, streams.get(tensor, 0))
            )
            if wait > need:
                need, blame = wait, tensor
        if index not in free(equation.body) and not _iterates(equation.body, index):
            complete[name] = need
            continue
        own = need + 1
        of.append((name, own))
        (streams if index in equation.tensor.indices else complete)[name] = own
        if need > 0:
            edges.append(Edge(blame, name))
    return Passes(index, max((n for _, n in of), default=0), tuple(of), tuple(edges))


def _iterates(e: Expr, index: Index) -> bool:
    inside = isinstance(e, Reduce) and index in e.over
    return inside or any(_iterates(part, index) for part in children(e))


def _reads(e: Expr, index: Index) -> list[tuple[str, bool]]:
    """Tensors read, each with whether it is read along the index at the same position."""
    match e:
        case Read(tensor, at):
            along = any(s == index == axis for s, axis in zip(at, tensor.indices, strict=True))
            inside = [pair for s in at for pair in _reads(s, index)]
            return [(tensor.name, along), *inside]
        case _:
            return [pair for part in children(e) for pair in _reads(part, index)]


def walked(cascade: Cascade) -> tuple[Index, ...]:
    """Sequence indices that some equation reduces over, in order of appearance."""
    found: dict[Index, None] = {}
    for equation in cascade.equations:
        _note(equation.body, found)
    return tuple(i for i in found if i.role == "sequence")


def _note(e: Expr, found: dict[Index, None]) -> None:
    if isinstance(e, Reduce):
        found.update(dict.fromkeys(e.over))
    for part in children(e):
        _note(part, found)
