"""A second opinion on random boxes: what is called empty is empty, what is called full is full."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attncc.ir.cascade import Apply, Literal
from attncc.masks.classify import classify
from tests.masks.pairs import FALSE, TRUE, H, K, Pair, Q, aligned, cells, choose, h, k, q, scalar, table
from tests.masks.strategies import Case, cases

BOX = {Q: (10, 19), K: (20, 29)}


def test_random_boxes() -> None:
    said = {"empty": 0, "full": 0, "partial": 0}
    known = 0

    @settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(cases(), st.lists(st.tuples(*[st.integers(0, 199)] * 4), min_size=6, max_size=6))
    def check(case: Case, corners: list[tuple[int, int, int, int]]) -> None:
        nonlocal known
        mask = cells(case.mask, case.env)
        rows, columns = mask.shape
        for a, b, c, d in corners:
            q0, q1 = sorted((a % rows, b % rows))
            k0, k1 = sorted((c % columns, d % columns))
            box = mask[q0 : q1 + 1, k0 : k1 + 1]
            verdict = classify(case.mask.e, {Q: (q0, q1), K: (k0, k1)}, case.env)
            assert verdict != "empty" or not box.any()
            assert verdict != "full" or box.all()
            said[verdict] += 1
            known += bool(box.all() or not box.any())

    check()
    print(said, "of which could be known", known)
    assert said["empty"] + said["full"] >= 0.9 * known, "sound, but it knows too little"


def verdict(mask: Pair, **env: Any) -> str:
    return classify(mask.e, BOX, {"|q|": 100, "|k|": 100, **env})


def test_one_comparison_is_exact() -> None:
    assert verdict(k <= q) == "empty"
    assert verdict(k <= q + 1) == "partial"
    assert verdict(k < q + 20) == "full"
    assert verdict(k <= aligned + 18) == "partial"
    assert verdict(k <= aligned + 19) == "full"
    assert verdict((q - k).equals(0)) == "empty"
    assert verdict(k.differs(q)) == "full"
    assert verdict(k - k >= q - q) == "full"


def test_divisions_and_residues() -> None:
    assert verdict((k // 10).equals(2)) == "full"
    assert verdict((k // 10).equals(q // 10)) == "empty"
    assert verdict((k // 30).equals(q // 30)) == "full"
    assert verdict((k % 32) >= 20) == "full"
    assert verdict((k % 32) >= 21) == "partial"
    assert verdict((q % 7) < 7) == "full"


def test_names_and_tables() -> None:
    import numpy as np

    doc = np.arange(100) // 20
    assert verdict(table("doc", K, k).equals(1), doc=doc) == "full"
    assert verdict(table("doc", K, k).equals(table("doc", K, q)), doc=doc) == "empty"
    assert verdict(table("doc", K, k + 90) >= 0, doc=doc) == "empty", "out of range there is no value"
    assert verdict(table("doc", K, k + 80) >= 0, doc=doc) == "empty"
    assert verdict(table("doc", K, k + 75) >= 0, doc=doc) == "partial"
    assert classify((table("doc", K, k) <= 1).e, BOX, {"|k|": 100, "doc": lambda at: at // 20}) == "full"
    assert verdict(k < scalar("w"), w=30) == "full"
    assert verdict(h < 2, h=3) == "empty"
    assert classify((h + k < 32).e, {**BOX, H: (0, 2)}, {}) == "full"


def test_logic() -> None:
    assert verdict(TRUE) == "full"
    assert verdict(FALSE | (k > q)) == "full"
    assert verdict(~(k > q)) == "empty"
    assert verdict(choose(k > q, q < 20, k < 20)) == "full"
    assert verdict(choose(k > 25, q < 20, q < 30)) == "full"


def test_what_is_not_known_is_partial() -> None:
    wave = Apply("<", (Apply("sin", (K,)), Literal(2.0, "float")))
    assert classify(wave, BOX, {}) == "partial"


def test_floats() -> None:
    half = Apply("*", (Q, Literal(0.5, "float")))
    assert classify(Apply("<=", (half, K)), BOX, {}) == "full"
    assert classify(Apply(">", (half, K)), BOX, {}) == "empty"
    assert classify(Apply("<=", (half, Literal(9.0, "float"))), BOX, {}) == "partial"
