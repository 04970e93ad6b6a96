"""Parts of an index merged in any order and tree give what all of it gives at once, or it is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncc.ir.cascade import (
    ONE,
    ZERO,
    Cascade,
    Equation,
    Expr,
    Index,
    Read,
    children,
    number,
    rebuild,
)
from attncc.ir.logic import times
from attncc.passes import operator
from attncc.passes.analyse import Passes
from attncc.passes.online import Updater
from attncc.passes.operator import Operator, State, operators
from attncc.pipeline import meaning, streamed
from attncc.source import Source
from attncc.verify import certificate as module
from attncc.verify import verify
from attncc.verify.certificate import LENGTHS, NEAR, VALUES, Certifier, certify
from attncc.verify.drawn import Space, cases
from attncc.verify.parts import Split, splits
from attncc.verify.report import Wrong
from attncc.verify.sizes import off
from tests.passes.meanings import meant
from tests.strategies import Drawn, patterns
from tests.test_pipeline import NAMES
from tests.verify.test_verify import source

STATELESS = {"gla"}
"""A recurrence over the keys: no reduction of it runs over a sequence."""

GROWING = {"gated_delta"}
"""Its recurrence corrects each value by all before it; keys drawn are long, and what rounding does grows."""

NUMBERS = {"halonet_padded": {"block": 4, "around": 2}}
"""Its border is summed outside of the operator: as few terms as leave nothing to rounding."""


def cascade(name: str) -> Cascade:
    return meaning(source(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_pattern(name: str) -> None:
    found = certify(cascade(name), examples=5, seed=1, numbers=NUMBERS.get(name))
    assert bool(found) == (name not in STATELESS)
    for certificate in found:
        assert certificate.tried == 5
        assert {*certificate.states} <= certificate.errors.keys()
        outputs = {name for name in certificate.errors if name not in certificate.states}
        exact = certificate.errors.keys() - (outputs if name in GROWING else ())
        assert max(certificate.errors[t] for t in exact) <= 1e-14
        assert certificate.worst <= NEAR


@settings(max_examples=60)
@given(patterns(), st.data())
def test_random_patterns(drawn: Drawn, data: st.DataObject) -> None:
    cascade = meant(drawn.text)
    certifier = Certifier(cascade)
    space = Space(cascade, "cpu", {"float64": 9}, {}, LENGTHS, VALUES, ("contiguous",))
    try:
        call = certifier.call(data.draw(cases(space)))
    except ValueError:
        return
    certifier(call, lambda length: data.draw(splits(length)))


# What is drawn


def test_every_way_to_split_is_drawn() -> None:
    seen: dict[str, set[Any]] = {
        "parts": set(),
        "empty": set(),
        "tiles": set(),
        "apart": set(),
        "first": set(),
    }

    @settings(max_examples=200)
    @given(splits(6))
    def look(split: Split) -> None:
        assert sorted(at for part in split.parts for tile in part for at in tile) == list(range(6))
        assert len(split.merges) == len(split.parts) - 1
        seen["parts"].add(len(split.parts))
        seen["empty"].add(any(not any(part) for part in split.parts))
        seen["tiles"] |= {len(part) for part in split.parts}
        tiles = [tile for part in split.parts for tile in part if len(tile) > 1]
        seen["apart"].add(any(tile[-1] - tile[0] >= len(tile) for tile in tiles))
        seen["first"] |= set(split.merges[:1])

    look()
    assert seen["parts"] == {1, 2, 3, 4} and seen["tiles"] == {1, 2}
    assert seen["empty"] == seen["apart"] == {True, False} and len(seen["first"]) > 6


def test_calls_have_any_length_and_large_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths, tops = set(), []
    inner = Certifier.call

    def call(self: Certifier, case: Any) -> Any:
        made = inner(self, case)
        lengths.add(case.extents["k"])
        tops.append(np.max(np.abs(made.whole["S"]), initial=0))
        return made

    monkeypatch.setattr(Certifier, "call", call)
    certify(cascade("causal"), examples=40)
    assert lengths <= set(range(25)) and len(lengths) > 8
    assert max(tops) > 500 and sorted(tops)[len(tops) // 2] < 100


NAIVE = """
pattern naive(s[q,k], v[k,e]{more}) -> O[q,e]:
    along q, k
    O[q,e] = (sum(k) exp({scale} * s[q,k]) * v[k,e]) / (sum(k) exp({scale} * s[q,k]))
"""


def test_where_the_dense_meaning_overflows_the_stabilised_one_stands() -> None:
    """All of its exponentials are 0 or infinite, and the quotient of their sums is nothing of the kind."""
    for scale in ("100", "-100"):
        (found,) = certify(meaning(Source("naive", NAIVE.format(more="", scale=scale))), 20)
        assert found.tried == 20 and found.worst < 1e-14


def test_a_state_of_no_index() -> None:
    text = NAIVE.replace("    O[q,e] = (", "    z = sum(k) exp(2 * v[k,0])\n    O[q,e] = log(z) * (")
    found = certify(meaning(Source("naive", text.format(more="", scale=1))), 10)
    assert [c.tried for c in found] == [10] and "z_total" in found[0].states


def test_what_is_off() -> None:
    one, inf = np.array([1.0, np.inf]), np.array([1.0, 2.0])
    assert off(one, one, np.ones(2)) == 0
    assert off(inf, one, np.ones(2)) == off(one, inf, np.ones(2)) == off(one * np.nan, inf, inf) == np.inf
    assert off(np.array([1.0, 2.5]), inf, np.array([1.0, 50.0])) == 0.01
    assert off(np.array([0.5]), np.zeros(1), np.zeros(1)) == np.inf
    assert (off(np.array([3]), np.array([3]), inf), off(np.array([3]), np.array([4]), inf)) == (0, np.inf)


# What is wrong is found

Damage = Callable[[Updater], Updater]


@pytest.fixture
def updated(monkeypatch: pytest.MonkeyPatch) -> Callable[[Damage], None]:
    """Has every state follow others in another way than is derived."""
    inner = operator.passes_over

    def install(damage: Damage) -> None:
        def passes_over(cascade: Cascade, index: Index) -> tuple[Passes, dict[str, Updater]]:
            passes, found = inner(cascade, index)
            return passes, {name: damage(updater) for name, updater in found.items()}

        monkeypatch.setattr(operator, "passes_over", passes_over)

    return install


def wrong(name: str) -> Wrong:
    with pytest.raises(Wrong) as raised:
        certify(cascade(name), 20)
    return raised.value


def twice(updater: Updater) -> Updater:
    return replace(updater, companions=tuple((t, times(number(2.0), w)) for t, w in updater.companions))


def uncorrected(updater: Updater) -> Updater:
    return replace(updater, correction=ONE, shift=ZERO)


@pytest.mark.parametrize(
    ("name", "damage", "state"),
    [
        ("dense", uncorrected, "P_total"),
        ("entropy", twice, "entropy_total"),
        ("nap", twice, "Z_sum3_companion"),
    ],
)
def test_a_wrong_updater_is_found(
    name: str, damage: Damage, state: str, updated: Callable[[Damage], None]
) -> None:
    updated(damage)
    found = wrong(name)
    assert found.said.startswith(f"{state} of the parts (") and " of k is " in found.said
    # two keys are apart, and one of each is enough of everything else
    assert found.case.extents["k"] == 2
    assert {found.case.extents[i] for i in ("b", "h", "g")} == {1}


@pytest.mark.parametrize(("name", "state"), [("sigmoid", "O"), ("softmax1", "O_total")])
def test_a_term_in_init_is_found(name: str, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a sink of exponent 0 would be: once for every part."""

    def init(self: Operator) -> tuple[Equation, ...]:
        bodies = (ONE if s.reduce.op == "sum" else ZERO for s in self.states)
        return tuple(replace(s.equation, body=e) for s, e in zip(self.states, bodies, strict=True))

    monkeypatch.setattr(Operator, "init", property(init))
    found = wrong(name)
    assert found.said.startswith(f"{state} of the parts (0) of k is ")
    assert found.case.extents["k"] == 1


def test_states_joined_wrongly_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = State.joined
    monkeypatch.setattr(State, "joined", lambda s, a, b: a if s.reduce.op == "max" else inner(s, a, b))
    assert wrong("causal").said.startswith("P_max of the parts ")


def test_a_stabiliser_that_is_left_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense meaning, which has one, is finite where what runs is not."""

    def raw(e: Expr) -> Expr:
        match e:
            case Read(tensor) if tensor.name == "P_max":
                return number(0.0)
        return rebuild(e, tuple(map(raw, children(e))))

    def unstable(cascade: Cascade) -> Cascade:
        run = streamed(cascade)
        bodies = ((e, e.body if e.tensor.name == "P_max" else raw(e.body)) for e in run.equations)
        return replace(run, equations=tuple(replace(e, body=body) for e, body in bodies))

    monkeypatch.setattr(module, "streamed", unstable)
    assert wrong("dense").said.startswith("O of the parts ")


def test_verify_says_what_is_certified() -> None:
    report = verify(source("sigmoid"), "cpu", ("float32",), 5)
    assert report.right and [c.tried for c in report.certificates] == [5]
    (data,) = json.loads(json.dumps(report.data()))["certificates"]
    assert list(data) == ["index", "states", "tried", "worst", "errors"]
    assert (data["index"], data["states"]) == ("k", ["O"])
    assert 0 < data["worst"] == max(data["errors"].values()) <= 1e-14
    assert "\n  O over k: 5 calls, " in report.text() and report.text().endswith("\nright")


def test_verify_says_what_is_wrong(updated: Callable[[Damage], None]) -> None:
    updated(uncorrected)
    report = verify(source("positional"), "cpu", ("float32",), 30)
    assert not report.right and report.failure is not None and report.tried == 0
    assert "\nWRONG: P_total of the parts (" in report.text()
    assert "\n  smallest call that fails: float64, |h| = 1, |q| = 1, |d| = 4, |k| = 2" in report.text()
    assert json.loads(json.dumps(report.data()))["failure"]["case"]["extents"]["k"] == 2


def test_the_same_seed_is_the_same_certificate() -> None:
    first, again = (certify(cascade("entropy"), 6, seed=3) for _ in range(2))
    assert first == again != certify(cascade("entropy"), 6, seed=4)


def test_it_is_about_operators() -> None:
    """Every state that a pattern has is in a certificate."""
    for name in ("moba", "lssar", "streaming"):
        states = [tuple(s.tensor.name for s in o.states) for o in operators(streamed(cascade(name)))]
        assert [c.states for c in certify(cascade(name), 1)] == states and all(states)
