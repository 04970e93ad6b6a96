"""Reductions over features → matrix products where they are such; elsewhere folds, in a tile or at each cell.

    sum(d) x[q,d] * y[k,d] * z[q,k]   -->   (x @ y) * z
    sum(d) f(x[q,d], y[k,d])          -->   at each d:  u[q,k] = u[q,k] + f(x[q], y[k])

A fold at the cells of a tile takes one position of the feature after the other, and never holds rows, columns
and features at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from attncc.diagnostics import Diagnostic, Label
from attncc.ir.brief import brief, one_place
from attncc.ir.cascade import (
    TRUE,
    ZERO,
    Apply,
    Choose,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    Tensor,
    extent,
    free,
    number,
    reads,
    substitute,
)
from attncc.ir.logic import conjoin, conjuncts, factors, quotient, times
from attncc.ir.show import show_expr
from attncc.ops import REDUCTIONS
from attncc.schedule.block import Block, let, value_of
from attncc.schedule.loops import Dot, Each, Fill, Fold, Let, Note, Statement
from attncc.schedule.refused import REFERENCE, Refused

Operands: TypeAlias = tuple[Expr, Expr, Expr]
"""What a matrix product multiplies: what has rows and the feature, columns and the feature, and the rest."""


RUN = 8
"""Terms of a fold that are added up before they meet the others: so a sum loses fewer digits."""


def reduced(equation: Equation, e: Reduce, block: Block) -> Expr:
    """The value of a reduction over features; what computes it is added to the block."""
    found = operands(equation, e, block)
    if found is not None:
        return _contract(equation, e, found, block)
    if at_cells(equation, e, block):
        return _fold_cells(equation, e, block)
    return _fold_tile(equation, e, block)


def at_cells(equation: Equation, e: Reduce, block: Block) -> bool:
    """Whether a reduction is a fold at every cell of a tile."""
    return len(_pair(equation, block)) == 2 and operands(equation, e, block) is None


def note(equation: Equation) -> str:
    """The equation at one place of the batch, its predicate called by the name under which it is computed."""
    match equation.body:
        case Reduce(over=over, where=where) if where != TRUE and any(i.role == "sequence" for i in over):
            return brief(equation, {where: "seen"})
        case Reduce() as e if e.where != TRUE and not _conditions(e)[0]:
            return brief(equation, {e.where: "present"})
        case _:
            return brief(equation)


def _pair(equation: Equation, block: Block) -> tuple[Index, ...]:
    """The row and the column of a tile that a reduction has a value at."""
    own = [i for i in equation.tensor.indices if i in block.axes and i.role == "sequence"]
    return tuple(sorted(own, key=block.axes.index))


def _sides_of(equation: Equation, block: Block) -> tuple[Index, ...]:
    """What a matrix product has a value at: a row and a column, or a row and a feature."""
    pair = _pair(equation, block)
    features = tuple(i for i in equation.tensor.indices if i.role == "feature")
    return pair if len(pair) == 2 or len(features) != 1 else (*pair, *features)


# ---- matrix products ---------------------------------------------------------------------------


def operands(equation: Equation, e: Reduce, block: Block) -> Operands | None:
    """The operands of a sum that is a matrix product at the cells of a tile; None if it is not."""
    pair = _sides_of(equation, block)
    if e.op != "sum" or len(pair) != 2 or len(e.over) != 1:
        return None
    terms, _ = _conditions(e)
    if any(free(part) - set(e.over) for part in terms):
        return None
    up, down = factors(e.body)
    above, below = (_sides(parts, *pair, e.over[0]) for parts in (up, down))
    if above is None or below is None:
        return None
    left, right, rest = (quotient(a, b) for a, b in zip(above, below, strict=True))
    if len(_pair(equation, block)) < 2 and not (_both(left, pair[0], e) and _both(right, pair[1], e)):
        return None
    where = conjoin(terms)
    return (left if where == TRUE else Choose(where, left, number(0.0))), right, rest


def _both(operand: Expr, side: Index, e: Reduce) -> bool:
    """Whether an operand has its own side, and what is added up."""
    return {side, *e.over} <= free(operand)


def _conditions(e: Reduce) -> tuple[list[Expr], list[Expr]]:
    """The parts of a predicate that tell terms from one another, and those that all terms of a cell share."""
    parts = conjuncts(e.where)
    terms = [part for part in parts if free(part) & set(e.over)]
    return terms, [part for part in parts if part not in terms]


def _sides(
    parts: list[Expr], row: Index, column: Index, feature: Index
) -> tuple[list[Expr], list[Expr], list[Expr]] | None:
    """Factors by what they vary along; None where one varies along row, column and feature at once."""
    left: list[Expr] = []
    right: list[Expr] = []
    rest: list[Expr] = []
    for part in parts:
        loose = free(part)
        if feature not in loose:
            rest.append(part)
        elif row in loose and column in loose:
            return None
        else:
            (right if column in loose else left).append(part)
    return left, right, rest


def _contract(equation: Equation, e: Reduce, found: Operands, block: Block) -> Expr:
    """`sum(d) row[q,d] * column[k,d] * rest[q,k]` as a matrix product, times the rest."""
    name = equation.tensor.name
    left, right, rest = found
    a, b = operand(left, f"{name}_row", block), operand(right, f"{name}_column", block)
    up, down = factors(rest)
    _, shared = _conditions(e)
    said = equation
    if (a, b) != (left, right):
        said = replace(equation, body=replace(e, where=conjoin(shared), body=quotient([a, b, *up], down)))
    block.statements.append(Note(note(said)))
    target = replace(block.local(name, e.body, _sides_of(equation, block)), kind="float")
    block.statements.append(Dot(target, value_of(a, block), value_of(b, block), e.over[0], None))
    scale = quotient([value_of(f, block) for f in up], [value_of(f, block) for f in down])
    return _where(shared, times(Read(target, target.indices), scale), 0.0, block)


def operand(e: Expr, name: str, block: Block) -> Expr:
    """An operand of a matrix product; what is more than an input is computed once, and has a name."""
    if isinstance(e, Read) or not free(e) & set(block.axes):
        return e
    held = block.find(e)
    if held is not None:
        return held
    target = replace(block.local(name, e), kind="float")
    block.statements.append(Note(brief(Equation(target, e))))
    block.statements.append(Let(target, value_of(e, block)))
    block.held[e] = block.held[target] = Read(target, target.indices)
    return block.held[e]


def _where(shared: list[Expr], value: Expr, identity: float, block: Block) -> Expr:
    """A reduction at the cells that have terms, its identity at the others."""
    if not shared:
        return value
    key = conjoin(shared)
    if block.find(key) is None and len(free(key) & set(block.axes)) > 1:
        block.statements.append(Note(f"present: {show_expr(one_place(key))}"))
        target = block.local("present", key)
        block.statements.append(Let(target, value_of(key, block)))
        block.held[key] = Read(target, target.indices)
    whole = Choose(value_of(key, block), value, number(identity))
    return let(whole, whole, block)


# ---- folds -------------------------------------------------------------------------------------


def _fold_tile(equation: Equation, e: Reduce, block: Block) -> Expr:
    """A fold over the features of a tile."""
    if len(e.over) != 1:
        message = f"no kernel plan for `{equation.tensor.name}`: a fold is over one feature index"
        label = Label(equation.span, "folded here")
        raise Refused(Diagnostic("plan-contraction", message, (label,), REFERENCE))
    block.statements.append(Note(note(equation)))
    value = value_of(e.body, block)
    if e.where != TRUE:
        value = Choose(value_of(e.where, block), value, number(REDUCTIONS[e.op].identity))
    indices = tuple(i for i in block.axes if i in equation.tensor.indices)
    target = block.local(equation.tensor.name, e.body, indices)
    block.statements.append(Fold(target, e.op, e.over[0], value))
    return Read(target, target.indices)


def _fold_cells(equation: Equation, e: Reduce, block: Block) -> Expr:
    """A fold at every row and column, one position of the features after the other."""
    terms, shared = _conditions(e)
    identity = float(REDUCTIONS[e.op].identity)
    above, below = factors(e.body)
    up, down = ([f for f in side if e.op == "sum" and not free(f) & set(e.over)] for side in (above, below))
    e = replace(e, body=quotient([f for f in above if f not in up], [f for f in below if f not in down]))
    _fixed(e, block)
    block.statements.append(Note(note(equation)))
    target = replace(block.local(equation.tensor.name, e.body, _pair(equation, block)), kind="float")
    at = {i: replace(i, name=f"{i.name}_at") for i in e.over}
    places: dict[Index, Expr] = dict(at)
    inner = Block(block.axes, block)
    _picked(e, at, inner)
    value = value_of(substitute(e.body, places), inner)
    if terms:
        value = Choose(value_of(substitute(conjoin(terms), places), inner), value, number(identity))
    part = block.beside(target, "_part") if e.op == "sum" else target
    body: tuple[Statement, ...] = (*inner.statements, _joined(e.op, part, value))
    for index in reversed(e.over[1:]):
        body = (Each(at[index], index, body, ZERO, extent(index)),)
    first = e.over[0]
    block.statements.append(Fill(target, number(identity)))
    if part == target:
        block.statements.append(Each(at[first], first, body, ZERO, extent(first)))
    else:
        start = replace(first, name=f"{first.name}_run")
        end = Apply("min", (Apply("+", (start, number(RUN))), extent(first)))
        run = Each(at[first], first, body, start, end)
        body = (Fill(part, number(identity)), run, _joined(e.op, target, Read(part, part.indices)))
        block.statements.append(Each(start, first, body, ZERO, extent(first), RUN))
    held = Read(target, target.indices)
    scale = quotient([value_of(f, block) for f in up], [value_of(f, block) for f in down])
    return _where(shared, times(held, scale), identity, block)


def _picked(e: Reduce, at: dict[Index, Index], inner: Block) -> None:
    """What a fold reads of a tile that is computed, at one position of the features, the others left out."""
    places: dict[Index, Expr] = dict(at)
    for read in reads(e.body):
        over = [i for i in read.tensor.indices if i in at]
        if read.tensor.origin != "equation" or not over or read.at != read.tensor.indices:
            continue
        tile = inner.find(read.tensor)
        assert tile is not None, f"{read.tensor.name} is read before it is computed"
        for index in over:
            rest = tuple(i for i in inner.axes if i in free(tile) and i != index)
            picked = replace(inner.local(f"{read.tensor.name}_at", tile, rest), kind="float")
            chosen = Choose(Apply("==", (index, at[index])), tile, number(0.0))
            inner.statements.append(Fold(picked, "sum", index, chosen))
            tile = Read(picked, picked.indices)
        inner.held[substitute(read, places)] = tile


def _joined(op: str, target: Tensor, value: Expr) -> Let:
    return Let(target, Apply("+" if op == "sum" else op, (Read(target, target.indices), value)))


def _fixed(e: Reduce, block: Block) -> None:
    """What the terms of a cell share, before the fold: loads, and the places at which others read."""
    terms, _ = _conditions(e)
    for read in dict.fromkeys(r for x in (e.body, *terms) for r in reads(x)):
        if not free(read) & set(e.over):
            value_of(read, block)
            continue
        for axis, s in zip(read.tensor.indices, read.at, strict=True):
            along = free(s) & set(block.axes)
            if len(along) == 2 and not along & set(e.over) and block.find(s) is None:
                target = block.local(f"{read.tensor.name}_{axis.name}", s)
                block.statements.append(Let(target, value_of(s, block)))
                block.held[s] = Read(target, target.indices)
