"""What `never` says is empty is, by brute force; of unit coefficients on a box it says so of all that is."""

from __future__ import annotations

from functools import reduce

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from attncc.ir.cascade import Expr, Index
from attncc.masks.integers import values
from attncc.masks.relations import never
from tests.masks.pairs import K, Pair, Q, const, k, q
from tests.masks.strategies import Case, cases

OPS = ("<", "<=", ">", ">=", "==")


def _holds(e: Expr, box: tuple[int, int, int, int]) -> bool:
    rows, columns = np.arange(box[0], box[1] + 1)[:, None], np.arange(box[2], box[3] + 1)[None, :]
    return bool(np.any(np.broadcast_to(values(e, {"q": rows, "k": columns}), (rows.size, columns.size))))


@st.composite
def conjunctions(draw: st.DrawFn) -> tuple[Pair, tuple[int, int, int, int]]:
    """Up to six comparisons of q, k, q - k and q + k with numbers, and a box of cells."""
    a, c = draw(st.integers(-20, 20)), draw(st.integers(-20, 20))
    box = a, a + draw(st.integers(0, 15)), c, c + draw(st.integers(0, 15))
    parts = []
    for _ in range(draw(st.integers(1, 6))):
        left = draw(st.sampled_from((q, k, q - k, k - q, q + k, const(0) - q - k)))
        end = const(draw(st.integers(-40, 40)))
        op = draw(st.sampled_from(OPS))
        asked = {"<": left < end, "<=": left <= end, ">": left > end, ">=": left >= end}
        parts.append(asked[op] if op in asked else left.equals(end))
    return reduce(lambda x, y: x & y, parts), box


@settings(max_examples=600)
@given(conjunctions())
def test_exact_for_unit_coefficients(case: tuple[Pair, tuple[int, int, int, int]]) -> None:
    mask, box = case
    assert never(mask.e, Q, K, box[:2], box[2:]) == (not _holds(mask.e, box))


@settings(max_examples=300)
@given(cases(largest=40))
def test_sound_for_any_predicate(case: Case) -> None:
    mask, env = case.mask, case.env
    rows, columns = np.arange(env["|q|"])[:, None], np.arange(env["|k|"])[None, :]
    if never(mask.e, Q, K, (0, env["|q|"] - 1), (0, env["|k|"] - 1)):
        value, present = mask.meaning({**env, "q": rows, "k": columns})
        assert not np.any(np.logical_and(value, present))


def test_parity() -> None:
    odd = (q + k).equals(5) & (q - k).equals(2)
    assert never(odd.e, Q, K)


def test_what_is_not_known_is_left_open() -> None:
    h = Index("h", "batch", "head")
    assert not never((Pair(h, lambda env: (0, True)) < q).e, Q, K)
