"""Cascade expressions → PyTorch text over named axes; values used twice get names and lines of their own."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import assert_never

from attncc.codegen.code import ATOM, UNARY
from attncc.codegen.reference_bounds import Facts, negated
from attncc.codegen.reference_folds import meant, reduced
from attncc.codegen.reference_guards import guards, harmless, nothing, spoken
from attncc.codegen.reference_guards import told as told_of
from attncc.codegen.reference_reads import picked, slices
from attncc.codegen.reference_scope import Scope
from attncc.codegen.reference_spell import applied, floats
from attncc.codegen.reference_sums import plain
from attncc.codegen.reference_values import EITHER, IF, Value, call, named, union
from attncc.ir.cascade import (
    FALSE,
    ZERO,
    Apply,
    Choose,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    free,
    kind,
    number,
)
from attncc.ir.logic import conjoin, conjuncts

WORDS = {
    "+": "plus",
    "-": "minus",
    "*": "times",
    "/": "over",
    "//": "over",
    "%": "modulo",
    "**": "power",
    "neg": "minus",
}
"""What a value is called after."""

EXTREME = 16
"""Length of text beyond which a maximum has a line of its own."""


def value(e: Expr, scope: Scope) -> Value:
    """The text of an expression, and the axes of its value."""
    match e:
        case Index():
            if e in scope.bound:
                return Value(scope.bound[e], (), "int", host=True)
            return Value(scope.frame.positions[e], (e,), "int")
        case Literal():
            return _literal(e)
        case Apply("extent", (Index() as index,)):
            return Value(scope.frame.sizes[index], (), "int", host=True)
        case Read() | Apply() | Reduce() | Choose():
            # no gradient passes a predicate or an integer: where they do not matter, they may be anything
            return _kept(e, scope if kind(e) == "float" else replace(scope, facts=()))
        case _:
            assert_never(e)


def _literal(e: Literal) -> Value:
    if e.kind == "float" and e.value in (float("inf"), -float("inf")):
        text = "math.inf" if e.value > 0 else "-math.inf"
    else:
        text = repr(e.value)
    return Value(text, (), e.kind, UNARY if text.startswith("-") else ATOM, host=True)


def _kept(e: Expr, scope: Scope) -> Value:
    """The value of an expression, by its name if it has one: what is asked for twice or is long gets one."""
    draft = scope.draft
    key = (e, told_of(e, scope.facts, scope.frame.infinite))
    draft.asked[key] += 1
    if key in draft.known:
        return draft.known[key]
    made = root(e, scope)
    if scope.lazy:
        # a line of its own would be run whether or not the branch is taken
        return made
    again = key in draft.repeated and len(made.text) > 12
    long = len(made.text) > (EXTREME if isinstance(e, Reduce) and e.op in ("max", "min") else draft.limit)
    if made.text in draft.texts:
        made = draft.texts[made.text]
    elif not made.host and (again or long) and not isinstance(e, Read):
        name = _name(e, made, scope)
        draft.lines.append(f"{name} = {made.text}")
        draft.names[key] = draft.texts[made.text] = named(made, name)
        made = draft.names[key]
    draft.known[key] = made
    return made


def _name(e: Expr, made: Value, scope: Scope) -> str:
    """`where_qk`, `at_q`, `max_P_q`: what a value is, of which equation, over which indices."""
    letters = [i.name for i in made.axes if i.role != "batch"] or [i.name for i in made.axes]
    tail = ("" if all(len(n) == 1 for n in letters) else "_").join(letters)
    if made.kind == "bool":
        return scope.draft.name(_joined("where", tail), _joined("where", scope.equation, tail))
    if made.kind == "int" and isinstance(e, Apply):
        return scope.draft.name(_joined("at", tail), _joined("at", scope.equation, tail))
    match e:
        case Choose(then=Apply(op=op) | Reduce(op=op)) | Apply(op=op) | Reduce(op=op):
            word = WORDS.get(op, op)
        case _:
            word = "part"
    return scope.draft.name(_joined(word, scope.equation, tail))


def _joined(*words: str) -> str:
    return "_".join(w for w in words if w)


def root(e: Expr, scope: Scope) -> Value:
    """The text of an expression that gets no name here, having one already or none at all."""
    match e:
        case Read():
            return _read(e, scope)
        case Choose():
            return _choose(e, scope)
        case Reduce(op="mean"):
            return root(meant(e, scope.frame.bounds), scope)
        case Reduce():
            return reduced(e, scope, value)
        case Apply() if e.op != "extent":
            return _apply(e, scope)
        case _:
            return value(e, scope)


def _read(e: Read, scope: Scope) -> Value:
    own = dict(zip(e.tensor.indices, e.at, strict=True))
    if e.tensor.name in scope.walks:
        base = slices(scope.walks[e.tensor.name], own, scope, value)
    else:
        base = scope.tensors[e.tensor.name]
    return picked(base, own, scope, value)


# Functions


def _apply(e: Apply, scope: Scope) -> Value:
    if e.op in ("and", "or"):
        parts = [value(part, scope) for part in _chain(e.op, e)]
        return reduce(lambda a, b: applied(e.op, (a, b), "bool", scope.axes, scope.frame), parts)
    args = [value(a, scope) for a in _told_arguments(e, scope)]
    return applied(e.op, args, kind(e), scope.axes, scope.frame)


def _chain(op: str, e: Expr) -> list[Expr]:
    """The parts of `a and b and c`."""
    match e:
        case Apply(args=(a, b)) if e.op == op:
            return _chain(op, a) + _chain(op, b)
        case _:
            return [e]


def _told_arguments(e: Apply, scope: Scope) -> tuple[Expr, ...]:
    """The arguments of a function, harmless ones put in where its value does not matter."""
    known = spoken(e, scope.facts, scope.frame.infinite)
    match e:
        case Apply("/", (_, b)) if _plain(b, scope):
            return e.args
        case Apply("/", (a, b)) if known == guards(scope.facts, b) != guards(scope.facts, a):
            # the divisor is smaller than the quotient
            return (a, _harmless(b, known, 1, scope))
        case Apply("**", (a, b)):
            return (_harmless(a, guards(scope.facts, a), 1, scope), _harmless(b, known, 0, scope))
        case _:
            instead = harmless(e, scope.frame.infinite)
            pairs = zip(e.args, instead, strict=True)
            return tuple(a if n is None else _harmless(a, known, n, scope) for a, n in pairs)


def _harmless(e: Expr, facts: Facts, instead: int, scope: Scope) -> Expr:
    """`if facts then e else instead`; what `e` asks for itself comes first."""
    own: Facts = ()
    match e:
        case Literal():
            return e
        case Choose(condition=condition, then=then, other=other) if instead == 0 and nothing(other):
            own, e = conjuncts(condition), then
        case _:
            pass
    # in a branch that is only run where they hold, its facts need not be asked for
    more = scope.frame.bounds.least((f for f in facts if f not in scope.lazy), own)
    return Choose(conjoin([*own, *more]), e, number(instead)) if own or more else e


def _plain(e: Expr, scope: Scope) -> bool:
    return plain(e, frozenset(scope.bound))


# Choices


def _choose(e: Choose, scope: Scope) -> Value:
    own, against = conjuncts(e.condition), conjuncts(negated(e.condition))
    if _plain(e.condition, scope):
        then = value(e.then, replace(scope.knowing(own), lazy=scope.lazy + own))
        other = value(e.other, replace(scope.knowing(against), lazy=scope.lazy + against))
        return _either(value(e.condition, scope), then, other, scope)
    if nothing(e.other) or e.other == FALSE:
        return _zeroed(e.condition, e.then, scope.knowing(own))
    then, other = value(e.then, scope.knowing(own)), value(e.other, scope.knowing(against))
    return _where(value(e.condition, scope), then, other, scope)


def _either(condition: Value, then: Value, other: Value, scope: Scope) -> Value:
    """One of two by a truth value of Python's: the other one is not even computed."""
    axes = union((then, other), scope.axes)
    kinds = then.kind if then.kind == other.kind else "float"
    host = then.host and other.host
    if not host:
        then, other = (scope.frame.whole(replace(v, kind=kinds), axes) for v in (then, other))
    text = f"{then.within(EITHER)} if {condition.within(EITHER)} else {other.within(EITHER)}"
    return Value(text, axes, kinds, IF, host)


def _where(condition: Value, then: Value, other: Value, scope: Scope) -> Value:
    kinds = then.kind if then.kind == other.kind else "float"
    if kinds == "float":
        then, other = floats((then, other), scope.frame)
        if then.host and other.host:
            # two numbers of Python's would make a tensor of torch's default dtype
            then = scope.frame.filled((), then.text, "float")
    return call("torch.where", (condition, then, other), scope.axes, kinds)


def _zeroed(condition: Expr, e: Expr, scope: Scope) -> Value:
    """`if condition then e else 0`, with the choice put where it keeps the value small and harmless."""
    match e:
        case Choose(condition=also, then=then, other=other) if nothing(other):
            return root(Choose(conjoin([condition, also]), then, other), scope)
        case Apply("exp", (x,)) if not _plain(x, scope):
            more = [f for f in guards(scope.facts, x) if f not in scope.lazy]
            told = conjoin([condition, *scope.frame.bounds.least(more, conjuncts(condition))])
            # the exponential of -inf is 0, and so is its derivative
            hidden = _where(value(told, scope), value(x, scope), Value("-math.inf", host=True), scope)
            return applied("exp", (hidden,), "float", scope.axes, scope.frame)
        case Apply("/", (a, b)) if _plain(b, scope) or not free(condition) <= free(b):
            return _apply(Apply("/", (Choose(condition, a, ZERO), b)), scope)
        case Apply("*", (a, b)) if not _plain(a, scope) and free(condition) <= free(a):
            return _apply(Apply("*", (Choose(condition, a, ZERO), b)), scope)
        case Apply("*", (a, b)) if not _plain(b, scope) and free(condition) <= free(b):
            return _apply(Apply("*", (a, Choose(condition, b, ZERO))), scope)
        case _:
            mask, made = value(condition, scope), value(e, scope)
    if kind(e) == "bool":
        return applied("and", (mask, made), "bool", scope.axes, scope.frame)
    return _where(mask, made, Value("0", (), kind(e), host=True), scope)
