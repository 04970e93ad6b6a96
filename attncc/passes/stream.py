"""Cascade → Cascade: reductions over one index come to depend on each other through a running maximum only.

    P_max[q] = max(k) S[q,k]                                S_max[q] = max(k) S[q,k]
    P_sum[q] = sum(k) exp(S[q,k] - P_max[q])         -->    P_total[q] = sum(k) exp(S[q,k] - S_max[q])
    O[q]     = sum(k) exp(S[q,k] - P_max[q]) / P_sum[q]     O_total[q] = sum(k) exp(S[q,k] - S_max[q])
               * V[k]                                                  * V[k]
                                                            O[q]       = O_total[q] / P_total[q]

Two rewrites, both exact, for every sum over `k`:

* *deferral*: a factor that waits for a reduction over `k` and does not vary along `k` leaves the sum,
  `sum(k) d * x[k] --> d * sum(k) x[k]`, and meets it again in the epilogue. So does `exp(d)` out of `exp(x[k]
  + d)`. What is not such a factor as it stands may become one: the factor test of `ir.algebra` (theory §A.4).
* *stabiliser*: an exponent that varies along `k` is measured from its maximum over the same terms,
  `sum(k) exp(E) * G --> exp(m) * sum(k) exp(E - m) * G,  m = max(k) E`, and `exp(m)` meets the epilogue as a
  scale (`passes.scaled`, theory §0.3). It is the same text whether the pattern subtracted a maximum or not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from attncc.ir.algebra import separate
from attncc.ir.cascade import (
    ZERO,
    Apply,
    Cascade,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    Tensor,
    free,
    kind,
    reads,
)
from attncc.ir.graph import recurrent
from attncc.ir.logic import factors, plus, quotient, terms, times, total
from attncc.passes.scaled import Scaled, scaled, settled
from attncc.passes.share import pruned


@dataclass
class _Made:
    """What the pass has so far: equations, scaled forms, and over which indices each tensor waits for a
    reduction.
    """

    taken: set[str]
    equations: list[Equation] = field(default_factory=list)
    scales: dict[Tensor, Scaled] = field(default_factory=dict)
    waits: dict[Tensor, frozenset[Index]] = field(default_factory=dict)
    maxima: dict[Expr, Tensor] = field(default_factory=dict)


def stream(cascade: Cascade) -> Cascade:
    """Divisions deferred, exponents measured from running maxima."""
    groups = {name for group in recurrent(cascade) for name in group}
    made = _Made({t.name for t in cascade.inputs} | {e.tensor.name for e in cascade.equations})
    for equation in cascade.equations:
        made.waits[equation.tensor] = _waits_of(equation.body, made)
        if equation.tensor.name in groups:
            made.equations.append(equation)
            continue
        form = _form(equation, made)
        if not isinstance(form.mantissa, Reduce):
            made.scales[equation.tensor] = form
        _add(replace(equation, body=_value(form)), made)
    return pruned(replace(cascade, equations=tuple(made.equations)))


def _value(form: Scaled) -> Expr:
    return form.mantissa if form.plain else times(form.mantissa, Apply("exp", (form.exponent,)))


def _add(equation: Equation, made: _Made) -> None:
    made.equations.append(equation)
    if isinstance(equation.body, Reduce) and equation.body.op == "max":
        made.maxima.setdefault(equation.body, equation.tensor)


def _waits_of(e: Expr, made: _Made) -> frozenset[Index]:
    """Indices over which something must be complete before the value exists."""
    below = frozenset().union(*(made.waits.get(r.tensor, frozenset()) for r in reads(e)))
    return below | set(e.over) if isinstance(e, Reduce) else below


def _form(equation: Equation, made: _Made) -> Scaled:
    """The scaled form of an equation's value; equations that it needs are added on the way."""
    match equation.body:
        case Reduce("sum") as e:
            return _sum(equation, e, made)
        case Reduce("max" | "min") as e:
            return _extremum(equation, e, made)
        case Reduce() as e:
            return Scaled(replace(e, where=settled(e.where, made.scales), body=settled(e.body, made.scales)))
        case body:
            return scaled(body, made.scales)


def _sum(equation: Equation, e: Reduce, made: _Made) -> Scaled:
    where = settled(e.where, made.scales)
    form = scaled(e.body, made.scales)
    (up, down), kept = _deferred_factors(form.mantissa, e, made)
    loose_exponent, exponent = _deferred_terms(form.exponent, e, made)
    scale: Expr = ZERO
    if free(exponent) & set(e.over):
        top = Reduce("max", e.over, where, exponent, e.span)
        scale = _read(_maximum(top, equation, made))
        kept = times(kept, Apply("exp", (Apply("-", (exponent, Apply("finite", (scale,)))),)))
    else:
        loose_exponent = plus(loose_exponent, exponent)
    inner = Reduce("sum", e.over, where, kept, e.span)
    if inner == e:
        return Scaled(inner)
    if not up and not down and not terms(loose_exponent) and not terms(scale):
        return Scaled(inner)
    tensor = _named(f"{equation.tensor.name.removesuffix('_sum')}_total", inner, equation, made)
    return Scaled(quotient([_read(tensor), *up], down), plus(loose_exponent, scale))


def _extremum(equation: Equation, e: Reduce, made: _Made) -> Scaled:
    where = settled(e.where, made.scales)
    loose, kept = _deferred_terms(settled(e.body, made.scales), e, made)
    inner = replace(e, where=where, body=kept)
    if not terms(loose):
        return Scaled(inner)
    return Scaled(plus(_read(_named(f"{equation.tensor.name}_{e.op}", inner, equation, made)), loose))


def _blocking(e: Expr, over: tuple[Index, ...], made: _Made) -> bool:
    """Whether an expression waits for a reduction over one of these indices."""
    return any(made.waits.get(r.tensor, frozenset()) & set(over) for r in reads(e))


def _leaves(e: Expr, reduce: Reduce, made: _Made) -> bool:
    return _blocking(e, reduce.over, made) and not free(e) & set(reduce.over)


def _deferred_factors(mantissa: Expr, e: Reduce, made: _Made) -> tuple[tuple[list[Expr], list[Expr]], Expr]:
    """The factors and divisors that leave the sum, and what stays."""
    up, down = factors(mantissa)
    loose_up, up = _parted(up, e, made)
    loose_down, down = _parted(down, e, made)
    kept = quotient(up, down)
    if _blocking(kept, e.over, made):
        apart = separate(kept, frozenset(e.over), frozenset(r for r in reads(kept) if _leaves(r, e, made)))
        if apart is not None:
            kept, more = apart
            loose_up.append(more)
    return (loose_up, loose_down), kept


def _parted(parts: list[Expr], e: Reduce, made: _Made) -> tuple[list[Expr], list[Expr]]:
    return [x for x in parts if _leaves(x, e, made)], [x for x in parts if not _leaves(x, e, made)]


def _deferred_terms(exponent: Expr, e: Reduce, made: _Made) -> tuple[Expr, Expr]:
    """The terms that leave the exponent, and those that stay."""
    signed = terms(exponent)
    loose = [(sign, x) for sign, x in signed if _leaves(x, e, made)]
    if not loose:
        return total([]), exponent
    return total(loose), total([pair for pair in signed if pair not in loose])


def _maximum(top: Reduce, equation: Equation, made: _Made) -> Tensor:
    held = made.maxima.get(top)
    if held is not None:
        return held
    body = top.body
    name = body.tensor.name if isinstance(body, Read) else equation.tensor.name
    return _named(f"{name}_max", top, equation, made)


def _named(name: str, body: Reduce, host: Equation, made: _Made) -> Tensor:
    """A new equation for a reduction that its host reads."""
    numbered = (name if n == 1 else f"{name}{n}" for n in range(1, len(made.taken) + 2))
    name = next(n for n in numbered if n not in made.taken)
    loose = free(body)
    indices = tuple(i for i in host.tensor.indices if i in loose)
    tensor = Tensor(name, indices, kind(body), "equation")
    made.taken.add(name)
    made.waits[tensor] = _waits_of(body, made)
    _add(Equation(tensor, body, host.span), made)
    return tensor


def _read(tensor: Tensor) -> Read:
    return Read(tensor, tensor.indices)
