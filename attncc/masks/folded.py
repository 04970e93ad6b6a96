"""The extreme of a number over a tile of rows: where a bound is least or greatest that is not monotone."""

from __future__ import annotations

from dataclasses import dataclass

from attncc.ir.cascade import Apply, Expr, Index, Reduce


@dataclass(frozen=True)
class Folded:
    """`op`, which is `min` or `max`, of `value` over the rows `first <= row <= last`."""

    op: str
    value: Expr
    row: Index
    first: Expr
    last: Expr


def folded(op: str, value: Expr, row: Index, first: Expr, last: Expr) -> Reduce:
    """`op(q where first <= q and q <= last) value`"""
    inside = Apply("and", (Apply("<=", (first, row)), Apply("<=", (row, last))))
    return Reduce(op, (row,), inside, value)


def folded_of(e: Expr) -> Folded | None:
    """What an expression is the extreme of, if it is such a one."""
    match e:
        case Reduce(op=("min" | "max"), over=(row,), where=Apply(op="and", args=(low, high)), body=value):
            match low, high:
                case Apply(op="<=", args=(first, a)), Apply(op="<=", args=(b, last)) if a == b == row:
                    return Folded(e.op, value, row, first, last)
        case _:
            pass
    return None
