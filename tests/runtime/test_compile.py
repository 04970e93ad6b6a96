"""Patterns under torch.compile and torch.export: one graph for every length, the same numbers and words."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attncc
from tests.runtime.calls import DEVICES, DOCUMENTS, NUMBERS, PATTERNS, Counter, given, pattern

LENGTHS = (33, 5, 64, 130, 17)


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Nothing compiled before counts."""
    torch._dynamo.reset()


def same(x: Any, y: Any) -> bool:
    """Bit for bit."""
    xs, ys = (z if isinstance(z, tuple) else (z,) for z in (x, y))
    return len(xs) == len(ys) and all(map(torch.equal, xs, ys))


# ---- torch.compile -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("device", DEVICES)
def test_one_graph_for_every_length(name: str, device: str) -> None:
    attend, count = pattern(name), Counter()
    compiled = torch.compile(lambda **call: attend(**call), fullgraph=True, dynamic=True, backend=count)
    for length in LENGTHS:
        call = given(attend, length, device, turned=True)
        assert same(compiled(**call), attend(**call))
    assert count.calls(attend.op()) == 1
    assert attend.compilations <= 1


@pytest.mark.parametrize("device", DEVICES)
def test_one_graph_for_every_integer(device: str) -> None:
    attend, count = pattern("streaming"), Counter()
    q, k, v = (given(attend, 40, device)[n] for n in "QKV")
    compiled = torch.compile(
        lambda w, s: attend(q, k, v, w, sinks=s), fullgraph=True, dynamic=True, backend=count
    )
    for window, sinks in ((9, 3), (25, 2), (1000, 0), (2, 7), (-5, 4)):
        assert same(compiled(window, sinks), attend(q, k, v, window, sinks))
    assert count.calls(attend.op()) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_real_numbers(device: str) -> None:
    """Torch takes a real number for a constant, and makes a graph for each."""
    attend, count = pattern("sigmoid"), Counter()
    q, k, v = (given(attend, 40, device)[n] for n in "QKV")
    compiled = torch.compile(lambda x: attend(q, k, v, x), fullgraph=True, dynamic=True, backend=count)
    for bias in (-3.0, -0.5, 2, -3.0):
        assert same(compiled(bias), attend(q, k, v, bias))
    assert count.calls(attend.op()) == 3


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), DEVICES[1]])
def test_a_whole_layer(device: str) -> None:
    """Projections around a pattern, under the default compiler; a GPU also replays it as a recorded graph."""
    torch.manual_seed(0)
    layer = Layer(pattern("window")).to(device).requires_grad_(False)
    for mode in ("default", "reduce-overhead"):
        torch._dynamo.reset()
        compiled = torch.compile(layer, fullgraph=True, dynamic=mode == "default", mode=mode)
        for length in (20, 33, 20, 50):
            x = torch.randn(2, length, 32, device=device)
            for _ in range(3):
                torch.testing.assert_close(compiled(x), layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_outputs_by_name(device: str) -> None:
    attend = pattern("streaming")
    call = given(attend, 40, device)
    for outputs in ("lse", ["lse", "O"], ("O", "lse"), None):
        compiled = torch.compile(lambda outputs=outputs: attend(**call, outputs=outputs), fullgraph=True)
        assert same(compiled(), attend(**call, outputs=outputs))


@pytest.mark.parametrize("device", DEVICES)
def test_any_equation_of_the_reference(device: str) -> None:
    """Plain PyTorch, traced into the graph, gradients included."""
    plain, count = pattern("streaming", "reference"), Counter()
    compiled = torch.compile(
        lambda q, k, v: plain(q, k, v, 9, outputs=("P", "O")), fullgraph=True, dynamic=True, backend=count
    )
    for length in LENGTHS:
        tensors = [given(plain, length, device)[n].requires_grad_() for n in "QKV"]
        found, meant = compiled(*tensors), plain(*tensors, 9, outputs=("P", "O"))
        torch.testing.assert_close(found, meant)
        grads = [torch.autograd.grad(o.square().sum(), tensors) for _, o in (found, meant)]
        torch.testing.assert_close(*grads)
    assert len(count.graphs) == 1


def test_another_pattern_is_another_graph() -> None:
    """Of one name, of the same parameters: what was compiled for one is not used for the other."""
    texts = [DOCUMENTS, DOCUMENTS.replace("k <= q", "k < q")]
    layer = nn.Module()
    call = given(pattern("documents"), 20, "cpu")
    compiled = torch.compile(lambda: layer.attend(**call), fullgraph=True, backend="eager")
    made = []
    for text in texts:
        layer.attend = attncc.compile(text)
        assert same(compiled(), layer.attend(**call))
        made.append(compiled())
    assert not same(*made)


def test_without_a_plan() -> None:
    """A refusal by the compiler of kernels says its rule here too."""
    attend = attncc.load(PATTERNS / "moba.attn")
    x = torch.randn(1, 2, 20, 16)
    with pytest.raises(attncc.PatternError, match="plan-"):
        torch.compile(lambda: attend(x, x, x), fullgraph=True, backend="eager")()


WRONG = {
    "rank": (lambda f, q, k, v: f(q[0], k, v), r"`Q` is over \(b h q d\), but has 3 axes"),
    "extent": (lambda f, q, k, v: f(q, k[..., :8], v), "`K` has 8 along `d`, but `Q` has 16"),
    "kinds": (lambda f, q, k, v: f(q, k, v.double()), "`V` is float64, but `Q` is float32"),
    "real": (lambda f, q, k, v: f(q, k, v, 2.0), "`window` is an integer, not 2.0"),
    "truth": (lambda f, q, k, v: f(q, k, v, True), "`window` is an integer, not True"),
    "missing": (lambda f, q, k, v: f(q, k), "missing a required argument: 'V'"),
}


@pytest.mark.parametrize(("call", "words"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit(call: Any, words: str) -> None:
    """With its words where the whole has to compile; as without a compiler where it has not."""
    attend = pattern("streaming")
    tensors = [given(attend, 20, "cpu")[n] for n in "QKV"]
    with pytest.raises((TypeError, ValueError, NotImplementedError), match=words):
        call(attend, *tensors)
    with pytest.raises(RuntimeError, match=words):
        torch.compile(lambda: call(attend, *tensors), fullgraph=True, backend="eager")()
    with pytest.raises((TypeError, ValueError, NotImplementedError, RuntimeError), match=words):
        torch.compile(lambda: call(attend, *tensors), backend="eager")()


# ---- torch.export ------------------------------------------------------------------------------


class Layer(nn.Module):
    """Self-attention of 4 heads, each of 8 features."""

    def __init__(self, attend: attncc.Attention) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.attend = attend

    def forward(self, x: Tensor) -> Tensor:
        """x[b,n,32] -> y[b,n,32]"""
        q, k, v = self.qkv(x).unflatten(2, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        return self.out(self.attend(q, k, v, window=7).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("strict", [False, True], ids=["not strict", "strict"])
@pytest.mark.parametrize("device", DEVICES)
def test_exported(device: str, strict: bool) -> None:
    torch.manual_seed(0)
    layer = Layer(pattern("window")).to(device).requires_grad_(False)
    x = torch.randn(2, 20, 32, device=device)
    shapes = {"x": {0: torch.export.Dim("b"), 1: torch.export.Dim("n", max=4096)}}
    program = torch.export.export(layer, (x,), dynamic_shapes=shapes, strict=strict)
    assert str(layer.attend.op()) in program.graph_module.code
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    loaded = torch.export.load(saved)
    for batch, length in ((2, 20), (3, 33), (5, 131)):
        x = torch.randn(batch, length, 32, device=device)
        assert same(program.module()(x), layer(x))
        assert same(loaded.module()(x), layer(x))


ELSEWHERE = """
import sys, torch, attncc
attncc.load(sys.argv[1]).op()
x, y = torch.load(sys.argv[3])
assert torch.equal(torch.export.load(sys.argv[2]).module()(x), y)
"""


def test_loaded_in_another_process(tmp_path: Path) -> None:
    layer = Layer(pattern("window")).requires_grad_(False)
    x = torch.randn(2, 20, 32)
    torch.export.save(torch.export.export(layer, (x,)), tmp_path / "layer.pt2")
    torch.save((x, layer(x)), tmp_path / "xy.pt")
    files = [str(PATTERNS / "window.attn"), str(tmp_path / "layer.pt2"), str(tmp_path / "xy.pt")]
    subprocess.run([sys.executable, "-c", ELSEWHERE, *files], check=True)


# ---- in a model --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"]
)
def test_a_model_can_be_copied(duplicate: Any) -> None:
    torch.manual_seed(0)
    layer = Layer(pattern("window", "torch")).requires_grad_(False)
    assert set(layer.state_dict()) == {"qkv.weight", "qkv.bias", "out.weight", "out.bias"}
    x = torch.randn(2, 20, 32)
    y = layer(x)
    again = duplicate(layer)
    assert again.attend.backend == "torch" and same(again(x), y)
    again.qkv.weight.zero_()
    assert same(layer(x), y)
    again.load_state_dict(layer.state_dict())
    assert same(again(x), y)
