"""The running states of a walk → statements on one tile: maxima, sums, and the test of a tile's edge."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import TypeGuard

from attncc.diagnostics import Diagnostic, Label
from attncc.ir.brief import one_place
from attncc.ir.cascade import (
    ONE,
    ZERO,
    Apply,
    Choose,
    Equation,
    Expr,
    Index,
    Read,
    Tensor,
    children,
    extent,
    free,
    number,
    reads,
    substitute,
    walk,
)
from attncc.ir.logic import conjoin, factors, is_literal, plus, product, quotient, terms, times
from attncc.ir.show import show_expr
from attncc.masks.undivided import undivided
from attncc.passes.online import before
from attncc.passes.operator import State
from attncc.schedule.block import Block, is_finite, let, name_of, positive, positive_scale, value_of, vanishes
from attncc.schedule.loops import Dot, Each, Edge, Fold, Let, Note
from attncc.schedule.plan import Loop
from attncc.schedule.refused import REFERENCE, Refused
from attncc.schedule.scattered import places_in, scattered


def rising(loop: Loop) -> frozenset[Tensor]:
    """The tiles with which exponents rise: where they are -inf, the exponentials are 0."""
    found: set[Tensor] = set()
    made = {e.tensor: e.body for e in loop.tiles}
    for e in (x for s in loop.states for x in walk(s.reduce.body) if _is_exp(x)):
        signed = terms(e.args[0])
        for n, (sign, term) in enumerate(signed):
            if not all(is_finite(x, made.get) for _, x in (*signed[:n], *signed[n + 1 :])):
                continue
            up, down = factors(term)
            tiles = [f for f in up if isinstance(f, Read) and f.tensor.origin == "equation"]
            if sign > 0 and len(tiles) == 1 and all(positive(f) for f in (*up, *down) if f not in tiles):
                found.add(tiles[0].tensor)
    return frozenset(found)


def absent(tensor: Tensor, loop: Loop, block: Block) -> None:
    """A tile, tested as soon as it is there: what waits for nothing else is done while others are made."""
    where = loop.states[0].reduce.where
    up, _ = factors(value_of(Read(tensor, tensor.indices), block))
    for tile in up:
        if isinstance(tile, Read) and len(free(tile) & set(block.axes)) > 1:
            block.absent[tile, where] = masked(tile, where, loop, block, -inf)


def kept(loop: Loop) -> tuple[Tensor, ...]:
    """The sums whose value before the present tile is read after they have taken it in."""
    read = {r.tensor for s in loop.states for r in reads(s.carried) if r.tensor != before(s.tensor)}
    return tuple(s.tensor for s in loop.states if s.reduce.op == "sum" and before(s.tensor) in read)


def exponents(loop: Loop) -> frozenset[Expr]:
    """What the states of a loop take exponentials of, and multiply these by, and read nowhere else."""
    bodies = [*(s.reduce.body for s in loop.states), *(e.body for e in loop.tiles)]
    products = [factors(x)[0] for e in bodies for x in walk(e) if isinstance(x, Apply) and x.op == "*"]
    raised = {f.args[0] for up in products for f in up if _is_exp(f)}
    beside = {x for x in raised for up in products if Apply("exp", (x,)) in up and _measured(x, up)}
    return frozenset(x for x in beside if not any(_alone(e, x) for e in bodies))


def _measured(x: Expr, up: list[Expr]) -> bool:
    return x in up or Apply("neg", (x,)) in up


def _alone(e: Expr, x: Expr) -> bool:
    """Whether an exponent is read other than by its exponential, or beside it in a product."""
    if e == x:
        return True
    if _is_exp(e):
        return e.args[0] != x and _alone(e.args[0], x)
    up, down = factors(e)
    if Apply("exp", (x,)) in up:
        return any(_alone(f, x) for f in (*up, *down) if not _measured(x, [f]))
    return any(_alone(part, x) for part in children(e))


def _is_exp(e: Expr) -> TypeGuard[Apply]:
    return isinstance(e, Apply) and e.op == "exp"


def _seen(where: Expr, loop: Loop, block: Block) -> Expr:
    """The element test of a tile, the end of the index included; on a grid, of digits where they say it."""
    inside = Apply("<", (loop.index, extent(loop.index)))
    key = conjoin((inside, where))
    held = block.find(key)
    if held is not None:
        return held
    block.statements.append(Note(f"seen: {show_expr(one_place(key))}"))
    digits = loop.grid.in_digits if loop.grid is not None and where == loop.reach else None
    if digits is None:
        said = undivided(where, loop.bands[0].plane) if loop.bands and loop.grid is None else where
        value = conjoin((inside, value_of(said, block)))
        target = block.local("seen", value)
    else:
        value = conjoin((inside, value_of(digits, block)))
        target = block.local("seen", value, tuple(i for i in block.axes if i.role == "sequence"))
    block.statements.append(Let(target, value))
    block.held[key] = Read(target, target.indices)
    return block.held[key]


def extremum(state: State, loop: Loop, block: Block) -> None:
    """`m = max(m, max(k) x)`; the value before it stays in reach, for what follows the maximum."""
    e, tensor = state.reduce, state.equation.tensor
    scale, every = positive_scale(value_of(e.body, block), block)
    if not isinstance(every, Read) and free(every) & set(block.axes):
        # what follows the maximum reads the same formula, and finds it here
        target = replace(block.local("exponent", every), kind="float")
        block.statements.append(Let(target, every))
        every = Read(target, target.indices)
        block.held[e.body] = times(every, scale)
    x = masked(every, e.where, loop, block, float(state.identity.value))
    if e.op == "max":
        block.absent[every, e.where] = x
    held = block.find(tensor)
    assert isinstance(held, Read)
    best, old = block.beside(held.tensor, "_tile"), block.beside(held.tensor, "_old")
    block.statements.append(Fold(best, e.op, loop.index, x))
    block.statements.append(Let(old, held))
    block.held[before(tensor)] = Read(old, old.indices)
    differences = any(r.tensor == tensor for x in block.exponents for r in reads(x))
    if state.updater is None and not loop.outers and differences:
        # held without the scale, so that what is measured from the maximum is exactly 0 there
        block.statements.append(
            Let(held.tensor, state.joined(Read(old, old.indices), Read(best, best.indices)))
        )
        block.held[before(tensor)] = times(Read(old, old.indices), scale)
        block.outermost(tensor).held[tensor] = times(held, scale)
        return
    if state.updater is not None:
        _correction(state.updater.correction, block)
    more = times(Read(best, best.indices), scale)
    block.statements.append(Let(held.tensor, state.joined(value_of(state.carried, block), more)))


def _fixed_scale(x: Expr, block: Block) -> tuple[Expr, Expr]:
    """`x = scale * rest` with a scale that is the same on the whole tile, where the rest is not."""
    up, down = factors(x)
    sign = [f for f in up if isinstance(f, Apply) and f.op == "neg"]
    up = [part for f in up for part in (factors(f.args[0])[0] if f in sign else [f])]
    down += [part for f in sign for part in factors(f.args[0])[1]]
    above = [f for f in up if not free(f) & set(block.axes)]
    below = [f for f in down if not free(f) & set(block.axes) and positive(f)]
    rest = quotient([f for f in up if f not in above], [f for f in down if f not in below])
    if not (above or below) or is_literal(rest, 1):
        return ONE, x
    scale = quotient(above, below)
    return times(scale, number(-1.0)) if len(sign) % 2 else scale, rest


def accumulate(state: State, loop: Loop, block: Block) -> None:
    """`y = y * correction + sum(k) term`, a matrix product where the term has features."""
    e, tensor = state.reduce, state.equation.tensor
    held = block.find(tensor)
    assert isinstance(held, Read)
    if state.updater is not None:
        _correction(state.updater.correction, block)
    block.held.setdefault(before(tensor), held)
    start = value_of(state.carried, block)
    features = [i for i in held.tensor.indices if i.role == "feature"]
    up, down = factors(e.body)
    if not features:
        scale, every = _fixed_scale(value_of(e.body, block), block)
        part = block.beside(held.tensor, "_tile")
        if loop.uniform and loop.index not in free(every):
            block.statements.append(Fold(part, "sum", loop.index, every))
            edge = Block(block.axes, block)
            seen = _seen(e.where, loop, edge)
            edge.statements.append(Fold(part, "sum", loop.index, Choose(seen, every, number(0.0))))
            block.statements.append(Edge(tuple(edge.statements)))
        else:
            term = masked(every, e.where, loop, block)
            block.statements.append(Fold(part, "sum", loop.index, term))
        block.statements.append(Let(held.tensor, plus(start, times(Read(part, part.indices), scale))))
        return
    if (found := places_in(e.body)) is not None and set(found[0]) == set(features):
        weight = masked(value_of(found[1], block), e.where, loop, block)
        scattered(held.tensor, start, found[0], weight, loop.index, block)
        return
    values = [f for f in up if free(f) & set(features)]
    if len(features) > 1 or any(free(f) & set(features) for f in down) or not values:
        raise _refused(
            state.equation, "a sum over rows and columns has one feature index, in a factor of its own"
        )
    if any(free(f) & set(held.tensor.indices) - set(features) for f in values):
        _one_by_one(state, start, features[0], loop, block)
        return
    weight = value_of(quotient([f for f in up if f not in values], down), block)
    weight = masked(weight, e.where, loop, block)
    right = value_of(product(values), block)
    block.statements.append(Dot(held.tensor, weight, right, loop.index, start))


def _one_by_one(state: State, start: Expr, feature: Index, loop: Loop, block: Block) -> None:
    """A sum of what depends on row, column and feature at once: one position of the feature after the other.

    y[q,d] = y[q,d] + sum(k) f(x[q,d], z[k,d])   -->   at each d:  y[q,d] = y[q,d] + sum(k) f(x[q], z[k])
    """
    held = block.find(state.tensor)
    assert isinstance(held, Read)
    if start != held:
        block.statements.append(Let(held.tensor, start))
    at = replace(feature, name=f"{feature.name}_at")
    inner = Block(block.axes, block, where=block.where)
    seen = _seen(block.where, loop, block)
    term = Choose(seen, value_of(substitute(state.reduce.body, {feature: at}), inner), number(0.0))
    rows = tuple(i for i in held.tensor.indices if i != feature)
    part = replace(inner.local(f"{state.tensor.name}_at", term, rows), kind="float")
    inner.statements.append(Fold(part, "sum", loop.index, term))
    more = Choose(Apply("==", (feature, at)), Read(part, part.indices), number(0.0))
    inner.statements.append(Let(held.tensor, plus(held, more)))
    block.statements.append(Each(at, feature, tuple(inner.statements), ZERO, extent(feature)))


def _refused(equation: Equation, rule: str) -> Refused:
    message = f"no kernel plan for `{equation.tensor.name}`: {rule}"
    label = Label(equation.span, "contracted here")
    return Refused(Diagnostic("plan-contraction", message, (label,), REFERENCE))


def _correction(correction: Expr, block: Block) -> Expr:
    held = block.find(correction)
    if held is not None:
        return held
    value = value_of(correction, block)
    if not free(value) & set(block.axes):
        return value
    target = block.local("alpha", value)
    block.statements.append(Let(target, value))
    block.held[correction] = Read(target, target.indices)
    return block.held[correction]


def masked(value: Expr, where: Expr, loop: Loop, block: Block, other: float = 0.0) -> Expr:
    """The value where the predicate holds, `other` where it fails; tested on edges only, if there are any."""
    if other == 0.0 and vanishes(value, where, block):
        return value
    key = Choose(where, value, number(other))
    held = block.find(key)
    if held is not None:
        return held
    if not loop.uniform:
        return let(key, Choose(_seen(where, loop, block), value, number(other)), block)
    edge = Block(block.axes, block)
    seen = _seen(where, loop, edge)
    tested = Choose(seen, value, number(other))
    target = replace(block.local(name_of(tested), tested), kind="float")
    block.held[key] = Read(target, target.indices)
    block.statements.append(Let(target, value))
    last = Let(target, Choose(seen, block.held[key], number(other)))
    block.statements.append(Edge((*edge.statements, last)))
    return block.held[key]
