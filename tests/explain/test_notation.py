"""The operator of a walk, as it is written down: what parts of the keys have, merged, is what all have."""

from __future__ import annotations

import ast
import math
import re

import numpy as np
import pytest

from attncc.explain import explain
from attncc.explain.notation import Rule
from attncc.ir.evaluate import evaluate
from attncc.pipeline import meaning
from attncc.source import Source

TEXT = """
pattern p(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> {outputs}:
    over b, h
    along q, k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    {equations}
"""

PATTERNS = {
    "exponentials": ("O[b,h,q,e]", "O[q,e] = sum(k) (softmax(k) S[q,k]) * V[k,e]"),
    "companion": (
        "H[b,h,q]",
        "L[q] = logsumexp(k) S[q,k]\n    H[q] = sum(k) (softmax(k) S[q,k]) * (L[q] - S[q,k])",
    ),
    "moments": ("O[b,h,q,e]", "O[q,e] = sum(k) (layernorm(k, eps = 0.01) S[q,k]) * V[k,e]"),
    "a maximum that follows": ("M[b,h,q]", "c[q] = sum(k) S[q,k]\n    M[q] = max(k) (S[q,k] - c[q])"),
    "a minimum": ("M[b,h,q]", "M[q] = min(k) S[q,k]"),
    "nothing to follow": ("O[b,h,q,e]", "O[q,e] = sum(k) S[q,k] * V[k,e]"),
}


def source(name: str) -> Source:
    outputs, equations = PATTERNS[name]
    return Source(name, TEXT.format(outputs=outputs, equations=equations))


class _Quotients(ast.NodeTransformer):
    """`a / b` as a call, in which 0 / 0 is 0."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div):
            return node
        return ast.Call(ast.Name("quotient", ast.Load()), [node.left, node.right], [])


def quotient(a: float, b: float) -> float:
    return 0.0 if a == b == 0 else a / b


FUNCTIONS = {
    "exp": math.exp,
    "finite": lambda x: 0.0 if x == -math.inf else x,
    "max": max,
    "min": min,
    "quotient": quotient,
    "inf": math.inf,
}


def result(line: str, known: dict[str, float]) -> float:
    """The right side of a line, at one row and one feature."""
    text = re.sub(r"\[\w+\]", "", line.split(" = ", 1)[1])
    tree = ast.fix_missing_locations(_Quotients().visit(ast.parse(text, mode="eval")))
    return float(eval(compile(tree, "line", "eval"), dict(FUNCTIONS), dict(known)))


@pytest.mark.parametrize("split", [0, 1, 5, 9])
@pytest.mark.parametrize("name", PATTERNS)
def test_merged_parts_are_the_whole(name: str, split: int) -> None:
    """Parts of 9 keys, empty ones too, evaluated each for itself; either may stand first."""
    said = explain(meaning(source(name)), 9)
    (operator,) = said.operators
    rng = np.random.default_rng(split)
    shapes = {"Q": (1, 1, 1, 4), "K": (1, 1, 9, 4), "V": (1, 1, 9, 3)}
    values = {t.name: 2 * rng.standard_normal(shapes[t.name]) for t in said.cascade.inputs}

    def states(keys: slice) -> dict[str, float]:
        own = {n: x if n == "Q" else x[:, :, keys] for n, x in values.items()}
        results = evaluate(said.streamed, own)
        return {rule.state: float(results[rule.state].flat[0]) for rule in operator.rules}

    a, b, whole = states(slice(0, split)), states(slice(split, 9)), states(slice(0, 9))
    for one, other in ((a, b), (b, a)):
        known = {f"{n}_a": x for n, x in one.items()} | {f"{n}_b": x for n, x in other.items()}
        for rule in operator.rules:
            known[rule.state] = result(rule.merge, known)
        for state, value in whole.items():
            assert known[state] == pytest.approx(value, rel=1e-9, abs=1e-9), state
    assert operator.unordered


@pytest.mark.parametrize("name", PATTERNS)
def test_what_a_state_is_at_first_is_what_it_is_of_nothing(name: str) -> None:
    said = explain(meaning(source(name)), 9)
    nothing = {"Q": np.ones((1, 1, 1, 4)), "K": np.ones((1, 1, 0, 4)), "V": np.ones((1, 1, 0, 3))}
    results = evaluate(said.streamed, {t.name: nothing[t.name] for t in said.cascade.inputs})
    for rule in said.operators[0].rules:
        assert result(rule.init, {}) == float(results[rule.state].flat[0])


def test_an_update_is_a_merge_with_a_tile_seen_from_where_all_is() -> None:
    """The tile's terms are computed at the new values, so that only the old state moves."""
    (operator,) = explain(meaning(source("exponentials")), 9).operators
    assert operator.rules[:2] == (
        Rule(
            "O_max",
            "O_max = -inf",
            "O_max = max(O_max_old, max(k in tile) S[q,k])",
            "O_max = max(O_max_a, O_max_b)",
        ),
        Rule(
            "O_total",
            "O_total = 0",
            "O_total = O_total_old * exp(O_max_old - finite(O_max))"
            " + sum(k in tile) exp(S[q,k] - finite(O_max))",
            "O_total = O_total_a * exp(O_max_a - finite(O_max)) + O_total_b * exp(O_max_b - finite(O_max))",
        ),
    )


def test_what_an_earlier_walk_has_completed_does_not_move() -> None:
    text = TEXT.format(
        outputs="O[b,h,q,e]",
        equations="A[q,k] = relu(S[q,k] / sum(k) S[q,k] - 1)\n    O[q,e] = sum(k) A[q,k] * V[k,e]",
    )
    first, second = explain(meaning(Source("p", text)), 9).operators
    assert [rule.merge for rule in first.rules] == ["A_sum = A_sum_a + A_sum_b"]
    (rule,) = second.rules
    assert rule.merge == "O[e] = O_a[e] + O_b[e]" and " / A_sum[q] - 1)" in rule.update
