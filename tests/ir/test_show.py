"""Cascades as text: readable, and with no bracket more or less than the language needs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from attncc.ir.cascade import (
    TRUE,
    Apply,
    Cascade,
    Choose,
    Demand,
    Expr,
    Literal,
    Read,
    Reduce,
    Tensor,
    extent,
    number,
    walk,
)
from attncc.ir.show import show, show_expr
from attncc.source import Source
from attncc.syntax import ast
from attncc.syntax.parser import parse
from tests.ir import cascades as c
from tests.ir.cascades import at, op, over

x, y = at(c.x), at(c.beta)
total = over("sum", c.k, body=x)


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (c.scores, "sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)"),
        (op("*", op("+", x, y), 2), "(x[k] + beta[k]) * 2"),
        (op("+", op("*", x, y), 2), "x[k] * beta[k] + 2"),
        (op("-", x, op("-", y, 1)), "x[k] - (beta[k] - 1)"),
        (op("-", op("-", x, y), 1), "x[k] - beta[k] - 1"),
        (op("+", x, op("+", y, 1)), "x[k] + (beta[k] + 1)"),
        (op("**", op("**", x, 2), y), "(x[k] ** 2) ** beta[k]"),
        (op("**", x, op("**", y, 2)), "x[k] ** beta[k] ** 2"),
        (op("neg", x), "-x[k]"),
        (op("*", x, -2), "x[k] * (-2)"),
        (op("*", x, Literal(float("-inf"), "float")), "x[k] * (-inf)"),
        (op("*", x, Literal(-0.0, "float")), "x[k] * (-0.0)"),
        (op("*", x, Literal(2, "float")), "x[k] * 2.0"),
        (op("exp", op("-", x, y)), "exp(x[k] - beta[k])"),
        (op("not", op("<", x, y)), "not x[k] < beta[k]"),
        (
            op("and", op("or", op("<", x, y), TRUE), op("<", y, x)),
            "(x[k] < beta[k] or true) and beta[k] < x[k]",
        ),
        (op("max", at(c.count), extent(c.k)), "max(count, |k|)"),
        # a reduction takes the product that follows it
        (op("*", 2, total), "2 * sum(k) x[k]"),
        (op("*", total, 2), "(sum(k) x[k]) * 2"),
        (op("/", op("*", 2, total), y), "(2 * sum(k) x[k]) / beta[k]"),
        (op("-", total, y), "sum(k) x[k] - beta[k]"),
        (over("sum", c.k, body=op("-", x, y)), "sum(k) (x[k] - beta[k])"),
        (over("max", c.k, c.j, where=op("<", c.j, c.k), body=total), "max(k, j where j < k) sum(k) x[k]"),
        (op("+", Choose(op("<", x, y), x, y), 1), "(if x[k] < beta[k] then x[k] else beta[k]) + 1"),
        (Choose(op("<", x, y), x, op("+", y, 1)), "if x[k] < beta[k] then x[k] else beta[k] + 1"),
    ],
)
def test_expressions(e: Expr, text: str) -> None:
    assert show_expr(e) == text


@pytest.mark.parametrize("cascade", c.EVERY, ids=lambda cascade: cascade.name)
def test_bodies_parse_back_to_the_same_tree(cascade: Cascade) -> None:
    """What is shown means what is meant: parsed and shown again, reductions and all."""
    for equation in cascade.equations:
        text = f"pattern p(x[k]) -> y[k]:\n    y = {show_expr(equation.body)}\n"
        (statement,) = pattern(text).statements
        assert isinstance(statement, ast.Equate)
        assert shape(statement.body) == [word(e) for e in walk(equation.body)]


def pattern(text: str) -> ast.Pattern:
    found = parse(Source("shown", text)).pattern
    assert found is not None
    return found


def shape(e: ast.Expr) -> list[str]:
    """What stands where in a tree, outermost first."""
    match e:
        case ast.Number():
            return [str(e.value)]
        case ast.Name():
            return [e.name]
        case ast.Extent():
            return ["extent", e.index]
        case ast.Subscript():
            return [e.tensor, *(w for s in e.at for w in shape(s))]
        case ast.Unary():
            return [{"-": "neg"}.get(e.op, e.op), *shape(e.body)]
        case ast.Binary():
            return [e.op, *shape(e.left), *shape(e.right)]
        case ast.If():
            return ["if", *shape(e.condition), *shape(e.then), *shape(e.other)]
        case ast.Call():
            return [e.name, *(w for a in e.args for w in shape(a))]
        case ast.Over():
            where = ["True"] if e.where is None else shape(e.where)
            return [f"{e.op}({','.join(i.name for i in e.indices)})", *where, *shape(e.body)]


def word(e: Expr) -> str:
    match e:
        case Literal():
            return str(e.value)
        case Read():
            return e.tensor.name
        case Reduce():
            return f"{e.op}({','.join(i.name for i in e.over)})"
        case Choose():
            return "if"
        case _:
            return getattr(e, "op", "") or getattr(e, "name", "")


def test_a_whole_cascade() -> None:
    doc = Tensor("doc", (c.k,), "int", "table")
    fixed = Tensor("w", (c.d,), "float", "table")
    demands = (
        Demand("causal"),
        Demand("covers"),
        Demand("covers", value=Apply("<", (extent(c.k), number(8)))),
        Demand("cache", value=number(128)),
        Demand("passes", "k", high=1),
        Demand("range", "X", low=-5, high=0),
        Demand("sorted", "doc"),
    )
    pool = c.pool()
    learned, on = Tensor("T", (), "float", "input"), Tensor("on", (), "bool", "scalar")
    cascade = replace(
        pool,
        inputs=(*pool.inputs, doc, fixed, learned, on),
        defaults=(*pool.defaults, ("on", True)),
        demands=demands,
    )
    assert show(cascade) == "\n".join(
        [
            "pattern pool(X[k,d], block: int = 4, doc[k]: int, w[d]: const, T[], on: bool = true) -> M[n,d]:",
            "    |n| = (|k| + block - 1) // block",
            "    |i| = block",
            "    M[n,d] = mean(i) X[n * block + i, d]",
            "    require causal",
            "    require covers",
            "    require covers or |k| < 8",
            "    require cache <= 128",
            "    require passes(k) <= 1",
            "    assume X in [-5, 0]",
            "    assume sorted doc",
        ]
    )


def test_numbers_of_a_cascade() -> None:
    cascade = c.one(number(0.5))
    assert show(cascade) == "pattern one() -> r[]:\n    r = 0.5"
