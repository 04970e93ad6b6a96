"""What a pattern can be called with: extents, numbers and tables that fit it and one another."""

from __future__ import annotations

import numpy as np
import pytest

from attncc.calls import (
    BadNumber,
    ascending,
    bounds,
    divisors,
    extents,
    given,
    indices,
    numbered,
    sized,
    subscript,
    table,
)
from attncc.example import said_of, tables
from attncc.ir.cascade import Cascade
from attncc.pipeline import meaning
from attncc.source import Source

TEXT = """
pattern p(
    Q[b,h,q,d],
    K[b,g,k,d],
    V[b,g,k,e],
    gate[b,g,k],
    doc[b,k]: int,
    at[b,n]: int,
    open[h]: bool,
    few[h]: int,
    block: int = 16,
    cap: float = 2.0,
    window: int
) -> O[b,h,q,e]:
    over b, h with g = h // (|h| // |g|)
    align q to k
    along n
    assume sorted doc
    assume gate in [-5, 0]
    assume few in [2, 9]
    S[q,k] = cap * tanh(sum(d) Q[q,d] * K[k,d] / cap) + gate[k]
    seen[q,k] = k <= q and q - k < window and doc[q] == doc[k] and open and q // block - k // block < few
    P[q,k] = softmax(k where seen[q,k]) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e] + sum(n) V[at[n],e]
"""


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return meaning(Source("p", TEXT))


def test_extents_fit_together(cascade: Cascade) -> None:
    found = extents(cascade, lambda i: {"g": 2, "d": 7}.get(i.name, 5), lambda i: 3)
    assert found == {"b": 5, "h": 6, "q": 5, "d": 7, "g": 2, "k": 5, "e": 5, "n": 5}
    assert list(found) == [i.name for i in indices(cascade)]


def test_what_is_said_of_an_argument(cascade: Cascade) -> None:
    assert divisors(cascade) == {"block", "cap"}
    assert bounds(cascade, "gate") == (-5, 0) and bounds(cascade, "doc") is None
    assert ascending(cascade, "doc") and not ascending(cascade, "at")
    index = subscript(cascade, "at")
    assert index is not None and index.name == "k"
    assert subscript(cascade, "doc") is None


def test_powers_are_of_positive_numbers() -> None:
    text = TEXT.replace("+ gate[k]", "+ cap ** (q - k) + 2.0 ** window")
    assert divisors(meaning(Source("p", text))) == {"block", "cap"}


def test_what_says_which_terms_there_are_divides_nothing() -> None:
    text = TEXT.replace("+ gate[k]", "+ 1 / (sum(k where k < window) gate[k])")
    assert divisors(meaning(Source("p", text))) == {"block", "cap"}
    text = TEXT.replace("+ gate[k]", "+ 1 / (sum(k where k < 3) gate[k] * window)")
    assert divisors(meaning(Source("p", text))) == {"block", "cap", "window"}


def test_tables(cascade: Cascade) -> None:
    by_name = {t.name: t for t in cascade.inputs}
    doc = table(cascade, by_name["doc"], (2, 50), (0, 9), 0)
    assert doc.shape == (2, 50) and (np.diff(doc) >= 0).all() and set(np.unique(doc)) <= set(range(10))
    assert len(np.unique(doc)) > 1
    few = table(cascade, by_name["few"], (40,), (0, 99), 0)
    assert set(np.unique(few)) == set(range(2, 10))
    at = table(cascade, by_name["at"], (3, 20), (-1, 5), 1)
    assert at.min() == -1 and at.max() == 5
    assert table(cascade, by_name["open"], (8,), (0, 1), 3).dtype == bool
    assert table(cascade, by_name["doc"], (2, 0), (0, 0), 0).size == 0


def test_example_tables(cascade: Cascade) -> None:
    env = {"|b|": 1, "|h|": 4, "|k|": 100, "|n|": 10, "|q|": 100}
    wanted = [t for t in cascade.inputs if t.kind != "float" and t.indices]
    found = tables(cascade, wanted, env)
    assert said_of(found["doc"]) == "0 from 0, 22 from 22, 50 from 50, 83 from 83"
    assert found["few"].tolist() == [2, 3, 4, 5]
    assert found["open"].tolist() == [True, False, True, False]
    assert (found["at"] < 100).all()


def test_numbers(cascade: Cascade) -> None:
    assert given(cascade, {"window": "-3", "cap": "1e1"}) == {"window": -3, "cap": 10.0}
    assert numbered(cascade, {"window": 5}) == {"block": 16, "cap": 2.0, "window": 5}


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"Q": "3"}, "p has no number `Q`; its numbers: block, cap, window"),
        ({"window": "2.5"}, "`window` is an integer between"),
        ({"window": str(2**31)}, "`window` is an integer between"),
        ({"cap": "much"}, "`cap` is a number, not `much`"),
        ({"cap": "nan"}, "`cap` is a number"),
    ],
)
def test_numbers_that_do_not_fit(cascade: Cascade, said: dict[str, str], wrong: str) -> None:
    with pytest.raises(BadNumber, match=wrong):
        given(cascade, said)


def test_what_is_missing_or_unknown(cascade: Cascade) -> None:
    with pytest.raises(BadNumber, match=r"`window` has no default: say `--set window=\.\.\.`"):
        numbered(cascade, {})
    with pytest.raises(BadNumber, match="p has no index `z`"):
        sized(cascade, {"z": 3})
