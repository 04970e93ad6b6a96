"""Drawn calls: what fits the pattern, what it assumes, and layouts that only change the strides."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from attncc.ir.cascade import Cascade
from attncc.pipeline import meaning
from attncc.source import Source
from attncc.verify.drawn import FEATURES, LAYOUTS, Case, Space, _laid, cases
from tests.test_calls import TEXT


@cache
def cascade() -> Cascade:
    return meaning(Source("p", TEXT))


def space() -> Space:
    return Space(cascade(), "cpu", {"float32": 129, "bfloat16": 333}, {"block": 8})


@settings(max_examples=100)
@given(cases(space()))
def test_a_call_fits_the_pattern(case: Case) -> None:
    sizes = case.extents
    assert (
        sizes["h"] % sizes["g"] == 0
        and max(sizes[i] for i in "qkn") <= {"float32": 129, "bfloat16": 333}[case.dtype]
    )
    assert {sizes["d"], sizes["e"]} <= set(FEATURES["cpu"])
    assert case.numbers["block"] == 8 and case.numbers["cap"] > 0 and case.numbers["window"] >= 0
    made = case.arguments(cascade(), "cpu")
    assert list(made) == ["Q", "K", "V", "gate", "doc", "at", "open", "few", "block", "cap", "window"]
    assert made["K"].shape == tuple(sizes[i] for i in "bgkd")
    assert made["K"].dtype == made["gate"].dtype == getattr(torch, case.dtype)
    assert (made["doc"].dtype, made["open"].dtype) == (torch.int32, torch.bool)
    assert (made["doc"].diff(dim=-1) >= 0).all()
    assert ((made["gate"] >= -5) & (made["gate"] <= 0)).all()
    assert ((made["few"] >= 2) & (made["few"] <= 9)).all()
    assert ((made["at"] >= -1) & (made["at"] <= max(sizes["k"], 1))).all()


@settings(max_examples=20)
@given(cases(space()))
def test_a_call_can_be_made_again(case: Case) -> None:
    first, again = (case.arguments(cascade(), "cpu") for _ in range(2))
    for x, y in zip(first.values(), again.values(), strict=True):
        assert torch.equal(x, y) and x.stride() == y.stride() if torch.is_tensor(x) else x == y


def test_every_kind_of_length_is_drawn() -> None:
    seen: dict[str, set[Any]] = {"unequal": set(), "none": set(), "layouts": set(), "groups": set()}

    @settings(max_examples=200)
    @given(cases(space()))
    def look(case: Case) -> None:
        seen["unequal"].add(case.extents["q"] != case.extents["k"])
        seen["none"].add(case.extents["k"] == 0)
        seen["groups"].add(case.extents["h"] // case.extents["g"])
        seen["layouts"] |= {made.layout for made in case.made.values()}

    look()
    assert seen == {
        "unequal": {True, False},
        "none": {True, False},
        "layouts": set(LAYOUTS),
        "groups": {1, 2, 3},
    }


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (3,), (2, 0, 4), (0, 3)], ids=str)
def test_layouts(layout: str, shape: tuple[int, ...]) -> None:
    x = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    laid = _laid(x, layout)
    assert laid.shape == x.shape
    if layout == "one for all":
        assert all(torch.equal(part, x[0]) for part in laid)
    else:
        assert torch.equal(laid, x)
    if x.dim() > 2 and x.numel():
        assert laid.is_contiguous() == (layout == "contiguous")
