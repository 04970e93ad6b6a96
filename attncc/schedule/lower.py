"""Kernel → loop tree: equations become loads, matrix products, folds and running states of one row tile.

A maximum over `c * x` with c > 0 is `c * max x`, so that the scale is applied once a row.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import inf

from attncc.ir.cascade import (
    ZERO,
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
)
from attncc.masks.counted import parts
from attncc.masks.hoisted import hoisted
from attncc.passes.online import before
from attncc.passes.operator import State
from attncc.schedule.block import Block, value_of
from attncc.schedule.contract import at_cells, note, operand, operands, reduced
from attncc.schedule.loops import Each, Fill, Let, Note, Program, Statement, Store, Walk, statements
from attncc.schedule.plan import Kernel, Loop
from attncc.schedule.refused import REFERENCE, refuse
from attncc.schedule.states import absent, accumulate, exponents, extremum, kept, masked, rising
from attncc.schedule.turned import turn, turned, turns


def lower(kernel: Kernel) -> Program:
    """The loop tree of a kernel."""
    cascade = kernel.cascade
    walked = tuple(dict.fromkeys(loop.index for loop in kernel.loops))
    features = {i for e in cascade.equations for i in _indices(e) if i.role == "feature"}
    axes = (kernel.rows, *walked, *sorted(features, key=lambda i: i.name))
    block = Block(axes)
    _define_here(kernel.prologue, block, kernel)
    first = {e.tensor.name for e in kernel.prologue}
    _store([cascade.equation(t.name).tensor for t in kernel.writes if t.name in first], kernel, block)
    for loop in kernel.loops:
        _define_here(loop.rows, block, kernel)
        states = tuple(_hoisted(state, loop.index, cascade.sorted_tables) for state in loop.states)
        tiles = tuple(e for e in loop.tiles if not _turned_through(e, kernel))
        _lower_loop(replace(loop, states=states, tiles=tiles), block, kernel)
    _define_here(kernel.epilogue, block, kernel)
    stored = {t.name for loop in kernel.loops for t in loop.stored} | first
    _store([cascade.equation(t.name).tensor for t in kernel.writes if t.name not in stored], kernel, block)
    used = {r.tensor.name for e in cascade.equations for r in reads(e.body)}
    inputs = tuple(t for t in cascade.inputs if t.name in used and t.loaded)
    early = bool(kernel.loops) and all(loop.early for loop in kernel.loops)
    body = tuple(block.statements)
    _check_flat(body, kernel)
    return Program(kernel.name, kernel.rows, kernel.batch, inputs, kernel.writes, body, early=early)


def _check_flat(body: tuple[Statement, ...], kernel: Kernel) -> None:
    """Refused where a value would be at rows, columns and features at once: tiles have two axes."""
    walked = {loop.index for loop in kernel.loops}
    for target in (s.target for s in statements(body) if isinstance(s, Let | Fill)):
        place = target.indices
        if len(place) > 2 and kernel.rows in place and walked & {*place}:
            names = ", ".join(f"`{i.name}`" for i in place)
            own = (e for e in kernel.cascade.equations if target.name.startswith(e.tensor.name))
            span = next(own, kernel.cascade.equations[-1]).span
            message = f"no kernel plan for a value at {names} at once: a tile has two axes"
            raise refuse("plan-rank", message, span, "computed here", REFERENCE)


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
    block = Block(outer.axes, outer, exponents=exponents(loop) if loop.uniform else frozenset())
    if loop.uniform and loop.states and all(s.reduce.op == "sum" for s in loop.states):
        # one test of a tile, of what all its states are taken of, instead of one for each
        block.mask = lambda exponent, here: masked(exponent, here.where, loop, here, -inf)
    for tensor in kept(loop):
        held = block.find(tensor)
        assert isinstance(held, Read)
        old = block.beside(held.tensor, "_old")
        block.statements.append(Let(old, held))
        block.held[before(tensor)] = Read(old, old.indices)
    up = rising(loop) if block.mask else frozenset[Tensor]()
    for equation in loop.tiles:
        if loop.index in equation.tensor.indices:
            _define(equation, block, kernel)
            if equation.tensor in up:
                absent(equation.tensor, loop, block)
    _store(loop.stored, kernel, block)
    for state in loop.states:
        block.statements.append(Note(note(state.equation)))
        block.where = state.reduce.where
        if state.reduce.op == "sum":
            accumulate(state, loop, block)
        else:
            extremum(state, loop, block)
    return tuple(block.statements)
