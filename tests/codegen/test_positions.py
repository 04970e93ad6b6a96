"""Predicates with divisors, numbers and tables that are easily taken for something simpler."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attncc

TEXT = """pattern p(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e], {more}) -> O[b,h,q,e]:
    over b, h
    align q to k
    {said}
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    P[q,k] = softmax(k where {where}) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
"""
COUNT = "along s\n    assume sorted cu\n    own[k] = sum(s where cu[s] < {limit}) 1"


def worst(where: str, more: str, said: str = "", **given: Any) -> float:
    """How far the kernel is from the reference."""
    torch.manual_seed(0)
    text = TEXT.format(where=where, more=more, said=said)
    made, plain = (attncc.compile(text, backend=backend) for backend in ("torch", "reference"))
    q, k, v = (torch.randn(1, 2, 400, 8, dtype=torch.float64) for _ in range(3))
    return float((made(q, k, v, **given) - plain(q, k, v, **given)).abs().max())


@pytest.mark.parametrize(("more", "limit"), [("cu[s]", "k"), ("cu[s]: int", "k / 2")])
def test_counts_below_a_real_number(more: str, limit: str) -> None:
    """`cu < k` is `cu <= k - 1` of integers only: of others there is no search."""
    starts = torch.tensor([0, 11, 150, 300])
    with pytest.raises(attncc.PatternError, match="plan-earlier-kernel"):
        worst("k <= q and own[k] == own[q]", more, COUNT.format(limit=limit), cu=starts)


def test_a_count_beside_a_real_number() -> None:
    said = COUNT.format(limit="k + 1")
    for op in ("<", "<=", "==", ">="):
        where = f"k <= q and own[k] {op} q / 9"
        assert worst(where, "cu[s]: int", said, cu=torch.tensor([0, 11, 75, 151])) < 1e-12


@pytest.mark.parametrize("divisor", ["(a * c)", "min(a, c)"])
def test_divisors_made_of_numbers_are_checked(divisor: str) -> None:
    where, more = f"k // {divisor} <= q // {divisor}", "a: int, c: int"
    assert worst(where, more, a=5, c=10) < 1e-12
    with pytest.raises(ValueError, match="divides positions and must be positive, not -50"):
        worst(where, more, a=-5 if "*" in divisor else -50, c=10)


def test_divisors_that_are_no_numbers_of_the_call_are_tested() -> None:
    assert worst("k // B <= q // B", "B[h]: int", B=torch.tensor([-30, 40])) < 1e-12
    divisor = "(if z then a else c)"
    assert worst(f"k // {divisor} <= q // {divisor}", "z: bool, a: int, c: int", z=True, a=-50, c=7) < 1e-12


def test_what_is_not_less_may_be_no_number() -> None:
    assert worst("k <= q and not (f < 3.0)", "f: float", f=float("nan")) < 1e-12
    assert worst("k <= q and not (f < 3.0)", "f: float", f=5.0) < 1e-12
