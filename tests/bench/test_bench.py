"""What is timed beside a kernel computes the same, and what is said of the work is counted right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from attncc.attention import Attention
from attncc.bench import bench, peers
from attncc.bench.clock import milliseconds
from attncc.bench.report import Report
from attncc.bench.setting import Setting, setting
from attncc.calls import BadNumber, Number, numbered
from attncc.masks.integers import values
from attncc.masks.normal import total
from attncc.pipeline import meaning, planned
from attncc.source import Source

PATTERNS = Path(__file__).parents[2] / "patterns"


pytestmark = pytest.mark.usefixtures("one_thread")


def source(name: str) -> Source:
    return Source.read(PATTERNS / f"{name}.attn")


def here(name: str, length: int = 100, numbers: dict[str, Number] | None = None, **fixed: int) -> Setting:
    cascade = meaning(source(name))
    plan = planned(cascade, source(name))
    chosen = numbered(cascade, numbers or {})
    return setting(cascade, plan, (2, 4, length, 8), fixed, chosen, torch.float64, "cpu")


def timed(name: str, shape: tuple[int, ...] = (1, 4, 100, 16), **numbers: Number) -> Report:
    return bench(source(name), "cpu", "float32", shape, {"g": 2} if shape[1] == 4 else {}, numbers)


MASKED = [
    ("streaming", {"window": 20, "sinks": 3}),
    ("document", {}),
    ("per_head_window", {}),
    ("s2", {"block": 8, "local": 2, "stride": 4}),
    ("neighborhood1d", {"window": 9}),
    ("chunked", {"chunk": 16}),
    ("prefix_lm", {"prefix": 30}),
    ("dense", {}),
]


@pytest.mark.parametrize(("name", "numbers"), MASKED, ids=[name for name, _ in MASKED])
def test_masks_of_tensors_are_those_of_the_predicate(name: str, numbers: dict[str, Number]) -> None:
    at = here(name, 100, numbers)
    own = peers.roles(at)
    cells = peers.dense(own.mask(at), own.tensors(at)).expand(2, 4, 100, 100)
    loop = at.plan.kernels[0].loops[0]
    for b in range(2):
        for h in range(4):
            where = {own.batch[0].name: b, own.batch[1].name: h}
            where |= {own.rows.name: np.arange(100)[:, None], own.columns.name: np.arange(100)}
            exact = np.broadcast_to(values(total(loop.reach), {**at.env, **where}), (100, 100))
            assert (cells[b, h].numpy() == exact).all()


@pytest.mark.parametrize(("name", "numbers"), MASKED, ids=[name for name, _ in MASKED])
def test_flex_takes_the_same_masks(name: str, numbers: dict[str, Number]) -> None:
    from torch.nn.attention.flex_attention import create_mask

    at = here(name, 60, numbers)
    own = peers.roles(at)
    mask = own.mask(at)
    made = create_mask(mask, 2, 4, 60, 60, device="cpu")
    assert torch.equal(made, peers.dense(mask, own.tensors(at)).expand(2, 4, 60, 60))


@pytest.mark.parametrize(
    ("name", "numbers", "found"),
    [
        ("causal", {}, "causal"),
        ("dense", {}, "dense"),
        ("window", {"window": 100}, "causal"),
        ("window", {"window": 99}, "other"),
        ("prefix_lm", {"prefix": 100}, "dense"),
        ("prefix_lm", {"prefix": 99}, "other"),
        ("prefix_lm", {"prefix": 1}, "causal"),
    ],
)
def test_shapes_of_masks_are_exact(name: str, numbers: dict[str, Number], found: str) -> None:
    at = here(name, 100, numbers)
    own = peers.roles(at)
    assert peers.shape_of(own.mask(at), own, at) == found


def test_fewer_queries_are_not_causal_from_the_first_on() -> None:
    at = here("causal", 100, q=40)
    own = peers.roles(at)
    assert peers.shape_of(own.mask(at), own, at) == "other"


@pytest.mark.parametrize("name", ["softcap", "alibi", "sink", "sigmoid", "rope", "retnet", "based"])
def test_other_mathematics_have_no_peer(name: str) -> None:
    at = here(name, 65, {"bias": -1.0} if name == "sigmoid" else {})
    exact = at.call(Attention(source(name), "reference"))()
    with pytest.raises(peers.NoPeer, match=r"is not that of softmax\(Q K / sqrt\(d\)\) V under any mask"):
        peers.scale_of(peers.roles(at), at, exact)


def test_unscaled_scores_have_a_peer() -> None:
    text = (PATTERNS / "causal.attn").read_text().replace(" / sqrt(|d|)", "")
    cascade = meaning(Source("c", text))
    at = setting(cascade, planned(cascade, Source("c", text)), (1, 2, 40, 8), {}, {}, torch.float64, "cpu")
    exact = at.call(Attention(Source("c", text), "reference"))()
    assert peers.scale_of(peers.roles(at), at, exact) == 1.0


def test_a_report() -> None:
    report = timed("window", window=30)
    assert list(report.milliseconds) == ["attncc", "SDPA, dense mask"]
    assert report.extents == {"b": 1, "h": 4, "q": 100, "d": 16, "g": 2, "k": 100, "e": 16}
    assert report.cells == 4 * sum(min(q + 1, 30) for q in range(100))
    assert report.flops == 2 * 2 * 16 * report.cells
    assert report.bytes == 4 * 100 * 16 * (4 + 2 + 2 + 4)
    assert report.peak is None and report.notes == ()
    assert all(ms > 0 for ms in report.milliseconds.values())
    floor = max(report.flops / report.measured[0], report.bytes / report.measured[1]) / 1e9
    assert report.floor == pytest.approx(floor)
    assert json.loads(json.dumps(report.data()))["cells"] == report.cells
    assert "SDPA, dense mask" in report.text() and "GFLOP/s in a matrix product" in report.text()


def test_cells_of_every_head_are_counted() -> None:
    spans = (50, 25, 12, 6)
    report = timed("per_head_window")
    assert report.cells == sum(min(q + 1, span) for span in spans for q in range(100))


def test_no_peer_is_said() -> None:
    report = timed("softcap")
    assert list(report.milliseconds) == ["attncc"]
    assert report.notes[0].startswith("nothing of PyTorch's to compare with: its result is not that of")


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(BadNumber, match="`bias` has no default"):
        timed("sigmoid")
    with pytest.raises(BadNumber, match="no index `z`"):
        bench(source("causal"), "cpu", "float32", (1, 1, 10, 8), {"z": 3}, {})


def test_a_peer_with_another_result_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What agrees at a small length may still differ at full size."""
    monkeypatch.setattr(peers, "shape_of", lambda *_: "dense")
    report = timed("causal")
    assert list(report.milliseconds) == ["attncc"]
    assert "SDPA, dense is left out" in report.notes[0] and "from the kernel's result" in report.notes[0]


def test_turns_go_forwards_and_backwards() -> None:
    order: list[str] = []
    milliseconds({name: lambda name=name: order.append(name) for name in "ab"}, "cpu", 1e-9)  # type: ignore[misc]
    assert "".join(order) == "abab" + "aabb" + "bbaa"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "numbers"), [("document", {}), ("s2", {"block": 16, "local": 2, "stride": 3}), ("dense", {})]
)
def test_flex_compiles_and_agrees(name: str, numbers: dict[str, Number]) -> None:
    cascade = meaning(source(name))
    plan = planned(cascade, source(name))
    chosen = numbered(cascade, numbers)
    at = setting(cascade, plan, (1, 4, 200, 16), {"g": 2}, chosen, torch.float32, "cpu")
    own = peers.roles(at)
    mask = None if name == "dense" else own.mask(at)
    with torch.no_grad():
        made = peers.flex(own.tensors(at), mask, None)()
        exact = at.call(Attention(source(name)))()
    torch.testing.assert_close(made, exact, rtol=1e-4, atol=1e-5)
