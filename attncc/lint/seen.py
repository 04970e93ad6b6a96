"""Cascade → its masks: for every reduction over positions, which of them each row takes into account.

    P[q,k] = if c then x else 0;  O[q] = sum(k) P[q,k] * V[k]    -->    row q sees the k where c

Predicates that have a name are written out, so that a mask reads positions, numbers and tables alone, or
something that data decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attncc.ir.cascade import (
    FALSE,
    TRUE,
    ZERO,
    Apply,
    Cascade,
    Choose,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    children,
    free,
    reads,
    rebuild,
    substitute,
    walk,
)
from attncc.ir.logic import conjoin, disjoin, is_literal, negated
from attncc.ops import REDUCTIONS
from attncc.source import Span

LARGEST = 2_000
"""A predicate that is longer written out, in nodes, stays as it is."""

DEEPEST = 12
"""So many names within names are written out."""

Equations = Mapping[str, Equation]


@dataclass(frozen=True)
class Mask:
    """What the rows of one reduction see: the `columns` where `where` holds; `heads` tell masks apart."""

    equation: str
    op: str
    rows: Index
    columns: tuple[Index, ...]
    where: Expr
    span: Span

    @property
    def heads(self) -> tuple[Index, ...]:
        """The batched indices on which it depends."""
        return tuple(sorted((i for i in free(self.where) if i.role == "batch"), key=lambda i: i.name))

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables it reads."""
        return tuple(sorted({r.tensor.name for r in reads(self.where) if r.tensor.indices}))

    @property
    def known(self) -> bool:
        """Whether positions and integers alone decide it: no data, no real number."""
        return not any(isinstance(e, Reduce) for e in walk(self.where)) and all(
            r.tensor.kind != "float" and r.tensor.origin != "equation" for r in reads(self.where)
        )

    @property
    def aligned(self) -> bool:
        """Whether rows and columns are positions of one sequence, so that one can be later than another."""
        return len(self.columns) == 1 and self.columns[0].space == self.rows.space


def masks(cascade: Cascade) -> tuple[Mask, ...]:
    """The masks of every reduction of one row, each once, in order."""
    equations = {e.tensor.name: e for e in cascade.equations}
    found: dict[tuple[object, ...], Mask] = {}
    for equation in cascade.equations:
        for reduce in walk(equation.body):
            if not isinstance(reduce, Reduce) or REDUCTIONS[reduce.op].keeps:
                continue
            mask = _mask(equation, reduce, equations)
            if mask is not None:
                found.setdefault((mask.equation, mask.op, mask.rows, mask.columns, mask.where), mask)
    return tuple(found.values())


def _mask(equation: Equation, reduce: Reduce, equations: Equations) -> Mask | None:
    """The mask of a reduction over positions that one row of the equation makes; None for any other."""
    if any(i.role != "sequence" for i in reduce.over):
        return None
    used = free(reduce.where) | free(reduce.body)
    rows = [i for i in used if i.role == "sequence" and i not in reduce.over]
    if len(rows) != 1:
        return None
    where = written(reduce.where, equations)
    if reduce.op == "sum":
        where = conjoin((where, nonzero(reduce.body, equations)))
    return Mask(equation.tensor.name, reduce.op, rows[0], reduce.over, where, reduce.span)


def written(e: Expr, equations: Equations, depth: int = DEEPEST) -> Expr:
    """A predicate with the integers and predicates that equations name written out, but for data's."""
    if isinstance(e, Reduce):
        return e
    e = rebuild(e, tuple(written(part, equations, depth) for part in children(e)))
    match e:
        case Read(tensor=tensor) if tensor.name in equations and tensor.kind != "float" and depth:
            body = _put(equations[tensor.name].body, e, equations)
            return e if body is None else written(body, equations, depth - 1)
        case _:
            return e


def nonzero(e: Expr, equations: Equations, depth: int = DEEPEST) -> Expr:
    """A predicate that holds just where a value need not be 0; `e != 0` where only data can tell."""
    match e:
        case Apply(op="*", args=(a, b)):
            return conjoin((nonzero(a, equations, depth), nonzero(b, equations, depth)))
        case Apply(op="/", args=(a, _)) | Apply(op="neg" | "abs", args=(a,)):
            return nonzero(a, equations, depth)
        case Apply(op="+" | "-", args=(a, b)):
            return disjoin((nonzero(a, equations, depth), nonzero(b, equations, depth)))
        case Choose(condition=c, then=a, other=b):
            c = written(c, equations)
            then = conjoin((c, nonzero(a, equations, depth)))
            return disjoin((then, conjoin((negated(c), nonzero(b, equations, depth)))))
        case Read(tensor=tensor) if tensor.name in equations and depth:
            own = nonzero(equations[tensor.name].body, equations, depth - 1)
            found = _put(own, e, equations)
            return Apply("!=", (e, ZERO)) if found is None else found
        case _ if is_literal(e, 0):
            return FALSE
        case Apply(op="exp" | "sigmoid" | "softplus"):
            return TRUE
        case _:
            return TRUE if _plain(e, equations, depth) else Apply("!=", (e, ZERO))


def _plain(e: Expr, equations: Equations, depth: int) -> bool:
    """Whether nothing in a value is masked, so that it is 0 by luck only."""
    if isinstance(e, Reduce | Choose):
        return isinstance(e, Reduce) and e.where == TRUE and _plain(e.body, equations, depth)
    if isinstance(e, Read) and e.tensor.name in equations:
        return depth > 0 and _plain(equations[e.tensor.name].body, equations, depth - 1)
    return all(_plain(part, equations, depth) for part in children(e))


def _put(e: Expr, read: Read, equations: Equations) -> Expr | None:
    """What an equation says, at the place where it is read; None of a reduction, or where it is too long."""
    inside = list(walk(e))
    if len(inside) > LARGEST or any(isinstance(x, Reduce) for x in inside):
        return None
    return substitute(e, dict(zip(equations[read.tensor.name].tensor.indices, read.at, strict=True)))


def groups(found: tuple[Mask, ...]) -> Iterator[tuple[Mask, ...]]:
    """Masks of the same rows and columns, together."""
    keys = dict.fromkeys((m.rows, m.columns) for m in found)
    for key in keys:
        yield tuple(m for m in found if (m.rows, m.columns) == key)
