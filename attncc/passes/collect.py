"""Cascade → Cascade: what all terms under a sum over a sequence are multiplied by stands once.

    sum(q) a[q,k] * x[q,e] - b[q,k] * x[q,e]   -->   sum(q) (a[q,k] - b[q,k]) * x[q,e]

One matrix product then takes all terms. Where they share no factor with features, each has a sum of its own.
"""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import Apply, Cascade, Expr, Reduce, free
from attncc.ir.logic import factors, product, quotient, terms, times, total


def collect(cascade: Cascade) -> Cascade:
    """Sums over sequences of terms with features, one factor each."""
    equations = tuple(
        replace(e, body=_collected(e.body)) if isinstance(e.body, Reduce) else e for e in cascade.equations
    )
    return replace(cascade, equations=equations)


def _collected(e: Reduce) -> Expr:
    signed = terms(e.body)
    walks = any(i.role == "sequence" for i in e.over)
    if e.op != "sum" or len(signed) < 2 or not walks or not all(_featured(t, e) for _, t in signed):
        return e
    ups = [factors(term)[0] for _, term in signed]
    common = [f for f in ups[0] if all(f in up for up in ups)]
    if any(_featured(f, e) for f in common):
        return replace(e, body=times(total([(s, _without(t, common)) for s, t in signed]), product(common)))
    parts = [(sign, replace(e, body=term)) for sign, term in signed]
    whole: Expr = parts[0][1] if parts[0][0] > 0 else Apply("neg", (parts[0][1],))
    for sign, part in parts[1:]:
        whole = Apply("+" if sign > 0 else "-", (whole, part))
    return whole


def _featured(term: Expr, e: Reduce) -> bool:
    return any(i.role == "feature" for i in free(term) - set(e.over))


def _without(term: Expr, common: list[Expr]) -> Expr:
    up, down = factors(term)
    rest = list(up)
    for f in common:
        rest.remove(f)
    return quotient(rest, down)
