"""Cascade → what a kernel computes at one position of a batched index after the other, and adds up.

    dpair[h,q,k] = sum(m) exp(S[m,h,q,k]) * dP[m,h,q,k]   -->   at each m: tiles of S and dP, and their sum

What is over such an index is computed in a loop over it, inside the tile: nothing of it is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from attncc.ir.brief import brief
from attncc.ir.cascade import (
    TRUE,
    ZERO,
    Apply,
    Cascade,
    Choose,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    Tensor,
    extent,
    number,
    reads,
)
from attncc.ir.logic import plus
from attncc.ops import REDUCTIONS
from attncc.schedule.block import Block, value_of
from attncc.schedule.loops import Each, Fill, Let, Note, Statement


def turns(e: Expr) -> bool:
    """Whether an expression is a reduction over batched indices alone."""
    return isinstance(e, Reduce) and all(i.role == "batch" for i in e.over)


def turned(cascade: Cascade) -> tuple[Index, ...]:
    """The batched indices that reductions are over alone."""
    bodies = (e.body for e in cascade.equations)
    return tuple(dict.fromkeys(i for e in bodies if isinstance(e, Reduce) and turns(e) for i in e.over))


def turn(
    equation: Equation,
    cascade: Cascade,
    block: Block,
    places: frozenset[Index],
    define: Callable[[Equation, Block], None],
) -> Read:
    """A reduction over batched indices as a loop over these, at `places` of the batch that are numbers."""
    e = equation.body
    assert isinstance(e, Reduce)
    indices = tuple(i for i in block.axes if i in equation.tensor.indices)
    target = replace(block.local(equation.tensor.name, e.body, indices), kind="float")
    old, identity = Read(target, target.indices), number(float(REDUCTIONS[e.op].identity))
    inner = Block(block.axes, block)
    for part in _inside(equation, cascade.equations, places):
        define(part, inner)
    inner.statements.append(Note(brief(equation)))
    value = value_of(e.body, inner)
    if e.where != TRUE:
        value = Choose(value_of(e.where, inner), value, identity)
    joined = plus(old, value) if e.op == "sum" else Apply(e.op, (old, value))
    body: tuple[Statement, ...] = (*inner.statements, Let(target, joined))
    for index in reversed(e.over):
        body = (Each(index, index, body, ZERO, extent(index)),)
    # a name is of one tile in the whole kernel
    block.names |= inner.names
    block.statements += (Fill(target, identity), *body)
    return old


def _inside(
    equation: Equation, equations: Iterable[Equation], places: frozenset[Index]
) -> tuple[Equation, ...]:
    """The equations over the indices that an equation turns through which it reads, directly or through
    others, at `places` of the batch; what turns through more indices has its own inside.
    """
    assert isinstance(equation.body, Reduce)
    here = places | set(equation.body.over)
    own = {e.tensor: e for e in equations if set(e.tensor.indices) & set(equation.body.over)}
    found = _reached(equation, own)
    return tuple(e for e in own.values() if e.tensor in found and set(_batch(e.tensor)) <= here)


def of_turned(cascade: Cascade) -> tuple[Tensor, ...]:
    """Reductions over a sequence at places of the batch that are turned through: they have a kernel before
    this one, those over the same indices together.
    """
    kept = {i for t in cascade.outputs for i in t.indices}
    own = {e.tensor: e for e in cascade.equations if not set(_batch(e.tensor)) <= kept}
    read: set[Tensor] = set()
    for e in cascade.equations:
        if turns(e.body):
            read |= _reached(e, own)
    done = [t for t in own if t in read and t.kind == "float" and _folds(own[t].body)]
    places = [frozenset(i for i in t.indices if i.role != "feature") for t in done]
    return tuple(t for t, place in zip(done, places, strict=True) if place == places[0])


def _reached(equation: Equation, own: dict[Tensor, Equation]) -> set[Tensor]:
    """Which of some tensors an equation reads, directly or through others of them."""
    found: set[Tensor] = set()
    waiting = [equation]
    while waiting:
        new = {r.tensor for r in reads(waiting.pop().body) if r.tensor in own} - found
        found |= new
        waiting += [own[t] for t in new]
    return found


def _batch(tensor: Tensor) -> tuple[Index, ...]:
    return tuple(i for i in tensor.indices if i.role == "batch")


def _folds(e: Expr) -> bool:
    return isinstance(e, Reduce) and any(i.role == "sequence" for i in e.over)
