"""A sum of products → the factors of one contraction, those its predicate reaches, and what stays outside.

    sum(k where c) w * V[k,e] / 8   -->   einsum("qk,ke->qe", where(c, w, 0), V) / 8

An array over everything is never built: the predicate goes to a factor with its indices, or is one itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from attncc.codegen.reference_bounds import Facts
from attncc.codegen.reference_guards import guards, wild
from attncc.ir.cascade import (
    ONE,
    ZERO,
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
)
from attncc.ir.logic import conjoin, conjuncts, factors


@dataclass(frozen=True)
class Contraction:
    """`scales * einsum(factors) / divisors`; the factors have been told which terms count."""

    scales: tuple[Expr, ...]
    factors: tuple[Expr, ...]
    divisors: tuple[Expr, ...]


def contraction(
    e: Reduce, facts: Facts, bound: frozenset[Index], infinite: frozenset[str]
) -> Contraction | None:
    """How a sum is contracted where some facts hold inside; None where adding up one factor is as good."""
    if kind(e.body) != "float":
        return None
    up, down = factors(e.body)
    inner = set(e.over)
    scales = [f for f in up if plain(f, bound - inner)]
    parts = [f for f in up if f not in scales]
    outer = [d for d in down if not free(d) & inner]
    for d in (d for d in down if d not in outer):
        _attach(parts, d)
    left = [c for c in conjuncts(e.where) if not _reach(parts, c)]
    if len(parts) < 2 and (not left or not parts or wild(parts[0], infinite)):
        return None
    wholly = conjoin([e.where, *facts])
    told = [Choose(wholly, f, ZERO) if wild(f, infinite) and conjuncts(wholly) else f for f in parts]
    told = _told(told, e.where)
    divisors = []
    for d in outer:
        known = [f for f in guards(facts, d) if free(f)]
        divisors.append(Choose(conjoin(known), d, ONE) if known and not plain(d, bound) else d)
    return Contraction(tuple(scales), tuple(told), tuple(divisors))


def plain(e: Expr, bound: frozenset[Index]) -> bool:
    """Whether a value is a number of Python's: literals, scalars, extents and indices at one position."""
    match e:
        case Literal() | Apply(op="extent"):
            return True
        case Index():
            return e in bound
        case Read(tensor=tensor):
            return tensor.origin in ("scalar", "static")
        case Apply(args=args):
            return all(plain(a, bound) for a in args)
        case Choose():
            return all(plain(part, bound) for part in (e.condition, e.then, e.other))
        case _:
            return False


def _attach(parts: list[Expr], divisor: Expr) -> None:
    """Puts a divisor under the first factor that has its indices, or under 1."""
    for n, f in enumerate(parts):
        if free(divisor) <= free(f):
            parts[n] = Apply("/", (f, divisor))
            return
    parts.append(Apply("/", (number(1.0), divisor)))


def _reach(parts: list[Expr], predicate: Expr) -> list[int]:
    return [n for n, f in enumerate(parts) if free(predicate) <= free(f)]


def _told(parts: list[Expr], where: Expr) -> list[Expr]:
    """The factors with the predicate in one of them, in several by parts, or beside them."""
    said: dict[int, list[Expr]] = {}
    beside: list[Expr] = []
    whole = _reach(parts, where)
    for c in conjuncts(where):
        places = whole or _reach(parts, c)
        if places:
            said.setdefault(places[0], []).append(c)
        else:
            beside.append(c)
    told = [Choose(conjoin(said[n]), f, ZERO) if n in said else f for n, f in enumerate(parts)]
    return [*([conjoin(beside)] if beside else []), *told]
