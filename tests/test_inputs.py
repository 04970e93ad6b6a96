"""Arguments at the edge of what a pattern takes, and beyond it: what they give, how they are refused."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import attncc
from tests.runtime.calls import DEVICES, NUMBERS, given, pattern


def exact(attend: attncc.Attention, call: dict[str, Any], **more: Any) -> Any:
    """What the reference gives for the same arguments in float64."""
    plain = attncc.Attention(attend.source, "reference")
    return plain(**{n: x.double() if _real(x) else x for n, x in call.items()}, **more)


def _real(x: Any) -> bool:
    return torch.is_tensor(x) and x.is_floating_point()


def close(x: Tensor, y: Tensor) -> None:
    torch.testing.assert_close(x.double(), y, atol=1e-4, rtol=1e-4, equal_nan=True)


# ---- extents -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("device", DEVICES)
def test_extents_of_nothing_and_of_one(name: str, device: str) -> None:
    attend = pattern(name)
    whole = given(attend, 1, device)
    none = {"b": 0, "q": 0, "k": 0}
    for cut in (dict.fromkeys("b", 0), dict.fromkeys("q", 0), dict.fromkeys("k", 0), none, {"q": 1, "k": 1}):
        call = dict(whole)
        for tensor in attend.cascade.inputs:
            for axis, index in enumerate(tensor.indices):
                if index.name in cut:
                    call[tensor.name] = call[tensor.name].narrow(axis, 0, cut[index.name])
        made, meant = attend(**call, outputs="O"), exact(attend, call, outputs="O")
        assert made.shape == meant.shape and made.isfinite().all()
        close(made, meant)


NEAR = """pattern near(Q[q,d], K[k,d], V[k,e], doc[k]: int) -> O[q,e]:
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    O[q,e] = sum(k) (softmax(k where abs(doc[k] - doc[q]) <= 1) S[q,k]) * V[k,e]
"""


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
@pytest.mark.parametrize("device", DEVICES)
def test_short_tables_do_not_wrap_around(dtype: torch.dtype, backend: str | None, device: str) -> None:
    attend = attncc.compile(NEAR, backend)
    call: dict[str, Any] = {name: torch.randn(80, 16, device=device) for name in "QKV"}
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    call["doc"] = torch.tensor([low, low + 1, high - 1, high], device=device).repeat(20)
    close(attend(**{**call, "doc": call["doc"].to(dtype)}), exact(attend, call))


@pytest.mark.parametrize("name", ["window", "streaming"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_negative_window_sees_nothing(name: str, device: str) -> None:
    attend = pattern(name)
    call = given(attend, 30, device) | {"window": -7} | ({"sinks": -1} if name == "streaming" else {})
    o, lse = attend(**call, outputs=("O", "lse"))
    assert not o.any() and (lse == -torch.inf).all()
    close(o, exact(attend, call, outputs="O"))


@pytest.mark.parametrize("device", DEVICES)
def test_extreme_numbers(device: str) -> None:
    attend = pattern("streaming")
    for numbers in (
        {"window": (1 << 29) - 1},
        {"window": 1 - (1 << 29)},
        {"sinks": (1 << 29) - 1, "window": 0},
    ):
        call = given(attend, 30, device) | numbers
        close(attend(**call), exact(attend, call))


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("device", DEVICES)
def test_strides(name: str, device: str) -> None:
    """Heads behind rows, every second row, one row for all, and a last axis that is not the innermost."""
    attend = pattern(name)
    turns: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
        lambda x: x[:, :, :1].expand(x.shape),
        lambda x: x.mT.contiguous().mT,
        lambda x: torch.cat([x, x], -1)[..., x.shape[-1] :],
    )
    for turn in turns:
        call = {n: turn(x) if _real(x) and x.dim() == 4 else x for n, x in given(attend, 30, device).items()}
        flat = {n: x.contiguous() if torch.is_tensor(x) else x for n, x in call.items()}
        for x, y in zip(attend(**call, outputs=("O",)), attend(**flat, outputs=("O",)), strict=True):
            torch.testing.assert_close(x, y, atol=1e-6, rtol=1e-6)


def test_wide_features() -> None:
    """A kernel holds whole rows; tile loops take any."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 20, n) for n in (257, 257, 300))
    attend = pattern("causal", "torch")
    close(attend(q, k, v), exact(attend, {"Q": q, "K": k, "V": v}))
    with pytest.raises(
        ValueError, match=r"\|d\| = 257, \|e\| = 300: a kernel takes feature extents up to 256"
    ):
        pattern("causal", "triton")(q, k, v)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_what_is_not_finite_stays_in_its_row(bad: float, device: str) -> None:
    attend = pattern("window")
    call = given(attend, 150, device)
    clean = attend(**call)
    for name, row in (("Q", 70), ("K", 149 + 3)):
        spoilt = dict(call) | {name: call[name].index_fill(2, torch.tensor(row, device=device), bad)}
        made = attend(**spoilt)
        own = 70 if name == "Q" else 149
        others = torch.arange(150, device=device) != own
        assert torch.equal(made[:, :, others], clean[:, :, others])
        assert not made[:, :, own].isfinite().any()


@pytest.mark.xfail(reason="matrix products of whole tiles multiply what is excluded by 0")
@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("device", DEVICES)
def test_values_that_no_row_sees_are_absent(device: str, backend: str | None) -> None:
    attend = pattern("causal", backend)
    call = given(attend, 20, device)
    spoilt = call | {"V": call["V"].index_fill(2, torch.tensor(22, device=device), torch.nan)}
    assert torch.equal(attend(**spoilt)[:, :, :-1], attend(**call)[:, :, :-1])


# ---- refusals ----------------------------------------------------------------------------------

REFUSALS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no integers": ({"doc": torch.zeros(2, 23)}, TypeError, "`doc` is a table of integers, not float32"),
    "truth for integers": (
        {"doc": torch.zeros(2, 23, dtype=torch.bool)},
        TypeError,
        "`doc` is a table of integers, not bool",
    ),
    "no truth": (
        {"keep": torch.ones(23, dtype=torch.int32)},
        TypeError,
        "`keep` is a table of truth values, not int32",
    ),
    "table extent": (
        {"keep": torch.ones(22, dtype=torch.bool)},
        ValueError,
        "`keep` has 22 along `k`, but `K` has 23",
    ),
    "table rank": (
        {"doc": torch.zeros(23, dtype=torch.int32)},
        ValueError,
        "`doc` is over (b k), but has 1 axes: (23,)",
    ),
    "table elsewhere": (
        {"doc": torch.zeros(2, 23, dtype=torch.int32, device="meta")},
        ValueError,
        "`doc` is on meta, `Q` on cpu",
    ),
    "complex": (
        {"Q": torch.zeros(2, 4, 20, 16, dtype=torch.complex64)},
        TypeError,
        "`Q` is complex64; this kernel takes",
    ),
    "none": ({"Q": None}, TypeError, "`Q` is a tensor over (b h q d), not NoneType"),
    "list": ({"V": [[1.0]]}, TypeError, "`V` is a tensor over (b h k e), not list"),
    "text": ({"near": "4"}, TypeError, "`near` is an integer, not '4'"),
    "none for a number": ({"near": None}, TypeError, "`near` is an integer, not None"),
    "tensor for a number": ({"near": torch.tensor(4)}, TypeError, "`near` is an integer, not tensor(4)"),
    "NumPy's integers": ({"near": np.int64(4)}, TypeError, "`near` is an integer, not"),
    "truth for a number": ({"cap": True}, TypeError, "`cap` is a number, not True"),
    "number for truth": ({"strict": 1}, TypeError, "`strict` is True or False, not 1"),
    "too small": ({"near": -(1 << 29)}, ValueError, "stay between -2**29 and 2**29"),
    "far too large": ({"near": 1 << 70}, ValueError, "stay between -2**29 and 2**29"),
}


@pytest.mark.parametrize(("wrong", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(wrong: dict[str, Any], kind: type[Exception], words: str) -> None:
    attend = pattern("documents")
    with pytest.raises(kind) as refused:
        attend(**given(attend, 20, "cpu") | wrong)
    assert words in str(refused.value)


def test_arguments_given_twice() -> None:
    attend = pattern("documents")
    call = given(attend, 20, "cpu")
    with pytest.raises(TypeError, match=r"documents\(Q, K, .*\): multiple values for argument 'Q'"):
        attend(call["Q"], **call)
    with pytest.raises(TypeError, match="multiple values for argument 'near'"):
        attend(*list(call.values())[:6], near=4)


# ---- threads -----------------------------------------------------------------------------------


def test_threads_share_what_is_generated() -> None:
    """Eight at once, on a pattern that nobody has called, for two sets of outputs."""
    attend = pattern("streaming")
    call = given(attend, 50, "cpu")
    meant = pattern("streaming")(**call, outputs=("O", "lse"))
    start = Barrier(8)

    def work(n: int) -> Any:
        start.wait()
        return [attend(**call) if n % 2 else attend(**call, outputs=("O", "lse")) for _ in range(3)]

    with ThreadPoolExecutor(8) as threads:
        for n, made in enumerate(threads.map(work, range(8))):
            for o in made:
                assert torch.equal(o if n % 2 else o[0], meant[0])
                assert n % 2 or torch.equal(o[1], meant[1])
    assert attend.compilations == 2


BLOCKS = """pattern blocks(Q[q,d], K[k,d], block: int) -> O[q]:
    align q to k
    split k into n, i by block
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    O[q] = sum(k where k // block == q // block) S[q,k]
"""


@pytest.mark.parametrize("block", [0, -1])
def test_blocks_have_a_size(block: int) -> None:
    attend = attncc.compile(BLOCKS, backend="torch")
    with pytest.raises(ValueError, match=f"`block` divides positions and must be positive, not {block}"):
        attend(torch.randn(9, 4), torch.randn(9, 4), block=block)


def test_kernels_of_a_gpu_say_so() -> None:
    from triton import knobs

    x = torch.randn(1, 1, 9, 16)
    attend = attncc.load("patterns/causal.attn", backend="triton")
    with knobs.runtime.scope():
        knobs.runtime.interpret = False
        with pytest.raises(ValueError, match="this kernel runs on a GPU, and `Q` is on cpu"):
            attend(x, x, x)
