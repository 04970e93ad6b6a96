"""The factor test: what separates into a part that varies and a part that waits, and what does not."""

from __future__ import annotations

import numpy as np
import pytest

from attncc.ir.algebra import separate
from attncc.ir.cascade import Cascade, Choose, Equation, Expr, free, reads
from attncc.ir.evaluate import evaluate
from attncc.ir.show import show_expr
from tests.ir.cascades import at, k, made, op, over, tensor

x, y = at(tensor("x", k)), at(tensor("y", k))
m, n = at(tensor("m")), at(tensor("n"))
WAITING = frozenset((m, n))

APART = {
    "a sum of products": op("+", op("*", x, m), op("*", op("*", x, m), m)),
    "an absolute value": op("abs", op("*", x, m)),
    "a square": op("**", op("*", x, m), 2),
    "two that wait": op("-", op("*", op("*", x, m), 3.0), op("*", op("*", x, m), n)),
    "what is 0 at one": op("+", op("*", x, op("log", m)), op("*", op("*", x, x), op("log", m))),
    "a divisor": op("+", op("/", x, op("-", m, 1)), op("/", y, op("-", m, 1))),
    "a root": op("/", op("+", x, y), op("sqrt", op("+", op("*", m, m), 1.0))),
    "an exponent": op("exp", op("*", op("-", x, m), 0.5)),
    "what is kept finite": op("+", op("*", x, op("finite", m)), op("*", y, op("finite", m))),
}

TOGETHER = {
    "a difference": op("-", x, m),
    "a square of a difference": op("**", op("-", x, m), 2),
    "a sigmoid": op("sigmoid", op("-", x, m)),
    "a root of a product, whose factors may both be negative": op("sqrt", op("*", x, m)),
    "a maximum": op("max", op("*", x, m), 0),
    "a choice": Choose(op("<", x, m), x, m),
    "a comparison that is counted": over("sum", k, body=op("*", x, m)),
}


def valued(e: Expr, values: dict[str, np.ndarray]) -> np.ndarray:
    """An expression along k, or once."""
    indices = (k,) if k in free(e) else ()
    inputs = tuple(dict.fromkeys(r.tensor for r in reads(e)))
    result = made("r", *indices)
    one = Cascade("one", "", inputs, (), (), (Equation(result, e),), (result,))
    return evaluate(one, {t.name: values[t.name] for t in inputs})["r"]


@pytest.mark.parametrize("name", APART)
def test_apart(name: str) -> None:
    """The parts multiply to the whole, for values of either sign."""
    whole = APART[name]
    parts = separate(whole, frozenset((k,)), WAITING)
    assert parts is not None
    varying, waiting = parts
    assert not WAITING & set(reads(varying)), show_expr(varying)
    assert not free(waiting), show_expr(waiting)
    for sign in (1, -1):
        rng = np.random.default_rng(0)
        values = {t: rng.uniform(-2, 2, 7) for t in "xy"} | {"m": np.array(sign * 1.7), "n": np.array(-0.4)}
        wanted = valued(whole, values)
        if np.isfinite(wanted).all():
            np.testing.assert_allclose(valued(varying, values) * valued(waiting, values), wanted, 1e-12)


@pytest.mark.parametrize("name", TOGETHER)
def test_together(name: str) -> None:
    assert separate(TOGETHER[name], frozenset((k,)), WAITING) is None
