"""The generated reference means what `evaluate` says, is differentiable everywhere, and can be read."""

from __future__ import annotations

import ast
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attncc.codegen.reference import reference
from attncc.codegen.reference_layout import wrapped
from attncc.ir.cascade import TRUE, ZERO, Apply, Cascade, Choose, extent, number
from attncc.ir.check import check
from attncc.ir.evaluate import evaluate, outputs
from attncc.ir.verify import verified
from attncc.source import Source
from attncc.syntax.parser import parse
from tests.codegen.random_cascades import arguments, draw
from tests.ir import cascades as c
from tests.ir.cascades import at, made, op, over

FOLDER = Path(__file__).parents[2] / "patterns"
PATTERNS = sorted(path.stem for path in FOLDER.glob("*.attn") if path.stem != "std")
BOUND = 1e-12


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are so small here that threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def module(cascade: Cascade) -> str:
    made = reference(cascade)
    return f"import math\n\nimport torch\n\n\n{made.helpers}\n\n{made.function}"


@cache
def built(cascade: Cascade) -> Callable[..., Any]:
    scope: dict[str, Any] = {}
    exec(compile(module(cascade), cascade.name, "exec"), scope)
    function: Callable[..., Any] = scope["reference"]
    return function


def run(cascade: Cascade, values: Mapping[str, Any]) -> tuple[Tensor, ...]:
    found = built(cascade)(**values)
    return found if isinstance(found, tuple) else (found,)


@cache
def pattern(text: str) -> Cascade:
    source = Source("test", text)
    return check(parse(source), source)


@cache
def stored(name: str) -> Cascade:
    return pattern((FOLDER / f"{name}.attn").read_text("utf-8"))


def everything(cascade: Cascade) -> Cascade:
    """The same, with every equation an output."""
    return replace(cascade, outputs=tuple(e.tensor for e in cascade.equations))


def agree(cascade: Cascade, values: Mapping[str, Any]) -> None:
    """Every output is what `evaluate` says: shape, type, infinities, and values to 1e-12 of the largest."""
    arrays = {name: v.numpy() if isinstance(v, Tensor) else v for name, v in values.items()}
    wanted = outputs(cascade, evaluate(cascade, arrays))
    found = run(cascade, values)
    assert len(found) == len(wanted)
    for tensor, want, got in zip(cascade.outputs, wanted, (f.numpy() for f in found), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype), tensor.name
        known = ~np.isnan(want)  # inf * 0, which a pattern has to answer for itself
        largest = np.max(np.abs(want), initial=0.0, where=np.isfinite(want)) if want.dtype != bool else 0
        np.testing.assert_allclose(
            got[known], want[known], rtol=BOUND, atol=BOUND * largest, err_msg=tensor.name
        )


def leaves(values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Copies of the real tensors that ask for gradients."""
    return {
        name: v.clone().requires_grad_()
        for name, v in values.items()
        if isinstance(v, Tensor) and v.is_floating_point()
    }


def gradients(cascade: Cascade, values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Gradients of the sum of all real outputs, each weighted by its place."""
    inputs = leaves(values)
    found = [x for x in run(cascade, {**values, **inputs}) if x.requires_grad]
    if not found:
        return {name: torch.zeros_like(v) for name, v in inputs.items()}
    total = sum((x * torch.linspace(0.1, 1, x.numel()).to(x.dtype).reshape(x.shape)).sum() for x in found)
    made = torch.autograd.grad(total, tuple(inputs.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, made, strict=True))


def check_gradient(cascade: Cascade, values: Mapping[str, Any]) -> None:
    inputs = leaves(values)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        found = run(cascade, {**values, **dict(zip(inputs, tensors, strict=True))})
        return tuple(x for x in found if x.is_floating_point())

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))


SIZES = {
    "b": 2,
    "h": 4,
    "g": 2,
    "q": 5,
    "k": 7,
    "j": 7,
    "t": 6,
    "n": 3,
    "i": 4,
    "d": 3,
    "e": 2,
    "m": 2,
    "r": 6,
    "l": 2,
    "a": 3,
    "c": 4,
    "s": 5,
    "x": 3,
    "y": 4,
}
SHAPES = (SIZES, {**SIZES, "q": 9, "k": 5, "j": 5}, dict.fromkeys(SIZES, 1))


# Meaning


@pytest.mark.parametrize("sizes", SHAPES, ids=["more keys", "more queries", "ones"])
@pytest.mark.parametrize("cascade", c.EVERY, ids=lambda cascade: cascade.name)
def test_every_construct(cascade: Cascade, sizes: dict[str, int]) -> None:
    counts = {"count": 3} if cascade.name == "top" else {}
    agree(everything(cascade), {**arguments(cascade, sizes), **counts})


@pytest.mark.parametrize("first", range(0, 150, 10))
def test_random_cascades(first: int) -> None:
    """Values, and gradients that are finite wherever the values are."""
    tried = 0
    for seed in range(first, first + 10):
        cascade, values = draw(seed)
        try:
            verified(cascade)
        except AssertionError:
            continue
        tried += 1
        agree(cascade, values)
        if all(torch.isfinite(x).all() for x in run(cascade, values)):
            assert all(torch.isfinite(x).all() for x in gradients(cascade, values).values()), seed
    assert tried > 5


@pytest.mark.parametrize("fold", ["sum", "prod", "max", "min", "mean", "argmax", "argmin"])
@pytest.mark.parametrize("keys", [1, 3, 4, 9])
def test_reductions_of_nothing_and_of_little(fold: str, keys: int) -> None:
    """The index `c` has no position where there are fewer than 4 keys; some of what it has is excluded."""
    inner = c.sequence("c")
    length = op("+", op("//", op("-", extent(c.k), 4), 2), 1)
    kind = "int" if fold.startswith("arg") else "float"
    body = over(fold, inner, where=op("<", inner, c.q), body=at(c.x, op("*", 2, inner)))
    cascade = c.cascade(fold, (c.x, c.R), {made("r", c.q, kind=kind): body}, lengths=((inner, length),))
    agree(cascade, arguments(cascade, {"q": 4, "k": keys}))


@pytest.mark.parametrize(
    "body",
    [
        op("*", 0.1, over("ahead", c.k, body=c.k)),
        op("*", 0.1, op("floor", op("+", c.k, 2**24 + 1))),
        op("*", 0.1, over("mean", c.q, where=op("<", c.q, c.k), body=c.q)),
        over("sum", c.q, where=op("<", c.q, c.k), body=op("*", 0.1, c.q)),
        op("/", c.k, 3),
        op("+", op("exp", op("neg", c.k)), op("**", 0.7, c.k)),
        Choose(op("<", c.k, 2), number(0.1), number(0.7)),
        Choose(op("<", c.k, 2), c.k, number(0.1)),
        op("max", op("*", 0.1, c.k), 0.3),
        op("through", c.k, op("*", 0.1, c.k)),
        op("*", 0.1, over("sum", c.q, where=op("<", c.q, c.k), body=c.q)),
    ],
    ids=lambda body: body.op if isinstance(body, Apply) else "choice",
)
def test_integers_among_numbers(body: Apply | Choose) -> None:
    """What has no real tensor in it is computed in the dtype of the inputs, not in torch's default one."""
    cascade = c.one(op("*", body, number(1.0)), c.R, indices=(c.k,))
    agree(cascade, arguments(cascade, {"q": 3, "k": 5}))


HEADER = "(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]"
TEXTS = {
    "learned sink": f"""pattern sink{HEADER}, sink[h]) -> O[b,h,q,e]:
        over b, h
        align q to k
        S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        O[q,e] = (sum(k where k <= q) exp(S[q,k]) * V[k,e]) / (exp(sink) + sum(k where k <= q) exp(S[q,k]))
    """,
    "decay": f"""pattern decay{HEADER}, slope[h]) -> O[b,h,q,e]:
        over b, h
        align q to k
        A[q,k] = (sum(d) Q[q,d] * K[k,d]) * exp(-slope * (q - k))
        O[q,e] = sum(k where k <= q) A[q,k] * V[k,e]
    """,
    "gate": f"""pattern gate{HEADER}, g[b,h,k]) -> O[b,h,q,e]:
        over b, h
        align q to k
        align j to k
        c[k] = sum(j where j <= k) g[j]
        A[q,k] = (sum(d) Q[q,d] * K[k,d]) * exp(c[q] - c[k])
        O[q,e] = sum(k where k <= q) A[q,k] * V[k,e]
    """,
    "state": """pattern state(Q[t,d], K[t,d], V[t,e], a[t], S0[d,e]) -> O[t,e], last[d,e]:
        along t
        S[t,d,e] = (if t == 0 then S0[d,e] else a[t] * S[t-1,d,e]) + K[t,d] * V[t,e]
        O[t,e] = sum(d) Q[t,d] * S[t,d,e]
        last[d,e] = S[|t| - 1, d, e]
    """,
    "two key sets": f"""pattern two{HEADER}, Z[b,h,n,d], W[b,h,n,e]) -> O[b,h,q,e]:
        over b, h
        align q to k
        S[q,k] = sum(d) Q[q,d] * K[k,d]
        R[q,n] = sum(d) Q[q,d] * Z[n,d]
        near[q,e] = sum(k where k <= q) exp(S[q,k]) * V[k,e]
        far[q,e] = sum(n) exp(R[q,n]) * W[n,e]
        O[q,e] = (near[q,e] + far[q,e]) / (sum(k where k <= q) exp(S[q,k]) + sum(n) exp(R[q,n]))
    """,
    "nucleus": f"""pattern nucleus{HEADER}) -> O[b,h,q,e], C[b,h,q,k]:
        over b, h
        align q to k
        S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        P[q,k] = softmax(k where k <= q) S[q,k]
        C[q,k] = top(k where k <= q, mass = 0.7) P[q,k]
        L[q,k] = softmax(k where k <= q and C[q,k]) S[q,k]
        O[q,e] = sum(k) L[q,k] * V[k,e]
    """,
    "relative table": f"""pattern table{HEADER}, T[h,r], far: int = 2) -> O[b,h,q,e]:
        over b, h
        align q to k
        S[q,k] = sum(d) Q[q,d] * K[k,d] + T[q - k + far]
        P[q,k] = softmax(k where k <= q + far) S[q,k]
        O[q,e] = sum(k) P[q,k] * V[k,e]
    """,
}


@pytest.mark.parametrize("sizes", SHAPES[:2], ids=["more keys", "more queries"])
@pytest.mark.parametrize("name", TEXTS)
def test_texts(name: str, sizes: dict[str, int]) -> None:
    cascade = pattern(TEXTS[name])
    agree(everything(cascade), arguments(cascade, {**sizes, "r": 6}))


NUMBERS = {
    "block": 4,
    "picks": 3,
    "height": 2,
    "width": 3,
    "window": 3,
    "prefix": 4,
    "bias": 0.5,
    "stride": 3,
    "local": 1,
    "layer": 1,
    "first": 2,
}


def numbers(cascade: Cascade) -> dict[str, int | float]:
    """Numbers of a pattern, with edges inside little lengths."""
    return {t.name: NUMBERS[t.name] for t in cascade.inputs if t.name in NUMBERS}


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(name: str) -> None:
    """Two heads to a key head, a ragged last block, and queries that stand before the first key."""
    cascade = stored(name)
    given = {**arguments(cascade, {**SIZES, "q": 12, "k": 10}), **numbers(cascade)}
    agree(everything(cascade), given)


S, x, a = made("S", c.t), c.tensor("x", c.t), c.tensor("a", c.t)
BACK = op("-", c.t, 1)
PARENT = c.tensor("parent", c.t, kind="int", origin="table")


@pytest.mark.parametrize(
    "before",
    [
        at(S, BACK),
        Choose(op("<", c.t, 2), ZERO, at(S, op("-", c.t, 2))),
        Choose(op("<", at(PARENT), ZERO), ZERO, op("tanh", at(S, at(PARENT)))),
        at(S, at(PARENT)),
    ],
    ids=["without a first value", "two back", "a tree", "a tree without a root"],
)
def test_recurrences(before: Apply) -> None:
    cascade = c.cascade("walk", (x, a, PARENT), {S: op("+", op("*", at(a), before), at(x))})
    values = {**arguments(cascade, {"t": 6}), "parent": torch.tensor([-1, 0, 0, 2, 1, 4])}
    agree(cascade, values)
    check_gradient(cascade, values)


def test_ties_go_to_the_lowest_index() -> None:
    same = {"R": torch.ones(4, 4, dtype=torch.float64), "count": 2}
    agree(everything(c.top()), same)
    (picked,) = run(c.top(), same)
    assert picked[3].tolist() == [True, True, False, False]


# Gradients


def test_rows_that_see_nothing() -> None:
    """Of 7 queries over 4 keys the first 3 stand before every key: output 0, lse -inf, gradients 0."""
    whole = stored("streaming")
    cascade = replace(whole, outputs=(whole.equation("O").tensor, whole.equation("lse").tensor))
    values = arguments(cascade, {**SIZES, "q": 7, "k": 4})
    inputs = leaves(values)
    O, lse = run(cascade, {**inputs, "window": 2, "sinks": 1})
    assert torch.equal(O[:, :, :3], torch.zeros_like(O[:, :, :3]))
    assert bool((lse[:, :, :3] == -math.inf).all()) and bool(torch.isfinite(lse[:, :, 3:]).all())
    # the gradient that comes back into an empty row must not matter, not even an infinite one
    back = (torch.ones_like(O), torch.full_like(lse, math.inf).index_fill(2, torch.arange(3, 7), 1.0))
    dQ, dK, dV = torch.autograd.grad((O, lse), tuple(inputs.values()), back)
    assert torch.equal(dQ[:, :, :3], torch.zeros_like(dQ[:, :, :3]))
    assert all(bool(torch.isfinite(x).all()) for x in (dQ, dK, dV))


@pytest.mark.parametrize("function", ["/", "log", "sqrt"])
def test_functions_of_nothing(function: str) -> None:
    """A sum over no key is 0, where these have no derivative: none reaches what the other rows share."""
    total = over("sum", c.k, where=op("<", c.k, c.q), body=op("*", op("abs", at(c.R)), op("abs", at(c.x))))
    body = op("/", total, total) if function == "/" else op(function, total)
    cascade = c.one(body, c.R, c.x, indices=(c.q,))
    values = arguments(cascade, {"q": 4, "k": 3})
    agree(cascade, values)
    found = gradients(cascade, values)
    assert all(bool(torch.isfinite(x).all()) for x in found.values())
    assert torch.equal(found["R"][0], torch.zeros_like(found["R"][0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_is_excluded_does_not_overflow(dtype: torch.dtype) -> None:
    """`exp(slope * distance)` of keys ahead would be infinite, and 0 times its derivative no number."""
    cascade = pattern(TEXTS["decay"])
    values = {**arguments(cascade, {**SIZES, "q": 200, "k": 200}, dtype=dtype)}
    values["slope"] = torch.full((4,), 8.0, dtype=dtype)
    assert all(bool(torch.isfinite(x).all()) for x in run(cascade, values))
    assert all(bool(torch.isfinite(x).all()) for x in gradients(cascade, values).values())


def test_infinities_are_not_multiplied_by_zero() -> None:
    """`sum(n where n < q) top[n] * w[n]`, the maximum of a block being -inf where nothing of it is seen."""
    top, w, r = made("top", c.n), c.tensor("w", c.n), made("r", c.q)
    best = over("max", c.i, where=op("<", op("+", c.n, c.i), 3), body=at(c.cost))
    body = over("sum", c.n, where=op("<", c.n, c.q), body=op("*", at(top), op("*", at(w), at(c.R, c.q, c.n))))
    cascade = c.cascade("blocks", (c.cost, w, c.R), {top: best, r: body})
    values = arguments(cascade, {"n": 5, "i": 2, "q": 4, "k": 5})
    agree(cascade, values)
    assert all(bool(torch.isfinite(x).all()) for x in gradients(cascade, values).values())


def test_equal_maxima_share_the_gradient() -> None:
    cascade = c.one(over("max", c.k, body=at(c.x)), c.x)
    x = torch.tensor([1.0, 3.0, 3.0, 2.0], requires_grad=True)
    (dx,) = torch.autograd.grad(run(cascade, {"x": x}), x)
    assert dx.tolist() == [0, 0.5, 0.5, 0]


def test_through() -> None:
    """The value is the selection's, exactly; the gradient is the score's."""
    chosen = op("through", op("<", at(c.x), 1.0), at(c.x))
    cascade = c.one(op("*", chosen, at(c.x)), c.x, indices=(c.k,))
    x = torch.tensor([0.1, 1e8, -3.0, 0.7], requires_grad=True)
    (r,) = run(cascade, {"x": x})
    assert r.tolist() == (x * (x < 1)).tolist()
    (dx,) = torch.autograd.grad(r.sum(), x)
    assert dx.tolist() == pytest.approx(((x < 1) + x).tolist())


GRADIENTS = {
    "causal": (c.causal(), {"q": 4, "k": 3}),
    "scan": (c.scan(), {"k": 5}),
    "pool": (c.pool(), {"k": 6, "d": 2}),
    "delta": (c.delta(), {"k": 4, "j": 4, "e": 2}),
    "delta backward": (c.delta_backward(), {"k": 4, "j": 4, "e": 2}),
    "memory": (c.memory(), {"t": 4, "d": 2, "e": 2}),
    "lattice": (c.lattice(), {"n": 3, "i": 3}),
    "sink": (stored("sink"), {"q": 4, "k": 3}),
    "landmark": (stored("landmark"), {"q": 5, "k": 6}),
    "gated_delta": (stored("gated_delta"), {"q": 3, "k": 4}),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name: str) -> None:
    cascade, sizes = GRADIENTS[name]
    small = {"b": 1, "h": 2, "g": 1, "d": 2, "e": 2, **sizes}
    given = {"block": 3} if name in ("pool", "landmark") else {}
    check_gradient(cascade, {**arguments(cascade, small), **given})


# Inputs


@pytest.mark.parametrize("name", PATTERNS)
def test_the_dtype_of_the_inputs(name: str) -> None:
    """Computed and returned in it, gradients too, and no worse than it can be told."""
    cascade = stored(name)
    given = numbers(cascade)
    exact = arguments(cascade, {**SIZES, "q": 6, "k": 6}, dtype=torch.bfloat16)
    values = {name: v.double() / 4 if v.is_floating_point() else v for name, v in exact.items()}
    half = {name: v.bfloat16() if v.is_floating_point() else v for name, v in values.items()}
    found, wanted = run(cascade, {**half, **given}), run(cascade, {**values, **given})
    for got, want in zip(found, wanted, strict=True):
        assert got.dtype == (torch.bfloat16 if want.is_floating_point() else want.dtype)
        if want.is_floating_point():
            assert float((got - want).abs().max()) <= 2**-4 * float(want.abs().max())
    for gradient in gradients(cascade, {**half, **given}).values():
        assert gradient.dtype == torch.bfloat16 and bool(torch.isfinite(gradient).all())


def test_gates_in_a_wider_dtype() -> None:
    cascade = stored("gated_delta")
    values = arguments(cascade, {**SIZES, "q": 6, "k": 6}, dtype=torch.bfloat16)
    values |= {name: values[name].float() for name in ("g", "beta")}
    (O,) = run(cascade, values)
    assert O.dtype == torch.float32
    assert gradients(cascade, values)["Q"].dtype == torch.bfloat16


@pytest.mark.parametrize("name", [*PATTERNS, *TEXTS])
def test_the_device_of_the_inputs(name: str) -> None:
    """On the device that has no data, a tensor made elsewhere cannot take part."""
    cascade = pattern(TEXTS[name]) if name in TEXTS else stored(name)
    given = numbers(cascade)
    values = {name: v.to("meta") for name, v in arguments(cascade, {**SIZES, "r": 6}).items()}
    assert all(x.device.type == "meta" for x in run(cascade, {**values, **given}))


def test_any_strides() -> None:
    cascade = stored("causal")
    values = arguments(cascade, SIZES)
    turned = {name: v.transpose(1, 2).contiguous().transpose(1, 2) for name, v in values.items()}
    assert not turned["Q"].is_contiguous()
    for straight, strided in zip(run(cascade, values), run(cascade, turned), strict=True):
        torch.testing.assert_close(strided, straight, rtol=1e-12, atol=1e-12)


# Text

STREAMING = '''\
def reference(Q, K, V, window=1024, sinks=4):
    """`streaming`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # P
    at_q = q + (NK - NQ)
    where_qk = (k <= at_q[:, None]) & ((at_q[:, None] - k < window) | (k < sinks))
    max_P_q = _amax(torch.where(where_qk, S, -math.inf), 3, -math.inf)
    exp_P_qk = torch.exp(torch.where(where_qk, S - max_P_q[..., None], -math.inf))
    P = _divide(exp_P_qk, exp_P_qk.sum(-1)[..., None])
    # O[b,h,q,e] = sum(k) P[b,h,q,k] * V[b, h // (|h| // |g|), k, e]
    O = _einsum("bhqk,bhke->bhqe", P, V[:, h // (NH // NG)])
    return O
'''


def test_it_reads_like_this() -> None:
    text = reference(stored("streaming")).function
    # the comment of P is as long as its equation
    assert re.sub(r"    # P\[.*?\n(    #     .*\n)*", "    # P\n", text) == STREAMING


def test_only_the_helpers_that_are_called() -> None:
    assert re.findall(r"def (\w+)", reference(stored("streaming")).helpers) == [
        "_divide",
        "_einsum",
        "_amax",
    ]
    assert reference(c.one(op("*", 2.0, at(c.x)), c.x, indices=(c.k,))).helpers == ""


def test_same_cascade_same_text() -> None:
    assert all(reference(stored(name)) == reference(stored(name)) for name in ("nsa", "gated_delta"))


def test_a_masked_sum_builds_no_larger_tensor() -> None:
    """`sum(k where k <= q) V[k,e]`: the predicate is a factor, not an array over q, k and e."""
    body = over("sum", c.k, where=op("<=", c.k, c.q), body=at(c.X))
    cascade = c.cascade("sums", (c.X, c.R), {made("r", c.q, c.d): body})
    assert '_einsum("qk,kd->qd", k <= q[:, None], X)' in reference(cascade).function


@pytest.mark.parametrize(
    "text",
    [
        f"({'a' * 40} <= b) & ({'c' * 40} | d[:, None]) & ~{'e' * 40}",
        f"f({'a' * 40}, g({'b' * 40}, c), {{1: {'d' * 30}}})",
        f"f({'a' * 60}, {'b' * 60})",
        f"f({'a' * 40}).g({'b' * 40}, {'c' * 40})",
        f"f({'a' * 60}) < g({'b' * 60})",
        f"f({'a' * 60}) if {'b' * 60} else c",
        f'_einsum("ab,bc->ac", {"a" * 60}, {"b" * 60})[..., None]',
    ],
)
def test_long_lines_are_broken_without_a_change(text: str) -> None:
    line = f"    r = {text}"
    broken = wrapped(line)
    assert ast.dump(ast.parse("\n".join(broken).strip())) == ast.dump(ast.parse(line.strip()))
    assert len(broken) > 1 or ")." in text or "[" in text
    assert wrapped("    r = a & b") == ["    r = a & b"]


def test_names_that_mean_something_else() -> None:
    """Tensors called like indices, like words of Python, and like what the text itself says."""
    cascade = pattern(
        """pattern names(Q[b,h,q,d], K[b,h,k,d], lambda[h], max_[k], D[d]) -> O[b,h,q]:
            over b, h
            align q to k
            align j to k
            index c: (|k| - 1) // 2 + 1
            i[k] = sum(j where j <= k) lambda * max_[j]
            torch[q,c] = sum(d) Q[q,d] * K[c * 2,d] * D[d]
            O[q] = sum(c where c * 2 <= q) torch[q,c] * i[c * 2]
        """
    )
    values = arguments(cascade, SIZES)
    (want,) = outputs(cascade, evaluate(cascade, {name: v.numpy() for name, v in values.items()}))
    values["lambda_"] = values.pop("lambda")
    np.testing.assert_allclose(run(cascade, values)[0].numpy(), want, rtol=BOUND)


def test_arguments_without_defaults_behind_those_with() -> None:
    w, z = c.scalar("w"), c.scalar("z", "float")
    body = op("*", op("*", at(c.x), at(w)), at(z))
    cascade = c.cascade("late", (c.x, w, z), {made("r", c.k): body}, defaults=(("w", 2),))
    assert "def reference(x, *, w=2, z):" in reference(cascade).function
    assert run(cascade, {"x": torch.ones(2), "z": 0.5})[0].tolist() == [1, 1]


def test_a_choice_by_a_number_runs_one_branch() -> None:
    w = c.scalar("w")
    body = Choose(op("==", at(w), 0), number(0.0), at(c.x, op("+", at(w), extent(c.k))))
    cascade = c.one(over("sum", c.q, where=TRUE, body=op("*", body, at(c.R, c.q, ZERO))), c.x, w, c.R)
    for given in (0, -1, 1):
        agree(cascade, {**arguments(cascade, {"q": 2, "k": 3}), "w": given})


def test_formatted_and_free_of_lint(tmp_path: Path) -> None:
    """As the repository's own formatter and linter want it, but for an import that a module may not need."""
    for name in PATTERNS:
        text = module(stored(name))
        (tmp_path / f"{name}.py").write_text(text, "utf-8")
        assert max(map(len, text.splitlines())) <= 110
    ruff = [sys.executable, "-m", "ruff"]
    config = ["--config", str(FOLDER.parent / "pyproject.toml")]
    for command in (["format", "--check", "--diff"], ["check", "--ignore", "F401"]):
        done = subprocess.run([*ruff, *command, *config, str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
