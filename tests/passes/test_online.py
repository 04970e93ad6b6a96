"""Updaters: where a reduction can follow another, and states that merge however the keys are split."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncc.ir.cascade import ZERO, Cascade, Reduce, Tensor
from attncc.ir.evaluate import Results, evaluate
from attncc.ir.show import show_expr
from attncc.passes.analyse import Edge
from attncc.passes.companions import accompany
from attncc.passes.online import passes_over, updaters
from attncc.pipeline import planned
from attncc.source import Source
from tests.passes.meanings import meant, passed
from tests.passes.merging import merged

HEADER = "pattern p(s[q,k], v[k], c[q,k]: bool) -> {}:\n    along q, k\n"


def corrections(cascade: Cascade) -> dict[str, str]:
    """What a state is multiplied by, or what is added to it."""
    found = updaters(cascade)
    return {name: show_expr(u.correction if u.shift == ZERO else u.shift) for name, u in found.items()}


def passes(cascade: Cascade) -> int:
    """Walks over k, with what can be corrected corrected."""
    k = next(i for t in cascade.inputs for i in t.indices if i.name == "k")
    return passes_over(cascade, k)[0].count


# What is derived


@pytest.mark.parametrize(
    ("said", "correction"),
    [
        ("sum(k) exp(s[q,k] - m[q]) * v[k] / l[q]", "l_old[q] / l[q] * exp(m_old[q] - m[q])"),
        ("max(k) (s[q,k] - m[q])", "m_old[q] - m[q]"),
        ("min(k) s[q,k] * v[k] * z[q] / (1 + l[q])", "z[q] * (1 + l_old[q]) / ((1 + l[q]) * z_old[q])"),
        ("max(k) exp(s[q,k] - m[q]) * v[k]", "exp(m_old[q] - m[q])"),
        # nothing proves that these factors are positive: the greatest term may become the least, or l is 0
        ("max(k) s[q,k] / (v[0] * l[q])", None),
        ("max(k) s[q,k] / l[q]", None),
        # of these none: they do not separate, or not by one factor
        ("sum(k) (s[q,k] - m[q]) * (s[q,k] - m[q])", None),
        ("sum(k) exp(s[q,k] - m[q]) * (s[q,k] - m[q])", None),
        ("sum(k) cos(s[q,k] - m[q])", None),
        ("sum(k) sigmoid(s[q,k] - m[q])", None),
        ("sum(k) relu(s[q,k] - m[q])", None),
        ("sum(k) (if s[q,k] >= m[q] then exp(s[q,k]) else 0)", None),
        ("max(k) s[q,k] * m[q]", None),
    ],
)
def test_derived(said: str, correction: str | None) -> None:
    """As it is printed; what the tables of the theory say is in `test_tables.py`."""
    text = (
        HEADER.format("y[q]")
        + "    m[q] = max(k) s[q,k]\n    l[q] = sum(k) s[q,k] * s[q,k]\n    z[q] = sum(k) exp(s[q,k])\n"
        + f"    y[q] = {said}\n"
    )
    assert corrections(meant(text)).get("y") == correction


@pytest.mark.parametrize(
    ("said", "companions"),
    [
        (
            "sum(k) exp(s[q,k] - m[q]) * (s[q,k] - m[q])",
            {
                "exp(s[q,k] - finite(m[q]))": "(finite(m_old[q]) - finite(m[q])) "
                "* exp(m_old[q] - finite(m[q]))"
            },
        ),
        ("sum(k) (s[q,k] - l[q]) * (s[q,k] - l[q])", {"l[q] - s[q,k]": "", "1": ""}),
        (
            "sum(k) (s[q,k] - l[q]) * (s[q,k] - l[q]) * (s[q,k] - l[q])",
            {"": "", "l[q] - s[q,k]": "", "1": ""},
        ),
        # of these none: their rank grows with the number of samples (theory §A.5)
        ("sum(k) sigmoid(s[q,k] - m[q])", {}),
        ("sum(k) relu(s[q,k] - m[q])", {}),
        ("sum(k) (if s[q,k] >= m[q] then exp(s[q,k]) else 0)", {}),
        ("sum(k) cos(s[q,k] - l[q])", {"sin(l[q] - s[q,k])": "-sin(l[q] - l_old[q])"}),
        # this one would need two exponentials, one of which grows
        ("sum(k) (exp(s[q,k] - l[q]) + exp(l[q] - s[q,k]))", {}),
    ],
)
def test_companions(said: str, companions: dict[str, str]) -> None:
    text = (
        HEADER.format("y[q]")
        + f"    m[q] = max(k) s[q,k]\n    l[q] = sum(k) s[q,k] * s[q,k]\n    y[q] = {said}\n"
    )
    cascade = accompany(meant(text))
    updater = updaters(cascade).get("y")
    assert (updater is None) == (not companions)
    found = {} if updater is None else {_body(cascade, t): show_expr(w) for t, w in updater.companions}
    assert len(found) == len(companions)
    for body, weight in companions.items():
        assert body in ("", *found)
        assert weight in ("", found.get(body))


def _body(cascade: Cascade, tensor: Tensor) -> str:
    body = cascade.equation(tensor.name).body
    assert isinstance(body, Reduce)
    return show_expr(body.body)


def test_a_term_must_not_come_before_what_it_follows() -> None:
    """Where a key counts that the maximum does not run over, there may be no maximum yet (theory §0.2)."""
    said = (
        HEADER.format("y[q]")
        + "    m[q] = max(k where c[q,k]) s[q,k]\n    y[q] = sum(k where {}) exp(s[q,k] - m[q])\n"
    )
    assert corrections(meant(said.format("c[q,k] and k < 5"))) == {"y": "exp(m_old[q] - m[q])"}
    assert corrections(meant(said.format("k < 5"))) == {}


ABOVE = "    O[q] = (sum(k where c[q,k]) {w} * v[k]) / sum(k where c[q,k]) {w}\n"


def test_a_maximum_more_or_less() -> None:
    careful = "    m[q] = max(k where c[q,k]) s[q,k]\n" + ABOVE.format(w="exp(s[q,k] - m[q])")
    plain = ABOVE.format(w="exp(s[q,k])")
    found = [corrections(passed(meant(HEADER.format("O[q]") + said))) for said in (careful, plain)]
    assert [sorted(f.values()) for f in found] == [
        ["exp(m_old[q] - finite(m[q]))"] * 2,
        ["exp(s_max_old[q] - finite(s_max[q]))"] * 2,
    ]
    assert found[0].keys() == found[1].keys()


@pytest.mark.parametrize(
    "weight",
    [
        "exp(s[q,k])",
        "2 ** s[q,k]",
        "relu(s[q,k])",
        "sigmoid(s[q,k])",
        "exp(s[q,k]) + exp(-s[q,k])",
        "(1 + s[q,k] * s[q,k])",
    ],
)
def test_weights_over_their_sum_take_one_pass(weight: str) -> None:
    text = HEADER.format("O[q]") + f"    w[q,k] = {weight}\n" + ABOVE.format(w="w[q,k]")
    cascade = passed(meant(text))
    assert passes(cascade) == 1
    (kernel,) = planned(meant(text), Source("test.attn", text)).kernels
    assert [loop.index.name for loop in kernel.loops] == ["k"]


@pytest.mark.parametrize(
    "term",
    [
        "relu(s[q,k]) / l[q] * v[k]",
        "exp((s[q,k] - m[q]) * 0.5) * v[k]",
        "(exp(s[q,k] - m[q]) + exp(v[k] - m[q])) * v[k]",
        "(s[q,k] * m[q] + s[q,k] * m[q] * m[q]) * v[k]",
        "(s[q,k] / l[q] - v[k] / l[q])",
        "(if k < 3 then P[q,k] else P[q,k] * v[k])",
    ],
)
def test_what_waits_leaves_the_sum(term: str) -> None:
    text = HEADER.format("O[q]") + (
        "    m[q] = max(k) s[q,k]\n    l[q] = sum(k) relu(s[q,k])\n    P[q,k] = softmax(k) s[q,k]\n"
        f"    O[q] = sum(k) {term}\n"
    )
    assert passes(passed(meant(text))) == 1


@pytest.mark.parametrize(
    ("of", "term", "read"),
    [
        ("sum(k where c[q,k]) 1", "sigmoid(s[q,k] - log(r[q])) * v[k]", "r"),
        ("mean(k) s[q,k]", "relu(s[q,k] - r[q]) * v[k]", "r_sum"),
        ("max(k) s[q,k]", "(if s[q,k] >= r[q] - 1 then v[k] else 0)", "r"),
    ],
)
def test_two_passes_with_the_edge(of: str, term: str, read: str) -> None:
    text = HEADER.format("O[q]") + f"    r[q] = {of}\n    O[q] = sum(k where c[q,k]) {term}\n"
    cascade = passed(meant(text))
    k = next(i for t in cascade.inputs for i in t.indices if i.name == "k")
    found, _ = passes_over(cascade, k)
    assert found.count == 2
    assert found.blocking == (Edge(read, "O"),)


# However keys are split


MEAN = "    mu[q] = mean(k where c[q,k]) s[q,k]\n"

SPLITS = {
    "softmax": ABOVE.format(w="exp(s[q,k])"),
    "of opposite signs": ABOVE.format(w="(exp(s[q,k]) + exp(-s[q,k]))"),
    "of two kinds": ABOVE.format(w="(if v[k] > 0 then exp(s[q,k]) else 1 + s[q,k] * s[q,k])"),
    "to base two": ABOVE.format(w="2 ** s[q,k]"),
    "entropy": "    P[q,k] = softmax(k where c[q,k]) s[q,k]\n"
    "    O[q] = -sum(k where c[q,k]) P[q,k] * log(P[q,k])\n",
    "variance": MEAN + "    O[q] = mean(k where c[q,k]) (s[q,k] - mu[q]) * (s[q,k] - mu[q])\n",
    "turned": MEAN + "    O[q] = sum(k where c[q,k]) cos(s[q,k] - mu[q]) * v[k]\n",
    "turned and squared": MEAN + "    O[q] = sum(k where c[q,k]) cos(s[q,k] - mu[q]) ** 2 * v[k]\n",
    "hyperbolic": MEAN
    + "    O[q] = sum(k where c[q,k]) (exp(s[q,k] - mu[q]) + exp(mu[q] - s[q,k])) * v[k]\n",
    "third moment": MEAN
    + "    O[q] = sum(k where c[q,k]) (s[q,k] - mu[q]) * (s[q,k] - mu[q]) * (s[q,k] - mu[q])\n",
    "weighted second moment": "    m[q] = max(k where c[q,k]) s[q,k]\n"
    "    O[q] = sum(k where c[q,k]) exp(s[q,k] - m[q]) * (s[q,k] - m[q]) * (s[q,k] - m[q]) * v[k]\n",
}
"""Cascades that are split after all passes, in which sums follow a maximum."""

WRITTEN = {
    "over a root": ("sum(k where c[q,k]) s[q,k] * s[q,k]", "sum(k where c[q,k]) s[q,k] * v[k] / sqrt(r[q])"),
    "over a sum": (
        "sum(k where c[q,k]) softplus(s[q,k])",
        "sum(k where c[q,k]) softplus(s[q,k]) * v[k] / r[q]",
    ),
    "less a maximum": ("max(k where c[q,k]) s[q,k]", "max(k where c[q,k]) (v[k] - r[q])"),
    "a maximum over a sum": (
        "sum(k where c[q,k]) exp(s[q,k] / 10)",
        "max(k where c[q,k]) exp(s[q,k] / 10) * v[k] / r[q]",
    ),
    "a minimum below a maximum": ("max(k where c[q,k]) s[q,k]", "min(k where c[q,k]) exp(s[q,k] - r[q])"),
    "below a maximum": ("max(k where c[q,k]) s[q,k]", "sum(k where c[q,k]) exp(s[q,k] - r[q]) * v[k]"),
}
"""Cascades that are split as they are written, before anything has left a sum."""


def streams(said: str) -> Cascade:
    if said in SPLITS:
        return passed(meant(HEADER.format("O[q]") + SPLITS[said]))
    first, then = WRITTEN[said]
    return meant(HEADER.format("O[q]") + f"    r[q] = {first}\n    O[q] = {then}\n")


@given(
    said=st.sampled_from(sorted(SPLITS | WRITTEN)),
    seed=st.integers(0, 2**16),
    cuts=st.lists(st.integers(0, 9), max_size=3),
    shuffled=st.booleans(),
    size=st.sampled_from((1.0, 30.0)),
)
@settings(max_examples=150)
def test_parts_merge_to_the_whole(said: str, seed: int, cuts: list[int], shuffled: bool, size: float) -> None:
    """Any split of the keys, empty parts and parts that a row does not see included, in any order."""
    cascade = streams(said)
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "s": rng.uniform(-size, size, (3, 9)),
        "v": rng.uniform(-1, 1, 9),
        "c": rng.random((3, 9)) < 0.6,
    }
    order = rng.permutation(9) if shuffled else np.arange(9)
    pieces = np.split(order, sorted(cuts))
    parts: list[Results] = [
        evaluate(cascade, {"s": values["s"][:, keys], "v": values["v"][keys], "c": values["c"][:, keys]})
        for keys in pieces
    ]
    direct = evaluate(cascade, values)
    found = merged(cascade, list(parts))
    assert found
    for name, x in found.items():
        wild = np.isinf(direct[name])
        np.testing.assert_array_equal(x[wild], direct[name][wild], name)
        np.testing.assert_allclose(
            x[~wild], direct[name][~wild], 1e-12, 1e-12 * np.max(np.abs(x[~wild]), initial=1), err_msg=name
        )


def test_states_that_follow_are_what_is_split() -> None:
    """The property above is about something: every cascade of it has an updater."""
    assert all(updaters(streams(said)) for said in SPLITS | WRITTEN)


# What it costs


def test_ordinary_patterns_need_no_computer_algebra(root: Any) -> None:
    """sympy takes half a second to load: it is asked only where the shape of a formula shows no answer."""
    code = (
        "import sys\n"
        "from attncc.pipeline import compile\n"
        "from attncc.schedule.spec import Specialisation\n"
        "from attncc.source import Source\n"
        "spec = Specialisation('torch', 'cpu', ('float32',), ())\n"
        "compile(Source.read('patterns/streaming.attn'), spec)\n"
        "assert 'sympy' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
