"""ast expressions → the kind of every tensor, and every place where a value of another kind is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from attncc.ir.cascade import join, number
from attncc.ir.said import Mistakes, parts
from attncc.ir.scope import Scope
from attncc.ops import FUNCTIONS, NAMED, REDUCTIONS, Kind
from attncc.source import Span
from attncc.syntax import ast

Kinds = Mapping[str, Kind | None]
"""The kind of every name; None where a mistake keeps it from being known."""


def kinds_of(scope: Scope) -> dict[str, Kind | None]:
    """The kind of every parameter, index and equation; equations that read each other have the narrowest."""
    found: dict[str, Kind | None] = {}
    for name, param in scope.params.items():
        found[name] = kind_named(param.kind)
    found |= {name: None for name in scope.equations}
    found |= {name: "int" for name in scope.indices}
    changed = True
    while changed:
        changed = False
        for name, equation in scope.equations.items():
            kind = kind_of(equation.body, found)
            if name not in scope.params and name not in scope.indices and kind != found[name]:
                found[name] = kind
                changed = True
    return found


def kind_named(written: str) -> Kind:
    """The kind of a parameter's values; `const` ones are real numbers."""
    return "int" if written == "int" else "bool" if written == "bool" else "float"


def kind_of(e: ast.Expr, kinds: Kinds) -> Kind | None:
    """What a value is, so far as it is known."""
    match e:
        case ast.Number():
            return number(e.value).kind
        case ast.Name():
            return kinds.get(e.name)
        case ast.Extent():
            return "int"
        case ast.Subscript():
            return kinds.get(e.tensor)
        case ast.Unary():
            return "bool" if e.op == "not" else kind_of(e.body, kinds)
        case ast.Binary():
            return _result(FUNCTIONS[e.op].result, kind_of(e.left, kinds), kind_of(e.right, kinds))
        case ast.If():
            return _result("join", kind_of(e.then, kinds), kind_of(e.other, kinds))
        case ast.Call():
            if e.name not in NAMED:
                return None
            return _result(FUNCTIONS[e.name].result, *(kind_of(a, kinds) for a in e.args))
        case ast.Over():
            if e.op not in REDUCTIONS:
                return None
            row = REDUCTIONS[e.op].result
            return kind_of(e.body, kinds) if row == "body" else row
        case _:
            assert_never(e)


def _result(row: str, *args: Kind | None) -> Kind | None:
    if row == "join":
        known = [a for a in args if a is not None]
        return join(*known) if known else None
    return "bool" if row == "bool" else "int" if row == "int" else "float"


def check_kinds(e: ast.Expr, kinds: Kinds, mistakes: Mistakes) -> None:
    """Reports every part of an expression that is not of the kind its place wants."""
    match e:
        case ast.Subscript():
            for subscript in e.at:
                wanted("int", subscript, f"a subscript of `{e.tensor}`", kinds, mistakes)
        case ast.Unary():
            wanted("bool" if e.op == "not" else "number", e.body, f"`{_sign(e.op)}`", kinds, mistakes)
        case ast.Binary():
            _operands(e, kinds, mistakes)
        case ast.If():
            wanted("bool", e.condition, "`if`", kinds, mistakes)
            _alike(e.then, e.other, "the branches of `if`", e.span, kinds, mistakes)
        case ast.Call() if e.name in NAMED:
            for arg in e.args[1:] if e.name == "through" else e.args:
                wanted(FUNCTIONS[e.name].takes, arg, f"`{e.name}`", kinds, mistakes)
        case ast.Over() if e.op in REDUCTIONS:
            if e.where is not None:
                wanted("bool", e.where, "`where`", kinds, mistakes)
            wanted(REDUCTIONS[e.op].takes, e.body, f"`{e.op}`", kinds, mistakes)
        case _:
            pass
    for part in parts(e):
        check_kinds(part, kinds, mistakes)


def wanted(takes: str, e: ast.Expr, by: str, kinds: Kinds, mistakes: Mistakes) -> None:
    """Reports an expression that is not what `by` takes: "bool", "number", "int" or "any"."""
    kind = kind_of(e, kinds)
    match takes:
        case "bool" if kind in ("int", "float"):
            message = f"{by} takes a predicate, and this is a number"
            help = "compare it with something: `x > 0`"
        case "number" if kind == "bool":
            message = f"{by} takes a number, and this is a predicate"
            help = "`if c then 1 else 0` is a number"
            if by == "`sum`":
                help = "to count, write `sum(k where c) 1`"
            elif by in ("`max`", "`min`"):
                help = "`any` and `all` reduce predicates"
        case "int" if kind in ("float", "bool"):
            what = "a real number" if kind == "float" else "a predicate"
            message = f"{by} takes an integer, and this is {what}"
            help = "`//` divides integers, `floor(x)` rounds down" if kind == "float" else ""
        case _:
            return
    mistakes.add("kind-mismatch", message, e.span, "", help)


def _operands(e: ast.Binary, kinds: Kinds, mistakes: Mistakes) -> None:
    takes = FUNCTIONS[e.op].takes
    if takes == "any":
        _alike(e.left, e.right, f"the sides of `{e.op}`", e.span, kinds, mistakes)
    for side in (e.left, e.right):
        wanted(takes, side, f"`{e.op}`", kinds, mistakes)


def _alike(a: ast.Expr, b: ast.Expr, what: str, span: Span, kinds: Kinds, mistakes: Mistakes) -> None:
    pair = {kind_of(a, kinds), kind_of(b, kinds)}
    if "bool" in pair and pair & {"int", "float"}:
        message = f"{what} are a predicate and a number"
        mistakes.add(
            "kind-mismatch", message, span, "", "`if c then 1 else 0` is a number, `x > 0` a predicate"
        )


def _sign(op: str) -> str:
    return "not" if op == "not" else "-"
