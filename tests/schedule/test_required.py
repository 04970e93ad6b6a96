"""What a pattern requires of itself is held, or the reason is said at its place."""

from __future__ import annotations

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
    assert (
        "`O` waits for `m_sum`: relu(S[q,k] - m_sum[q] / m_sum2[q]) * V[k,e] does not separate in it" in said
    )
    assert "accept `require passes(k) <= 2`" in said


def test_a_call_says_it_too() -> None:
    attend = attncc.compile(TEXT.format(demand="passes(k) <= 1", body=ABOVE))
    with pytest.raises(PatternError, match="too-many-passes"):
        attend(*torch.zeros(3, 3, 4), 1, 1)
