"""Every pattern text means what its paper says: evaluated, and compared with a definition of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attncc.codegen.reference_module import module_text
from attncc.ir.cascade import Cascade
from attncc.ir.check import check
from attncc.ir.evaluate import evaluate
from attncc.source import Source
from attncc.syntax import ast
from attncc.syntax.parser import parse
from tests.patterns import definitions, listed, masks, scores
from tests.patterns.cases import CASES, TENSORS, Arguments, Case, inputs
from tests.patterns.parts import Results, dots

FOLDER = Path(__file__).parents[2] / "patterns"
NAMES = sorted(path.stem for path in FOLDER.glob("*.attn") if path.stem != "std")
EVERY = [case for name in NAMES for case in CASES.get(name, ())]
BOUND = 1e-10


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are so small here that threads only wait for each other, tenfold on a loaded machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def text(name: str) -> tuple[ast.File, Source]:
    source = Source.read(FOLDER / f"{name}.attn")
    return parse(source), source


@cache
def cascade(name: str) -> Cascade:
    return check(*text(name))


def definition(name: str) -> Callable[..., Results]:
    """What defines a pattern, in whichever module it stands."""
    (module,) = (m for m in (definitions, listed, masks, scores) if hasattr(m, name))
    defined: Callable[..., Results] = vars(module)[name]
    return defined


def define(case: Case, values: Arguments) -> Results:
    return definition(case.pattern)(**values)


@cache
def dense(name: str, results: tuple[str, ...]) -> Callable[..., tuple[Tensor, ...]]:
    """The generated reference of a pattern, asked for the equations named."""
    meaning = cascade(name)
    asked = replace(meaning, outputs=tuple(meaning.equation(r).tensor for r in results))
    names: dict[str, Any] = {}
    exec(module_text(asked), names)
    reference = names["reference"]
    return reference if len(results) > 1 else lambda **values: (reference(**values),)


def gradients(results: Mapping[str, Tensor], values: Arguments) -> tuple[Tensor, ...]:
    """Of one number, which every finite real element moves at a rate of its own."""
    real = torch.cat([x[x.isfinite()] for x in results.values() if x.is_floating_point()])
    number = (real * torch.linspace(0.5, 1.5, real.numel(), dtype=real.dtype)).sum()
    tensors = [x for x in values.values() if _moves(x)]
    return torch.autograd.grad(number, tensors, materialize_grads=True)


def differentiable(case: Case) -> Arguments:
    return {n: x.requires_grad_() if _moves(x) else x for n, x in inputs(case).items()}


def _moves(x: Any) -> bool:
    """Whether an argument has a gradient: tables have none."""
    return isinstance(x, Tensor) and x.is_floating_point()


def assert_same(name: str, got: np.ndarray, wanted: Tensor) -> None:
    """Every element within `BOUND` of its own size and 1, infinities and truth values exactly."""
    expected = wanted.detach().numpy()
    assert got.shape == expected.shape, name
    if expected.dtype == bool:
        assert (got == expected).all(), name
        return
    finite = np.isfinite(expected)
    assert (got[~finite] == expected[~finite]).all(), name
    error = np.abs(got[finite] - expected[finite]) / (1 + np.abs(expected[finite]))
    assert (error <= BOUND).all(), f"{name}: {error.max()}"


def test_every_pattern_is_tried() -> None:
    assert NAMES == sorted(CASES) == sorted(TENSORS)


@pytest.mark.parametrize("name", NAMES)
def test_definition_takes_what_the_pattern_takes(name: str) -> None:
    pattern = text(name)[0].pattern
    assert pattern is not None and pattern.name == name
    tensors = {
        p.name: "".join(i.name for i in p.indices) for p in pattern.params if isinstance(p, ast.TensorParam)
    }
    assert tensors == TENSORS[name] and list(tensors) == list(TENSORS[name])
    wanted = [(p.name, p.default if isinstance(p, ast.ScalarParam) else None) for p in pattern.params]
    given = inspect.signature(definition(name)).parameters.values()
    assert [(p.name, None if p.default is p.empty else p.default) for p in given] == wanted


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_pattern_means_its_definition(case: Case) -> None:
    values = inputs(case)
    meaning = cascade(case.pattern)
    got = evaluate(meaning, {n: x.numpy() if isinstance(x, Tensor) else x for n, x in values.items()})
    wanted = define(case, values)
    assert {t.name for t in meaning.outputs} <= set(wanted)
    for name, x in wanted.items():
        assert_same(name, got[name], x)


def test_what_is_excluded_is_not_read() -> None:
    """A landmark's value is absent, never multiplied by zero."""
    case = next(c for c in CASES["landmark"] if c.extents["k"] == 127)
    values = inputs(case)
    V, block = values["V"], int(case.scalars["block"])
    V[..., block - 1 :: block, :] = torch.nan
    got = evaluate(
        cascade("landmark"), {n: x.numpy() if isinstance(x, Tensor) else x for n, x in values.items()}
    )
    assert_same("O", got["O"], define(case, values)["O"])


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_reference_is_the_definition(case: Case) -> None:
    """In values and in every gradient, which are finite, rows that see nothing included."""
    ours, theirs = differentiable(case), differentiable(case)
    wanted = define(case, ours)
    got = dict(zip(wanted, dense(case.pattern, tuple(wanted))(**theirs), strict=True))
    for name, x in wanted.items():
        assert_same(name, got[name].detach().numpy(), x)
    tensors = [name for name, x in ours.items() if _moves(x)]
    for name, x, y in zip(tensors, gradients(got, theirs), gradients(wanted, ours), strict=True):
        assert x.isfinite().all(), name
        assert_same(f"d{name}", x.numpy(), y)


LONG = Case(
    "causal", {"b": 1, "h": 6, "g": 2, "q": 37, "k": 41, "d": 8, "e": 5, "m": 2, "r": 9, "y": 11, "x": 11}
)


def arguments(pattern: str, **scalars: int | float) -> Arguments:
    """Arguments of a pattern at `LONG`'s extents; patterns without groups get as many key heads as heads."""
    return inputs(Case(pattern, {**LONG.extents, "s": 7}, scalars))


@pytest.mark.parametrize("name", ["dense", "causal"])
def test_softmax_attention_is_torchs(name: str) -> None:
    x = arguments(name)
    seen = torch.ones(37, 41, dtype=torch.bool).tril(4 if name == "causal" else 41)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        x["Q"], x["K"], x["V"], attn_mask=seen, enable_gqa=True
    )
    torch.testing.assert_close(definition(name)(**x)["O"], wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "scalars"),
    [
        ("window", {"window": 41}),
        ("streaming", {"window": 2, "sinks": 41}),
        ("softcap", {"cap": 1e9}),
        ("s2", {"block": 4, "local": 11, "stride": 3}),
        ("s2", {"block": 4, "local": 0, "stride": 1}),
        ("moba", {"block": 4, "picks": 11}),
        ("h2o", {}),
        ("prefix_lm", {"prefix": 0}),
        ("chunked", {"chunk": 41}),
        ("gemma2", {"window": 41, "cap": 1e9, "scalar": 8.0}),
        ("longlora", {"group": 82}),
    ],
)
def test_choosing_everything_is_causal(name: str, scalars: dict[str, int | float]) -> None:
    x = arguments(name, **scalars)
    wanted = definitions.causal(x["Q"], x["K"], x["V"])["O"]
    torch.testing.assert_close(definition(name)(**x)["O"], wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "scalars"),
    [
        ("landmark", {"block": 4}),
        ("moba", {"block": 4, "picks": 2}),
        ("s2", {"block": 4, "local": 1, "stride": 3}),
        ("alibi", {}),
        ("based", {}),
        ("based_window", {"window": 5}),
        ("document", {}),
        ("chunked", {"chunk": 5}),
        ("longlora", {"group": 6}),
        ("neighborhood1d", {"window": 5}),
        ("dilated", {"window": 5}),
        ("qk_norm", {}),
        ("rope", {}),
        ("lssa", {}),
        ("lssar", {"eps": 0.0}),
        ("cosine", {}),
        ("entropy", {}),
        ("z_loss", {}),
        ("max_logit", {}),
        ("positional", {}),
        ("music", {}),
    ],
)
def test_weights_of_a_row_sum_to_one(name: str, scalars: dict[str, int | float]) -> None:
    x = arguments(name, **scalars)
    x["V"] = torch.ones_like(x["V"])
    got = definition(name)(**x)["O"]
    torch.testing.assert_close(got, torch.ones_like(got), rtol=0, atol=1e-12)


AHEAD = (
    "dense",
    "cross",
    "sigmoid",
    "neighborhood1d",
    "neighborhood2d",
    "neighborhood3d",
    "natten2d",
    "prefix_lm",
    "palm",
    "positional",
    "pointer",
    "evoformer",
    "kronecker",
    "padded",
    "ragged",
    "s2_relative",
    "uni_encoder",
    "yopo",
    "natten1d",
    "bigbird",
    "longformer",
    "block_causal",
    "block_diffusion",
    "halonet",
    "halonet_padded",
    "hilo",
    "agent",
    "transfusion",
)
"""Patterns whose queries see later keys, or whose last ones see none, being padding, or stand elsewhere."""
CAUSAL = [name for name in NAMES if name not in AHEAD]


@pytest.mark.parametrize("name", CAUSAL)
def test_the_future_changes_nothing(name: str) -> None:
    """What is chosen included: blocks and windows are cut so that choices are made."""
    shapes = {
        "block": 4,
        "picks": 4,
        "window": 5,
        "local": 1,
        "stride": 3,
        "sinks": 2,
        "chunk": 7,
        "group": 6,
        "prefix": 5,
        "layer": 0,
    }
    taken = inspect.signature(definition(name)).parameters
    x = arguments(name, **{n: v for n, v in shapes.items() if n in taken})
    y = dict(x)
    for n in ("K", "K1", "K2", "V", "g", "beta"):
        if n in x:
            axis = TENSORS[name][n].index("k")
            y[n] = x[n].clone()
            y[n].narrow(axis, 30, 11).mul_(0.5)
    before, after = (definition(name)(**z)["O"] for z in (x, y))
    torch.testing.assert_close(before[..., :26, :], after[..., :26, :], rtol=0, atol=0)
    assert not torch.equal(before[..., 26, :], after[..., 26, :])


@pytest.mark.parametrize(
    ("window", "height", "width"), [(1, 4, 5), (2, 5, 4), (3, 3, 7), (4, 6, 4), (5, 5, 9)]
)
def test_neighborhoods_are_equally_large(window: int, height: int, width: int) -> None:
    """With one-hot values, outputs are weights: `window * window` to the row, its own among them."""
    cells = height * width
    zeros, one_hot = torch.zeros(1, 1, cells, 4), torch.eye(cells)[None, None]
    P = definitions.neighborhood2d(zeros, zeros, one_hot, width, window)["O"][0, 0]
    assert ((P > 0).sum(-1) == window * window).all() and (P.diagonal() > 0).all()


@pytest.mark.parametrize(("window", "length"), [(1, 1), (2, 9), (3, 7), (4, 4), (5, 30)])
def test_neighborhoods_of_a_line_are_equally_large(window: int, length: int) -> None:
    zeros, one_hot = torch.zeros(1, 1, length, 4), torch.eye(length)[None, None]
    P = definitions.neighborhood1d(zeros, zeros, one_hot, window)["O"][0, 0]
    assert ((P > 0).sum(-1) == window).all() and (P.diagonal() > 0).all()


def test_only_distances_turn_scores() -> None:
    """Rotary scores of positions shifted together are the same; at a distance of 0 nothing is turned."""
    x = arguments("rope")
    at = torch.arange(37)
    near, far = (
        dots(*(definitions.rotated(x[n][..., :37, :], at + by, 1e4) for n in "QK")) for by in (0, 1000)
    )
    torch.testing.assert_close(near, far, rtol=0, atol=1e-10)
    plain = dots(x["Q"], x["K"][..., :37, :])
    torch.testing.assert_close(near.diagonal(0, -2, -1), plain.diagonal(0, -2, -1), rtol=0, atol=1e-10)


def test_no_query_sees_beyond_its_group() -> None:
    """What LongLoRA's heads see starts at multiples of the group, or of half a group."""
    x = arguments("longlora", group=6)
    x["Q"], x["K"], x["V"] = 0 * x["Q"], 0 * x["K"], torch.eye(41).expand(1, 2, 41, 41).double()
    seen = definitions.longlora(**x)["O"][0] > 0
    starts = seen.int().argmax(-1)
    assert (starts[:3] % 6 == 0).all()
    assert ((starts[3:] % 6 == 3) | (starts[3:] == 0)).all()
