"""Tile by tile in plain PyTorch: right row by row at odd shapes and strides, and what must change nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attncc
from attncc.verify.criterion import worst
from tests.shapes import (
    AHEAD,
    FOLDED,
    KERNELS,
    LENGTHS,
    MORE,
    PAIRING,
    Shape,
    arguments,
    doubled,
    numbers,
    output,
)

ROOT = Path(__file__).parents[2]
ALL = (*KERNELS, *MORE)
ALIGNED = tuple(n for n in ALL if n not in AHEAD)
"""Patterns in which no query sees a later key, and the last query is the last key."""

DOUBLE = 2.0**-42
"""What float64 may lose against a reference that is no better; float32 anywhere on the way loses more."""


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left unwritten is NaN."""
    make = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: make(*a, **k).fill_(torch.nan))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Any:
    """A loaded machine makes threads wait for one another."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@cache
def tiled(name: str) -> attncc.Attention:
    return attncc.load(ROOT / "patterns" / f"{name}.attn", backend="torch")


@cache
def plain(name: str) -> attncc.Attention:
    return attncc.load(ROOT / "patterns" / f"{name}.attn", backend="reference")


def drawn(name: str, shape: Shape, dtype: torch.dtype) -> dict[str, Any]:
    more = {**numbers(name), "cap": 20.0, "bias": -3.0}
    return arguments(tiled(name).cascade, Shape(**{**vars(shape), "numbers": more}), dtype, "cpu")


def ratio(name: str, given: dict[str, Any], dtype: torch.dtype) -> float:
    """The worst row over its bound."""
    made = tiled(name)(**given, outputs=output(name))
    assert made.is_contiguous() and made.dtype == dtype
    exact = plain(name)(**doubled(given), outputs=output(name))
    if dtype == torch.float64:
        error = (made - exact).norm(dim=-1) / exact.norm(dim=-1).mean().clamp_min(1e-300)
        return float(error.max()) / DOUBLE if made.numel() else 0.0
    return worst(made, plain(name)(**given, outputs=output(name)), exact, dtype, features=True)


def wrong(name: str, shapes: list[Shape], dtype: torch.dtype) -> dict[str, float]:
    found = {str(s): ratio(name, drawn(name, s, dtype), dtype) for s in shapes}
    return {s: r for s, r in found.items() if not r <= 1}


@pytest.mark.parametrize("name", ALL)
def test_lengths(name: str) -> None:
    shapes = [Shape(1, *((1, 1) if n > 1000 else (2, 2)), n, n, 64, 64) for n in LENGTHS]
    if name in FOLDED:
        # the reference adds up each cell for itself, in float32 better than a matrix product does
        assert not wrong(name, [s for s in shapes if s.k < 1000], torch.float64)
    else:
        assert not wrong(name, shapes, torch.float32)


GROUPED = [
    Shape(2, 6, 2, 65, 333, 64, 32),  # groups of 3; fewer queries than keys
    Shape(1, 3, 1, 200, 70, 32, 64),  # the first queries stand before the first key
    Shape(2, 3, 3, 1, 257, 64, 64),  # decode
    Shape(1, 2, 1, 129, 129, 64, 64),
]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_groups_and_kinds(name: str, dtype: torch.dtype) -> None:
    assert not wrong(name, GROUPED, dtype)


@pytest.mark.parametrize("name", ALL)
def test_head_sizes(name: str) -> None:
    sizes = [(16, 16), (16, 64), (64, 16), (80, 96), (96, 80), (128, 128), (256, 256), (7, 5), (1, 1)]
    shapes = [Shape(1, 3, 1, 70, 130, d, e) for d, e in sizes if d % 2 == 0 or name not in PAIRING]
    assert not wrong(name, shapes, torch.bfloat16)


@pytest.mark.parametrize("name", ALL)
def test_nothing_and_one(name: str) -> None:
    pairs = [(0, 40), (40, 0), (0, 0), (1, 0), (1, 1), (2, 1), (1, 2)]
    shapes = [Shape(2, 3, 1, q, k, 16, 16) for q, k in pairs] + [Shape(0, 2, 1, 30, 40, 16, 16)]
    assert not wrong(name, shapes, torch.float32)


TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "heads behind rows": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "features before rows": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "batch last": lambda x: x.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "a slice of a projection": lambda x: torch.cat([x, x, x], -1)[..., x.shape[-1] : 2 * x.shape[-1]],
    "every second row": lambda x: x.repeat_interleave(2, dim=2)[:, :, ::2],
    "one row for all": lambda x: x[:, :, :1].expand_as(x),
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("name", ["streaming", "alibi", "cross", "retnet"])
def test_strides(name: str, turn: Callable[[Tensor], Tensor]) -> None:
    given = drawn(name, Shape(2, 3, 3, 90, 150, 32, 64), torch.float32)
    turned = {n: turn(x) if torch.is_tensor(x) and x.dim() == 4 else x for n, x in given.items()}
    assert ratio(name, turned, torch.float32) <= 1


def test_row_statistics() -> None:
    """lse is float32 for short kinds; a row that sees nothing has lse -inf and output 0."""
    for dtype in (torch.bfloat16, torch.float32):
        given = drawn("streaming", Shape(1, 4, 2, 200, 150, 64, 64), dtype)
        made = tiled("streaming")(**given, outputs=("lse", "O"))
        double = doubled(given)
        exact = plain("streaming")(**double, outputs=("lse", "O"))
        near = plain("streaming")(**given, outputs=("lse", "O"))
        assert made[0].dtype == torch.float32 and made[1].dtype == dtype
        assert (made[0][..., :50] == -torch.inf).all() and (made[1][..., :50, :] == 0).all()
        assert worst(made[0], near[0], exact[0], dtype, features=False) <= 1
        assert worst(made[1], near[1], exact[1], dtype, features=True) <= 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_angles_are_not_rounded_to_short_kinds(dtype: torch.dtype) -> None:
    """The reference takes angles in the inputs' own dtype, too rough a measure: here it stays in float32."""
    for shape in (Shape(1, 2, 2, 333, 333, 64, 64), Shape(1, 3, 1, 1, 1025, 64, 64)):
        given = drawn("rope", shape, dtype)
        single = {n: x.float() if torch.is_tensor(x) else x for n, x in given.items()}
        near, exact = plain("rope")(**single), plain("rope")(**doubled(given))
        assert worst(tiled("rope")(**given), near, exact, dtype, features=True) <= 1


# ---- what must not change a result -------------------------------------------------------------


def doubles(name: str, q: int, k: int) -> dict[str, Any]:
    return drawn(name, Shape(2, 4, 2, q, k, 16, 24), torch.float64)


def along(name: str, index: str) -> list[str]:
    """The tensors of a pattern that have an index; along positions, real ones: no tables."""
    inputs = [t for t in tiled(name).cascade.inputs if index in [i.name for i in t.indices]]
    return [t.name for t in inputs if index == "b" or t.kind == "float"]


def same(a: Tensor, b: Tensor) -> None:
    """Equal to twelve digits: the order of sums may differ."""
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ALIGNED)
def test_decode_is_the_last_row_of_prefill(name: str) -> None:
    for length in (1, 64, 129, 300):
        given = doubles(name, length, length)
        rows = tiled(name)(**given, outputs="O")[:, :, -1:]
        last = {n: given[n][:, :, -1:] for n in along(name, "q")}
        same(tiled(name)(**{**given, **last}, outputs="O"), rows)


@pytest.mark.parametrize("name", ALIGNED)
def test_the_future_changes_nothing(name: str) -> None:
    given = doubles(name, 300, 300)
    before = tiled(name)(**given, outputs="O")
    for at in (1, 128, 200, 299):
        later = {n: given[n].clone() for n in (*along(name, "q"), *along(name, "k"))}
        for x in later.values():
            x[:, :, at:] = 1e3 * torch.randn_like(x[:, :, at:])
        assert torch.equal(tiled(name)(**{**given, **later}, outputs="O")[:, :, :at], before[:, :, :at])


@pytest.mark.parametrize("name", ALL)
def test_batches_keep_to_themselves(name: str) -> None:
    given = doubles(name, 90, 150)
    order = torch.tensor([1, 0])
    turned = {n: given[n][order] for n in along(name, "b")}
    same(
        tiled(name)(**{**given, **turned}, outputs=output(name)),
        tiled(name)(**given, outputs=output(name))[order],
    )


@pytest.mark.parametrize(("name", "at"), [("window", 0), ("streaming", 4)])
def test_keys_that_no_query_sees(name: str, at: int) -> None:
    """Whole tiles of them, and parts of tiles, behind the sinks and before every window."""
    given = doubles(name, 100, 150)
    before = tiled(name)(**given, outputs="O")
    for count in (1, 100, 128, 1000):
        more = dict(given)
        for n in "KV":
            x = given[n]
            garbage = 1e3 * torch.randn(2, 2, count, x.shape[-1], dtype=x.dtype)
            more[n] = torch.cat([x[:, :, :at], garbage, x[:, :, at:]], dim=2)
        same(tiled(name)(**more), before)


def test_a_duplicated_key_has_twice_the_weight() -> None:
    given = doubles("dense", 90, 300)
    o, lse = tiled("dense")(**given, outputs=("O", "lse"))
    for at in (0, 127, 128, 299):
        key, value = (given[n].repeat_interleave(2, dim=1)[:, :, at : at + 1] for n in "KV")
        weight = torch.exp((given["Q"] @ key.mT) / given["Q"].shape[-1] ** 0.5 - lse[..., None])
        twice = {n: torch.cat([given[n], given[n][:, :, at : at + 1]], dim=2) for n in "KV"}
        same(tiled("dense")(**{**given, **twice}), (o + weight * value) / (1 + weight))


def test_parts_of_the_keys_merge() -> None:
    """Two halves, weighed by their lse, are the whole."""
    given = doubles("dense", 90, 300)
    for cut in (1, 128, 150):
        halves = [{n: given[n][:, :, part] for n in "KV"} for part in (slice(cut), slice(cut, None))]
        made = [tiled("dense")(**{**given, **half}, outputs=("O", "lse")) for half in halves]
        weights = torch.softmax(torch.stack([lse for _, lse in made]), dim=0)[..., None]
        same(tiled("dense")(**given), sum(w * o for w, (o, _) in zip(weights, made, strict=True)))


# ---- what it takes -----------------------------------------------------------------------------

LONG = """
import resource, sys, time, torch, attncc
torch.set_num_threads(1)
torch.manual_seed(0)
window = attncc.load("patterns/window.attn")
for n in map(int, sys.argv[1:]):
    q, k, v = (torch.randn(1, 2, n, 64) for _ in range(3))
    seconds = []
    for _ in range(2):
        start = time.process_time()
        window(q, k, v, window=37)
        seconds.append(time.process_time() - start)
    print(min(seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_a_narrow_window_over_many_keys() -> None:
    """At 131,072 tokens: memory for the tensors and little else, and time linear in the length."""
    done = subprocess.run(
        [sys.executable, "-c", LONG, "65536", "131072"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (short, _), (long, peak) = (map(float, line.split()) for line in done.stdout.splitlines())
    print(f"\n{short:.2f} s, then {long:.2f} s; {peak / 2**30:.2f} GiB")
    assert peak < 2 * 2**30
    assert long / short < 2.5
