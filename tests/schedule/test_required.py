"""What a pattern requires of itself is held, or the reason is said at its place."""

from __future__ import annotations

import re

import pytest
import torch

import attncc
from attncc.diagnostics import PatternError
from attncc.pipeline import demanded, meaning, planned
from attncc.source import Source

TEXT = """pattern bound(Q[q,d], K[k,d], V[k,e], w: int, p: int) -> O[q,e]:
    align q to k
    require {demand}
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    {body}
"""
ABOVE = "m[q] = mean(k where k <= q) S[q,k]\n    O[q,e] = sum(k where k <= q) relu(S[q,k] - m[q]) * V[k,e]"


def soft(predicate: str) -> str:
    return f"O[q,e] = sum(k) (softmax(k where {predicate}) S[q,k]) * V[k,e]"


def refused(demand: str, body: str) -> str:
    source = Source("bound.attn", TEXT.format(demand=demand, body=body))
    with pytest.raises(PatternError) as first:
        planned(meaning(source), source)
    with pytest.raises(PatternError) as second:
        demanded(meaning(source), source)
    assert str(first.value) == str(second.value)
    return str(first.value)


def held(demand: str, body: str) -> None:
    source = Source("bound.attn", TEXT.format(demand=demand, body=body))
    demanded(meaning(source), source)
    planned(meaning(source), source)


@pytest.mark.parametrize(
    "predicate",
    ["k <= q", "k < q", "k <= q and q - k < w", "k <= q and (k < p or q - k < w)", "k // 4 < q // 4"],
)
def test_causal(predicate: str) -> None:
    held("causal", soft(predicate))


@pytest.mark.parametrize("predicate", ["k < p or k <= q", "k <= q + w", "abs(q - k) < w", "k // 4 <= q // 4"])
def test_not_causal(predicate: str) -> None:
    said = refused("causal", soft(predicate))
    assert said.startswith("error[not-causal]: not causal: a row of `q` may see later places of `k`")
    assert "bound.attn:3:5" in said and "required here" in said


def test_passes() -> None:
    held("passes(k) <= 1", soft("k <= q"))
    held("passes(k) <= 2", ABOVE)


def test_too_many_passes() -> None:
    said = refused("passes(k) <= 1", ABOVE)
    assert said.startswith("error[too-many-passes]: 2 passes over `k`, where at most 1 may be")
    term = r"relu\(S\[q,k\] - m_sum\[q\] / m_sum2\[q\]\) \* V\[k,e\]"
    reason = rf"`O` waits for `m_sum` and `m_sum2`: {term} does not separate"
    ranks = re.search(
        reason + r" in it \(rank at least (\d+) on 12 samples, (\d+) on 24: still growing\)", said
    )
    assert ranks is not None and 4 < int(ranks[1]) < int(ranks[2]), said
    help = "help: take what depends on `m_sum` out of the reduction, or accept `require passes(k) <= 2`"
    assert help in said


REASONS = {
    "a basis that is not known": (
        "m[q] = mean(k) S[q,k]\n    O[q,e] = sum(k) log(m[q] * m[q] + exp(S[q,k])) * V[k,e]",
        "does not separate in it",
        "take what depends on `m_sum` out of the reduction, or accept",
    ),
    "terms that come too early": (
        "m[q] = mean(k where k < q) S[q,k]\n    O[q,e] = sum(k) (S[q,k] - m[q]) ** 2 * V[k,e]",
        "a term may come before `m_sum` has a value, which runs over other terms",
        "reduce `m_sum` and `O` over the same terms, or accept",
    ),
    "which terms count": (
        "m[q] = mean(k) S[q,k]\n    O[q,e] = max(k where S[q,k] > m[q]) S[q,k] * V[k,e]",
        "`O` waits for `m_sum`: which terms count depends on `m_sum`",
        "take what depends on `m_sum` out of the reduction, or accept",
    ),
    "a product of unknown sign": (
        "m[q] = mean(k) S[q,k]\n    O[q,e] = max(k) S[q,k] * m[q] * V[k,e]",
        "no update of a `max` of S[q,k] * (m_sum[q] / |k|) * V[k,e] is known as that changes",
        "take what depends on `m_sum` out of the reduction, or accept",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_why_a_reduction_waits(name: str) -> None:
    body, reason, help = REASONS[name]
    said = refused("passes(k) <= 1", body)
    assert reason in said and help in said, said


def test_a_call_says_it_too() -> None:
    attend = attncc.compile(TEXT.format(demand="passes(k) <= 1", body=ABOVE))
    with pytest.raises(PatternError, match="too-many-passes"):
        attend(*torch.zeros(3, 3, 4), 1, 1)
