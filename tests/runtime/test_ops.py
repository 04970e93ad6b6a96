"""Patterns as torch operators: what their schemas say, their shapes without values, torch's own checks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

import attncc
from attncc.runtime import ops
from tests.patterns.cases import CASES, inputs
from tests.runtime.calls import DEVICES, DOCUMENTS, NUMBERS, PATTERNS, given, pattern


@pytest.mark.parametrize("turned", [False, True], ids=["contiguous", "turned"])
@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(name: str, device: str, turned: bool) -> None:
    attend = pattern(name)
    call = tuple(given(attend, 20, device, turned=turned).values())
    checked = torch.library.opcheck(attend.op(), call)
    assert len(checked) == 4 and set(checked.values()) == {"SUCCESS"}
    assert torch.equal(*(torch.cat([x.flatten() for x in _all(f(*call))]) for f in (attend.op(), attend)))


def _all(made: Any) -> tuple[torch.Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("device", DEVICES)
def test_element_types(device: str, dtype: torch.dtype) -> None:
    if device == "cuda" and dtype == torch.float64:
        pytest.skip("no kernels in float64")
    attend = pattern("documents")
    call = tuple(given(attend, 20, device, dtype).values())
    torch.library.opcheck(attend.op(), call, test_utils=("test_schema", "test_faketensor"))
    o, lse = attend.op()(*call)
    assert (o.dtype, lse.dtype) == (dtype, torch.float64 if dtype == torch.float64 else torch.float32)


def test_schemas() -> None:
    said = str(pattern("documents").op()._schema)
    assert "Tensor doc, Tensor keep, SymInt near, float cap, bool strict) -> (Tensor, Tensor)" in said
    assert str(pattern("documents").op("lse")._schema).endswith("bool strict) -> Tensor")


def test_names_come_from_content() -> None:
    first, again = pattern("causal"), pattern("causal")
    assert first.op() is again.op() is first.op("O") is not first.op("lse")
    assert first.op() is not pattern("causal", "torch").op()
    assert first.op("lse") is first.op(["lse"]) is not first.op(["lse", "O"])
    code = f"import attncc; print(attncc.load({str(PATTERNS / 'causal.attn')!r}).op())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(first.op())


def test_two_patterns_of_one_name() -> None:
    one, two = pattern("documents"), attncc.compile(DOCUMENTS.replace("k <= q", "k < q"))
    call = given(one, 20, "cpu")
    assert one.op() is not two.op()
    for attend in (one, two):
        assert torch.equal(attend.op("lse")(*call.values()), attend(**call, outputs="lse"))


def test_words_of_schemas_get_a_tail() -> None:
    text = "pattern f(self[b,q,d], lambda: float, NoneType: int, NoneType_: bool) -> {}[b,q,d]:\n    over b\n"
    text += "    along q, k\n    S[q,k] = sum(d) self[q,d] * self[k,d]\n"
    text = (
        text.replace("{}", "O")
        .replace("self[k,d]", "V[k,d]")
        .replace("self[b,q,d],", "self[b,q,d], V[b,k,d],")
    )
    text += "    O[q,d] = sum(k where NoneType_ or k < NoneType) exp(lambda * S[q,k]) * V[k,d]\n"
    attend = attncc.compile(text)
    assert str(attend.op()._schema).count("NoneType_") == 2 and " lambda_," in str(attend.op()._schema)
    x = torch.randn(1, 5, 4)
    assert torch.equal(attend.op()(x, x, 0.5, 3, False), attend(x, x, 0.5, 3, False))
    torch.library.opcheck(attend.op(), (x, x, 0.5, 3, False))


def test_the_reference_is_no_operator() -> None:
    with pytest.raises(ValueError, match="the reference is plain PyTorch, and no operator"):
        pattern("causal", "reference").op()


@pytest.mark.parametrize("name", CASES)
def test_shapes_of_every_pattern(name: str) -> None:
    """Formulas of extents give what the reference gives, also where no kernel does."""
    plain = attncc.load(PATTERNS / f"{name}.attn", "reference")
    for case in CASES[name][:4]:
        call = {t.name: value for t, value in zip(plain.cascade.inputs, _complete(plain, case), strict=True)}
        made, meant = ops.fake(plain.cascade, "torch", call), plain(**inputs(case))
        assert [x.shape for x in _all(made)] == [x.shape for x in _all(meant)]


def _complete(attend: attncc.Attention, case: Any) -> list[Any]:
    call = dict(attend.cascade.defaults) | inputs(case)
    return [call[t.name] for t in attend.cascade.inputs]


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_without_values(device: str) -> None:
    """A call with them is the operator's, whatever the device; nothing is computed."""
    attend = pattern("documents")
    with FakeTensorMode() as mode:
        call = {
            n: mode.from_tensor(x) if torch.is_tensor(x) else x for n, x in given(attend, 20, device).items()
        }
        o, lse = attend(**call)
    assert (o.shape, lse.shape, o.device.type) == ((2, 4, 20, 24), (2, 4, 20), device)
    assert attend.compilations == 0


def test_a_gpu_that_is_not_there() -> None:
    """Shapes for a device can be asked for on any machine, and so can the element types its kernels take."""
    attend = pattern("window")
    with FakeTensorMode():
        q, k, v = (torch.empty(2, 4, 20, n, device="cuda", dtype=torch.bfloat16) for n in (16, 16, 24))
        o, lse = attend(q, k, v, outputs=("O", "lse"))
        with pytest.raises(TypeError, match="`Q` is float64; this kernel takes float16, bfloat16, float32"):
            attend(q.double(), k.double(), v.double())
    assert (o.shape, o.dtype, o.device.type) == ((2, 4, 20, 24), torch.bfloat16, "cuda")
    assert (lse.shape, lse.dtype, lse.device.type) == ((2, 4, 20), torch.float32, "cuda")


def test_what_does_not_fit_is_said_without_values() -> None:
    attend = pattern("streaming")
    call = given(attend, 20, "cpu")
    with FakeTensorMode() as mode:
        q, k, v = (mode.from_tensor(call[n]) for n in "QKV")
        for wrong, kind, words in (
            ((q[0], k, v), ValueError, r"`Q` is over \(b h q d\), but has 3 axes"),
            ((q, k[..., :8], v), ValueError, "`K` has 8 along `d`, but `Q` has 16"),
            ((q, k.double(), v), TypeError, "`K` is float64, but `Q` is float32"),
            ((q, k, v.to("meta")), ValueError, "`V` is on meta, `Q` on cpu"),
            ((q, k, v, 2.0), TypeError, "`window` is an integer, not 2.0"),
            ((q, k, v, True), TypeError, "`window` is an integer, not True"),
            ((q, k, v, 1 << 30), ValueError, "stay between"),
        ):
            with pytest.raises(kind, match=words):
                attend(*wrong)
