"""Cascade → Cascade: a sum of terms that wait for different reductions, or multiply apart, is that of sums.

    sum(k) (x[k] / l - c * y[k] / n) * V[k]   -->   sum(k) x[k] / l * V[k] - c * sum(k) y[k] / n * V[k]

    sum(k) (exp(x[k] - m) + exp(m - x[k])) * V[k]   -->
    sum(k) exp(x[k] - m) * V[k] + sum(k) exp(m - x[k]) * V[k]

where `l`, `m` and `n` are reductions over `k`, and `c` is an input. What a term waits for leaves a sum of its
own, never the common one, which would need a second pass. Terms that wait for the same follow it together,
but for exponentials that do so in different ways; where one waits for nothing, as in `sum(k) (x[k] - m) *
(x[k] - m)`, the small difference is not taken apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from attncc.ir.cascade import Cascade, Equation, Expr, Index, Reduce, Tensor, children, free, reads, rebuild
from attncc.ir.graph import recurrent
from attncc.ir.logic import factors, product, quotient, terms, total
from attncc.passes.scaled import Scales, scaled
from attncc.passes.simplify import tidy

Needs = Mapping[Tensor, frozenset[Reduce]]
"""The reductions over sequences that each tensor waits for."""


def distribute(cascade: Cascade) -> Cascade:
    """Sums taken apart."""
    groups = {name for group in recurrent(cascade) for name in group}
    needs: dict[Tensor, frozenset[Reduce]] = {}
    equations: list[Equation] = []
    for equation in cascade.equations:
        if equation.tensor.name not in groups:
            equation = replace(equation, body=_apart(equation.body, needs))
        own = {equation.body} if isinstance(equation.body, Reduce) else frozenset[Reduce]()
        needs[equation.tensor] = _needs(equation.body, needs) | own
        equations.append(equation)
    return replace(cascade, equations=tuple(equations))


def _needs(e: Expr, needs: Needs) -> frozenset[Reduce]:
    return frozenset[Reduce]().union(*(needs.get(r.tensor, frozenset()) for r in reads(e)))


def _apart(e: Expr, needs: Needs) -> Expr:
    e = rebuild(e, tuple(_apart(part, needs) for part in children(e)))
    if not isinstance(e, Reduce) or e.op != "sum":
        return e
    if all(i.role == "feature" for i in e.over):
        return _multiplied(e)

    def waits(x: Expr) -> frozenset[Reduce]:
        return frozenset(r for r in _needs(x, needs) if set(r.over) & set(e.over) and r != e)

    up, down = factors(e.body)
    waiting = [n for n, x in enumerate(up) if waits(x)]
    if len(waiting) != 1 or any(waits(x) for x in down):
        return e
    (place,) = waiting
    signed = terms(up[place])
    asked = {waits(x) for _, x in signed}
    if frozenset() in asked or (len(asked) < 2 and not _unlike(signed, e, waits)):
        return e
    rest = up[:place] + up[place + 1 :]
    return total([(sign, _scaled(tidy(replace(e, body=quotient([x, *rest], down))))) for sign, x in signed])


def _unlike(signed: list[tuple[int, Expr]], e: Reduce, waits: Callable[[Expr], frozenset[Reduce]]) -> bool:
    """Whether terms are exponentials of which different factors would leave the sum."""
    exponents = [terms(scaled(x, Scales()).exponent) for _, x in signed]
    away = {
        frozenset((s, x) for s, x in exponent if waits(x) and not free(x) & set(e.over))
        for exponent in exponents
    }
    return len(away) > 1 and frozenset() not in away


def _multiplied(e: Reduce) -> Expr:
    """A sum over features in parts: those that are products of rows and columns, and what is left."""
    up, down = factors(e.body)
    mixed = [n for n, x in enumerate(up) if _mixes(x, e)]
    if len(mixed) != 1 or any(_mixes(x, e) for x in down):
        return e
    (place,) = mixed
    rest = up[:place] + up[place + 1 :]
    parts: dict[frozenset[Index], list[tuple[int, Expr]]] = {}
    for sign, x in terms(up[place]):
        apart = not any(_mixes(y, e) for side in factors(x) for y in side)
        both = len(_positions(quotient([x, *rest], down))) > 1
        parts.setdefault(_positions(x) if apart and both else frozenset(), []).append((sign, x))
    if not any(parts):
        return e
    sums = (replace(e, body=quotient([total(signed), *rest], down)) for signed in parts.values())
    return total([(1, tidy(x)) for x in sums])


def _positions(x: Expr) -> frozenset[Index]:
    return frozenset(i for i in free(x) if i.role == "sequence")


def _mixes(x: Expr, e: Reduce) -> bool:
    """Whether a factor varies along the sum and along rows and columns at once."""
    return len(_positions(x)) > 1 and bool(free(x) & set(e.over))


def _scaled(e: Expr) -> Expr:
    """A sum behind the factors that are the same for all its terms."""
    if not isinstance(e, Reduce):
        return e
    up, down = factors(e.body)
    outside = [x for x in up if _fixed(x, e)]
    return product([*outside, replace(e, body=quotient([x for x in up if x not in outside], down))])


def _fixed(x: Expr, e: Reduce) -> bool:
    """Whether a factor does not vary along the sum, and has a value also where the sum has no terms."""
    whole = all(r.tensor.origin != "equation" and all(isinstance(s, Index) for s in r.at) for r in reads(x))
    return whole and not free(x) & set(e.over)
