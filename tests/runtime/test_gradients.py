"""Gradients of calls: which are computed, that they are right, what torch asks of them, what is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import attncc
from attncc.runtime import ops
from attncc.runtime.module import load
from tests.runtime.calls import DEVICES, NUMBERS, pattern, shared, tracked

close = torch.testing.assert_close
grad = torch.autograd.grad


def finite(made: Any) -> list[Tensor]:
    """Every real output, without its infinities."""
    outputs = made if isinstance(made, tuple) else (made,)
    return [torch.where(x.isfinite(), x, 0) for x in outputs]


def loss(made: Any) -> Tensor:
    """A number in which every element of every output has a part of its own."""
    return sum((x * torch.linspace(-1, 1, x.numel()).to(x).view_as(x)).sum() for x in finite(made))


def wrts(attend: attncc.Attention) -> list[str]:
    """Of what the modules have gradients, in the order in which they were generated."""
    return ["".join(key.wrt) for key in attend.modules]


# ---- what they are -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("device", DEVICES)
def test_they_are_those_of_the_reference(name: str, device: str) -> None:
    dtype = torch.float64 if device == "cpu" else torch.float32
    attend, plain = pattern(name), shared(name, "reference")
    for length in (20, 130):
        call, floats = tracked(attend, length, device, dtype)
        close(grad(loss(attend(**call)), floats), grad(loss(plain(**call)), floats), atol=1e-5, rtol=1e-5)
    assert attend.compilations == 1


@pytest.mark.parametrize(
    ("name", "outputs"), [("streaming", ("lse", "O")), ("sigmoid", None), ("entropy", None), ("alibi", None)]
)
def test_gradcheck(name: str, outputs: Any) -> None:
    attend = shared(name)
    call, floats = tracked(attend, 4, "cpu", torch.float64, features=3)
    names = [n for n in call if any(call[n] is x for x in floats)]
    assert torch.autograd.gradcheck(
        lambda *xs: attend(**{**call, **dict(zip(names, xs, strict=True))}, outputs=outputs), floats
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_element_types(dtype: torch.dtype) -> None:
    """What reaches a statistic is as precise as sums are, gradients as their inputs."""
    attend, plain = shared("streaming"), shared("streaming", "reference")
    call, floats = tracked(attend, 33, "cpu", dtype)
    double = [x.detach().double().requires_grad_() for x in floats]
    found = grad(loss(attend(**call, outputs=("O", "lse"))), floats)
    meant = grad(loss(plain(*double, 9, 2, outputs=("O", "lse"))), double)
    assert {x.dtype for x in found} == {dtype}
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    for x, y in zip(found, meant, strict=True):
        assert (x.double() - y).norm() < bound * y.norm()


def test_rows_that_see_nothing() -> None:
    """Exactly 0, never NaN, through every output."""
    attend = shared("window")
    q, k, v = (torch.randn(1, 2, n, 7, requires_grad=True) for n in (77, 13, 13))
    o, lse = attend(q, k, v, 5, outputs=("O", "lse"))
    assert torch.equal(o[:, :, :64], torch.zeros(1, 2, 64, 7)) and lse[:, :, :64].isneginf().all()
    for through in (o.sum(), lse[:, :, 64:].sum(), o.sum() + lse.exp().sum()):
        dq, dk, dv = grad(through, (q, k, v), retain_graph=True, materialize_grads=True)
        assert torch.equal(dq[:, :, :64], torch.zeros(1, 2, 64, 7))
        assert all(x.isfinite().all() for x in (dq, dk, dv)) and dk.any()
    nothing = torch.randn(1, 2, 0, 7, requires_grad=True)
    o = attend(q, nothing, nothing, 5)
    close(grad(o.sum(), (q, nothing)), (torch.zeros_like(q), torch.zeros_like(nothing)))


def test_cotangents_of_any_kind() -> None:
    """One element everywhere, axes turned around, nothing at all for one of the outputs."""
    attend, plain = shared("streaming"), shared("streaming", "reference")
    call, floats = tracked(attend, 33, "cpu", torch.float64)
    turned = torch.randn(24, 33, 4, 2, dtype=torch.float64).permute(3, 2, 1, 0)
    for through in (
        lambda o, lse: o.sum() + lse.mean(),
        lambda o, lse: (o * turned).sum(),
        lambda o, lse: lse[:, :, ::2].sum(),
        lambda o, lse: o.mT.reshape(-1).cumsum(0)[-1],
    ):
        made, meant = (through(*f(**call, outputs=("O", "lse"))) for f in (attend, plain))
        close(*(grad(x, floats, materialize_grads=True) for x in (made, meant)))


def test_one_tensor_for_several_inputs() -> None:
    x = torch.randn(1, 2, 33, 7, dtype=torch.float64, requires_grad=True)
    made, meant = (loss(shared("causal", backend)(x, x, x)) for backend in (None, "reference"))
    close(grad(made, x), grad(meant, x))


# ---- which are computed ------------------------------------------------------------------------


def test_a_module_has_the_gradients_that_are_needed() -> None:
    attend = pattern("streaming")
    call, _ = tracked(attend, 33, "cpu")
    bare = {n: x.detach() if torch.is_tensor(x) else x for n, x in call.items()}
    attend(**bare)
    with torch.no_grad():
        attend(**call)
    with torch.inference_mode():
        attend(**call)
    assert wrts(attend) == [""]
    for name in "VQ":
        made = attend(**{**bare, name: call[name]})
        assert made.requires_grad
        made.sum().backward()
        assert [n for n in "QKV" if call[n].grad is not None] == [name]
        call[name].grad = None
    attend(**{**bare, "K": call["K"] * 2, "Q": call["Q"]}).sum().backward()
    assert wrts(attend) == ["", "V", "Q", "QK"]
    for length in (5, 64, 200):
        call, floats = tracked(attend, length, "cpu", torch.bfloat16)
        for window in (3, 100):
            grad(loss(attend(**{**call, "window": window})), floats)
    assert wrts(attend) == ["", "V", "Q", "QK", "QKV"]


def test_what_no_output_depends_on_has_no_gradient() -> None:
    attend = pattern("causal")
    _, (q, k, v) = tracked(attend, 9, "cpu")
    lse = attend(q, k, v, outputs="lse")
    assert wrts(attend) == ["QK"]
    with pytest.raises(RuntimeError, match="appears to not have been used in the graph"):
        grad(lse[lse.isfinite()].sum(), v)
    assert not attend(q.detach(), k.detach(), v, outputs="lse").requires_grad


def test_threads() -> None:
    attend = pattern("window")

    def work(n: int) -> tuple[Tensor, ...]:
        call, floats = tracked(attend, 33, "cpu")
        return grad(loss(attend(**call)), floats)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, range(8)))
    assert attend.compilations == 1
    assert all(torch.equal(x, y) for each in found for x, y in zip(each, found[0], strict=True))


def test_the_same_every_time() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        attend = shared("streaming")
        call, floats = tracked(attend, 150, "cpu")
        first, *others = (grad(loss(attend(**call)), floats) for _ in range(3))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(x, y) for each in others for x, y in zip(each, first, strict=True))


# ---- what torch does with them -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["window", "documents"])
@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(name: str, device: str) -> None:
    """The operator that is called, the one that it becomes, and the one of its gradients."""
    attend = shared(name)
    call, _ = tracked(attend, 20, device)
    given = tuple(call.values())
    assert all_successful(attend.op(), given)
    forward, backward = passes_of(attend, "QKV")
    assert all_successful(forward, given)
    with torch.no_grad():
        outputs = forward(*given)
    names = [t.name for t in attend.cascade.outputs]
    made = dict(zip([*names, "P_log"], outputs, strict=True))
    more = [a.name for a in backward._schema.arguments[len(given) :]]
    rest = [made[n] if n in made else torch.ones_like(made[n.removeprefix("d")]) for n in more]
    bare = [x.detach() if torch.is_tensor(x) else x for x in given]
    assert len(rest) >= 2 and all_successful(backward, (*bare, *rest))


def passes_of(attend: attncc.Attention, wrt: str) -> list[Any]:
    """The two operators that a call becomes."""
    name = ops.name_of(attend.source, attend.cascade, attend.backend, tuple(wrt))
    return [getattr(torch.ops.attncc, f"{name}_{end}").default for end in ("forward", "backward")]


def all_successful(op: Any, given: tuple[Any, ...]) -> bool:
    return set(torch.library.opcheck(op, given).values()) == {"SUCCESS"}


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant: bool) -> None:
    attend = shared("streaming")
    call, floats = tracked(attend, 33, "cpu")
    meant = grad(loss(attend(**call)), floats)
    made = checkpoint(
        lambda *qkv: attend(*qkv, call["window"], call["sinks"]), *floats, use_reentrant=reentrant
    )
    loss(made).backward()
    assert all(torch.equal(x.grad, y) for x, y in zip(floats, meant, strict=True))


def test_what_is_kept_can_be_chosen() -> None:
    """A policy meets the forward pass as one operator."""
    attend, met = shared("streaming"), []

    def policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        met.append(str(op))
        return CheckpointPolicy.MUST_SAVE if "attncc" in str(op) else CheckpointPolicy.PREFER_RECOMPUTE

    call, floats = tracked(attend, 33, "cpu")
    choice = functools.partial(create_selective_checkpoint_contexts, policy)
    loss(checkpoint(lambda: attend(**call), use_reentrant=False, context_fn=choice)).backward()
    close([x.grad for x in floats], list(grad(loss(attend(**call)), floats)))
    assert [name.endswith("_forward.default") for name in met if "attncc" in name] == [True]


@pytest.mark.parametrize("device", DEVICES)
def test_automatic_precision(device: str) -> None:
    """Real tensors get the element type of the region, whatever they had; gradients keep theirs."""
    attend = shared("documents")
    call, floats = tracked(attend, 33, device)
    call["V"] = call["V"].to(torch.bfloat16)
    with torch.autocast(device, torch.bfloat16):
        o, lse = attend(**call)
        with torch.no_grad():
            again, _ = attend(**call)
    assert (o.dtype, again.dtype, lse.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    found = grad(loss((o.float(), lse)), floats)
    short = {n: x.to(torch.bfloat16) if any(x is y for y in floats) else x for n, x in call.items()}
    o, lse = attend(**short)
    meant = grad(loss((o.float(), lse)), floats)
    assert {x.dtype for x in found} == {torch.float32}
    assert all(map(torch.equal, found, meant))
    with (
        torch.autocast(device, torch.bfloat16),
        pytest.raises(TypeError, match="`Q` is float64"),
    ):
        attend(**{**call, "Q": call["Q"].double()})


# ---- a second derivative, and forward mode -----------------------------------------------------

TWICE: dict[str, Callable[..., Any]] = {
    "autograd": lambda f, q: grad(grad(f(q).sum(), q, create_graph=True)[0].sum(), q),
    "func": lambda f, q: torch.func.grad(lambda x: torch.func.grad(lambda y: f(y).sum())(x).sum())(q),
}


@pytest.mark.parametrize("twice", TWICE.values(), ids=TWICE)
def test_there_is_no_second_derivative(twice: Callable[..., Any]) -> None:
    attend = shared("causal")
    _, (q, k, v) = tracked(attend, 5, "cpu")
    words = r'`causal` has no second derivative: .* attncc.load\(..., backend="reference"\)'
    with pytest.raises(NotImplementedError, match=words):
        twice(lambda x: attend(x, k, v), q)
    assert twice(lambda x: shared("causal", "reference")(x, k, v), q) is not None


def test_there_is_no_forward_mode() -> None:
    attend = shared("causal")
    _, (q, k, v) = tracked(attend, 5, "cpu")
    with pytest.raises(NotImplementedError, match=r"no forward-mode derivative, only torch\.func\.grad, vjp"):
        torch.func.jvp(lambda x: attend(x, k, v), (q,), (q,))
    with torch.autograd.forward_ad.dual_level(), torch.no_grad():
        dual = torch.autograd.forward_ad.make_dual(q.detach(), q.detach())
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            attend(dual, k.detach(), v.detach())
        assert attend(q, k, v).shape == q.shape[:3] + v.shape[3:]


def test_a_module_by_itself() -> None:
    """Differentiable too, once."""
    attend = pattern("causal")
    call, floats = tracked(attend, 33, "cpu")
    meant = grad(loss(attend(**call)), floats)
    (text,) = attend.modules.values()
    alone = load(text, "alone").causal
    assert all(map(torch.equal, grad(loss(alone(*floats)), floats), meant))
    with pytest.raises(NotImplementedError, match="`causal` has no second derivative"):
        grad(loss(alone(*floats)), floats[0], create_graph=True)
