"""Every rule of a cascade, broken one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from attncc.ir.cascade import (
    FALSE,
    ONE,
    TRUE,
    ZERO,
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
    extent,
    number,
)
from attncc.ir.show import show
from attncc.ir.verify import verified
from tests.ir import cascades as c
from tests.ir.cascades import at, made, op, over

x = at(c.x)
flag = c.tensor("flag", c.k, kind="bool", origin="table")


@pytest.mark.parametrize("cascade", c.EVERY, ids=lambda cascade: cascade.name)
def test_what_is_whole_passes(cascade: Cascade) -> None:
    assert verified(cascade) is cascade


def refuses(cascade: Cascade, message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)) as caught:
        verified(cascade)
    assert show(cascade) in str(caught.value)


def body(e: Expr, kind: str = "float") -> Cascade:
    """`r[k] = e` of `x[k]`, `flag[k]` and `count`."""
    cascade = c.one(e, c.x, flag, c.count, indices=(c.k,))
    (equation,) = cascade.equations
    tensor = Tensor(
        "r", (c.k,), "int" if kind == "int" else "bool" if kind == "bool" else "float", "equation"
    )
    return replace(cascade, equations=(replace(equation, tensor=tensor),), outputs=(tensor,))


@pytest.mark.parametrize(
    ("e", "message"),
    [
        (Literal(1, "float"), "1 is not of kind float"),
        (Literal(True, "int"), "True is not of kind int"),
        (Read(c.x, (c.k, c.k)), "2 subscripts for 1 indices"),
        (at(c.x, x), "subscript `x[k]` is float"),
        (at(c.x, TRUE), "subscript `true` is bool"),
        (Apply("wiggle", (x,)), "no function is called `wiggle`"),
        (Apply("exp", (x, x)), "2 arguments for 1"),
        (Apply("extent", (x,)), "`x[k]` is not an index"),
        (op("//", x, 2), "takes int, is given float, int"),
        (op("+", x, at(flag)), "takes number, is given float, bool"),
        (Choose(op("and", at(flag), x), x, x), "takes bool, is given bool, float"),
        (Choose(op("==", at(flag), x), x, x), "compares bool with float"),
        (Choose(x, x, x), "the condition is float"),
        (Choose(at(flag), x, TRUE), "the branches are float and bool"),
        (Reduce("wiggle", (c.k,), TRUE, x), "no reduction is called `wiggle`"),
        (op("+", x, over("sum", body=x)), "needs indices, each once"),
        (op("+", x, over("sum", c.k, c.k, body=x)), "needs indices, each once"),
        (op("+", x, over("sum", c.k, where=x, body=x)), "the predicate is float"),
        (op("+", x, over("sum", c.k, body=at(flag))), "takes number, is given bool"),
        (Choose(over("any", c.k, body=x), x, x), "takes bool, is given float"),
        (op("+", x, over("rank", c.k, c.j, body=x)), "a place is one along one index"),
        (op("+", x, over("argmax", c.k, c.j, body=x)), "a place is one along one index"),
        (at(c.x, c.q), "`q` on the right side only"),
        (over("sum", c.k, body=x), "reduces over `k` of its own left side, and needs it nowhere else"),
        (at(flag), "`r` is float, its body bool"),
        (at(c.W, c.k, ZERO), "`W[k,0]` reads"),
        (at(replace(c.x, kind="int")), "`x[k]` reads"),
        (at(made("later", c.k)), "`later[k]` reads"),
    ],
)
def test_expressions(e: Expr, message: str) -> None:
    refuses(body(e), message)


@pytest.mark.parametrize(
    ("e", "kind"),
    [
        (ONE, "float"),
        (op("<", x, at(c.count)), "bool"),
        (op("==", at(flag), FALSE), "bool"),
        (op("through", at(flag), x), "float"),
        (op("-", x, over("max", c.k, body=x)), "float"),
        (over("rank", c.k, body=x), "int"),
        (over("argmax", c.j, where=op("<", c.j, 2), body=op("*", x, c.j)), "int"),
        (op("+", extent(c.k), c.k), "int"),
    ],
)
def test_expressions_that_fit(e: Expr, kind: str) -> None:
    cascade = replace(body(e, kind), lengths=((c.j, extent(c.k)),))
    assert verified(cascade) is cascade


def swapped(cascade: Cascade) -> Cascade:
    first, second, *rest = cascade.equations
    return replace(cascade, equations=(second, first, *rest))


def parted() -> Cascade:
    """A group whose members have a stranger between them."""
    pair = c.pair()
    stranger = Equation(made("s", c.t), at(c.a))
    return replace(pair, equations=(pair.equations[0], stranger, pair.equations[1]))


def reading_itself(index: Index, other: Expr) -> Cascade:
    r = made("r", index, c.d)
    source = c.tensor("X", index, c.d)
    return c.cascade("self", (source,), {r: op("+", at(source), at(r, other, c.d))})


shift = Index("k", "feature", "k")
later = (c.n, op("*", extent(c.i), 2)), (c.i, at(c.block))
BROKEN: dict[str, Callable[[], Cascade]] = {
    "`x` is defined twice": lambda: c.cascade("twice", (c.x, c.x), {made("r", c.k): x}),
    "  `X[k,k]` has an index twice": lambda: c.one(x, c.x, c.tensor("X", c.k, c.k), indices=(c.k,)),
    "input `n[k]` cannot come from scalar": lambda: c.one(
        x, c.x, c.tensor("n", c.k, origin="scalar"), indices=(c.k,)
    ),
    "input `y[k]` cannot come from equation": lambda: c.one(x, c.x, made("y", c.k), indices=(c.k,)),
    "`r` is written by an equation, but comes from input": lambda: c.cascade(
        "r", (c.x,), {c.tensor("r", c.k): x}
    ),
    "`k` is two indices": lambda: c.one(op("*", x, shift), c.x, indices=(c.k,)),
    "`P` reads `S`, which stands after it": lambda: swapped(c.causal()),
    "`y`, `z` read each other, but do not stand together": parted,
    "`r` read each other at no other position": lambda: reading_itself(c.t, c.t),
    "`r` read each other at no": lambda: reading_itself(c.e, op("-", c.e, 1)),
    "`|n|` needs the extents of `i` before it": lambda: replace(c.pool(), lengths=later),
    "no extent is known of `i`": lambda: replace(c.pool(), lengths=c.pool().lengths[:1]),
    "a length is given twice": lambda: replace(c.pool(), lengths=c.pool().lengths + c.pool().lengths[1:]),
    "`|n| = 0.5` is not one integer": lambda: replace(
        c.pool(), lengths=((c.n, number(0.5)), c.pool().lengths[1])
    ),
    "`|n| = k` is not one integer": lambda: replace(c.pool(), lengths=((c.n, c.k), c.pool().lengths[1])),
    "output `M` has no equation": lambda: replace(c.scan(), outputs=(made("M", c.k),)),
    "output `C[]: float` is not `C[k]: float`": lambda: replace(c.scan(), outputs=(made("C"),)),
    "output `C[k]: int` is not `C[k]: float`": lambda: replace(
        c.scan(), outputs=(made("C", c.k, kind="int"),)
    ),
    "output `C[k,k]` has an index twice": lambda: replace(c.scan(), outputs=(made("C", c.k, c.k),)),
    "outputs are needed, each once": lambda: replace(c.scan(), outputs=(c.C, c.C)),
    "the default of `count` is of no scalar": lambda: replace(c.scan(), defaults=(("count", 1),)),
    "the default of `x` is of no scalar": lambda: replace(c.scan(), defaults=(("x", 1),)),
    "`y` is demanded something": lambda: replace(c.scan(), demands=(Demand("sorted", "y"),)),
}


@pytest.mark.parametrize("message", BROKEN)
def test_cascades(message: str) -> None:
    refuses(BROKEN[message](), message)


def test_everything_broken_is_told_at_once() -> None:
    wrong = replace(c.scan(), defaults=(("count", 1),), demands=(Demand("sorted", "y"),))
    refuses(wrong, "the default of `count` is of no scalar\n  `y` is demanded something")


def test_a_length_that_an_equation_makes() -> None:
    size = made("size", kind="int")
    cascade = replace(c.scan(), lengths=((c.j, at(size)),))
    equation = Equation(size, extent(c.k))
    refuses(
        replace(cascade, equations=(equation, *cascade.equations)),
        "`|j|` reads `size`, which only an equation knows",
    )
