"""How many elements of a sorted table are at most a limit: what `table[k] <= limit` says of `k`.

The count is a sum of ones, so that it means what every other expression means; a kernel finds it by search.
"""

from __future__ import annotations

from dataclasses import dataclass

from attncc.ir.cascade import ONE, Apply, Expr, Index, Read, Reduce


@dataclass(frozen=True)
class Counted:
    """The elements of `row`, a table along `axis`, that are at most `limit`."""

    row: Read
    axis: Index
    limit: Expr


def counted(read: Read, axis: Index, limit: Expr) -> Reduce:
    """`sum(axis where table[axis] <= limit) 1`, the table's other subscripts as in `read`."""
    own = zip(read.tensor.indices, read.at, strict=True)
    row = Read(read.tensor, tuple(i if i == axis else at for i, at in own))
    return Reduce("sum", (axis,), Apply("<=", (row, limit)), ONE)


def count_of(e: Expr) -> Counted | None:
    """What an expression counts, if it is such a sum."""
    match e:
        case Reduce(op="sum", over=(axis,), where=Apply(op="<=", args=(Read() as row, limit)), body=body):
            return Counted(row, axis, limit) if body == ONE and axis in row.at else None
        case _:
            return None
