"""Uneven work: programs run most work first, each once, and compute what they would in any order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attncc.pipeline import meaning, streamed
from attncc.schedule.plan import partition
from attncc.source import Source
from tests.codegen.test_listed import lines

UNEVEN = ("document", "packed", "padded", "ragged", "per_head_window", "duo", "clusters", "tree")
EVEN = (
    "dense",
    "causal",
    "window",
    "streaming",
    "block_causal",
    "s2",
    "alibi",
    "neighborhood2d",
    "sparse_fixed",
)

TEXT = """pattern p(Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], n[h]: int, m[b,q]: int, w: int) -> O[b,h,q,e]:
    over b, h with g = h // (|h| // |g|)
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    P[q,k] = softmax(k where {}) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
"""

PREDICATES = {
    "k <= q": False,
    "k <= q and q - k < w": False,
    "k <= q + 2 * h": True,
    "k <= q and (h < w or q - k < 100)": True,
    "k < n": True,
    "k < m[q]": True,
    "k % 7 == n and k <= q": True,  # no key where n is no remainder
    "(k + h) % 7 == 0 and k <= q": False,
}


def uneven(text: str, name: str = "p") -> bool:
    plan = partition(streamed(meaning(Source(name, text))))
    return any(kernel.uneven for kernel in plan.kernels)


@pytest.mark.parametrize("name", [*UNEVEN, *EVEN])
def test_which_patterns_are_uneven(name: str, root: Path) -> None:
    assert uneven((root / "patterns" / f"{name}.attn").read_text("utf-8"), name) is (name in UNEVEN)


@pytest.mark.parametrize("where", PREDICATES)
def test_which_predicates_are_uneven(where: str) -> None:
    """Those whose ends, or whether there are any, follow a table or a head."""
    assert uneven(TEXT.format(where)) is PREDICATES[where]


@pytest.mark.parametrize("name", UNEVEN)
def test_an_order_compiles_nothing(name: str, root: Path) -> None:
    """How long it is, and of how many places, are numbers that Triton does not look at."""
    text = (root / "tests" / "golden" / f"{name}.cuda.py").read_text("utf-8")
    head, _, body = text.partition(f"def {name}_kernel(")
    loose = head.rpartition("@triton.jit(")[2]
    passed = {argument for argument in ("ordered", "beside") if f" {argument}," in body.partition("):")[0]}
    assert "ordered" in passed
    assert {argument for argument in passed if f'"{argument}"' in loose} == passed
    kinds = re.findall(r"(?:order|\w+_work) = \w+\.new_empty\(.*, dtype=torch\.(\w+)\)", text)
    assert kinds == ["int32"] * 2  # none, and one like the counts: the kernel is one


def test_orders(root: Path) -> None:
    found = lines("orders", "", root)
    assert len(found) == 19
    wrong = [line for line in found if line[:3] != ["True"] * 3]
    assert not wrong, "\n".join(map(str, wrong))
    # several places beside one another, all of them, a rest of them, and one alone
    assert {line[4] for line in found} >= {"1", "2", "3", "5"}
