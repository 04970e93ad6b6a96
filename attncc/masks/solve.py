"""Predicate in negation normal form → bands: comparisons solved for the column, by induction on syntax.

    q - k < w           -->  q - w + 1 <= k
    k // B == q // B    -->  q // B * B <= k <= q // B * B + B - 1
    abs(q - k) <= w     -->  q - w <= k <= q + w
    q < g               -->  k <= (if q < g then |k| - 1 else -1)
    doc[k] <= doc[q]    -->  k <= (sum(j where doc[j] <= doc[q]) 1) - 1, if doc never falls
    count(cu <= k) <= c -->  c >= |s| or k < cu[c], if cu never falls, and c is not negative

What is no bound on the column, like `k % s == r`, stays an element test.
"""

from __future__ import annotations

from attncc.ir.cascade import (
    Apply,
    Choose,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    free,
    kind,
    number,
    walk,
)
from attncc.masks.band import MOST, REVERSE, Band, Bound, Direction, Plane, direction, joined
from attncc.masks.counted import Counted, counted, searched
from attncc.masks.hoisted import above, below
from attncc.masks.intervals import truth, within
from attncc.masks.normal import both, either, pushed
from attncc.masks.residues import residue_of
from attncc.masks.sums import Sum, canonical, product, quotient, sides, spelled, summed

Bands = tuple[Band, ...]


def solved(e: Expr, plane: Plane) -> Bands:
    """The cells where a predicate in negation normal form holds, as a union of at most `MOST` bands.

    A condition on the rows alone is one bound, if need be one that does as it likes.
    """
    found = _solved(e, plane)
    if plane.columns in free(e) or plane.rows not in free(e) or not _scalar(e, plane):
        return found
    free_ = any(bound.direction == "free" for band in found for bound in band.highs)
    return (passing(e, "free", plane),) if len(found) > 1 or free_ else found


def _solved(e: Expr, plane: Plane) -> Bands:
    match e:
        case Literal():
            return (Band(plane),) if e.value else ()
        case Apply(op="and", args=(a, b)):
            left, right = solved(a, plane), solved(b, plane)
            found = joined(tuple(x & y for x in left for y in right))
            if len(found) <= MOST:
                return found
            # the longer side is asked of every element, so that the other one still bounds the loop
            left, right = (tested(a, plane), right) if len(left) > len(right) else (left, tested(b, plane))
            return joined(tuple(x & y for x in left for y in right))
        case Apply(op="or", args=(a, b)):
            found = joined(solved(a, plane) + solved(b, plane))
            return found if len(found) <= MOST else tested(e, plane)
        case Apply(op="<" | "<=" | ">" | ">=" | "==" | "!=", args=(a, b)) if _bounds(e, plane):
            return _compared(e, e.op, a, b, plane)
        case _:
            return tested(e, plane)


def tested(e: Expr, plane: Plane) -> Bands:
    """A condition kept as it is: known beforehand, asked once for a tile of rows, or of every element."""
    must, may = truth(e, plane.facts)
    if must or not may:
        return (Band(plane),) if must else ()
    if plane.columns in free(e) or not _scalar(e, plane):
        return (Band(plane, rest=(e,)),)
    return (passing(e, "free", plane) if plane.rows in free(e) else Band(plane, guards=(e,)),)


def passing(e: Expr, moves: Direction, plane: Plane) -> Band:
    """All columns of the rows where a condition holds, and none of the others; it goes from true to false as
    the row grows if it moves down.
    """
    every = Choose(e, Band(plane).end, number(-1))
    return Band(plane, highs=(Bound(every, moves),))


def _bounds(e: Apply, plane: Plane) -> bool:
    """Whether a comparison is one of integers that a kernel can compute outside its loop."""
    return all(kind(a) == "int" for a in e.args) and _scalar(e, plane)


def _scalar(e: Expr, plane: Plane) -> bool:
    """Whether nothing inside is the result of an equation or of a reduction that no search finds."""
    results = (x for x in walk(e) if isinstance(x, Read) and x.tensor.origin == "equation")
    reductions = (x for x in walk(e) if isinstance(x, Reduce))
    return not any(results) and all(searched(x, plane.sorted_tables) for x in reductions)


def _compared(e: Expr, op: str, a: Expr, b: Expr, plane: Plane) -> Bands:
    difference = summed(a) - summed(b)
    if op in ("==", "!=") and (found := _in_class(op, difference, e, plane)) is not None:
        return found
    match op:
        case "<=":
            return _order(difference, e, plane)
        case "<":
            return _order(difference + 1, e, plane)
        case ">=":
            return _order(-difference, e, plane)
        case ">":
            return _order(-difference + 1, e, plane)
        case "==":
            up, down = Apply("<=", (a, b)), Apply(">=", (a, b))
            found = joined(tuple(x & y for x in solved(up, plane) for y in solved(down, plane)))
        case _:
            found = joined(solved(Apply("<", (a, b)), plane) + solved(Apply(">", (a, b)), plane))
    flat = not free(e) & {plane.rows, plane.columns}
    return tested(e, plane) if flat or any(band.rest for band in found) else found


def _in_class(op: str, s: Sum, e: Expr, plane: Plane) -> Bands | None:
    """The columns of a residue class that repeats after a positive number, in all heads the same one; None if
    it is none.
    """
    place = residue_of(op, s, e, plane.rows, plane.columns)
    if place is None:
        return None
    residue, conditions = place
    if not _fixed(residue.period, plane) or not _of_the_call(residue.period):
        return None
    found: Bands = (Band(plane, residue=residue),)
    for condition in conditions:
        found = tuple(x & y for x in found for y in tested(condition, plane))
    return found


def _of_the_call(e: Expr) -> bool:
    """Whether the host computes a number, as it does extents."""
    match e:
        case Literal() | Apply(op="extent"):
            return True
        case Read(tensor):
            return tensor.origin in ("scalar", "static")
        case Apply(op="+" | "-" | "*" | "//" | "%" | "min" | "max" | "neg", args=args):
            return all(map(_of_the_call, args))
        case _:
            return False


def _order(s: Sum, e: Expr, plane: Plane) -> Bands:
    """`s <= 0`, which `e` says too."""
    low, high = within(s, plane.facts)
    if high <= 0 or low > 0:
        return (Band(plane),) if high <= 0 else ()
    over = [(t, c) for t, c in s.terms if plane.columns in free(t)]
    for term, coefficient in over:
        spread = _spread(s.without(term), term, coefficient)
        if spread is not None:
            return _or_test(solved(spread, plane), e, plane)
    match over:
        case []:
            return _row(s, e, plane)
        case [(Apply(op="%"), _)]:
            found = _in_class("<=", s, e, plane)
            return tested(e, plane) if found is None else found
        case [(term, coefficient)]:
            return _invert(s.without(term), term, coefficient, e, plane)
        case _:
            return tested(e, plane)


def _or_test(found: Bands, e: Expr, plane: Plane) -> Bands:
    """Parts of a disjunction that are only tests would each visit everything: then the whole is one test."""
    return tested(e, plane) if len(found) > 1 and any(band.rest for band in found) else found


def _spread(rest: Sum, term: Expr, coefficient: int) -> Expr | None:
    """`rest + coefficient * term <= 0` as comparisons without the term, which is an extreme or a choice."""

    def part(e: Expr) -> Expr:
        return _negative(rest + summed(e).times(coefficient))

    match term:
        case Apply(op="min" | "max", args=(a, b)):
            return (both if (term.op == "max") == (coefficient > 0) else either)(part(a), part(b))
        case Apply(op="abs", args=(a,)):
            return (both if coefficient > 0 else either)(part(a), part(Apply("neg", (a,))))
        case Choose(condition=c, then=a, other=b):
            return either(both(pushed(c), part(a)), both(pushed(c, False), part(b)))
        case _:
            return None


def _negative(s: Sum) -> Expr:
    """`s <= 0`, with what is subtracted on the right."""
    return Apply("<=", sides(s))


def _row(s: Sum, e: Expr, plane: Plane) -> Bands:
    """`s <= 0` without the column: a guard, or a bound that lets all columns of a row pass, or none."""
    if plane.rows not in free(e):
        return tested(e, plane)
    moves = direction(spelled(s), plane)
    if moves is None and (found := _against(s, e, plane)) is not None:
        return found
    # the column may still stand in `e`, where it cancels out
    condition = _negative(s) if plane.columns in free(e) else e
    return (passing(condition, REVERSE[moves or "free"], plane),)


def _against(s: Sum, e: Expr, plane: Plane) -> Bands | None:
    """`s <= 0` where terms over the row work against each other: extremes and choices are taken apart.

    None where there are none, and the bound that remains moves as it likes.
    """
    for term, coefficient in s.terms:
        if plane.rows in free(term) and direction(term, plane) is None:
            spread = _spread(s.without(term), term, coefficient)
            if spread is not None:
                found = solved(spread, plane)
                return None if len(found) > 1 and any(band.rest for band in found) else found
    return tested(e, plane) if any(isinstance(x, Reduce) for x in walk(e)) else None


def _invert(rest: Sum, term: Expr, coefficient: int, e: Expr, plane: Plane) -> Bands:
    """`rest + coefficient * term <= 0` for the only term over the column, solved for that term."""
    if coefficient > 0:
        limit = quotient(-rest, Sum(constant=coefficient))
    else:
        limit = quotient(rest - coefficient - 1, Sum(constant=-coefficient))
    match term:
        case _ if term == plane.columns:
            return _bound(limit, coefficient > 0, e, plane)
        case Apply(op="//", args=(a, b)) if _fixed(b, plane):
            if coefficient > 0:
                s = summed(a) - product(limit + 1, summed(b)) + 1
            else:
                s = product(limit, summed(b)) - summed(a)
        case Apply(op="*", args=(x, y)):
            a, b = (x, y) if plane.columns in free(x) else (y, x)
            if not _fixed(b, plane):
                return tested(e, plane)
            if coefficient > 0:
                s = summed(a) - quotient(limit, summed(b))
            else:
                s = quotient(limit + summed(b) - 1, summed(b)) - summed(a)
        case Read() if term.tensor.name in plane.sorted_tables and (place := _moving(term, plane)):
            axis, at = place
            if coefficient > 0:
                s = summed(at) - summed(counted(term, axis, spelled(limit))) + 1
            else:
                s = summed(counted(term, axis, spelled(limit - 1))) - summed(at)
        case Reduce() if (count := searched(term, plane.sorted_tables)) and _one_row(count, plane):
            return _or_test(_inverted(count, limit, coefficient > 0, plane), e, plane)
        case _:
            return tested(e, plane)
    return _order(s, e, plane)


def _one_row(count: Counted, plane: Plane) -> bool:
    """Whether the same row of a table is searched in the whole plane."""
    return not free(count.row) & {plane.rows, plane.columns}


def _inverted(count: Counted, limit: Sum, upper: bool, plane: Plane) -> Bands:
    """`count <= limit`, or `count >= limit`, solved for what the count's elements are at most."""
    some, always, bound = (below if upper else above)(count, spelled(limit))
    return solved(both(some, either(always, bound)), plane)


def _moving(read: Read, plane: Plane) -> tuple[Index, Expr] | None:
    """The one sequence axis along which a table is read at the columns, and the subscript."""
    found = [(i, at) for i, at in zip(read.tensor.indices, read.at, strict=True) if plane.columns in free(at)]
    return found[0] if len(found) == 1 and found[0][0].role == "sequence" else None


def _fixed(e: Expr, plane: Plane) -> bool:
    """Whether a factor is positive and the same in the whole plane."""
    flat = not free(e) & {plane.rows, plane.columns}
    return flat and within(summed(e), plane.facts)[0] > 0


def _bound(limit: Sum, upper: bool, e: Expr, plane: Plane) -> Bands:
    """`k <= limit`, or `k >= limit`."""
    value = canonical(spelled(limit))
    moves = direction(value, plane)
    k = summed(plane.columns)
    if moves is None and (found := _against(k - limit if upper else limit - k, e, plane)) is not None:
        return found
    bound = Bound(value, moves or "free")
    band = Band(plane, highs=(bound,)) if upper else Band(plane, lows=(bound,))
    return joined((band & Band(plane),))
