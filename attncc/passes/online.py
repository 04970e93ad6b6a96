"""Cascade → updaters: how a reduction follows a value that is still changing, so that both ride in one pass.

For `y = sum(k where c) F(x[k]; d)` with d another reduction over `k`, an updater h has h(F(x; d); d, d') =
F(x; d') for every x, and distributes over the sum (theory §A.3, C1 and C2). For a sum these are the factors h
= H(d') / H(d) of F = G(x) * H(d); for an extreme the terms of F = G(x) + H(d), or the factors where H(d) is
positive, so that the greatest term stays the greatest. Where the predicate of y does not imply that of d, a
term of y could come before d has a value: no updater (theory §0.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attncc.ir.algebra import Comoving, comoving
from attncc.ir.cascade import (
    ONE,
    ZERO,
    Apply,
    Cascade,
    Equation,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    Tensor,
    free,
    rebuild,
    walk,
)
from attncc.ir.cascade import children as parts_of
from attncc.ir.logic import (
    bare,
    conjuncts,
    factors,
    finite,
    is_finite,
    is_literal,
    minus,
    plus,
    quotient,
    terms,
    times,
    total,
)
from attncc.ir.sign import positive
from attncc.ops import REDUCTIONS
from attncc.passes.analyse import Passes, analyse, walked
from attncc.passes.scaled import Scales, scaled


@dataclass(frozen=True)
class Updater:
    """`y' = y * correction + shift` when the tensors that y follows go from `d_old` to `d`, and to a sum
    come `companion_old * factor`.

    A sum has no shift. An extreme has a correction that is positive, or a shift, and of nothing it stays
    what it is: infinite, whatever the correction.
    """

    follows: tuple[Tensor, ...]
    correction: Expr
    companions: tuple[tuple[Tensor, Expr], ...] = ()
    shift: Expr = ZERO


def before(tensor: Tensor) -> Tensor:
    """The value that a running tensor had before the present tile."""
    return replace(tensor, name=f"{tensor.name}_old")


def passes_over(cascade: Cascade, index: Index) -> tuple[Passes, dict[str, Updater]]:
    """The passes over an index, and how reductions follow those that run in the same one."""
    reductions = {e.tensor: e.body for e in cascade.equations if isinstance(e.body, Reduce)}
    found: dict[str, Updater] = {}

    def corrected(equation: Equation, awaited: frozenset[str], earlier: frozenset[str]) -> bool:
        beside = {t: r for t, r in reductions.items() if t.name not in earlier}
        updater = updater_of(equation, beside)
        if updater is None or not awaited <= {t.name for t in updater.follows}:
            return False
        if not _sustained(updater, beside, frozenset((equation.tensor,))):
            return False
        found[equation.tensor.name] = updater
        return True

    passes = analyse(cascade, index, corrected)
    # what is blocked could follow some of what it waits for, and follows nothing
    return passes, {name: u for name, u in found.items() if all(e.reader != name for e in passes.blocking)}


def _sustained(updater: Updater, reductions: Mapping[Tensor, Reduce], seen: frozenset[Tensor]) -> bool:
    """Whether all companions are of the same pass: they wait for nothing, or follow it, each with its own."""
    for tensor, _ in updater.companions:
        body = reductions[tensor]
        if tensor in seen or not any(t in reductions for t in _tensors(body.body)):
            continue
        own = updater_of(Equation(tensor, body), reductions)
        if own is None or not _sustained(own, reductions, seen | {tensor}):
            return False
    return True


def updaters(cascade: Cascade) -> dict[str, Updater]:
    """How every reduction follows others that run in the same pass, where one does."""
    return {name: u for i in walked(cascade) for name, u in passes_over(cascade, i)[1].items()}


def updater_of(equation: Equation, reductions: Mapping[Tensor, Reduce]) -> Updater | None:
    """How an equation follows those it reads of the reductions that run with it; None if it waits for them.

    What else it reads is complete.
    """
    e = equation.body
    if not isinstance(e, Reduce) or e.op not in ("sum", "max", "min"):
        return None
    follows = followed(equation, e, reductions)
    if not follows:
        return None
    if e.op != "sum" and (shift := _shift(e, follows)) is not None:
        return Updater(follows, ONE, shift=shift)
    correction = _ratio(e, follows, reductions)
    if correction is not None:
        return Updater(follows, correction)
    return _accompanied(e, follows, reductions) if e.op == "sum" else None


def comoves(e: Reduce, follows: tuple[Tensor, ...], reductions: Mapping[Tensor, Reduce]) -> Comoving | None:
    """The basis of a sum's term that moves with what it follows, if it has one."""
    moving = moving_parts(e.body, e.over, follows, reductions)
    steps = tuple(minus(x, _past(x, follows)) for x in moving)
    known = [
        r.body for r in reductions.values() if (r.op, r.over, r.where) == (e.op, e.over, e.where) and r != e
    ]
    return comoving(e.body, frozenset(e.over), moving, steps, tuple(dict.fromkeys(known)))


def moving_parts(
    e: Expr, along: tuple[Index, ...], follows: tuple[Tensor, ...], reductions: Mapping[Tensor, Reduce]
) -> tuple[Expr, ...]:
    """The widest parts of a term that change with the values followed, and not along the index; what may
    be infinite without a term is finite, as it is wherever there is one.
    """
    match e:
        case Read() if e.tensor in follows and reductions[e.tensor].op != "sum":
            return (finite(e, reductions[e.tensor].op),)
        case _ if is_finite(e) and _moves(e, along, follows):
            return (e,)
        case _ if _moves(e, along, follows) and not _extremes(e, follows, reductions):
            if _infinite(e, follows, reductions):
                return (finite(finite(e, "min"), "max"),)
            if not any(_infinite(x, follows, reductions) for x in walk(e)):
                return (e,)
    return tuple(
        dict.fromkeys(x for part in parts_of(e) for x in moving_parts(part, along, follows, reductions))
    )


def _infinite(e: Expr, follows: tuple[Tensor, ...], reductions: Mapping[Tensor, Reduce]) -> bool:
    """Whether a function of sums may be infinite while they have no terms; a mean is `0 / 0` then, 0."""
    match e:
        case Apply("/", (a, _)):
            sums = {t for t in follows if reductions[t].op == "sum"}
            return not any(isinstance(f, Read) and f.tensor in sums for f in factors(a)[0])
        case Apply("**", (_, Literal(power))):
            return power < 0
        case _:
            return isinstance(e, Apply) and e.op in ("log", "**")


def _extremes(e: Expr, follows: tuple[Tensor, ...], reductions: Mapping[Tensor, Reduce]) -> bool:
    return any(t in follows and reductions[t].op != "sum" for t in _tensors(e))


def _accompanied(
    e: Reduce, follows: tuple[Tensor, ...], reductions: Mapping[Tensor, Reduce]
) -> Updater | None:
    """A sum whose companions are all there."""
    found = comoves(e, follows, reductions)
    holders = {r: t for t, r in reductions.items()}
    tensors = [holders.get(replace(e, body=b)) for b in found.basis] if found else []
    if found is None or None in tensors:
        return None
    moving = moving_parts(e.body, e.over, follows, reductions)
    growth: Expr = ZERO
    for factor, x in zip(found.growth, moving, strict=True):
        if is_literal(factor, 0):
            continue
        if not _vanishes(factor, x, reductions):
            return None
        old = _old(bare(x), follows)
        rise = minus(old, x) if is_literal(factor, -1) else times(factor, minus(x, old))
        growth = plus(growth, rise)
    scale = ONE if not terms(growth) else Apply("exp", (growth,))
    own, *others = (times(w, scale) for w in found.weights)
    return Updater(follows, own, tuple(zip((t for t in tensors if t), others, strict=True)))


def _vanishes(factor: Expr, x: Expr, reductions: Mapping[Tensor, Reduce]) -> bool:
    """Whether `exp(factor * (x - x_old))` is 0 while an extreme has no terms yet."""
    match factor, bare(x):
        case Literal(value), Read(tensor):
            return reductions[tensor].op == ("max" if value < 0 else "min")
        case _:
            return False


def _past(x: Expr, follows: tuple[Tensor, ...]) -> Expr:
    """What moves, at the old values: as finite as it is now."""
    match x:
        case Apply("finite", (a,)):
            return finite(_past(a, follows), "max")
        case Apply("neg", (Apply("finite", (Apply("neg", (a,)),)),)):
            return finite(_past(a, follows), "min")
        case _:
            return _old(x, follows)


def _tensors(e: Expr) -> tuple[Tensor, ...]:
    own = (e.tensor,) if isinstance(e, Read) else ()
    return tuple(dict.fromkeys((*own, *(t for part in parts_of(e) for t in _tensors(part)))))


def followed(equation: Equation, e: Reduce, reductions: Mapping[Tensor, Reduce]) -> tuple[Tensor, ...]:
    """The reductions over its index that one reads; none where a term may come before they have a value,
    where they say which terms there are, or give every term a place among all.
    """
    running = {t: r for t, r in reductions.items() if set(r.over) & set(e.over) and t != equation.tensor}
    if any(t in running for t in _tensors(e.where)):
        return ()
    follows = tuple(t for t in _tensors(e.body) if t in running)
    if any(REDUCTIONS[running[t].op].keeps for t in follows):
        return ()
    return follows if all(_implies(e.where, running[t].where) for t in follows) else ()


def _implies(strong: Expr, weak: Expr) -> bool:
    return set(conjuncts(weak)) <= set(conjuncts(strong))


def _ratio(e: Reduce, follows: tuple[Tensor, ...], reductions: Mapping[Tensor, Reduce]) -> Expr | None:
    """H(d') / H(d), or None where F does not separate; for an extreme, where H may not be positive."""
    form = scaled(e.body, Scales())
    up, down = factors(form.mantissa)
    loose_up, loose_down = _moving(up, e.over, follows), _moving(down, e.over, follows)
    signed = terms(form.exponent)
    loose = [pair for pair in signed if _moves(pair[1], e.over, follows)]
    rest = [x for x in (*up, *down) if x not in (*loose_up, *loose_down)]
    rest += [term for sign, term in signed if (sign, term) not in loose]
    if any(t in follows for x in rest for t in _tensors(x)):
        return None
    if e.op != "sum" and not all(positive(x, reductions) for x in (*loose_up, *loose_down)):
        return None
    past_up, past_down = ([_old(x, follows) for x in side] for side in (loose_up, loose_down))
    ratio = quotient([*loose_up, *past_down], [*loose_down, *past_up])
    shift = minus(total(loose), _old(total(loose), follows))
    growth = ONE if not terms(shift) else Apply("exp", (shift,))
    return times(ratio, growth)


def _shift(e: Reduce, follows: tuple[Tensor, ...]) -> Expr | None:
    signed = terms(e.body)
    loose = [pair for pair in signed if _moves(pair[1], e.over, follows)]
    if any(t in follows for pair in signed if pair not in loose for t in _tensors(pair[1])):
        return None
    return minus(total(loose), _old(total(loose), follows))


def _moving(parts: list[Expr], along: tuple[Index, ...], follows: tuple[Tensor, ...]) -> list[Expr]:
    return [x for x in parts if _moves(x, along, follows)]


def _moves(e: Expr, along: tuple[Index, ...], follows: tuple[Tensor, ...]) -> bool:
    """Whether a part changes with the values followed, and not along the index."""
    return not free(e) & set(along) and any(t in follows for t in _tensors(e))


def _old(e: Expr, follows: tuple[Tensor, ...]) -> Expr:
    """The expression at the old values. While a maximum is still -inf, what follows it is an identity, and
    scaled by 0.
    """
    match e:
        case Apply("finite", (Read() as r,)) if r.tensor in follows:
            return Read(before(r.tensor), r.at)
    e = rebuild(e, tuple(_old(part, follows) for part in parts_of(e)))
    return Read(before(e.tensor), e.at) if isinstance(e, Read) and e.tensor in follows else e
