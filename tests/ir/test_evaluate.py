"""`evaluate` against loops over single numbers, and the rules that no loop needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from attncc.ir import evaluate as module
from attncc.ir.cascade import ONE, ZERO, Cascade, Choose, Literal, Tensor, extent, number
from attncc.ir.evaluate import Value, evaluate, extents, outputs
from attncc.ops import REDUCTIONS
from tests.ir import cascades as c
from tests.ir.cascades import at, made, op, over

INF = math.inf


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def drawn(cascade: Cascade, sizes: dict[str, int], **scalars: int) -> dict[str, Value]:
    """Normal draws for the tensors of a cascade."""
    source = rng()
    tensors = (t for t in cascade.inputs if t.origin == "input")
    return {t.name: source.normal(size=[sizes[i.name] for i in t.indices]) for t in tensors} | scalars


def near(found: object, wanted: object) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)


# Whole cascades


@pytest.mark.parametrize(("nq", "nk"), [(5, 7), (7, 5), (1, 4), (6, 6), (3, 1)])
def test_attention(nq: int, nk: int) -> None:
    sizes = {"b": 2, "h": 4, "g": 2, "q": nq, "k": nk, "d": 3, "e": 5}
    values = drawn(c.causal(), sizes)
    Q, K, V = (np.asarray(values[name]) for name in "QKV")
    results = evaluate(c.causal(), values)
    for b, h, q in np.ndindex(2, 4, nq):
        members = [k for k in range(nk) if k <= q + nk - nq]
        scores = [sum(Q[b, h, q, d] * K[b, h // 2, k, d] for d in range(3)) / math.sqrt(3) for k in members]
        weights = [math.exp(s - max(scores)) for s in scores]
        for e in range(5):
            mixed = sum(w * V[b, h // 2, k, e] for w, k in zip(weights, members, strict=True))
            near(results["O"][b, h, q, e], mixed / sum(weights) if members else 0.0)
        for k in set(range(nk)) - set(members):
            assert results["P"][b, h, q, k] == 0


def test_scan() -> None:
    x = rng().normal(size=9)
    near(evaluate(c.scan(), {"x": x})["C"], [sum(x[: k + 1]) for k in range(9)])


@pytest.mark.parametrize(
    ("name", "fold"), [("mean", np.mean), ("max", np.max), ("min", np.min), ("sum", np.sum)]
)
@pytest.mark.parametrize("length", [8, 9, 3, 11])
def test_pool_of_a_ragged_last_block(name: str, fold: Callable[..., object], length: int) -> None:
    X = rng().normal(size=(length, 2))
    wanted = [fold(X[start : start + 4], axis=0) for start in range(0, length, 4)]
    near(evaluate(c.pool(name), {"X": X})["M"], wanted)
    assert evaluate(c.pool(name), {"X": X, "block": 5})["M"].shape == (-(-length // 5), 2)


def test_ties_go_to_the_lower_index() -> None:
    R = rng().integers(0, 3, size=(7, 7)).astype(float)
    results = evaluate(c.top(), {"R": R, "count": 2})
    for q in range(7):
        order = sorted(range(q + 1), key=lambda k: (-R[q, k], k))
        for place, k in enumerate(order):
            assert results["place"][q, k] == place
            near(results["before"][q, k], sum(R[q, j] for j in order[:place]))
            assert results["picked"][q, k] == (place < 2)
        assert not results["picked"][q, q + 1 :].any()
        # no member, no place
        assert not results["place"][q, q + 1 :].any() and not results["before"][q, q + 1 :].any()


@pytest.mark.parametrize("backward", [False, True])
def test_recurrence_over_all_before(backward: bool) -> None:
    cascade = c.delta_backward() if backward else c.delta()
    values = drawn(cascade, {"k": 6, "j": 6, "e": 2})
    A, beta, W = (np.asarray(values[name]) for name in ("A", "beta", "W"))
    U = np.zeros((6, 2))
    for k in reversed(range(6)) if backward else range(6):
        behind = [
            A[j, k] * U[j] if backward else A[k, j] * U[j] for j in range(6) if (j > k if backward else j < k)
        ]
        U[k] = beta[k] * (W[k] - sum(behind, np.zeros(2)))
    near(evaluate(cascade, values)["U"], U)


def test_recurrence_with_a_first_and_a_last_state() -> None:
    values = drawn(c.memory(), {"t": 5, "d": 3, "e": 2})
    S0, a, K, V, Q = (np.asarray(values[name]) for name in ("S0", "a", "K", "V", "Q"))
    found = outputs(c.memory(), evaluate(c.memory(), values))
    S = np.zeros((3, 2))
    for t in range(5):
        S = (S0 if t == 0 else a[t] * S) + np.outer(K[t], V[t])
        near(found[0][t], Q[t] @ S)
    near(found[1], S)


def test_equations_that_read_each_other() -> None:
    a = rng().normal(size=6)
    results = evaluate(c.pair(), {"a": a})
    y = z = 0.0
    for t in range(6):
        y = a[t] if t == 0 else a[t] * z
        z = y + (0.0 if t == 0 else 0.5 * z)
        near([results["y"][t], results["z"][t]], [y, z])


def test_recurrence_along_two_indices() -> None:
    cost = rng().random((4, 5))
    T = np.zeros((4, 5))
    for n, i in np.ndindex(4, 5):
        T[n, i] = cost[n, i] + min(T[n - 1, i] if n else 0, T[n, i - 1] if i else 0)
    near(evaluate(c.lattice(), {"cost": cost})["T"], T)


def test_recurrence_from_block_to_block() -> None:
    U = made("U", c.n, c.i)
    before = Choose(
        op("==", c.i, 0),
        Choose(op("==", c.n, 0), ZERO, at(U, op("-", c.n, 1), op("-", extent(c.i), 1))),
        at(U, c.n, op("-", c.i, 1)),
    )
    cascade = c.cascade("blocks", (c.cost,), {U: op("+", before, at(c.cost))})
    cost = rng().random((3, 4))
    near(evaluate(cascade, {"cost": cost})["U"].ravel(), np.cumsum(cost.ravel()))


def test_a_cycle_without_a_direction_has_no_meaning() -> None:
    others = over("sum", c.j, where=op("!=", c.j, c.k), body=op("*", at(c.A), at(c.U, c.j, c.e)))
    cascade = c.cascade("cycle", (c.A, c.W), {c.U: op("+", at(c.W), others)})
    with pytest.raises(AssertionError, match="`U`: neither earlier positions only"):
        evaluate(cascade, drawn(cascade, {"k": 4, "j": 4, "e": 1}))


@pytest.mark.parametrize("cascade", c.EVERY, ids=lambda cascade: cascade.name)
def test_slices_say_the_same(cascade: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = dict.fromkeys("bhgqkdenijt", 3)
    scalars = {t.name: 2 for t in cascade.inputs if not t.indices}
    values = drawn(cascade, sizes, **scalars)
    whole = evaluate(cascade, values)
    monkeypatch.setattr(module, "ROOM", 4)
    for name, array in evaluate(cascade, values).items():
        np.testing.assert_allclose(array, whole[name], rtol=1e-11, atol=1e-12)


def test_a_place_read_at_one_position(monkeypatch: pytest.MonkeyPatch) -> None:
    R = tensor_over_q_k()
    leading = op("<", over("rank", c.k, body=at(R)), 2)
    cascade = c.one(over("sum", c.q, where=leading, body=ONE), R, indices=(c.k,), kind="int")
    drawn_R = rng().normal(size=(5, 6))
    wanted = (np.argsort(np.argsort(-drawn_R, 1), 1) < 2).sum(0)
    for room in (1 << 20, 4):
        monkeypatch.setattr(module, "ROOM", room)
        np.testing.assert_array_equal(evaluate(cascade, {"R": drawn_R})["r"], wanted)


def tensor_over_q_k() -> Tensor:
    return c.tensor("R", c.q, c.k)


# Reductions


def reduced(name: str, x: list[float], members: list[bool] | None = None) -> float:
    """`name(k where m[k]) x[k]`"""
    mask = c.tensor("m", c.k, kind="bool", origin="table")
    kind = REDUCTIONS[name].takes == "bool"
    source = c.tensor("x", c.k, kind="bool" if kind else "float")
    body = over(name, c.k, where=at(mask), body=at(source))
    result = REDUCTIONS[name].result
    cascade = c.one(body, mask, source, kind="float" if result == "body" else result)
    given = [True] * len(x) if members is None else members
    values = {"x": np.array(x, bool if kind else float), "m": np.array(given, bool)}
    return float(evaluate(cascade, values)["r"])


@pytest.mark.parametrize(
    ("name", "nothing"),
    [
        *(("sum", 0), ("prod", 1), ("max", -INF), ("min", INF), ("any", 0), ("all", 1)),
        *(("mean", 0), ("argmax", 0), ("argmin", 0)),
    ],
)
def test_of_nothing_the_identity(name: str, nothing: float) -> None:
    assert reduced(name, []) == nothing
    assert reduced(name, [1.0, 1.0], [False, False]) == nothing


@pytest.mark.parametrize(
    ("name", "x", "members", "wanted"),
    [
        ("sum", [1, 2, 4], [1, 0, 1], 5),
        ("prod", [3, 2, 4], [1, 0, 1], 12),
        ("max", [-3, 2, -4], [1, 0, 1], -3),
        ("min", [3, 2, 4], [1, 0, 1], 3),
        ("mean", [3, 2, 4], [1, 0, 1], 3.5),
        ("any", [0, 1, 0], [1, 0, 1], 0),
        ("all", [1, 0, 1], [1, 0, 1], 1),
        ("argmax", [9, 5, 7, 7], [0, 1, 1, 1], 2),
        ("argmin", [0, 5, 5, 7], [0, 1, 1, 1], 1),
        # infinities and NaN that are no members, and members that are infinite
        ("sum", [INF, math.nan, 4], [0, 0, 1], 4),
        ("max", [INF, -INF], [0, 1], -INF),
        ("argmax", [INF, -INF, -INF], [0, 1, 1], 1),
        ("argmin", [-INF, INF, INF], [0, 1, 1], 1),
        ("argmax", [5, 2, 5], [0, 1, 1], 2),
        ("mean", [math.nan, 4], [0, 1], 4),
    ],
)
def test_members_only(name: str, x: list[float], members: list[int], wanted: float) -> None:
    assert reduced(name, x, [bool(m) for m in members]) == wanted


def test_largest_integer_of_nothing_is_the_least() -> None:
    cascade = c.one(over("max", c.k, where=op("<", c.k, 0), body=c.k), c.x, kind="int")
    assert evaluate(cascade, {"x": np.zeros(3)})["r"] == np.iinfo(np.int64).min


def test_a_sum_over_an_index_that_its_body_lacks() -> None:
    cascade = c.one(over("sum", c.k, c.j, where=op("<", c.j, 2), body=number(1.0)), c.tensor("A", c.k, c.j))
    assert evaluate(cascade, {"A": np.zeros((3, 5))})["r"] == 6


PRODUCT_SIZES = (0.0, 1.0, -3.0, 1e200, INF, math.nan)


@settings(max_examples=200, deadline=None)
@given(
    x=arrays(float, (2, 3), elements=st.sampled_from(PRODUCT_SIZES)),
    y=arrays(float, 3, elements=st.sampled_from(PRODUCT_SIZES)),
    z=arrays(float, 3, elements=st.sampled_from(PRODUCT_SIZES)),
    m=arrays(bool, (2, 3)),
    shift=st.integers(-1, 1),
)
def test_products_under_a_predicate(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, m: np.ndarray, shift: int
) -> None:
    """Whatever road a sum of products takes, what is excluded or absent takes no part."""
    X, M = c.tensor("X", c.q, c.k), c.tensor("M", c.q, c.k, kind="bool", origin="table")
    Y, Z = c.tensor("Y", c.k), c.tensor("Z", c.k)
    body = op("/", op("*", at(X), at(Y, op("+", c.k, shift))), at(Z))
    cascade = c.one(over("sum", c.k, where=at(M), body=body), X, Y, Z, M, indices=(c.q,))
    found = evaluate(cascade, {"X": x, "Y": y, "Z": z, "M": m})["r"]
    with np.errstate(all="ignore"):
        for q in range(2):
            total = np.float64(0)
            for k in range(3):
                if m[q, k] and 0 <= k + shift < 3:
                    top = x[q, k] * y[k + shift]
                    total += 0.0 if top == 0 and z[k] == 0 else top / z[k]
            np.testing.assert_allclose(found[q], total, rtol=1e-12)


# Values that are not there


def test_reads_out_of_range() -> None:
    results = evaluate(c.shifted(), {"x": np.array([5.0, 7.0, 9.0])})
    np.testing.assert_array_equal(results["r"], [0, 5, 7])
    assert results["total"] == 12
    assert results["mean"] == 6
    assert results["least"] == 5
    assert results["number"] == 2
    np.testing.assert_array_equal(results["rest"], [7, 5, 7])
    assert results["either"] == 3
    assert results["neither"] == 0


def test_reading_an_element_without_a_value() -> None:
    """`r[k] = x[k - 1]` has no value at 0: neither has `r[(k + 1) % |k|]` at the end."""
    r, back = made("r", c.k), at(c.x, op("-", c.k, 1))
    turned = at(r, op("%", op("+", c.k, 1), extent(c.k)))
    cascade = c.cascade(
        "turned", (c.x,), {r: back, made("mean"): over("mean", c.k, body=op("+", turned, 1.0))}
    )
    assert evaluate(cascade, {"x": np.array([4.0, 6.0, 9.0])})["mean"] == 6


def test_a_subscript_without_a_value() -> None:
    """`x[tab[k + 1]]`: the last has no subscript, one is negative, one too large."""
    tab = c.tensor("tab", c.k, kind="int", origin="table")
    found = at(c.tensor("x", c.j), at(tab, op("+", c.k, 1)))
    count = made("count", kind="int")
    cascade = c.cascade(
        "gathered",
        (tab, c.tensor("x", c.j)),
        {made("r", c.k): found, count: over("sum", c.k, where=op(">", found, -1.0), body=ONE)},
    )
    results = evaluate(cascade, {"tab": np.array([0, 1, -1, 2, 0]), "x": np.array([4.0, 8.0])})
    np.testing.assert_array_equal(results["r"], [8, 0, 0, 4, 0])
    assert results["count"] == 2


def test_reading_an_empty_tensor() -> None:
    cascade = c.one(over("mean", c.k, body=at(c.tensor("y", c.j), c.k)), c.x, c.tensor("y", c.j))
    assert evaluate(cascade, {"x": np.zeros(3), "y": np.zeros(0)})["r"] == 0


def test_only_the_branch_taken_has_to_have_a_value() -> None:
    """`mean(k) if k == 0 then 10 else 1 / x[k - 1]`, and the same the wrong way round."""
    back = op("/", 1.0, at(c.x, op("-", c.k, 1)))
    right = over("mean", c.k, body=Choose(op("==", c.k, 0), number(10.0), back))
    wrong = over("mean", c.k, body=Choose(op("==", c.k, 0), back, number(10.0)))
    x = np.array([0.5, 0.25, 0.0])
    assert evaluate(c.one(right, c.x), {"x": x})["r"] == (10 + 2 + 4) / 3
    assert evaluate(c.one(wrong, c.x), {"x": x})["r"] == 10


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        # rows: true, false, nothing; columns alike; None is nothing
        ("and", [[1, 0, None], [0, 0, 0], [None, 0, None]]),
        ("or", [[1, 1, 1], [1, 0, None], [1, None, None]]),
    ],
)
def test_truth_without_a_value(name: str, wanted: list[list[int | None]]) -> None:
    """Of two reads at `tab` positions 0 (true), 1 (false), 2 (nothing): what holds, and what holds not."""
    B = c.tensor("B", c.j, kind="bool", origin="table")
    both = op(name, at(B, c.q), at(B, c.k))
    rows, columns = c.tensor("u", c.q), c.tensor("v", c.k)
    yes, no = (made(n, c.q, c.k, kind="int") for n in ("yes", "no"))
    one = c.tensor("w", c.i)
    cascade = c.cascade(
        "truth",
        (B, rows, columns, one),
        {
            yes: over("sum", c.i, where=both, body=ONE),
            no: over("sum", c.i, where=op("not", both), body=ONE),
        },
    )
    values = {"B": np.array([True, False]), "u": np.zeros(3), "v": np.zeros(3), "w": np.zeros(1)}
    results = evaluate(cascade, values)
    np.testing.assert_array_equal(results["yes"], [[int(w == 1) for w in row] for row in wanted])
    np.testing.assert_array_equal(results["no"], [[int(w == 0) for w in row] for row in wanted])


def test_nothing_over_nothing_is_nothing() -> None:
    cascade = c.one(op("/", at(c.x), at(c.x)), c.x, indices=(c.k,))
    np.testing.assert_array_equal(evaluate(cascade, {"x": np.array([0.0, 2.0])})["r"], [0, 1])


def test_what_is_not_read_may_be_anything() -> None:
    """A value that the predicate excludes is NaN, a score overflows: no row that sees neither notices."""
    sizes = {"b": 1, "h": 1, "g": 1, "q": 4, "k": 4, "d": 2, "e": 2}
    body = op("*", at(c.P), at(c.V, c.b, c.shared, c.k, c.e))
    parts = {e.tensor: e.body for e in c.causal().equations}
    cascade = c.cascade("causal", (c.Q, c.K, c.V), parts | {c.O: over("sum", c.k, where=c.seen, body=body)})
    values = drawn(cascade, sizes)
    clean = evaluate(cascade, values)["O"]
    np.asarray(values["V"])[:, :, 3] = math.nan
    np.asarray(values["K"])[:, :, 3] = 1e308
    spoilt = evaluate(cascade, values)["O"]
    near(spoilt[:, :, :3], clean[:, :, :3])
    assert np.isnan(spoilt[:, :, 3]).all()


# Functions, kinds, ends


def test_kinds() -> None:
    functions = {
        made("down", c.k, kind="int"): op("floor", at(c.x)),
        made("half", c.k, kind="int"): op("//", op("floor", at(c.x)), 2),
        made("rest", c.k, kind="int"): op("%", op("floor", at(c.x)), 3),
        made("large", c.k, kind="bool"): op(">", at(c.x), 0.5),
        made("endless", c.k): op("min", at(c.x), Literal(INF, "float")),
        made("gate", c.k): op("through", op(">", at(c.x), 0.5), op("log", at(c.x))),
    }
    results = evaluate(c.cascade("kinds", (c.x,), functions), {"x": np.array([-2.5, 0.0, 1.75])})
    np.testing.assert_array_equal(results["down"], [-3, 0, 1])
    np.testing.assert_array_equal(results["half"], [-2, 0, 0])
    np.testing.assert_array_equal(results["rest"], [0, 0, 1])
    np.testing.assert_array_equal(results["large"], [False, False, True])
    np.testing.assert_array_equal(results["endless"], [-2.5, 0, 1.75])
    np.testing.assert_array_equal(results["gate"], [0, 0, 1])
    dtypes = {name: array.dtype.kind for name, array in results.items()}
    assert dtypes == {"down": "i", "half": "i", "rest": "i", "large": "b", "endless": "f", "gate": "f"}


def test_outputs_in_declared_order() -> None:
    body = op("*", at(c.tensor("X", c.k, c.d)), 2.0)
    wanted = Tensor("r", (c.d, c.q, c.k), "float", "equation")
    inputs = (c.tensor("X", c.k, c.d), c.tensor("Y", c.q))
    cascade = c.cascade("turned", inputs, {made("r", c.k, c.d): body}, (wanted,))
    X = rng().normal(size=(3, 2))
    (found,) = outputs(cascade, evaluate(cascade, {"X": X, "Y": np.zeros(4)}))
    assert found.shape == (2, 4, 3)
    for q in range(4):
        np.testing.assert_array_equal(found[:, q], 2 * X.T)


def test_no_extent_is_negative() -> None:
    cascade = c.one(over("sum", c.n, body=ONE), c.x, kind="int")
    cascade = replace(cascade, lengths=((c.n, op("-", extent(c.k), 2)),))
    assert [int(evaluate(cascade, {"x": np.zeros(k)})["r"]) for k in (4, 2, 0)] == [2, 0, 0]


def test_extents() -> None:
    found = extents(c.pool(), {"X": np.zeros((9, 2))})
    assert {i.name: n for i, n in found.items()} == {"k": 9, "d": 2, "n": 3, "i": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": np.zeros((1, 1, 4, 2))}, "`d` is 2 in `K`, but 3 in `Q`"),
        ({"V": np.zeros((1, 1, 5, 2))}, "`k` is 5 in `V`, but 4 in `K`"),
        ({"Q": np.zeros((1, 2, 3))}, r"`Q\[b,h,q,d\]` has 4 indices, its array 3"),
        ({"Q": np.zeros((1, 2, 3, 3), complex)}, "`Q` is float, its array complex128"),
        ({"W": 1}, "`causal` has no input `W`"),
    ],
)
def test_inputs_that_do_not_fit(change: dict[str, Value], message: str) -> None:
    values = drawn(c.causal(), {"b": 1, "h": 2, "g": 1, "q": 3, "k": 4, "d": 3, "e": 2})
    with pytest.raises(ValueError, match=message):
        evaluate(c.causal(), {**values, **change})


def test_inputs_that_are_missing() -> None:
    with pytest.raises(ValueError, match="input `count` is missing"):
        evaluate(c.top(), {"R": np.zeros((2, 2))})
    with pytest.raises(ValueError, match="`count` is int, its array float64"):
        evaluate(c.top(), {"R": np.zeros((2, 2)), "count": 1.5})


def test_a_formula_that_an_input_contradicts() -> None:
    inputs = (c.x, c.tensor("y", c.j))
    cascade = c.cascade("pair", inputs, {made("r", c.k): at(c.x)}, lengths=((c.j, extent(c.k)),))
    with pytest.raises(ValueError, match="`j` is 3 by its formula, but 4 in `y`"):
        evaluate(cascade, {"x": np.zeros(3), "y": np.zeros(4)})
