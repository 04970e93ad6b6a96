"""Cascade → Cascade: reductions over one index come to depend on each other through a running maximum only.

    P_max[q] = max(k) S[q,k]                                S_max[q] = max(k) S[q,k]
    P_sum[q] = sum(k) exp(S[q,k] - P_max[q])         -->    P_total[q] = sum(k) exp(S[q,k] - S_max[q])
    O[q]     = sum(k) exp(S[q,k] - P_max[q]) / P_sum[q]     O_total[q] = sum(k) exp(S[q,k] - S_max[q])
               * V[k]                                                  * V[k]
                                                            O[q]       = O_total[q] / P_total[q]

Two rewrites, both exact, for every sum over `k`:

* *deferral*: a factor that waits for a reduction over `k` and does not vary along `k` leaves the sum,
  `sum(k) d * x[k] --> d * sum(k) x[k]`, and meets it again in the epilogue. So does `exp(d)` out of `exp(x[k]
  + d)`, and out of an extreme a term, or a factor that is not negative (`passes.deferred`).
* *stabiliser*: an exponent that varies along `k` is measured from its maximum over the same terms,
  `sum(k) exp(E) * G --> exp(m) * sum(k) exp(E - m) * G,  m = max(k) E`, and `exp(m)` meets the epilogue as a
  scale (`passes.scaled`, theory §0.3). It is the same text whether the pattern subtracted a maximum or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from attncc.ir.cascade import (
    ONE,
    TRUE,
    ZERO,
    Apply,
    Cascade,
    Choose,
    Equation,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    Tensor,
    children,
    free,
    kind,
    number,
    reads,
    rebuild,
)
from attncc.ir.graph import recurrent
from attncc.ir.logic import bare, conjoin, conjuncts, factors, is_literal, plus, quotient, terms, times, total
from attncc.ir.sign import nonnegative
from attncc.ops import REDUCTIONS
from attncc.passes.deferred import Apart, Waiting, apart, deferred_factors, deferred_terms
from attncc.passes.expand import Presence
from attncc.passes.exponents import at_most_zero
from attncc.passes.inside import Inside
from attncc.passes.scaled import Scaled, Scales, bounded, raised, risky, scaled, settled, value
from attncc.passes.share import fresh, pruned


@dataclass
class _Made:
    """What the pass has so far: equations, scaled forms, extremes, what each tensor needs to have a value,
    over which indices it waits for a reduction.
    """

    taken: set[str]
    inside: Inside
    tops: Mapping[Tensor, Reduce] | None
    equations: list[Equation] = field(default_factory=list)
    forms: dict[Tensor, Scaled] = field(default_factory=dict)
    extremes: dict[Tensor, str] = field(default_factory=dict)
    lacking: dict[str, tuple[Expr, ...]] = field(default_factory=dict)
    partial: set[Tensor] = field(default_factory=set)
    waits: dict[Tensor, frozenset[Index]] = field(default_factory=dict)
    maxima: dict[Expr, Tensor] = field(default_factory=dict)
    within: Expr = TRUE
    exponents: dict[frozenset[tuple[tuple[int, Expr], int]], Expr] = field(default_factory=dict)
    bodies: dict[Tensor, Expr] = field(default_factory=dict)

    @property
    def scales(self) -> Scales:
        tops = self.tops
        if tops is None:
            return Scales(self.forms, self.extremes, measured=False)
        lengths = self.inside.lengths
        return Scales(self.forms, self.extremes, low=lambda x: at_most_zero(x, self.within, tops, lengths))

    @property
    def presence(self) -> Presence:
        return Presence(self.inside, self.lacking)


def stream(cascade: Cascade) -> Cascade:
    """Divisions deferred, exponents measured from running maxima but where one is known to be at most 0."""
    streamed = _streamed(cascade, _tops(cascade))
    return pruned(replace(streamed, demands=tuple(d for d in streamed.demands if d.name != "above")))


def deferred(cascade: Cascade) -> Cascade:
    """Divisions deferred, exponents as they are: what is differentiated, and never computed."""
    return _streamed(cascade, None)


def _tops(cascade: Cascade) -> dict[Tensor, Reduce]:
    """What is known to be at least a maximum, and which."""
    inputs = {t.name: t for t in cascade.inputs}
    bodies = {e.tensor: e.body for e in cascade.equations}
    found = {}
    for demand in cascade.demands:
        if demand.name == "above":
            e: Expr = demand.value
            while isinstance(e, Read) and e.tensor in bodies:
                e = bodies[e.tensor]
            if isinstance(e, Reduce):
                found[inputs[demand.subject]] = e
    return found


def _streamed(cascade: Cascade, tops: Mapping[Tensor, Reduce] | None) -> Cascade:
    groups = {name for group in recurrent(cascade) for name in group}
    taken = {t.name for t in cascade.inputs} | {e.tensor.name for e in cascade.equations}
    made = _Made(taken, Inside(dict(cascade.lengths)), tops)
    for equation in cascade.equations:
        made.waits[equation.tensor] = _waits_of(equation.body, made)
        made.lacking[equation.tensor.name] = made.presence.needs(equation.body)
        if equation.tensor.name in groups:
            made.equations.append(equation)
            if made.lacking[equation.tensor.name]:
                made.partial.add(equation.tensor)
        elif isinstance(equation.body, Reduce):
            form = _reduced(equation, equation.body, made)
            if not isinstance(form.mantissa, Reduce):
                made.forms[equation.tensor] = form
            _add(replace(equation, body=value(form)), made)
        else:
            made.forms[equation.tensor] = scaled(equation.body, made.scales)
            _add(replace(equation, body=settled(equation.body, made.scales)), made)
    return pruned(replace(cascade, equations=tuple(made.equations)))


def _add(equation: Equation, made: _Made) -> None:
    made.equations.append(equation)
    made.bodies[equation.tensor] = equation.body
    match equation.body:
        case Reduce("max" | "min" as op):
            made.extremes[equation.tensor] = op
            if op == "max" and set(equation.tensor.indices) == free(equation.body):
                made.maxima.setdefault(equation.body, equation.tensor)


def _waits_of(e: Expr, made: _Made) -> frozenset[Index]:
    """Indices over which something must be complete before the value exists."""
    below = frozenset().union(*(made.waits.get(r.tensor, frozenset()) for r in reads(e)))
    return below | set(e.over) if isinstance(e, Reduce) else below


# Reductions


def _reduced(equation: Equation, e: Reduce, made: _Made) -> Scaled:
    """The scaled form of a reduction; equations that it needs are added on the way."""
    match e.op:
        case "sum" if not _is_total(equation, e):
            return _sum(equation, e, made)
        case "max" | "min" if kind(e) == "float":
            return _extremum(equation, e, made)
        case _:
            return Scaled(replace(e, where=settled(e.where, made.scales), body=settled(e.body, made.scales)))


def _is_total(equation: Equation, e: Reduce) -> bool:
    """Whether rows are added up to a number without one: their values are taken as they are."""
    rows = any(i.role == "sequence" for i in equation.tensor.indices)
    whole = any(i.role == "batch" for i in e.over) or isinstance(e.body, Read)
    return not rows and whole and any(i.role == "sequence" for i in e.over)


def _sum(equation: Equation, e: Reduce, made: _Made) -> Scaled:
    where = settled(e.where, made.scales)
    made.within = where
    form = scaled(e.body, made.scales)
    made.within = TRUE
    waiting = Waiting(e, made.waits)
    split = _split(form.mantissa, waiting, made)
    if split is not None:
        first, second = (replace(e, body=value(Scaled(m, form.exponent))) for m in split)
        return scaled(Apply("+", (_held(equation, first, made), _held(equation, second, made))), made.scales)
    apart = deferred_factors(form.mantissa, waiting)
    kept = apart.kept
    loose, rest = deferred_terms(form.exponent, waiting)
    exponent = _real(total(rest))
    scale: Expr = ZERO
    if made.tops is None or (is_literal(exponent, 0) and not free(exponent)):
        kept = times(kept, Apply("exp", (exponent,))) if terms(exponent) else kept
    elif free(exponent) & set(e.over) and at_most_zero(exponent, where, made.tops, made.inside.lengths):
        # the same terms in the same order, so that the exponential is the same text
        exponent = made.exponents.setdefault(frozenset(Counter(terms(exponent)).items()), exponent)
        kept = times(kept, Apply("exp", (exponent,)))
    elif free(exponent) & set(e.over):
        top = Reduce("max", e.over, _of_rows(where, exponent), exponent, e.span)
        scale = _read(_maximum(top, equation, made))
        measured = Apply("-", (exponent, Apply("finite", (scale,))))
        kept = times(_in_terms_of(measured, kept), Apply("exp", (measured,)))
    else:
        loose += rest
    inner = Reduce("sum", e.over, where, kept, e.span)
    if apart.loose == ((), ()) and not loose and not terms(scale):
        return Scaled(inner)
    up, down = ([_present(x, ONE, inner, made) for x in side] for side in apart.loose)
    loose = [(sign, _present(x, ZERO, inner, made)) for sign, x in loose]
    held = _read(_named(f"{equation.tensor.name.removesuffix('_sum')}_total", inner, equation, made))
    return Scaled(_outside(held, up, down, made), bounded(raised(total(loose), scale), made.scales))


def _of_rows(where: Expr, exponent: Expr) -> Expr:
    """A predicate without what it says of features that the exponent lacks: one maximum measures them all."""
    loose = free(exponent)
    return conjoin(c for c in conjuncts(where) if all(i.role != "feature" or i in loose for i in free(c)))


def _split(mantissa: Expr, waiting: Waiting, made: _Made) -> tuple[Expr, Expr] | None:
    """A sum in two: of the terms that vary, with their point of reference, and of those that wait and leave.

        (s[k] + log(l) - m) * w[k]   -->   (s[k] - m) * w[k],   log(l) * w[k]

    What moves as `s` moves stays beside it, as the difference is small (`_moves_along`).
    """
    up, down = factors(mantissa)
    for n, x in enumerate(up):
        signed = terms(x)
        loose = [pair for pair in signed if waiting.leaves(pair[1])]
        vary = [pair for pair in signed if pair not in loose]
        unit = total(vary if any(sign > 0 for sign, _ in vary) else [(1, x) for _, x in vary])
        away = [pair for pair in loose if _shift(pair[1], unit, made) == 0]
        if vary and away and not any(waiting.blocks(t) for _, t in vary):
            kept = total([pair for pair in signed if pair not in away])
            return quotient([*up[:n], kept, *up[n + 1 :]], down), quotient(
                [*up[:n], total(away), *up[n + 1 :]], down
            )
    return None


def _shift(e: Expr, unit: Expr, made: _Made) -> int | None:
    """By how many times `c` a value grows when every `unit[k]` grows by `c`; None if that does not tell."""
    if e == unit:
        return 1
    match e:
        case Read(tensor) if tensor in made.bodies:
            return _shift(made.bodies[tensor], unit, made)
        case Reduce("max" | "min"):
            return _shift(e.body, unit, made)
        case Apply("finite", (a,)):
            return _shift(a, unit, made)
        case Apply("+" | "-" as op, (a, b)):
            first, second = _shift(a, unit, made), _shift(b, unit, made)
            if first is None or second is None:
                return None
            return first + second if op == "+" else first - second
        case _:
            parts = [_shift(part, unit, made) for part in children(e)]
            return 0 if all(part == 0 for part in parts) else None


def _held(equation: Equation, e: Reduce, made: _Made) -> Expr:
    """A part of a sum, under a name of its own."""
    form = _sum(equation, e, made)
    if not isinstance(form.mantissa, Reduce):
        return value(form)
    tensor = _named(f"{equation.tensor.name}_part", form.mantissa, equation, made)
    made.forms[tensor] = Scaled(_read(tensor))
    return value(Scaled(_read(tensor), form.exponent))


def _in_terms_of(x: Expr, e: Expr) -> Expr:
    """An expression in which what is `x` or `-x` reads as `x` does; a maximum is finite where a term is."""
    own = [(sign, bare(term)) for sign, term in terms(x)]
    here = [(sign, bare(term)) for sign, term in terms(e)]
    for sign in (1, -1):
        if sorted(here, key=str) == sorted(((sign * s, t) for s, t in own), key=str):
            return x if sign > 0 else Apply("neg", (x,))
    return rebuild(e, tuple(_in_terms_of(x, part) for part in children(e))) if isinstance(e, Apply) else e


def _real(e: Expr) -> Expr:
    """A number as a real one: integers have no infinity for an extreme of nothing."""
    match e:
        case Literal(value, "int"):
            return number(float(value))
        case _:
            return Apply("*", (e, number(1.0))) if kind(e) == "int" else e


def _outside(held: Expr, up: list[Expr], down: list[Expr], made: _Made) -> Expr:
    """A sum times what has left it; the sum of nothing stays 0, whatever has left."""
    whole = quotient([held, *up], down)
    if any(risky(x, made.scales) for x in up):
        return Choose(Apply("==", (held, ZERO)), ZERO, whole)
    return whole


def _extremum(equation: Equation, e: Reduce, made: _Made) -> Scaled:
    """Terms that wait leave it, and factors that are known not to be negative."""
    where, body = settled(e.where, made.scales), settled(e.body, made.scales)
    waiting = Waiting(e, made.waits)
    away = apart(body, waiting)
    if all(nonnegative(x, made.bodies) for side in away.loose for x in side):
        body = away.kept
    else:
        away = Apart(body)
    loose, rest = deferred_terms(body, waiting)
    inner = replace(e, where=where, body=_real(total(rest)))
    if not loose and away.loose == ((), ()):
        return Scaled(inner)
    loose = [(sign, _present(x, ZERO, inner, made)) for sign, x in loose]
    up, down = ([_present(x, ONE, inner, made) for x in side] for side in away.loose)
    held = _read(_named(f"{equation.tensor.name}_{e.op}", inner, equation, made))
    whole = quotient([plus(held, bounded(total(loose), made.scales, least=e.op == "min")), *up], down)
    if not up and not down:
        return Scaled(whole)
    nothing = number(REDUCTIONS[e.op].identity)
    return Scaled(Choose(Apply("==", (held, nothing)), nothing, whole))


def _present(x: Expr, nothing: Expr, e: Reduce, made: _Made) -> Expr:
    """What has left a reduction, where it has a value; where it has none, the reduction is one of nothing."""
    needs = list(made.presence.needs(x))
    if any(r.tensor in made.partial for r in reads(x)):
        needs += [c for c in conjuncts(e.where) if not free(c) & set(e.over)]
    return Choose(conjoin(needs), x, nothing) if needs else x


# Equations added


def _maximum(top: Reduce, equation: Equation, made: _Made) -> Tensor:
    held = made.maxima.get(top)
    if held is not None:
        return held
    body = top.body
    name = body.tensor.name if isinstance(body, Read) else equation.tensor.name
    return _named(f"{name}_max", top, equation, made)


def _named(name: str, body: Reduce, host: Equation, made: _Made) -> Tensor:
    """A new equation for a reduction that its host reads."""
    name = fresh(name, made.taken)
    loose = free(body)
    indices = tuple(i for i in host.tensor.indices if i in loose)
    tensor = Tensor(name, indices, kind(body), "equation")
    made.taken.add(name)
    made.waits[tensor] = _waits_of(body, made)
    _add(Equation(tensor, body, host.span), made)
    return tensor


def _read(tensor: Tensor) -> Read:
    return Read(tensor, tensor.indices)
