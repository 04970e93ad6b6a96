"""A count compared with a number → where its limit lies; an element test → one that searches once a row.

    count(table <= x) <= c   -->   c >= 0 and (c >= |s| or x < table[c])
    count(table <= x) >= c   -->   c <= |s| and (c <= 0 or x >= table[c - 1])

    own[k] == own[q]   -->   k < (if n >= |s| then |k| else cu[n]) and k >= (if n <= 0 then 0 else cu[n - 1])
                             at n = own[q], if own counts elements of a sorted table

So a search for every column becomes two comparisons with what one search for every row finds.
"""

from __future__ import annotations

from collections.abc import Callable

from attncc.ir.cascade import (
    ONE,
    ZERO,
    Apply,
    Choose,
    Expr,
    Index,
    Read,
    children,
    extent,
    free,
    kind,
    rebuild,
)
from attncc.masks.counted import Counted, searched
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
                there = count and columns in free(count.limit) and kind(right) == "int"
                if count and there and columns not in free(right) | free(count.row):
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


def below(count: Counted, c: Expr) -> tuple[Apply, Apply, Apply]:
    """Where `count <= c`: what holds there too, and two conditions of which one holds."""
    size = extent(count.along)
    place = Apply("min", (c, Apply("-", (size, ONE))))
    place = place if nonnegative(c) else Apply("max", (place, ZERO))
    element = _element(count, place)
    return Apply(">=", (c, ZERO)), Apply(">=", (c, size)), Apply("<", (count.limit, element))


def above(count: Counted, c: Expr) -> tuple[Apply, Apply, Apply]:
    """Where `count >= c`, likewise."""
    size = extent(count.along)
    place = Apply("-", (c, ONE))
    place = place if at_most(c, size) else Apply("min", (place, Apply("-", (size, ONE))))
    element = _element(count, Apply("max", (place, ZERO)))
    return Apply("<=", (c, size)), Apply("<=", (c, ZERO)), Apply(">=", (count.limit, element))


def _element(count: Counted, place: Expr) -> Read:
    return Read(count.row.tensor, tuple(place if i == count.axis else i for i in count.row.at))


def _below(count: Counted, c: Expr) -> Expr:
    some, always, bound = below(count, c)
    found = _chosen(always, bound, count, extent)
    return found if nonnegative(c) else both(some, found)


def _above(count: Counted, c: Expr) -> Expr:
    some, always, bound = above(count, c)
    found = _chosen(always, bound, count, lambda _: ZERO)
    return found if at_most(c, extent(count.along)) else both(some, found)


def _chosen(always: Expr, bound: Apply, count: Counted, end: Callable[[Index], Expr]) -> Expr:
    """`always or k < x`, as one comparison with a number of the row where `k` is the column itself, of which
    `end` is one that all columns pass.
    """
    match count.limit:
        case Index() as k:
            return Apply(bound.op, (k, Choose(always, end(k), bound.args[1])))
        case _:
            return either(always, bound)
