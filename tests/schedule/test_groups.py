"""What the kernel of some outputs leaves for the kernels of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import attncc
from attncc.pipeline import meaning, trained
from attncc.source import Source

PATTERNS = Path(__file__).parents[2] / "patterns"


def kernels(name: str, *wrt: str) -> list[tuple[str, list[str]]]:
    """Rows of the kernels of a backward pass, and what they write, in the order they run."""
    plan = trained(meaning(Source.read(PATTERNS / f"{name}.attn")), wrt or None).backward_plan
    return [(k.rows.name, [t.name for t in k.writes]) for k in plan.kernels]


@pytest.mark.parametrize("name", ["causal", "document"])
def test_a_number_at_the_rows_of_another_kernel(name: str) -> None:
    """dQ's kernel has the rows at which dK's walk reads what each weight is measured from."""
    assert kernels(name) == [("q", ["dQ", "dP_log"]), ("k", ["dK", "dV"])]


def test_without_the_other_kernel() -> None:
    assert kernels("causal", "K") == [("q", ["dP_log"]), ("k", ["dK"])]


def test_what_is_read_at_the_heads_of_queries() -> None:
    """dK's kernel has the keys as rows, but turns through the heads of queries where it reads their norms."""
    assert kernels("qk_norm")[0] == ("k", ["Y_sum"])


TEXT = """pattern norms(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,d]) -> O[b,h,q,d]:
    over b, h
    align q to k
    n[k] = sum(d) K[k,d] * K[k,d]
    S[q,k] = sum(d) Q[q,d] * K[k,d] / (1 + n[k])
    O[q,d] = sum(k) (softmax(k where k <= q) S[q,k]) * V[k,d]
"""


def test_two_that_would_wait_for_each_other() -> None:
    """dK's kernel leaves what divides for dQ's, which therefore runs later and leaves nothing for it."""
    plan = trained(meaning(Source("norms.attn", TEXT))).backward_plan
    writes = [[t.name for t in k.writes] for k in plan.kernels]
    assert writes == [["dO_log"], ["dK", "dV", "n", "n_inverse"], ["dQ"]]
    attend = attncc.compile(TEXT)
    given = [torch.randn(1, 2, 5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(attend, given)
