"""Reductions → PyTorch text: contractions, sums, extremes and places; excluded terms are the identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attncc.codegen.code import UNARY
from attncc.codegen.reference_bounds import Bounds
from attncc.codegen.reference_present import outside
from attncc.codegen.reference_reads import Spell
from attncc.codegen.reference_scope import Scope
from attncc.codegen.reference_spell import applied, divided, floats
from attncc.codegen.reference_sums import Contraction, contraction
from attncc.codegen.reference_values import Axes, Value, placed, turned, union
from attncc.ir.cascade import ONE, TRUE, ZERO, Apply, Choose, Expr, Index, Reduce, extent, kind, number
from attncc.ir.logic import conjuncts, product
from attncc.ops import REDUCTIONS


def meant(e: Reduce, bounds: Bounds) -> Expr:
    """`mean(i where c) x` as a sum over a count; of nothing, 0."""
    # integers are added up as real numbers, which do not run over
    body = Apply("*", (number(1.0), e.body)) if kind(e.body) == "int" else e.body
    total = replace(e, op="sum", body=body)
    if e.where == TRUE and all(map(bounds.positive, e.over)):
        return Apply("/", (total, product(extent(i) for i in e.over)))
    return Apply("/", (total, replace(total, body=ONE)))


def reduced(e: Reduce, scope: Scope, spell: Spell) -> Value:
    """A reduction where it stands."""
    around = outside(scope.facts, e.over)
    inner = scope.inside(e.over, around).knowing(conjuncts(e.where))
    if REDUCTIONS[e.op].keeps:
        return _place(e, scope, inner, spell)
    match e.op:
        case "sum":
            plan = contraction(e, inner.facts, frozenset(scope.bound), scope.frame.infinite)
            return _fold(e, ZERO, inner, spell) if plan is None else _contract(e, plan, inner, spell)
        case "argmax" | "argmin":
            x, members = _members(e, inner, spell)
            sign = "-" if e.op == "argmin" else ""
            axes = x.axes[:-1]
            return Value(f"_argmax({sign}{x.within(UNARY)}, {members.text})", axes, "int")
        case "all":
            body = e.body if e.where == TRUE else Apply("or", (Apply("not", (e.where,)), e.body))
            return _fold(replace(e, body=body, where=TRUE), TRUE, inner, spell)
        case _:
            identity = REDUCTIONS[e.op].identity
            if kind(e) == "int" and e.op in ("max", "min"):
                # integers know no infinity: the last of them stands for it
                identity = -(2**63) if e.op == "max" else 2**63 - 1
            return _fold(e, number(identity), inner, spell)


CALLS = {"sum": "sum", "prod": "prod", "max": "amax", "min": "amin", "any": "any", "all": "all"}


def _fold(e: Reduce, identity: Expr, scope: Scope, spell: Spell) -> Value:
    """A reduction of one tensor along its axes; what is no member is the identity."""
    if e.where == TRUE:
        body = spell(e.body, scope)
    elif e.op == "sum" and e.body == ONE:
        body = spell(e.where, scope)
    else:
        body = spell(Choose(e.where, e.body, identity), scope)
    if body.host:
        body = scope.frame.filled((), body.text, body.kind)
    maybe = [i for i in e.over if not scope.frame.bounds.positive(i)]
    if e.op not in ("sum", "prod"):
        # repeated along what may have no position: that makes a difference
        missing = tuple(i for i in maybe if i not in body.axes)
        body = scope.frame.whole(body, (*body.axes, *missing)) if missing else body
    present = [i for i in e.over if i in body.axes]
    if present:
        empty = e.op in ("max", "min") and bool(maybe)
        body = _along(CALLS[e.op], body, present, spell(identity, scope).text if empty else "")
    for i in (i for i in e.over if i not in present):
        if e.op in ("sum", "prod"):
            size = spell(extent(i), scope)
            body = applied("*" if e.op == "sum" else "**", (body, size), body.kind, scope.axes, scope.frame)
    return replace(body, kind=kind(e))


def _along(method: str, body: Value, over: Sequence[Index], nothing: str) -> Value:
    """`x.sum(-1)`, `x.amax((2, 3))`; an axis that may have no position gives `nothing`, if that is said."""
    spots = sorted((body.axes.index(i) for i in over), reverse=True)
    rest = tuple(i for i in body.axes if i not in over)
    if nothing:
        for spot in spots:
            body = Value(f"_{method}({body.text}, {spot}, {nothing})", body.axes, body.kind)
    elif spots == [len(body.axes) - 1]:
        body = Value(body.method(f"{method}(-1)"), body.axes, body.kind)
    elif len(spots) > 1 and method in ("sum", "amax", "amin"):
        body = Value(body.method(f"{method}(({', '.join(map(str, sorted(spots)))}))"), body.axes, body.kind)
    else:
        for spot in spots:
            body = Value(body.method(f"{method}({spot})"), body.axes, body.kind)
    return replace(body, axes=rest)


def _contract(e: Reduce, plan: Contraction, scope: Scope, spell: Spell) -> Value:
    parts = floats([spell(f, scope) for f in plan.factors], scope.frame)
    axes = tuple(i for i in scope.axes if any(i in p.axes for p in parts))
    kept = tuple(i for i in axes if i not in e.over)
    letters = scope.frame.letters
    spelled = ",".join("".join(letters[i] for i in p.axes) for p in parts)
    result = "".join(letters[i] for i in kept)
    made = Value(f'_einsum("{spelled}->{result}", {", ".join(p.text for p in parts)})', kept)
    for d in plan.divisors:
        made = divided(made, spell(d, scope), scope.axes)
    scales = [*plan.scales, *(extent(i) for i in e.over if i not in axes)]
    if scales:
        made = applied("*", (spell(product(scales), scope), made), "float", scope.axes, scope.frame)
    return made


def _members(e: Reduce, scope: Scope, spell: Spell) -> tuple[Value, Value]:
    """The body and the predicate of a reduction along one index, which is their last axis."""
    (index,) = e.over
    x, members = spell(e.body, scope), spell(e.where, scope)
    axes: Axes = (*(i for i in union((x, members), scope.axes) if i != index), index)
    x = scope.frame.whole(x, axes) if index not in x.axes else placed(turned(x, axes), axes)
    if members.host:
        members = scope.frame.filled((), members.text, "bool")
    return replace(x, axes=axes), placed(members, axes)


def _place(e: Reduce, scope: Scope, inner: Scope, spell: Spell) -> Value:
    """`rank` and `ahead`: a place for every member, its index an axis unless it is at one position."""
    (index,) = e.over
    x, members = _members(e, inner, spell)
    if e.op == "ahead":
        (x,) = floats((x,), scope.frame)
    made = Value(f"_{e.op}({x.text}, {members.text})", x.axes, kind(e))
    if index in scope.bound:
        return Value(f"{made.text}[..., {scope.bound[index]}]", made.axes[:-1], made.kind)
    return made
