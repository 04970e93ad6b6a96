"""Sums and intervals of random integer expressions: the same values, and bounds that hold."""

from __future__ import annotations

from itertools import product
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncc.ir.cascade import Apply, Expr, extent, number
from attncc.masks.integers import at
from attncc.masks.intervals import Facts, at_most, interval, largest, nonnegative, smallest
from attncc.masks.sums import canonical, summed
from tests.masks.pairs import K, Pair, Q, const, k, least, length, most, q, scalar, size

n, b = scalar("n"), scalar("b", static=True)
POSITIVE = frozenset({b.e})

leaves = st.one_of(st.sampled_from((Q, K, extent(Q), extent(K), n.e, b.e)), st.integers(-9, 9).map(number))


def grown(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    pairs = st.tuples(st.sampled_from(("+", "-", "*", "min", "max")), st.tuples(inner, inner))
    divided = st.tuples(
        st.sampled_from(("//", "%")), st.tuples(inner, st.sampled_from((b.e, number(3), number(8))))
    )
    single = st.tuples(st.sampled_from(("neg", "abs")), st.tuples(inner))
    return st.one_of(pairs, divided, single).map(lambda parts: Apply(*parts))


expressions = st.recursive(leaves, grown, max_leaves=8)
points = [
    {"q": i, "k": j, "|q|": i + p, "|k|": j + r, "n": m, "b": d}
    for i, j, p, r, m, d in product((0, 5), (0, 7), (1, 4), (1, 9), (-11, 0, 6), (1, 3))
]


@given(expressions)
def test_a_canonical_expression_has_the_same_value(e: Expr) -> None:
    assert [at(canonical(e), p) for p in points] == [at(e, p) for p in points]
    assert canonical(canonical(e)) == canonical(e)


@given(expressions)
def test_values_lie_in_their_interval(e: Expr) -> None:
    low, high = interval(e, Facts(POSITIVE))
    assert all(low <= at(e, p) <= high for p in points)


@given(expressions, expressions)
def test_what_is_proved_holds(x: Expr, y: Expr) -> None:
    facts = Facts(POSITIVE)
    if at_most(x, y, facts):
        assert all(at(x, p) <= at(y, p) for p in points)
    for p in points:
        assert at(largest((x, y), facts), p) == max(at(x, p), at(y, p))
        assert at(smallest((x, y), facts), p) == min(at(x, p), at(y, p))


@pytest.mark.parametrize(
    ("value", "known"),
    [
        (q, True),
        (q + k * 3 + length(K), True),
        (q - 1, False),
        (q - k, False),
        (length(Q) - q - 1, True),
        (length(Q) - q - 2, False),
        (n, False),
        (most(n, 0), True),
        (most(n, 0) * q, True),
        (least(most(n, 0), q), True),
        (size(n), True),
        (q // 4, True),
        ((q - 1) // 4, False),
        (n % 4, True),
        (q // b, True),
        (n // b, False),
        (b - 1, True),
        (b - 2, False),
        ((q + b - 1) // b, True),
        (const(3) - 4, False),
    ],
)
def test_never_negative(value: Pair, known: bool) -> None:
    assert nonnegative(value.e, POSITIVE) is known


def test_names_known_to_be_counts() -> None:
    assert not nonnegative((n + q).e)
    assert nonnegative((n + q).e, counted={n.e})


@pytest.mark.parametrize(
    ("small", "large", "proved"),
    [
        (q, q + 1, True),
        (q, length(Q) - 1, True),
        (least(q, n), q, True),
        (q, most(n, q), True),
        (q // 16 * 16, q, True),
        (q - 15, q // 16 * 16, True),
        (q - 14, q // 16 * 16, False),
        (q // b * b, q, True),
        (q // n * n, q, False),
        (q - b + 1, q // b * b, True),
        (n, q, False),
    ],
)
def test_what_is_provable(small: Pair, large: Pair, proved: bool) -> None:
    assert at_most(small.e, large.e, Facts(POSITIVE)) is proved


def test_multiples_leave_a_quotient() -> None:
    assert summed(((q * b + k) // b).e) == summed((q + k // b).e)
    assert summed(((q * 16 + k + 33) // 16).e) == summed((q + 2 + (k + 1) // 16).e)
    assert canonical(((k + b - 1) // b).e) == Apply("//", (canonical((k + b - 1).e), b.e))
    assert interval((q - q).e, Facts()) == (0, 0)
    assert interval((q % 4).e, Facts()) == (0, 3)
    assert interval(n.e, Facts()) == (-inf, inf)
