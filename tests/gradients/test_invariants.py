"""What must hold of gradients whatever the pattern is, and what must not change them; in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attncc.ir.evaluate import evaluate, outputs
from attncc.verify.gradients import gradients, weights
from tests.gradients.trained import drawn, trained, verdict
from tests.shapes import Shape

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = Shape(2, 6, 2, 70, 130, 16, 24)

SOFTMAX = ("dense", "causal", "streaming", "alibi", "s2", "document", "softcap", "sink", "sigmoid", "tree")
"""Patterns whose queries and keys enter through their products alone."""

EVERY = (*SOFTMAX, "differential", "cosine", "retnet", "natten2d")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left unwritten is NaN."""
    make = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: make(*a, **k).fill_(torch.nan))


def found(name: str, given: dict[str, Any], reach: tuple[Tensor, ...]) -> dict[str, Tensor]:
    run = trained(name)
    return dict(zip(run.wrt, gradients(run, given, run.wrt, reach), strict=True))


def call(name: str, shape: Shape = SHAPE) -> tuple[dict[str, Any], tuple[Tensor, ...]]:
    """Arguments of a pattern, and what reaches its outputs."""
    given = drawn(name, shape, torch.float64)
    return given, weights(trained(name)(given), torch.float64, 5)


def same(a: Tensor, b: Tensor) -> None:
    """Equal to twelve digits: the order of sums may differ."""
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SOFTMAX)
def test_queries_and_keys_have_equal_parts(name: str) -> None:
    """<dQ, Q> = <dK, K> in every key head and its query heads: both are sums of dS * S."""
    given, reach = call(name)
    made = found(name, given, reach)
    group = given["Q"].shape[1] // given["K"].shape[1]
    rows = (made["Q"] * given["Q"]).sum((-1, -2)).unflatten(1, (-1, group)).sum(-1)
    torch.testing.assert_close(rows, (made["K"] * given["K"]).sum((-1, -2)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", EVERY)
def test_along_a_direction(name: str) -> None:
    """The slope of what `evaluate` gives, along a random step of every input, is what gradients say."""
    shape = Shape(1, 2, 1, 9, 14, 4, 5, m=1)
    given, reach = call(name, shape)
    made = found(name, given, reach)
    source = torch.Generator().manual_seed(3)
    steps = {n: torch.randn(x.shape, generator=source, dtype=x.dtype) for n, x in made.items()}
    cascade = trained(name).cascade

    def weighed(size: float) -> float:
        moved = {n: given[n] + size * steps[n] if n in steps else x for n, x in given.items()}
        values = {n: x.numpy() if torch.is_tensor(x) else x for n, x in moved.items()}
        every = outputs(cascade, evaluate(cascade, values))
        return float(sum((w * torch.from_numpy(x)).sum() for w, x in zip(reach, every, strict=True)))

    step = 1e-3
    near, far = ((weighed(s) - weighed(-s)) / (2 * s) for s in (step, 2 * step))
    slope = (4 * near - far) / 3  # off by the fourth power of the step
    said = float(sum((made[n] * steps[n]).sum() for n in made))
    assert slope == pytest.approx(said, rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_batches_keep_to_themselves(name: str) -> None:
    given, reach = call(name)
    before = found(name, given, reach)
    order = torch.tensor([1, 0])
    inputs = trained(name).cascade.inputs
    batched = [t.name for t in inputs if "b" in [i.name for i in t.indices]]
    turned = {**given, **{n: given[n].flip(0) for n in batched}}
    after = found(name, turned, tuple(x[order] for x in reach))
    for n, x in before.items():
        same(after[n], x.flip(0) if n in batched else x)


@pytest.mark.parametrize("name", ["window", "streaming"])
def test_keys_that_no_query_sees(name: str) -> None:
    """Whole tiles of them, between the sinks and every window: they have no gradient, others keep theirs."""
    given, reach = call(name, Shape(2, 6, 2, 70, 150, 16, 24))
    before = found(name, given, reach)
    at = 4 if name == "streaming" else 0
    for count in (1, 300):
        more = dict(given)
        for n in "KV":
            x = given[n]
            garbage = 1e3 * torch.randn(*x.shape[:2], count, x.shape[-1], dtype=x.dtype)
            more[n] = torch.cat([x[:, :, :at], garbage, x[:, :, at:]], dim=2)
        after = found(name, more, reach)
        same(after["Q"], before["Q"])
        for n in "KV":
            assert (after[n][:, :, at : at + count] == 0).all()
            same(torch.cat([after[n][:, :, :at], after[n][:, :, at + count :]], 2), before[n])


@pytest.mark.parametrize("name", ["causal", "window", "sink", "document", "padded"])
def test_rows_that_see_nothing_have_no_gradient(name: str) -> None:
    """Exactly none; nor have keys that nothing sees."""
    given, reach = call(name, Shape(1, 3, 1, 90, 40, 16, 24))
    made = found(name, given, reach)
    if name != "padded":
        assert (made["Q"][:, :, :50] == 0).all()
    assert all(x.isfinite().all() for x in made.values())
    given, reach = call(name, Shape(1, 3, 1, 0, 40, 16, 24))
    assert all((x == 0).all() for x in found(name, given, reach).values())


@pytest.mark.parametrize("name", EVERY)
def test_equal_from_run_to_run(name: str) -> None:
    given = drawn(name, SHAPE, torch.bfloat16)
    reach = weights(trained(name)(given), torch.bfloat16, 5)
    first = found(name, given, reach)
    again = found(name, given, reach)
    assert all(torch.equal(first[n], again[n]) for n in first)


@pytest.mark.parametrize("asked", [("lse",), ("O", "lse"), ("S", "O"), ("P",)], ids="-".join)
@pytest.mark.parametrize("name", ["dense", "streaming"])
def test_through_other_outputs(name: str, asked: tuple[str, ...]) -> None:
    given = drawn(name, Shape(1, 3, 1, 33, 70, 16, 24), torch.float64)
    found = verdict(name, given, torch.float64, asked)
    assert found.pop("verdict").right, found


TURNS = {
    "heads behind rows": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "features before rows": lambda x: x.mT.contiguous().mT,
    "one for all": lambda x: x[:1, :1, :1, :1].expand_as(x),
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("name", ["streaming", "alibi"])
def test_strides_of_what_reaches_an_output(name: str, turn: Any) -> None:
    given, (reach,) = call(name)
    turned = {n: turn(x) if torch.is_tensor(x) and x.dim() == 4 else x for n, x in given.items()}
    plain = {n: x.contiguous() if torch.is_tensor(x) else x for n, x in turned.items()}
    wanted = found(name, plain, (turn(reach).contiguous(),))
    for n, x in found(name, turned, (turn(reach),)).items():
        same(x, wanted[n])


@pytest.mark.parametrize("varies", [True, False])
def test_a_second_derivative_is_an_error(varies: bool) -> None:
    given, (reach,) = call("causal", Shape(1, 2, 1, 9, 14, 4, 5))
    given = {n: x.requires_grad_() for n, x in given.items()}
    (out,) = trained("causal")(given)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(out, [given["Q"]], reach.requires_grad_(varies), create_graph=True)
