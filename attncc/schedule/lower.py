"""Kernel → loop tree: equations become loads, matrix products, folds and running states of one row tile.

A maximum over `c * x` with c > 0 is `c * max x`, so that the scale is applied once a row.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    Reduce,
    Tensor,
    children,
    extent,
    free,
    number,
    reads,
    walk,
)
from attncc.ir.logic import conjoin, factors, is_literal, plus, product, quotient, terms, times
from attncc.ir.show import show_expr
from attncc.masks.counted import parts
from attncc.masks.hoisted import hoisted
from attncc.masks.undivided import undivided
from attncc.passes.online import before
from attncc.passes.operator import State
from attncc.schedule.block import Block, let, name_of, positive, positive_scale, value_of, vanishes
from attncc.schedule.contract import at_cells, note, operand, operands, reduced
from attncc.schedule.loops import Dot, Each, Edge, Fill, Fold, Let, Note, Program, Statement, Store, Walk
from attncc.schedule.plan import REFERENCE, Kernel, Loop, Refused
from attncc.schedule.scattered import places_in, scattered
from attncc.schedule.turned import turn, turned, turns


def lower(kernel: Kernel) -> Program:
    """The loop tree of a kernel."""
    cascade = kernel.cascade
    walked = tuple(dict.fromkeys(loop.index for loop in kernel.loops))
    features = {i for e in cascade.equations for i in _indices(e) if i.role == "feature"}
    axes = (kernel.rows, *walked, *sorted(features, key=lambda i: i.name))
    block = Block(axes)
    _define_here(kernel.prologue, block, kernel)
    for loop in kernel.loops:
        _define_here(loop.rows, block, kernel)
        states = tuple(_hoisted(state, loop.index, cascade.sorted_tables) for state in loop.states)
        tiles = tuple(e for e in loop.tiles if not _turned_through(e, kernel))
        _lower_loop(replace(loop, states=states, tiles=tiles), block, kernel)
    _define_here(kernel.epilogue, block, kernel)
    stored = {t.name for loop in kernel.loops for t in loop.stored}
    _store([cascade.equation(t.name).tensor for t in kernel.writes if t.name not in stored], kernel, block)
    used = {r.tensor.name for e in cascade.equations for r in reads(e.body)}
    inputs = tuple(t for t in cascade.inputs if t.name in used and t.loaded)
    early = bool(kernel.loops) and all(loop.early for loop in kernel.loops)
    body = tuple(block.statements)
    return Program(kernel.name, kernel.rows, kernel.batch, inputs, kernel.writes, body, early=early)


def _hoisted(state: State, index: Index, sorted_tables: frozenset[str]) -> State:
    """A state whose element test asks of a row what a row alone tells."""
    where = hoisted(state.reduce.where, index, sorted_tables)
    return replace(state, equation=replace(state.equation, body=replace(state.reduce, where=where)))


def _store(tensors: Iterable[Tensor], kernel: Kernel, block: Block) -> None:
    """What is written of a tile, each output in its own order of indices."""
    outputs = {t.name: t for t in kernel.writes}
    for tensor in tensors:
        held = block.find(tensor)
        assert held is not None, f"{tensor.name} is written but never computed"
        block.statements.append(Store(outputs[tensor.name], held))


def _indices(equation: Equation) -> set[Index]:
    inside = {i for r in reads(equation.body) for i in r.tensor.indices}
    return inside | set(equation.tensor.indices)


# ---- equations ---------------------------------------------------------------------------------


def _define_here(equations: Iterable[Equation], block: Block, kernel: Kernel) -> None:
    """Equations at the rows, but for what is computed where it is turned through."""
    for equation in equations:
        if not _turned_through(equation, kernel):
            _define(equation, block, kernel)


def _turned_through(equation: Equation, kernel: Kernel) -> bool:
    """Whether an equation is over a batched index that reductions turn through."""
    return bool(set(equation.tensor.indices) & set(turned(kernel.cascade)))


def _define(equation: Equation, block: Block, kernel: Kernel, places: frozenset[Index] = frozenset()) -> None:
    """An equation outside the running states: its value is held, as a formula where that costs nothing."""
    match equation.body:
        case Reduce() as e if turns(e):
            here = places or frozenset(kernel.batch)
            within = here | set(e.over)
            block.held[equation.tensor] = turn(
                equation,
                kernel.cascade,
                block,
                here,
                lambda part, inner: _define(part, inner, kernel, within),
            )
        case Reduce() as e:
            block.held[equation.tensor] = reduced(equation, e, block)
        case body:
            block.statements.append(Note(note(equation)))
            value = value_of(body, block)
            last = block.statements[-1]
            if isinstance(last, Let) and isinstance(value, Read) and last.target == value.tensor:
                # the equation's own name is the better one, also for whoever reads the same formula later
                block.statements.pop()
                target = block.local(equation.tensor.name, last.value)
                block.rename(value, Read(target, target.indices))
                value = last.value
            elif not free(value) & set(block.axes) or isinstance(value, Read):
                block.held[equation.tensor] = value
                return
            else:
                target = block.local(equation.tensor.name, value)
            block.statements.append(Let(target, value))
            block.held[equation.tensor] = Read(target, target.indices)


# ---- loops -------------------------------------------------------------------------------------


def _lower_loop(loop: Loop, block: Block, kernel: Kernel) -> None:
    for state in loop.states:
        indices = tuple(i for i in block.axes if i in state.tensor.indices)
        target = replace(block.local(state.tensor.name, ZERO, indices), kind="float")
        block.statements.append(Note(f"state of {note(state.equation)}"))
        block.statements.append(Fill(target, number(float(state.identity.value))))
        block.held[state.tensor] = Read(target, target.indices)
    for e in _outside(loop, block, kernel):
        if not free(e) & {*loop.outers}:
            value_of(e, block)
    if not loop.outers:
        _walk(loop, block, kernel)
        return
    here = Block(block.axes, block)
    for e in _outside(loop, here, kernel):
        value_of(e, here)
    _walk(loop, here, kernel)
    body = tuple(here.statements)
    for place in reversed(loop.outers):
        body = (Each(place, place, body, ZERO, extent(place)),)
    block.statements += body


def _walk(loop: Loop, block: Block, kernel: Kernel) -> None:
    """The walk over an index, after what its tiles have in common."""
    for equation in loop.tiles:
        if loop.index not in equation.tensor.indices:
            _define(equation, block, kernel)
    for equation in loop.tiles:
        match equation.body:
            case Reduce() as e:
                _before(equation, e, loop, block)
    body = _tile(loop, block, kernel)
    listed = loop.reach if loop.listed else None
    bands = loop.bands if loop.grid is None else tuple(axis.band for axis in loop.grid.axes)
    block.statements.append(Walk(loop.index, bands, loop.uniform, body, listed, loop.grid))


def _outside(loop: Loop, block: Block, kernel: Kernel) -> tuple[Expr, ...]:
    """Inputs that the loop does not read along its index, and counts: found once, before it."""
    tiles = [e for e in loop.tiles if not (isinstance(e.body, Reduce) and at_cells(e, e.body, block))]
    bodies = [e.body for e in (*tiles, *(s.equation for s in loop.states))]
    inside = (x for body in bodies for x in (children(body) if isinstance(body, Reduce) else (body,)))
    found = dict.fromkeys(e for x in inside for e in parts(x) if isinstance(e, Read | Reduce))
    loaded = (e for e in found if isinstance(e, Reduce) or e.tensor.loaded)
    return tuple(e for e in loaded if not free(e) & {loop.index, *turned(kernel.cascade)})


def _before(equation: Equation, e: Reduce, loop: Loop, block: Block) -> None:
    """What a contraction takes at its rows alone, once before the loop."""
    found = operands(equation, e, block)
    if found is not None and loop.index not in free(found[0]):
        operand(found[0], f"{equation.tensor.name}_row", block)


def _tile(loop: Loop, outer: Block, kernel: Kernel) -> tuple[Statement, ...]:
    """What is done on one tile of the walked index."""
    block = Block(outer.axes, outer, exponents=_exponents(loop) if loop.uniform else frozenset())
    if loop.uniform and loop.states and all(s.reduce.op == "sum" for s in loop.states):
        # one test of a tile, of what all its states are taken of, instead of one for each
        block.mask = lambda exponent, here: _masked(exponent, here.where, loop, here, -inf)
    for tensor in _kept(loop):
        held = block.find(tensor)
        assert isinstance(held, Read)
        old = block.beside(held.tensor, "_old")
        block.statements.append(Let(old, held))
        block.held[before(tensor)] = Read(old, old.indices)
    rising = _rising(loop) if block.mask else frozenset[Tensor]()
    for equation in loop.tiles:
        if loop.index in equation.tensor.indices:
            _define(equation, block, kernel)
            if equation.tensor in rising:
                _absent(equation.tensor, loop, block)
    _store(loop.stored, kernel, block)
    for state in loop.states:
        block.statements.append(Note(note(state.equation)))
        block.where = state.reduce.where
        if state.reduce.op == "sum":
            _accumulate(state, loop, block)
        else:
            _extremum(state, loop, block)
    return tuple(block.statements)


def _rising(loop: Loop) -> frozenset[Tensor]:
    """The tiles with which exponents rise: where they are -inf, the exponentials are 0."""
    found: set[Tensor] = set()
    for e in (x for s in loop.states for x in walk(s.reduce.body) if _is_exp(x)):
        for sign, term in terms(e.args[0]):
            up, down = factors(term)
            tiles = [f for f in up if isinstance(f, Read) and f.tensor.origin == "equation"]
            if sign > 0 and len(tiles) == 1 and all(positive(f) for f in (*up, *down) if f not in tiles):
                found.add(tiles[0].tensor)
    return frozenset(found)


def _absent(tensor: Tensor, loop: Loop, block: Block) -> None:
    """A tile, tested as soon as it is there: what waits for nothing else is done while others are made."""
    where = loop.states[0].reduce.where
    up, _ = factors(value_of(Read(tensor, tensor.indices), block))
    for tile in up:
        if isinstance(tile, Read) and len(free(tile) & set(block.axes)) > 1:
            block.absent[tile, where] = _masked(tile, where, loop, block, -inf)


def _kept(loop: Loop) -> tuple[Tensor, ...]:
    """The sums whose value before the present tile is read after they have taken it in."""
    read = {r.tensor for s in loop.states for r in reads(s.carried) if r.tensor != before(s.tensor)}
    return tuple(s.tensor for s in loop.states if s.reduce.op == "sum" and before(s.tensor) in read)


def _exponents(loop: Loop) -> frozenset[Expr]:
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


def _extremum(state: State, loop: Loop, block: Block) -> None:
    """`m = max(m, max(k) x)`; the value before it stays in reach, for what follows the maximum."""
    e, tensor = state.reduce, state.equation.tensor
    scale, every = positive_scale(value_of(e.body, block), block)
    if not isinstance(every, Read) and free(every) & set(block.axes):
        # what follows the maximum reads the same formula, and finds it here
        target = replace(block.local("exponent", every), kind="float")
        block.statements.append(Let(target, every))
        every = Read(target, target.indices)
        block.held[e.body] = times(every, scale)
    x = _masked(every, e.where, loop, block, float(state.identity.value))
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


def _accumulate(state: State, loop: Loop, block: Block) -> None:
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
            term = _masked(every, e.where, loop, block)
            block.statements.append(Fold(part, "sum", loop.index, term))
        block.statements.append(Let(held.tensor, plus(start, times(Read(part, part.indices), scale))))
        return
    if (found := places_in(e.body)) is not None and set(found[0]) == set(features):
        weight = _masked(value_of(found[1], block), e.where, loop, block)
        scattered(held.tensor, start, found[0], weight, loop.index, block)
        return
    values = [f for f in up if free(f) & set(features)]
    if len(features) > 1 or any(free(f) & set(features) for f in down) or not values:
        raise _refused(
            state.equation, "a sum over rows and columns has one feature index, in a factor of its own"
        )
    if any(free(f) & set(held.tensor.indices) - set(features) for f in values):
        raise _refused(
            state.equation, "a factor depends on row, column and feature at once: not a matrix product"
        )
    weight = value_of(quotient([f for f in up if f not in values], down), block)
    weight = _masked(weight, e.where, loop, block)
    right = value_of(product(values), block)
    block.statements.append(Dot(held.tensor, weight, right, loop.index, start))


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


def _masked(value: Expr, where: Expr, loop: Loop, block: Block, other: float = 0.0) -> Expr:
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
