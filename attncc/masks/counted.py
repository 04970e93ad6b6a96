"""How many elements of a sorted table are at most a limit: what `table[k] <= limit` says of `k`.

The count is a sum of ones, so that it means what every other expression means; a kernel finds it by search.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attncc.ir.cascade import ONE, Apply, Expr, Index, Read, Reduce, children, free


@dataclass(frozen=True)
class Counted:
    """The elements of `row`, a table along `axis`, that are at most `limit`."""

    row: Read
    axis: Index
    limit: Expr

    @property
    def along(self) -> Index:
        """The table's own index that `axis` runs along."""
        return dict(zip(self.row.at, self.row.tensor.indices, strict=True))[self.axis]


def counted(read: Read, axis: Index, limit: Expr) -> Reduce:
    """`sum(axis where table[axis] <= limit) 1`, the table's other subscripts as in `read`; the limit may read
    the axis' own name as a position outside.
    """
    bound = replace(axis, name=f"{axis.name}'") if axis in free(limit) else axis
    own = zip(read.tensor.indices, read.at, strict=True)
    row = Read(read.tensor, tuple(bound if i == axis else at for i, at in own))
    return Reduce("sum", (bound,), Apply("<=", (row, limit)), ONE)


def count_of(e: Expr) -> Counted | None:
    """What an expression counts, if it is such a sum."""
    match e:
        case Reduce(op="sum", over=(axis,), where=Apply(op="<=", args=(Read() as row, limit)), body=body):
            once = row.at.count(axis) == 1 and axis not in free(limit)
            return Counted(row, axis, limit) if body == ONE and once else None
        case _:
            return None


def searched(e: Expr, sorted_tables: frozenset[str]) -> Counted | None:
    """What an expression counts, where a search finds it: in a table that is sorted."""
    count = count_of(e)
    if count is None or count.row.tensor.name not in sorted_tables:
        return None
    return count if count.along.role == "sequence" else None


def parts(e: Expr) -> Iterator[Expr]:
    """An expression and everything inside it, but for what is inside counts."""
    yield e
    for part in () if count_of(e) else children(e):
        yield from parts(part)
