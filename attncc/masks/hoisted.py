"""Predicate → the element test of a tile: what a row alone tells is computed once a row, not once an element.

    own[k] == own[q]   -->   k < (if n >= |s| then |k| else cu[n]) and k >= (if n <= 0 then 0 else cu[n - 1])
                             at n = own[q], if own counts elements of a sorted table

A search for every column becomes two comparisons with what one search for every row finds.
"""

from __future__ import annotations

from attncc.ir.cascade import ONE, ZERO, Apply, Choose, Expr, Index, children, extent, free, rebuild
from attncc.masks.counted import Counted, above, below, searched
from attncc.masks.intervals import at_most, nonnegative
from attncc.masks.normal import both, either
from attncc.masks.sums import canonical

MIRROR = {"<=": ">=", ">=": "<=", "<": ">", ">": "<", "==": "==", "!=": "!="}


def hoisted(e: Expr, columns: Index, sorted_tables: frozenset[str]) -> Expr:
    """The same predicate, without the counts over columns that are compared with something of a row."""
    match e:
        case Apply(op=op, args=(a, b)) if op in MIRROR:
            for left, right, order in ((a, b, op), (b, a, MIRROR[op])):
                count = searched(left, sorted_tables)
                if count and columns in free(count.limit) and columns not in free(right) | free(count.row):
                    return _compared(count, order, right)
            return e
        case Apply(op="and" | "or" | "not"):
            return rebuild(e, tuple(hoisted(part, columns, sorted_tables) for part in children(e)))
        case _:
            return e


def _compared(count: Counted, op: str, c: Expr) -> Expr:
    match op:
        case "<=":
            return _below(count, c)
        case "<":
            return _below(count, canonical(Apply("-", (c, ONE))))
        case ">=":
            return _above(count, c)
        case ">":
            return _above(count, canonical(Apply("+", (c, ONE))))
        case "==":
            return both(_below(count, c), _above(count, c))
        case _:
            return Apply("not", (both(_below(count, c), _above(count, c)),))


def _below(count: Counted, c: Expr) -> Expr:
    some, other = below(count, c)
    found = (
        _chosen(some, other, extent(count.limit)) if isinstance(count.limit, Index) else either(some, other)
    )
    return found if nonnegative(c) else both(Apply(">=", (c, ZERO)), found)


def _above(count: Counted, c: Expr) -> Expr:
    some, other = above(count, c)
    found = _chosen(some, other, ZERO) if isinstance(count.limit, Index) else either(some, other)
    size = extent(count.axis)
    return found if at_most(c, size) else both(Apply("<=", (c, size)), found)


def _chosen(always: Expr, bound: Apply, end: Expr) -> Expr:
    """`always or k < x` as one comparison with a number of the row, `end` being one that all columns pass."""
    k, x = bound.args
    return Apply(bound.op, (k, Choose(always, end, x)))
