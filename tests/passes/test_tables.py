"""What is known of passes and online forms (theory §A.2, §A.5, §A.8), row by row, as the compiler finds it.

The cascades of §A.2, as they are written, are in `test_analyse.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy as sp

from attncc.ir.cascade import Apply, Cascade, Equation, Reduce
from attncc.ir.evaluate import evaluate
from attncc.ir.show import show_expr
from attncc.passes.analyse import analyse, walked
from attncc.passes.companions import accompany
from attncc.passes.expand import expand
from attncc.passes.online import passes_over, updaters
from attncc.passes.share import share
from attncc.passes.simplify import simplify
from attncc.passes.waits import waits
from attncc.schedule.plan import partition
from attncc.schedule.refused import Refused
from tests.passes.meanings import Array, kernel, meant, passed
from tests.passes.merging import merged


def counts(text: str) -> tuple[int, set[str], int]:
    """Passes over k as it is written, what blocks there, and passes as it runs."""
    cascade = meant(text)
    written = share(simplify(expand(cascade)))
    k = next(i for i in walked(written) if i.name == "k")
    found = analyse(written, k)
    return found.count, {e.read for e in found.blocking}, passes_over(passed(cascade), k)[0].count


# Passes (§A.2)

CASCADES = {
    "a sum times its terms": ("Y[q] = sum(k) s[q,k] * v[k]\n    O[q] = sum(k) Y[q] * s[q,k]", 2, {"Y"}, 1),
    "the textbook": (
        "m[q] = max(k) s[q,k]\n    l[q] = sum(k) exp(s[q,k] - m[q])\n"
        "    O[q] = sum(k) exp(s[q,k] - m[q]) / l[q] * v[k]",
        3,
        {"m", "l"},
        1,
    ),
    "without a maximum": ("O[q] = (sum(k) exp(s[q,k]) * v[k]) / sum(k) exp(s[q,k])", 1, set(), 1),
    "a norm that is applied to what is summed": (
        "mu[q] = sum(k) s[q,k]\n    r[q] = sum(k) (s[q,k] - mu[q]) ** 2\n"
        "    O[q] = sum(k) (s[q,k] - mu[q]) / sqrt(r[q] + 1) * v[k]",
        3,
        {"mu", "r"},
        1,
    ),
    "a threshold": (
        "t[q] = max(k) s[q,k]\n    m[q] = max(k where s[q,k] >= t[q] - 1) s[q,k]\n"
        "    O[q] = sum(k where s[q,k] >= t[q] - 1) exp(s[q,k] - m[q]) * v[k]",
        3,
        {"t", "m"},
        2,
    ),
    # the difference is small where the rest is: it is not taken apart
    "a gradient with its sum over keys": (
        "D[q] = sum(k) exp(s[q,k] - z[q]) * g[q,k]\n"
        "    O[q] = sum(k) exp(s[q,k] - z[q]) * (g[q,k] - D[q]) * v[k]",
        2,
        {"D"},
        2,
    ),
    "a gradient with its sum over features": (
        "D[q] = sum(f) G[q,f] * U[q,f]\n    O[q] = sum(k) exp(s[q,k] - z[q]) * (g[q,k] - D[q]) * v[k]",
        1,
        set(),
        1,
    ),
}


@pytest.mark.parametrize("name", CASCADES)
def test_passes(name: str) -> None:
    said, written, blocking, runs = CASCADES[name]
    head = "pattern p(s[q,k], g[q,k], v[k], z[q], G[q,f], U[q,f]) -> O[q]:\n    along q, k\n"
    assert counts(f"{head}    {said}\n") == (written, blocking, runs)


# Updaters (§A.5)

DEFINED = """pattern p(s[q,k], v[k]) -> y[q]:
    along q, k
    m[q] = max(k) s[q,k]
    mu[q] = sum(k) s[q,k]
    l[q] = sum(k) exp(s[q,k] / 8)
    r[q] = sum(k) s[q,k] * s[q,k]
    y[q] = {}
"""

FOUND = {
    "sum(k) exp(s[q,k] - m[q])": "t * exp(m_old - m)",
    "sum(k) exp(s[q,k] - m[q]) * v[k]": "t * exp(m_old - m)",
    "sum(k) exp(s[q,k] - m[q]) * v[k] / l[q]": "t * l_old / l * exp(m_old - m)",
    "sum(k) softplus(s[q,k]) * v[k] / l[q]": "t * l_old / l",
    "sum(k) s[q,k] * v[k] / sqrt(r[q])": "t * sqrt(r_old / r)",
    "sum(k) (s[q,k] - mu[q]) ** 2": "t + (mu - mu_old) * t1 + (mu - mu_old) ** 2 / 2 * t2",
    "sum(k) exp(s[q,k] - m[q]) * (s[q,k] - m[q])": "exp(m_old - m)"
    " * ((1 + m - m_old) * t + (m - m_old) * t1)",
    "sum(k) (s[q,k] - mu[q]) ** 3": "t + (mu - mu_old) * t1 + (mu - mu_old) ** 2 / 2 * t2"
    " + (mu - mu_old) ** 3 / 6 * t3",
    "sum(k) cos(s[q,k] - mu[q])": "cos(mu - mu_old) * t + sin(mu - mu_old) * t1",
    "max(k) (s[q,k] - m[q])": "t + m_old - m",
    "max(k) exp(s[q,k]) / l[q]": "t * l_old / l",
}
"""Terms, and what they become as d moves; `t1`, `t2`... are their derivatives by what they follow."""

NAMES = {name: sp.Symbol(name, real=True) for name in ("s", "v", "m", "mu", "m_old", "mu_old")} | {
    name: sp.Symbol(name, positive=True) for name in ("l", "r", "l_old", "r_old")
}
OLD = {NAMES[name]: NAMES[f"{name}_old"] for name in ("m", "mu", "l", "r")}


def symbolic(text: str, **known: Any) -> Any:
    """A formula of one row and one key in sympy; an extreme that is finite is itself."""
    for subscript in ("[q,k]", "[q]", "[k]"):
        text = text.replace(subscript, "")
    words = {"finite": lambda x: x, "softplus": lambda x: sp.log(1 + sp.exp(x))}
    return sp.sympify(text, locals=NAMES | words | known)


def following(said: str) -> Cascade:
    return accompany(meant(DEFINED.format(said)))


@pytest.mark.parametrize("said", FOUND)
def test_updater_is_the_tables(said: str) -> None:
    cascade = following(said)
    bodies = {e.tensor: e.body.body for e in cascade.equations if isinstance(e.body, Reduce)}
    updater = updaters(cascade)["y"]
    term = symbolic(show_expr(bodies[cascade.equation("y").tensor]))
    (d, *more) = (NAMES[t.name] for t in updater.follows)
    known = {f"t{n}": sp.diff(term, d, n).subs(OLD) for n in (1, 2, 3)} if not more else {}
    moved = term.subs(OLD) * symbolic(show_expr(updater.correction)) + symbolic(show_expr(updater.shift))
    for tensor, weight in updater.companions:
        moved += symbolic(show_expr(bodies[tensor])).subs(OLD) * symbolic(show_expr(weight))
    table = symbolic(FOUND[said], t=term.subs(OLD), **known)
    assert sp.simplify(moved - table) == 0
    assert sp.simplify(moved - term) == 0


def chunked(cascade: Cascade, values: Mapping[str, Array], cuts: list[int]) -> Mapping[str, Array]:
    """Every state, one chunk of keys after the other."""
    whole: Mapping[str, Array] | None = None
    for keys in np.split(np.arange(values["v"].size), cuts):
        part = evaluate(cascade, {"s": values["s"][:, keys], "v": values["v"][keys]})
        whole = part if whole is None else merged(cascade, [whole, part])
    assert whole is not None
    return whole


def sizes(cascade: Cascade, values: Mapping[str, Array]) -> Array:
    """The sums of the magnitudes of the terms of `y`, and of its companions."""
    y = cascade.equation("y")
    made = [y, *(e for e in cascade.equations if e.tensor.name.startswith("y_companion"))]
    total = np.zeros(values["s"].shape[0])
    for e in made:
        assert isinstance(e.body, Reduce)
        large = replace(e.body, op="sum", body=Apply("abs", (e.body.body,)))
        size = Equation(replace(e.tensor, name="size"), large)
        total = total + evaluate(replace(cascade, equations=(*cascade.equations, size)), values)["size"]
    return total


@pytest.mark.parametrize("said", FOUND)
def test_chunks_give_the_whole(said: str) -> None:
    cascade = following(said)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        # a running sum wanders off from its terms, a maximum does not
        wide = 0.3 if "mu[q]" in said else 3.0
        values = {"s": rng.uniform(-wide, wide, (4, 60)), "v": rng.uniform(-1, 1, 60)}
        cuts = sorted(rng.integers(1, 60, 6).tolist())
        found, wanted = chunked(cascade, values, cuts)["y"], evaluate(cascade, values)["y"]
        assert np.all(np.abs(found - wanted) <= 1e-14 * sizes(cascade, values)), said


def test_hyperbolic_sums_are_two() -> None:
    """Its two exponentials move in opposite ways: each sum is stable, their sum in one is not."""
    said = "sum(k) (exp(s[q,k] - mu[q]) + exp(mu[q] - s[q,k])) / 2"
    assert "y" not in updaters(following(said))
    text = DEFINED.format(said)
    assert counts(text) == (2, {"mu"}, 1)
    rng = np.random.default_rng(0)
    s = rng.uniform(-0.2, 0.2, (3, 40))
    wanted = np.cosh(s - s.sum(1, keepdims=True)).sum(1)
    found = kernel(text, {"s": s, "v": np.ones(40)}, 8)["y"]
    np.testing.assert_allclose(found, wanted, rtol=1e-14)


@pytest.mark.parametrize(
    "said",
    [
        "sum(k) sigmoid(s[q,k] - m[q])",
        "sum(k) relu(s[q,k] - mu[q])",
        "sum(k where s[q,k] >= m[q] - 1) exp(s[q,k])",
        "sum(k) (if s[q,k] >= m[q] - 1 then exp(s[q,k]) else 0)",
    ],
)
def test_what_does_not_separate(said: str) -> None:
    """The rank grows with the samples, and that is said."""
    cascade = share(simplify(expand(meant(DEFINED.format(said)))))
    k = next(i for i in walked(cascade) if i.name == "k")
    found, _ = passes_over(cascade, k)
    assert found.count == 2
    reasons = [waits(cascade, found, edge).reason for edge in found.blocking]
    assert any("does not separate" in r and "still growing" in r for r in reasons), reasons


# Worked examples (§A.8)

SEEN = "k where k <= q"


def scores(values: Mapping[str, Array]) -> tuple[Array, Array]:
    """Scores, and which are seen."""
    s = values["Q"] @ values["K"].T
    rows, keys = s.shape
    return s, np.arange(keys)[None, :] <= np.arange(rows)[:, None] + keys - rows


def weighed(w: Array, values: Mapping[str, Array]) -> Array:
    return np.asarray(w @ values["V"])


def softmax(values: Mapping[str, Array], more: float = 0.0) -> tuple[Array, Array]:
    """Weights and the logarithm of their denominator, with one more term in it."""
    s, seen = scores(values)
    w = np.where(seen, np.exp(s), 0)
    total = w.sum(1, keepdims=True) + more
    return w / total, np.log(total[:, 0])


def softmaxed(values: Mapping[str, Array]) -> tuple[Array, ...]:
    w, lse = softmax(values)
    return weighed(w, values), lse


def softplused(values: Mapping[str, Array]) -> tuple[Array, ...]:
    s, seen = scores(values)
    w = np.where(seen, np.log1p(np.exp(s)), 0)
    return (weighed(w / w.sum(1, keepdims=True), values),)


def sigmoids(values: Mapping[str, Array], counted: bool) -> tuple[Array, ...]:
    s, seen = scores(values)
    shift = np.log(seen.sum(1, keepdims=True)) if counted else 0.0
    return (weighed(np.where(seen, 1 / (1 + np.exp(shift - s)), 0), values),)


def normed(values: Mapping[str, Array]) -> tuple[Array, ...]:
    s, seen = scores(values)
    w = np.where(seen, s, 0)
    return (weighed(w / np.sqrt((w * w).sum(1, keepdims=True)), values),)


def standard(values: Mapping[str, Array]) -> tuple[Array, ...]:
    s, _ = scores(values)
    return (weighed((s - s.mean(1, keepdims=True)) / s.std(1, keepdims=True), values),)


def entropies(values: Mapping[str, Array]) -> tuple[Array, ...]:
    w, lse = softmax(values)
    return -np.sum(w * np.log(np.where(w > 0, w, 1)), axis=1), lse * lse


EXAMPLES: dict[str, tuple[str, str, int, int, Any]] = {
    "softmax": (
        "O[q,e]",
        f"O[q,e] = sum(k) (softmax({SEEN}) s[q,k]) * V[k,e]",
        1,
        3,
        lambda v: softmaxed(v)[:1],
    ),
    "with its logarithm": (
        "O[q,e], lse[q]",
        f"O[q,e] = sum(k) (softmax({SEEN}) s[q,k]) * V[k,e]\n    lse[q] = logsumexp({SEEN}) s[q,k]",
        1,
        3,
        softmaxed,
    ),
    "softplus over its sum": (
        "O[q,e]",
        f"w[q,k] = softplus(s[q,k])\n    O[q,e] = sum({SEEN}) w[q,k] / (sum({SEEN}) w[q,k]) * V[k,e]",
        1,
        2,
        softplused,
    ),
    "sigmoid": (
        "O[q,e]",
        f"O[q,e] = sum({SEEN}) sigmoid(s[q,k]) * V[k,e]",
        1,
        1,
        lambda v: sigmoids(v, False),
    ),
    "sigmoid by what is seen": (
        "O[q,e]",
        f"n[q] = sum({SEEN}) 1\n    O[q,e] = sum({SEEN}) sigmoid(s[q,k] - log(n[q])) * V[k,e]",
        2,
        2,
        lambda v: sigmoids(v, True),
    ),
    "a sink": (
        "O[q,e]",
        f"O[q,e] = sum(k) (softmax({SEEN}, sink = 0.7) s[q,k]) * V[k,e]",
        1,
        3,
        lambda v: (weighed(softmax(v, np.exp(0.7))[0], v),),
    ),
    "one more in the denominator": (
        "O[q,e]",
        f"O[q,e] = sum(k) (softmax({SEEN}, sink = 0) s[q,k]) * V[k,e]",
        1,
        3,
        lambda v: (weighed(softmax(v, 1.0)[0], v),),
    ),
    "over their length": (
        "O[q,e]",
        f"O[q,e] = sum({SEEN}) s[q,k] / sqrt(sum({SEEN}) s[q,k] * s[q,k]) * V[k,e]",
        1,
        2,
        normed,
    ),
    "standard scores, summed": (
        "O[q,e]",
        "m[q] = mean(k) s[q,k]\n    u[q] = mean(k) (s[q,k] - m[q]) ** 2\n"
        "    O[q,e] = sum(k) (s[q,k] - m[q]) / sqrt(u[q]) * V[k,e]",
        1,
        0,
        standard,
    ),
    "entropy and z-loss": (
        "H[q], z[q]",
        f"P[q,k] = softmax({SEEN}) s[q,k]\n    H[q] = -sum({SEEN}) P[q,k] * log(P[q,k])\n"
        f"    lse[q] = logsumexp({SEEN}) s[q,k]\n    z[q] = lse[q] * lse[q]",
        1,
        3,
        entropies,
    ),
}
"""Outputs, equations, passes, states of a row (0: not counted), and the values in NumPy."""


def example(outputs: str, said: str) -> str:
    head = f"pattern p(Q[q,d], K[k,d], V[k,e]) -> {outputs}:\n    align q to k\n"
    return f"{head}    s[q,k] = sum(d) Q[q,d] * K[k,d]\n    {said}\n"


def inputs(offset: float = 0.0) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    values = {"Q": rng.normal(size=(9, 2)), "K": rng.normal(size=(13, 2)), "V": rng.normal(size=(13, 3))}
    if offset:
        values["Q"][:, 0], values["K"][:, 0] = offset, 1.0
    return values


@pytest.mark.parametrize("name", EXAMPLES)
def test_worked_example(name: str) -> None:
    outputs, said, count, states, by_hand = EXAMPLES[name]
    text = example(outputs, said)
    loops = [loop for planned in partition(passed(meant(text))).kernels for loop in planned.loops]
    assert len(loops) == count
    if states:
        assert sum(len(loop.states) for loop in loops) == states
    values = inputs()
    for found, wanted in zip(kernel(text, values, 2).values(), by_hand(values), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_variance_far_from_zero() -> None:
    """One pass; with the squares of a million, a variance of one would keep four digits."""
    text = example("u[q]", "m[q] = mean(k) s[q,k]\n    u[q] = mean(k) (s[q,k] - m[q]) ** 2")
    (planned,) = partition(passed(meant(text))).kernels
    assert len(planned.loops) == 1
    values = inputs(1e6)
    np.testing.assert_allclose(kernel(text, values, 2)["u"], scores(values)[0].var(1), rtol=1e-9)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (
            "C[q,k] = top(k, count = 3) s[q,k]\n"
            "    O[q,e] = sum(k) (softmax(k where C[q,k]) s[q,k]) * V[k,e]",
            "plan-selection",
        ),
        ("O[q,e] = (argmax(k) s[q,k]) * V[0,e]", "plan-reduction"),
    ],
)
def test_selections_are_not_planned(said: str, code: str) -> None:
    with pytest.raises(Refused) as refused:
        partition(passed(meant(example("O[q,e]", said))))
    assert refused.value.diagnostic.code == code


def test_a_count_inside_a_sigmoid() -> None:
    cascade = passed(meant(example("O[q,e]", EXAMPLES["sigmoid by what is seen"][1])))
    k = next(i for i in walked(cascade) if i.name == "k")
    found, _ = passes_over(cascade, k)
    (edge,) = found.blocking
    assert (edge.read, edge.reader) == ("n", "O")
    reason = waits(cascade, found, edge).reason
    assert reason.startswith("sigmoid(s[q,k] - log(n[q])) * V[k,e] does not separate in it (rank at least 12")
