"""Gradients under torch.func, torch.compile, torch.export and FSDP: the same as without them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attncc
from attncc.ir.cascade import Index
from attncc.runtime.slices import folding
from tests.runtime.calls import DEVICES, PATTERNS, Counter, pattern, shared, tracked
from tests.runtime.test_compile import Layer

ROOT = Path(__file__).parents[2]
close = torch.testing.assert_close
grad = torch.autograd.grad


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Nothing compiled before counts."""
    torch._dynamo.reset()


def bare(attend: attncc.Attention, length: int) -> tuple[Any, list[Tensor]]:
    """A function of the real tensors of a call, and these."""
    call, floats = tracked(attend, length, "cpu", torch.float64)
    names = [n for n in call if any(call[n] is x for x in floats)]
    rest = {n: x for n, x in call.items() if n not in names}

    def weighed(f: attncc.Attention, *xs: Tensor) -> Tensor:
        made = f(**rest, **dict(zip(names, xs, strict=True)))
        outputs = made if isinstance(made, tuple) else (made,)
        return sum(torch.where(x.isfinite(), x, 0).square().sum() for x in outputs)

    return weighed, [x.detach() for x in floats]


# ---- torch.func --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["streaming", "documents", "alibi"])
def test_func_grad(name: str) -> None:
    attend, plain = shared(name), shared(name, "reference")
    weighed, floats = bare(attend, 20)
    every = tuple(range(len(floats)))
    made, meant = (torch.func.grad(lambda *xs, f=f: weighed(f, *xs), every)(*floats) for f in (attend, plain))
    close(made, meant)
    made, meant = (
        torch.func.vjp(lambda x, f=f: weighed(f, x, *floats[1:]), floats[0])[1] for f in (attend, plain)
    )
    close(made(torch.tensor(3.0).double()), meant(torch.tensor(3.0).double()))


@pytest.mark.parametrize("name", ["streaming", "documents", "alibi"])
def test_mapped(name: str) -> None:
    """Over one tensor, over all along any axis, twice; folded into a batch, or slice by slice."""
    attend = shared(name)
    call, floats = tracked(attend, 12, "cpu", torch.float64)
    names = [n for n in call if any(call[n] is x for x in floats)]
    rest = {n: x for n, x in call.items() if n not in names}
    wide = [torch.stack([x, 2 * x, x - 1], -1).detach() for x in floats]

    def run(*xs: Tensor) -> Any:
        return attend(**rest, **dict(zip(names, xs, strict=True)))

    def slices(*axes: int | None) -> Any:
        made = [
            run(*(x[..., n] if axis is not None else x[..., 0] for x, axis in zip(wide, axes, strict=True)))
            for n in range(3)
        ]
        return tuple(map(torch.stack, zip(*made, strict=True))) if name == "documents" else torch.stack(made)

    for axes in ((-1,) * len(wide), (-1, *[None] * (len(wide) - 1)), (*[None] * (len(wide) - 1), -1)):
        given = [x if axis else x[..., 0] for x, axis in zip(wide, axes, strict=True)]
        close(torch.vmap(run, in_dims=axes)(*given), slices(*axes))
    twice = torch.vmap(torch.vmap(run, in_dims=-1), in_dims=0)(*(x[None].expand(2, *x.shape) for x in wide))
    first = twice[0][1] if name == "documents" else twice[1]
    close(first, slices(*[-1] * len(wide))[0] if name == "documents" else slices(*[-1] * len(wide)))


@pytest.mark.parametrize("name", ["streaming", "alibi"])
def test_mapped_gradients(name: str) -> None:
    """Of every slice, of the whole, and by autograd around the whole."""
    attend = shared(name)
    weighed, floats = bare(attend, 12)
    every = tuple(range(len(floats)))
    wide = [torch.stack([x, 2 * x, x - 1]) for x in floats]
    each = torch.func.grad(lambda *xs: weighed(attend, *xs), every)
    meant = tuple(map(torch.stack, zip(*(each(*(x[n] for x in wide)) for n in range(3)), strict=True)))
    close(torch.vmap(each)(*wide), meant)
    some = torch.vmap(each, in_dims=(0, *[None] * (len(floats) - 1)))(wide[0], *floats[1:])
    close(some[-1][1], each(wide[0][1], *floats[1:])[-1])
    whole = torch.func.grad(lambda *xs: torch.vmap(lambda *ys: weighed(attend, *ys))(*xs).sum(), every)
    close(whole(*wide), meant)
    tracked_ = [x.clone().requires_grad_() for x in wide]
    close(grad(torch.vmap(lambda *xs: weighed(attend, *xs))(*tracked_).sum(), tracked_), meant)


def test_mapped_over_what_reaches_an_output() -> None:
    """The call was no part of a transform, what is asked of its graph is."""
    attend = shared("causal")
    q, k, v = (torch.randn(1, 2, 9, 8, requires_grad=True) for _ in range(3))
    output = attend(q, k, v)
    every = torch.randn(3, *output.shape)
    one = partial(grad, output, (q, k, v), retain_graph=True)
    close(torch.vmap(one)(every), tuple(map(torch.stack, zip(*map(one, every), strict=True))))


def test_jacobian() -> None:
    attend, plain = shared("causal"), shared("causal", "reference")
    q, k, v = (torch.randn(1, 1, 4, 3, dtype=torch.float64) for _ in range(3))
    for place in range(3):
        close(*(torch.func.jacrev(f, place)(q, k, v) for f in (attend, plain)))


def test_what_can_be_folded() -> None:
    """A batch, unless it is read as a number or summed over."""
    b, h = Index("b", "batch", "b"), Index("h", "batch", "h")
    assert folding(pattern("causal").cascade) == b
    assert folding(attncc.load(PATTERNS / "packed.attn").cascade) is None
    text = "pattern f(Q[h,q,d], V[h,k,d]) -> O[h,q,d]:\n    over h\n    align q to k\n"
    text += "    O[q,d] = sum(k where k <= q{}) exp(sum(d) Q[q,d] * V[k,d]) * V[k,d]\n"
    assert folding(attncc.compile(text.format("")).cascade) == h
    assert folding(attncc.compile(text.format(" + h")).cascade) is None
    assert folding(attncc.compile(text.format(" + |h|")).cascade) is None


# ---- compilers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["streaming", "documents"])
@pytest.mark.parametrize("device", DEVICES)
def test_one_graph_for_every_length(name: str, device: str) -> None:
    attend, count = pattern(name), Counter()
    compiled = torch.compile(lambda **call: attend(**call), fullgraph=True, dynamic=True, backend=count)
    for length in (33, 5, 70):
        call, floats = tracked(attend, length, device)
        found, meant = (grad(total(f(**call)), floats) for f in (compiled, attend))
        assert all(map(torch.equal, found, meant))
    assert count.calls(attend.op()) == 1


def total(made: Any) -> Tensor:
    outputs = made if isinstance(made, tuple) else (made,)
    return sum(torch.where(x.isfinite(), x, 0).sum() for x in outputs)


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=pytest.mark.slow), DEVICES[1]])
def test_a_whole_layer(device: str) -> None:
    """Under the default compiler, automatic precision inside."""
    torch.manual_seed(0)
    layer = Layer(shared("window")).to(device)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    for length in (20, 33, 50):
        x = torch.randn(2, length, 32, device=device)
        with torch.autocast(device, torch.bfloat16):
            found, meant = (f(x).float().square().sum() for f in (compiled, layer))
        found, meant = (grad(y, tuple(layer.parameters())) for y in (found, meant))
        assert {x.dtype for x in found} == {torch.float32}
        for a, b in zip(found, meant, strict=True):
            assert (a - b).norm() < 2e-2 * b.norm()


def test_mapped_gradients_compiled() -> None:
    attend = shared("causal")
    weighed, floats = bare(attend, 12)
    wide = [torch.stack([x, x - 1]) for x in floats]
    each = torch.vmap(torch.func.grad(lambda *xs: weighed(attend, *xs), (0, 1, 2)))
    close(torch.compile(each, fullgraph=True, backend="aot_eager")(*wide), each(*wide))


@pytest.mark.parametrize("strict", [False, True], ids=["not strict", "strict"])
def test_exported(strict: bool) -> None:
    """One operator, whatever requires grad; what is loaded can be trained."""
    torch.manual_seed(0)
    layer = Layer(pattern("window"))
    shapes = {"x": {0: torch.export.Dim("b"), 1: torch.export.Dim("n", max=4096)}}
    program = torch.export.export(layer, (torch.randn(2, 20, 32),), dynamic_shapes=shapes, strict=strict)
    assert str(layer.attend.op()) in program.graph_module.code
    assert "_forward" not in program.run_decompositions().graph_module.code
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    for module in (program.module(), torch.export.load(saved).module()):
        x = torch.randn(3, 37, 32)
        found, meant = (grad(f(x).square().sum(), tuple(f.parameters())) for f in (module, layer))
        close(found, meant)


# ---- several processes -------------------------------------------------------------------------

SHARDED = """
import sys, torch, attncc
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from tests.runtime.calls import pattern
from tests.runtime.test_compile import Layer

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)
torch.manual_seed(0)
alone, layer = Layer(pattern("window", "torch")), Layer(pattern("window", "torch"))
layer.load_state_dict(alone.state_dict())
mesh = torch.distributed.init_device_mesh("cpu", (2,))
fully_shard(layer, mesh=mesh)
x = torch.randn(2, 20, 32)
layer(x[rank : rank + 1]).square().sum().backward()
(alone(x).square().sum() / 2).backward()
for (name, shard), whole in zip(layer.named_parameters(), alone.parameters(), strict=True):
    torch.testing.assert_close(shard.grad.full_tensor(), whole.grad, msg=name)
dist.destroy_process_group()
print("same")
"""


@pytest.mark.slow
def test_sharded(tmp_path: Path) -> None:
    """FSDP: two processes hold half of the parameters each, and half of the batch."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", SHARDED, str(rank), str(tmp_path / "meet")],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert out.strip() == "same", err
