"""Cascade → text: the equations in the language's own notation, every index a stored position.

S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
"""

from __future__ import annotations

import math
from typing import assert_never

from attncc.ir.cascade import (
    FALSE,
    TRUE,
    Apply,
    Cascade,
    Choose,
    Demand,
    Equation,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    Tensor,
)
from attncc.syntax import ast, printer


def show(cascade: Cascade) -> str:
    """A cascade as text: a header, then a line for every length, equation and demand."""
    defaults = dict(cascade.defaults)
    inputs = ", ".join(_parameter(t, defaults.get(t.name)) for t in cascade.inputs)
    lines = [
        *(f"|{index.name}| = {show_expr(length)}" for index, length in cascade.lengths),
        *map(show_equation, cascade.equations),
        *map(_demand, cascade.demands),
    ]
    header = f"pattern {cascade.name}({inputs}) -> {', '.join(map(show_tensor, cascade.outputs))}:"
    return "\n".join([header, *(f"    {line}" for line in lines)])


def show_equation(equation: Equation) -> str:
    """`O[q,e] = sum(k) P[q,k] * V[k,e]`"""
    left = show_tensor(equation.tensor) if equation.tensor.indices else equation.tensor.name
    return f"{left} = {show_expr(equation.body)}"


def show_tensor(tensor: Tensor) -> str:
    """`O[q,e]`, `T[]`"""
    return f"{tensor.name}[{','.join(i.name for i in tensor.indices)}]"


def show_expr(e: Expr) -> str:
    """An expression on one line, with brackets only where it needs them."""
    return printer.show_expr(_spoken(e))


def _parameter(tensor: Tensor, default: int | float | bool | None) -> str:
    given = "" if default is None else f" = {show_expr(Literal(default, tensor.kind))}"
    match tensor.origin:
        case "scalar" | "static":
            return f"{tensor.name}: {tensor.kind}{given}"
        case "table":
            return f"{show_tensor(tensor)}: {'const' if tensor.kind == 'float' else tensor.kind}"
        case "input" | "equation" | "kept":
            return show_tensor(tensor)
        case _:
            assert_never(tensor.origin)


def _demand(demand: Demand) -> str:
    match demand.name:
        case "causal":
            return "require causal"
        case "covers":
            excuse = "" if demand.value == FALSE else f" or {show_expr(demand.value)}"
            return f"require covers{excuse}"
        case "cache":
            return f"require cache <= {show_expr(demand.value)}"
        case "passes":
            return f"require passes({demand.subject}) <= {demand.high:g}"
        case "range":
            return f"assume {demand.subject} in [{demand.low:g}, {demand.high:g}]"
        case "sorted":
            return f"assume sorted {demand.subject}"
        case "above":
            return f"assume {demand.subject} >= {show_expr(demand.value)}"
        case _:
            assert_never(demand.name)


def _spoken(e: Expr) -> ast.Expr:
    """An expression as a person would have written it."""
    match e:
        case Index():
            return ast.Name(e.name)
        case Literal():
            return _constant(e)
        case Read(at=()):
            return ast.Name(e.tensor.name)
        case Read():
            return ast.Subscript(e.tensor.name, tuple(map(_spoken, e.at)))
        case Apply(op="extent", args=(Index(name=name),)):
            return ast.Extent(name)
        case Apply():
            return _applied(e.op, tuple(map(_spoken, e.args)))
        case Reduce():
            where = None if e.where == TRUE else _spoken(e.where)
            return ast.Over(e.op, tuple(ast.Name(i.name) for i in e.over), where, (), _spoken(e.body))
        case Choose():
            return ast.If(_spoken(e.condition), _spoken(e.then), _spoken(e.other))
        case _:
            assert_never(e)


def _constant(e: Literal) -> ast.Expr:
    value = float(e.value) if e.kind == "float" else e.value
    # a number of the language has no sign
    if e.kind != "bool" and math.copysign(1, value) < 0:
        return ast.Unary("-", ast.Number(-value))
    return ast.Number(value)


def _applied(op: str, args: tuple[ast.Expr, ...]) -> ast.Expr:
    match op, args:
        case "neg", (x,):
            return ast.Unary("-", x)
        case "not", (x,):
            return ast.Unary("not", x)
        case _, (x, y) if op in ("and", "or") or not op.isalpha():
            return ast.Binary(op, x, y)
        case _:
            return ast.Call(op, args)
