"""A second opinion on random boxes: what is called empty is empty, what is called full is full."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attncc.ir.cascade import Apply, Literal
from attncc.masks.classify import classify
from tests.masks.pairs import FALSE, TRUE, H, K, Pair, Q, aligned, cells, choose, h, k, q, scalar, table
from tests.masks.strategies import Case, Seeded, case, cases

BOX = {Q: (10, 19), K: (20, 29)}


Corners = tuple[int, int, int, int]


def opinion(drawn: Case, mask: np.ndarray, corners: Corners) -> tuple[str, bool]:
    """What is said of a box, which must be true, and whether all its cells are the same."""
    rows, columns = mask.shape
    q0, q1 = sorted((corners[0] % rows, corners[1] % rows))
    k0, k1 = sorted((corners[2] % columns, corners[3] % columns))
    box = mask[q0 : q1 + 1, k0 : k1 + 1]
    said = classify(drawn.mask.e, {Q: (q0, q1), K: (k0, k1)}, drawn.env)
    assert said != "empty" or not box.any()
    assert said != "full" or box.all()
    return said, bool(box.all() or not box.any())


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases(), st.lists(st.tuples(*[st.integers(0, 199)] * 4), min_size=6, max_size=6))
def test_random_boxes_are_sound(drawn: Case, corners: list[Corners]) -> None:
    mask = cells(drawn.mask, drawn.env)
    for box in corners:
        opinion(drawn, mask, box)


@pytest.mark.parametrize("seed", range(3))
def test_most_boxes_are_known(seed: int) -> None:
    pick = Seeded(Random(seed))
    verdicts = []
    for _ in range(150):
        drawn = case(pick)
        mask = cells(drawn.mask, drawn.env)
        for _ in range(6):
            a, b, c, d = (pick.integer(0, 199) for _ in range(4))
            verdicts.append(opinion(drawn, mask, (a, b, c, d)))
    uniform = [said for said, same in verdicts if same]
    known = sum(said != "partial" for said in uniform)
    print(f"{known} of {len(uniform)} boxes whose cells are the same are known")
    assert known >= 0.9 * len(uniform), "sound, but it knows too little"


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
