"""Cascade → passes: how often each index must be walked, and which reads force it (theory §A.2).

A pass over `k` visits every position of it once. A reduction over `k` that waits for another one over `k`
needs one pass more, unless it can be corrected while the other still runs (`passes.online`). A tensor read
along `k` at the same position rides in the pass that makes it, and so does a recurrence read at an earlier
one, as its walk has an order; read anywhere else, a tensor has to be complete. So has a place among all
members, wherever it is read.

What rides in a later pass has nothing to follow there, and waits for nothing but that pass. Of what a reader
does wait for, the edges that block it are the fewest without which it would be in an earlier pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

from attncc.ir.cascade import Cascade, Equation, Expr, Index, Read, Reduce, children, free, walk
from attncc.ir.graph import recurrent
from attncc.ir.linear import added, linear
from attncc.ops import REDUCTIONS


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

    @property
    def waiting(self) -> tuple[tuple[Edge, ...], ...]:
        """The edges that block, those of a reader together."""
        return tuple(tuple(group) for _, group in groupby(self.blocking, key=lambda edge: edge.reader))


Corrected = Callable[[Equation, frozenset[str], frozenset[str]], bool]
"""Whether an equation can follow the values it awaits while they still change; those that earlier passes have
completed do not.
"""


def never(equation: Equation, awaited: frozenset[str], earlier: frozenset[str]) -> bool:
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
        riding, waits = 0, dict[str, int]()
        for read in _reads(equation.body):
            tensor = read.tensor.name
            if tensor in groups.get(name, ()):
                continue
            if tensor in streams and _rides(read, index, tensor in groups):
                riding = max(riding, streams[tensor] - 1)
            else:
                waits[tensor] = complete.get(tensor, streams.get(tensor, 0))
        need = max(riding, *waits.values(), 0)
        along = {*free(equation.body), *equation.tensor.indices}
        if not (index in along or _iterates(equation.body, index)):
            complete[name] = need
            continue
        awaited = frozenset(tensor for tensor, wait in waits.items() if wait == need > riding)
        earlier = frozenset(t for t, n in complete.items() if n < need)
        if awaited and corrected(equation, awaited, earlier):
            need, awaited = need - 1, frozenset()
        own = need + 1
        of.append((name, own))
        passing = index in equation.tensor.indices and not _places(equation.body, index)
        (streams if passing else complete)[name] = own
        blocking = _blocking(equation, awaited, earlier, corrected)
        edges += [Edge(tensor, name) for tensor in waits if tensor in blocking]
    return Passes(index, max((n for _, n in of), default=0), tuple(of), tuple(edges))


def _blocking(
    equation: Equation, awaited: frozenset[str], earlier: frozenset[str], corrected: Corrected
) -> frozenset[str]:
    """The fewest of the tensors awaited that the others can be followed without."""
    found = awaited
    for tensor in sorted(awaited, reverse=True) if len(awaited) > 1 else ():
        fewer = found - {tensor}
        if fewer and corrected(equation, awaited - fewer, earlier | fewer):
            found = fewer
    return found


def _iterates(e: Expr, index: Index) -> bool:
    inside = isinstance(e, Reduce) and index in e.over
    return inside or any(_iterates(part, index) for part in children(e))


def _places(e: Expr, index: Index) -> bool:
    """Whether something in an expression is a place among all members along the index."""
    return any(isinstance(x, Reduce) and REDUCTIONS[x.op].keeps and index in x.over for x in walk(e))


def _reads(e: Expr) -> list[Read]:
    """Reads, those inside their subscripts after them."""
    own = [e] if isinstance(e, Read) else []
    return own + [read for part in children(e) for read in _reads(part)]


def _rides(read: Read, index: Index, ordered: bool) -> bool:
    """Whether a tensor is read along the index at the same position; if it is walked in order, or before."""
    for s, axis in zip(read.at, read.tensor.indices, strict=True):
        if axis == index:
            terms, distance = added(linear(s), linear(axis), -1)
            return s == axis or (ordered and not terms and distance <= 0)
    return False


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
