"""`verify` finds what is wrong, says where, and shrinks it; and says nothing against what is right."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from attncc import verify as module
from attncc.attention import Attention
from attncc.source import Source
from attncc.verify import Missing, verify
from attncc.verify.gradients import Trained
from tests.test_pipeline import NAMES, REFUSED

PATTERNS = Path(__file__).parents[2] / "patterns"
TWO = """
pattern two(Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], window: int = 30) -> lse[b,h,q], O[b,q,h,e]:
    over b, h with g = h // (|h| // |g|)
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P[q,k] = softmax(k where k <= q and q - k < window) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
    lse[q] = logsumexp(k where k <= q and q - k < window) S[q,k]
"""
SINGLE = ("float32",)


pytestmark = pytest.mark.usefixtures("one_thread")


def source(name: str) -> Source:
    return Source.read(PATTERNS / f"{name}.attn")


Damage = Callable[[Any, dict[str, Any]], Any]


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> Callable[[Damage], None]:
    """Has every kernel's result changed by a function of it and of the arguments."""

    def install(damage: Damage) -> None:
        class Damaged(Attention):
            def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
                out = super().__call__(*args, **kwargs)
                return out if self.backend == "reference" else damage(out, kwargs)

        monkeypatch.setattr(module, "Attention", Damaged)

    return install


def test_a_right_kernel() -> None:
    kinds = ("float16", "bfloat16", "float32", "float64")
    report = verify(source("streaming"), "cpu", kinds, examples=60, seed=3)
    assert report.right and report.tried == 60 and report.failure is None
    assert report.values["dtype"] == set(kinds)
    lengths = report.values["q"] | report.values["k"]
    assert {0, 1} <= lengths <= set(range(334)) and len(lengths) > 7
    assert len(report.values["window"]) > 3 and len(report.values["layout"]) == 5
    assert report.worst is not None and 0 < report.worst.ratio <= 1
    assert report.rows > 1000
    data = json.loads(json.dumps(report.data()))
    assert data["right"] and data["worst"]["ratio"] == report.worst.ratio
    assert report.text().endswith("\nright")


def test_the_same_seed_is_the_same_run() -> None:
    first, again = (verify(source("window"), "cpu", SINGLE, 10, seed=5).data() for _ in range(2))
    assert first == again
    assert first != verify(source("window"), "cpu", SINGLE, 10, seed=6).data()


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in NAMES if n not in REFUSED])
def test_every_pattern(name: str) -> None:
    report = verify(source(name), "cpu", ("float16", "bfloat16", "float32"), examples=40)
    assert report.right, report.text()


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_every_output_in_its_own_order(kind: str) -> None:
    report = verify(Source("two", TWO), "cpu", (kind,), 30)
    assert report.right, report.text()
    assert report.outputs == ("lse", "O")
    assert report.graded > 10 and set(report.worst_of) == {"dQ", "dK", "dV"}


def test_further_outputs() -> None:
    asked = verify(source("window"), "cpu", SINGLE, 10, outputs=("lse", "O"))
    assert asked.right and asked.outputs == ("lse", "O")


def zeroed(out: Tensor, given: dict[str, Any]) -> Tensor:
    """One row of many is zero."""
    if out.shape[2] > 100:
        out = out.clone()
        out[0, 0, 70] = 0
    return out


def test_one_zeroed_row_is_found_and_shrunk(damaged: Callable[[Damage], None]) -> None:
    damaged(zeroed)
    report = verify(source("dense"), "cpu", SINGLE, 60)
    assert not report.right and report.failure is not None
    said, case = report.failure.said, report.failure.case
    assert said.startswith("O at b = 0, h = 0, q = 70: ")
    # the smallest length above 100, as equal lengths are the simplest, and the smallest of everything else
    assert case.extents["q"] == case.extents["k"] == 127
    assert (case.extents["b"], case.extents["h"]) == (1, 1)
    assert {made.layout for made in case.made.values()} == {"contiguous"}
    text = report.text()
    assert "WRONG: O at b = 0, h = 0, q = 70" in text and "smallest call that fails: float32, |b| = 1" in text
    assert json.loads(json.dumps(report.data()))["failure"]["case"]["extents"]["q"] == 127


def test_a_wrong_second_output(damaged: Callable[[Damage], None]) -> None:
    damaged(lambda out, _: (out[0] + 1e-3, out[1]))
    report = verify(Source("two", TWO), "cpu", SINGLE, 20)
    assert report.failure is not None and report.failure.said.startswith("lse at b = 0, h = 0, q = 0")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda out, _: out.new_empty(out.shape), "inf of its bound"),
        (lambda out, _: out[:, :, :-1], r"O is \(1, 1, 0, 4\), not \(1, 1, 1, 4\)"),
        (lambda out, given: out if given["window"] < 40 else 1 / 0, "the kernel raised ZeroDivisionError"),
        (lambda out, given: -out if not given["V"].is_contiguous() else out, "of its bound"),
    ],
    ids=["unwritten", "another shape", "raises", "strides"],
)
def test_whatever_is_wrong(damaged: Callable[[Damage], None], damage: Damage, said: str) -> None:
    damaged(damage)
    report = verify(source("window"), "cpu", SINGLE, 60)
    assert report.failure is not None
    assert re.search(said, report.failure.said), report.failure.said


def test_edges_one_off_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of `q - k <= window` under the name of `q - k < window`."""
    wrong = Source.read(PATTERNS / "window.attn").text.replace("q - k < window", "q - k <= window")

    class Off(Attention):
        def __init__(self, source: Source, backend: str | None = None):
            super().__init__(source if backend else Source("window", wrong), backend)

    monkeypatch.setattr(module, "Attention", Off)
    report = verify(source("window"), "cpu", ("bfloat16",), 60)
    assert report.failure is not None
    assert report.failure.case.numbers["window"] < max(report.failure.case.extents.values())


def test_gradients_are_compared() -> None:
    report = verify(source("sink"), "cpu", ("bfloat16",), 12, seed=2)
    assert report.right and 6 < report.graded + report.unsteady <= report.tried
    assert set(report.worst_of) == {"dQ", "dK", "dV", "dsink"}
    assert all(0 < ratio <= 1 for ratio in report.worst_of.values())
    text = report.text()
    assert (
        f"gradients of {report.graded} calls" in text and f"  dsink: {report.worst_of['dsink']:.2f}" in text
    )
    data = json.loads(json.dumps(report.data()))["gradients"]
    assert data["worst"] == report.worst_of and data["calls"] == report.graded


def off_in_one_key(found: Tensor) -> Tensor:
    """The gradient of one key of many is zero."""
    if found.shape[2] > 100:
        found = found.clone()
        found[0, 0, 90] = 0
    return found


def test_a_wrong_gradient_is_found_and_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Off(Trained):
        def __call__(self, given: Any) -> tuple[Tensor, ...]:
            key = given["K"] * 1
            if key.requires_grad:
                key.register_hook(off_in_one_key)
            return super().__call__({**given, "K": key})

    monkeypatch.setattr(module, "Trained", Off)
    report = verify(source("dense"), "cpu", ("bfloat16",), 40)
    assert report.failure is not None and report.failure.said.startswith("dK at b = 0, g = 0, k = 90: ")
    extents = report.failure.case.extents
    assert extents["k"] == 127 and (extents["b"], extents["h"], extents["g"]) == (1, 1, 1)


SCAN = """pattern scan(Q[b,q,d], K[b,k,d], V[b,k,e], g[b,k]) -> O[b,q,e]:
    over b
    align q to k
    align j to k
    c[k] = sum(j where j <= k) g[j]
    S[q,k] = sum(d) Q[q,d] * K[k,d] + c[k]
    P[q,k] = softmax(k where k <= q) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
"""


def test_a_pattern_without_gradients_says_so() -> None:
    report = verify(Source("scan.attn", SCAN), "cpu", ("bfloat16",), 4)
    assert report.right and report.ungraded is not None and report.graded == 0
    assert "no gradients: no kernel plan" in report.text()
    assert "no kernel plan" in json.loads(json.dumps(report.data()))["gradients"]["refused"][0]


def test_a_kernel_that_is_wrong_only_once(damaged: Callable[[Damage], None]) -> None:
    calls = iter(range(1000))
    damaged(lambda out, _: out + 1 if next(calls) == 12 else out)
    report = verify(source("dense"), "cpu", SINGLE, 40)
    assert report.failure is not None and "was right at another time" in report.failure.said


def test_given_numbers_are_not_drawn() -> None:
    report = verify(source("window"), "cpu", SINGLE, 10, numbers={"window": 3})
    assert report.values["window"] == {3}


OVERFLOW = """
pattern over(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e]:
    over b, h
    along q, k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    O[q,e] = {more} + sum(k) exp(40 * S[q,k]) * V[k,e]
"""


def test_what_says_nothing_is_set_aside_and_never_right() -> None:
    most = verify(Source("over", OVERFLOW.format(more="Q[q,0]")), "cpu", ("float16",), 20)
    assert most.unbounded > 0 and most.right
    none = verify(Source("over", OVERFLOW.format(more="sqrt(-1 - Q[q,0] * Q[q,0])")), "cpu", ("float16",), 5)
    assert none.rows == 0 and not none.right and none.failure is None
    assert "NOTHING TRIED" in none.text()


def test_calls_without_a_meaning_are_set_aside() -> None:
    """A number of pairs of features that is 0 divides."""
    text = OVERFLOW.format(more="Q[q, e % (|d| // 2)]").replace("40 * ", "")
    report = verify(Source("over", text), "cpu", SINGLE, 30)
    assert report.right and report.meaningless > 0 and "ZeroDivisionError" in report.text()


def test_a_pattern_without_a_kernel_names_the_rule_and_is_certified() -> None:
    report = verify(source("moba"), "cpu", SINGLE, 5)
    assert report.refused is not None and "no kernel plan for a selection over `n`" in str(report.refused)
    assert not report.right and report.failure is None and report.tried == 0
    assert [(c.index, c.tried) for c in report.certificates] == [("i", 5), ("k", 5)]
    data = json.loads(json.dumps(report.data()))
    assert data["refused"] == [d.message for d in report.refused.diagnostics]
    assert report.text().endswith("\nmoba: no kernel to try")


def test_without_hypothesis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(Missing):
        verify(source("dense"), "cpu", SINGLE)


def test_poison_is_taken_away() -> None:
    with module.poisoned():
        assert torch.empty(3).isnan().all() and torch.ones(2).new_empty(3).isnan().all()
        assert (torch.empty(2, dtype=torch.int32) == 2**31 - 1).all()
        assert torch.empty_like(torch.ones(2, dtype=torch.bool)).all()
    before = torch.empty
    assert before is torch.empty and not hasattr(before, "__wrapped__")
