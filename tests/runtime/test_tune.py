"""Tiles that were measured: which are tried, which is kept, who uses it, and what is not believed."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attncc
from attncc.codegen.own_test import ALLOWED
from attncc.pipeline import generate, meaning
from attncc.runtime import cache, tune, tuned
from attncc.schedule.spec import KINDS, Specialisation
from attncc.schedule.tiles import TARGETS, Tile, candidates
from attncc.source import Source

ROOT = Path(__file__).parents[2]
CAUSAL = ROOT / "patterns" / "causal.attn"
SQUARE = [Tile(n, n, 1, 1) for n in (128, 64, 256)]


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(tuned, "KNOWN", tuned.listed())


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of its own, a process that has read nothing, and sources that nobody changes."""
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "compiler", lambda: cache.COMPILER)
    forget(monkeypatch)
    return tmp_path


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says which square tile the clock finds the fastest; everything else is as ever."""

    def fastest(rows: int) -> None:
        def clock(runs: list[Any], device: torch.device) -> list[float]:
            for run in runs:
                run()
            return [1.0 if run.func.__globals__["BLOCK_Q"] == rows else 2.0 for run in runs]

        monkeypatch.setattr(tune, "_on_cpu", clock)

    return fastest


def tensors(length: int = 33, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys and values with 4 heads in 2 groups."""
    torch.manual_seed(0)
    return [torch.randn(1, heads, length, 16, dtype=dtype) for heads in (4, 2, 2)]


def tiles_in(attend: attncc.Attention) -> list[str]:
    """BLOCK_Q of every module that a pattern runs."""
    return [text.partition("BLOCK_Q = ")[2].partition("\n")[0] for text in attend.modules.values()]


# ---- measuring -----------------------------------------------------------------------------------


def test_the_fastest_is_kept_and_used(kept: Path) -> None:
    """Measured in earnest: whatever wins, the same result and one file."""
    attend = attncc.load(CAUSAL)
    given = tensors(150)
    before = attend(*given)
    report = attend.tune(*given)
    assert sorted(t.rows for t, _ in report.measured) == [64, 128, 256]
    assert report.measured[0][0].rows == 128
    times = {tile: ms for tile, ms in report.measured if isinstance(ms, float)}
    assert len(times) == 3 and all(ms > 0 for ms in times.values())
    assert times[report.best] == min(times.values())
    torch.testing.assert_close(attend(*given), before)
    assert tiles_in(attend) == ["128"] if report.best.rows == 128 else ["128", str(report.best.rows)]
    (file,) = kept.glob("*.json")
    said = json.loads(file.read_text())
    assert said["tile"] == (None if report.best.rows == 128 else vars(report.best))
    assert said["for"]["lengths"] == [["k", 8], ["q", 8]]
    assert len(said["milliseconds"]) == 3
    shown = str(report).splitlines()
    assert len(shown) == 4 and shown[1].split()[:3] == ["128x128", "w1", "s1"] and "default" in shown[1]
    assert sum("kept" in line for line in shown) == 1
    before = dict(attend.modules)
    attend.tune(*given)
    assert attend.modules == before


def test_without_being_asked_nothing_is_measured(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "_milliseconds", None)
    attend = attncc.load(CAUSAL)
    attend(*tensors())
    assert tiles_in(attend) == ["128"]
    assert not list(kept.glob("*.json"))


@pytest.mark.parametrize("rows", [64, 256])
def test_for_which_calls(rows: int, slow: Callable[[int], None]) -> None:
    """The same outputs, element type, and lengths up to the same power of two."""
    slow(rows)
    attend = attncc.load(CAUSAL)
    assert attend.tune(*tensors()).best.rows == rows
    assert attend.modules == {}
    for given, expected in (
        (tensors(), rows),
        (tensors(64), rows),
        (tensors(65), 128),
        (tensors(32), 128),
        (tensors(dtype=torch.bfloat16), 128),
    ):
        fresh = attncc.load(CAUSAL)
        fresh(*given)
        assert tiles_in(fresh) == [str(expected)]
        attend(*given)
    assert sorted(tiles_in(attend)) == sorted(["128", str(rows)])
    lse = attncc.load(CAUSAL)
    lse(*tensors(), outputs="lse")
    assert tiles_in(lse) == ["128"]
    lse.tune(*tensors(), outputs="lse")
    lse(*tensors(), outputs="lse")
    assert tiles_in(lse) == ["128", str(rows)]
    reference = attncc.load(CAUSAL, "reference")
    torch.testing.assert_close(attend(*tensors()), reference(*tensors()))
    other = attncc.compile(CAUSAL.read_text().replace("/ sqrt(|d|)", "/ sqrt(|d|) / 2"))
    other(*tensors())
    assert tiles_in(other) == ["128"]


def test_another_process_uses_it(slow: Callable[[int], None]) -> None:
    slow(256)
    attncc.load(CAUSAL).tune(*tensors())
    code = (
        "import sys, torch, attncc\n"
        "from attncc.runtime import cache\n"
        "cache.COMPILER = sys.argv[1]  # whoever edits the sources meanwhile\n"
        "attend = attncc.load('patterns/causal.attn')\n"
        "attend(*(torch.randn(1, heads, 40, 16) for heads in (4, 2, 2)))\n"
        "assert ['BLOCK_Q = 256' in text for text in attend.modules.values()] == [True]\n"
    )
    run = [sys.executable, "-c", code, cache.COMPILER]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", ["", "file/below"])
def test_without_a_folder_it_holds_for_the_process(
    place: str, kept: Path, slow: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept / "file").write_text("")
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(kept / place) if place else "")
    slow(64)
    attend = attncc.load(CAUSAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        attend.tune(*tensors())
        attend(*tensors())
    assert tiles_in(attend) == ["64"]
    assert [path.name for path in kept.iterdir()] == ["file"]


def test_gradients_do_not_stand_in_the_way(slow: Callable[[int], None]) -> None:
    slow(64)
    given = [x.requires_grad_() for x in tensors()]
    assert attncc.load(CAUSAL).tune(*given).best.rows == 64
    attend = attncc.load(CAUSAL)
    attend(*given).sum().backward()
    assert tiles_in(attend) == ["64"]
    assert all(x.grad is not None for x in given)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="the reference has none"):
        attncc.load(CAUSAL, "reference").tune(*tensors())
    with pytest.raises(ValueError, match="no argument is a tensor of real numbers"):
        attncc.load(CAUSAL).tune(1, 2, 3)
    with pytest.raises(ValueError, match="`V` has 40 along `k`"):
        attncc.load(CAUSAL).tune(*tensors()[:2], tensors(40)[2])
    with pytest.raises(TypeError, match="missing a required argument: 'V'"):
        attncc.load(CAUSAL).tune(*tensors()[:2])


# ---- what is right ---------------------------------------------------------------------------------


def outputs() -> Any:
    """O[b,h,q,e] and lse[b,h,q]."""
    return meaning(Source.read(CAUSAL), ("O", "lse")).outputs


def occasion() -> tuned.Occasion:
    return tuned.Occasion((), "torch", "cpu", "here", "float32", (), (("k", 6),))


@pytest.mark.parametrize("where", [0, 1])
@pytest.mark.parametrize("wrong", [0.0, float("nan"), float("inf")])
def test_a_tile_that_is_wrong_in_one_row_is_not_taken(wrong: float, where: int) -> None:
    """However fast it is; and one that raises is said to."""
    good = [torch.randn(1, 2, 9, 4), torch.randn(1, 2, 9)]
    good[1][0, 0, 0] = float("-inf")

    def make(tile: Tile | None) -> tuple[str, tune.Run]:
        made = tile or SQUARE[0]

        def run() -> tuple[Tensor, ...]:
            found = [x.clone() for x in good]
            if made.rows == 64:
                found[where][0, 1, 3] = wrong
            if made.rows == 256:
                raise RuntimeError("out of resource\nand more")
            return tuple(found)

        return str(made), run

    cascade = replace(meaning(Source.read(CAUSAL)), outputs=outputs())
    report = tune.tune(Source.read(CAUSAL), cascade, occasion(), make)
    assert report.best == SQUARE[0]
    found = dict(report.measured)
    assert found[SQUARE[1]] == "differs from the default"
    assert found[SQUARE[2]] == "RuntimeError: out of resource"
    assert isinstance(found[SQUARE[0]], float)


def test_a_tile_that_writes_nothing_finds_nothing_right() -> None:
    """Memory that right results stood in is spoiled before anyone gets it."""
    memory = torch.empty(1, 2, 9, 4)

    def make(tile: Tile | None) -> tuple[str, tune.Run]:
        def run() -> Tensor:
            return memory if tile and tile.rows == 64 else memory.fill_(1.0)

        return str(tile or SQUARE[0]), run

    report = tune.tune(Source.read(CAUSAL), meaning(Source.read(CAUSAL)), occasion(), make)
    assert dict(report.measured)[SQUARE[1]] == "differs from the default"


def test_rounding_is_no_difference() -> None:
    o, lse = outputs()
    torch.manual_seed(0)
    x = torch.randn(2, 50, 16, dtype=torch.float64)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        y = x.to(dtype)
        near = (y.double() * (1 + torch.finfo(dtype).eps)).to(dtype)
        far = y.clone()
        far[0, 3] *= 1 + 20 * float(ALLOWED[str(dtype)[6:]])
        assert not torch.equal(near, y)
        assert tune._agree(near, y, o) and not tune._agree(far, y, o)
        assert tune._agree(near[0], y[0], lse) and not tune._agree(far[0], y[0], lse)
    assert tune._agree(torch.tensor([1, 2]), torch.tensor([1, 2]), lse)
    assert not tune._agree(torch.tensor([1, 2]), torch.tensor([1, 3]), lse)


def test_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A, B, B, A after a first round; medians, so that one bad run costs nothing."""
    calls: list[str] = []
    runs: dict[Any, Any] = {n: lambda n=n: calls.append(n) for n in "AB"}
    monkeypatch.setattr(tune, "ROUNDS", (2, 2))
    tune._milliseconds(runs, torch.device("cpu"))
    assert "".join(calls) == "AB" + "ABBA" * 2
    turns = iter([[9.0, 9.0], [1.0, 2.0], [2.0, 1.0], [99.0, 2.0], [2.0, 1.0]])
    monkeypatch.setattr(tune, "_on_cpu", lambda runs, device: next(turns))
    assert tune._milliseconds(runs, torch.device("cpu")) == {"A": 1.0, "B": 2.0}


# ---- what is on disk is not believed ---------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"tile": 3}',
        '{"tile": {}}',
        '{"tile": {"rows": 64, "columns": 64, "warps": 1}}',
        '{"tile": {"rows": 64, "columns": 64, "warps": 1, "stages": 1, "more": 1}}',
        '{"tile": {"rows": 64.0, "columns": 64, "warps": 1, "stages": 1}}',
        '{"tile": {"rows": true, "columns": 64, "warps": 1, "stages": 1}}',
        '{"tile": {"rows": "64", "columns": 64, "warps": 1, "stages": 1}}',
        '{"tile": {"rows": 65, "columns": 64, "warps": 1, "stages": 1}}',
        '{"tile": {"rows": 0, "columns": 64, "warps": 1, "stages": 1}}',
        '{"tile": {"rows": 64, "columns": 512, "warps": 1, "stages": 1}}',
        '{"tile": {"rows": 64, "columns": 64, "warps": 3, "stages": 1}}',
        "[" * 100_000,
        "\xff",
    ],
)
def test_a_file_that_holds_no_tile_is_ignored(text: str, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = attncc.load(CAUSAL)
    arguments = dict(zip("QKV", tensors(), strict=True))
    o = tuned.occasion_of(attend.cascade, arguments, (), "torch", "cpu", ())
    assert o is not None
    tuned.keep(attend.source, o, SQUARE[1], {})
    (file,) = kept.glob("*.json")
    file.write_bytes(text.encode("latin-1"))
    forget(monkeypatch)
    with pytest.warns(UserWarning, match="holds no tile and is ignored: tune again"):
        attend(*tensors())
    assert tiles_in(attend) == ["128"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attend(*tensors())
    tuned.keep(attend.source, o, SQUARE[1], {})
    forget(monkeypatch)
    attend(*tensors())
    assert tiles_in(attend) == ["128", "64"]


@pytest.mark.parametrize(
    ("where", "name", "value"), [(torch, "__version__", "9"), (platform, "machine", str)]
)
def test_versions_and_devices_have_tiles_of_their_own(
    where: object, name: str, value: object, slow: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(64)
    attncc.load(CAUSAL).tune(*tensors())
    monkeypatch.setattr(where, name, value)
    forget(monkeypatch)
    attend = attncc.load(CAUSAL)
    attend(*tensors())
    assert tiles_in(attend) == ["128"]


# ---- Triton, as far as it goes without a GPU -----------------------------------------------------


def text_with(tile: Tile | None, backend: str = "triton") -> str:
    source = Source.read(CAUSAL)
    target, point = ("cuda:90", (("d", 64), ("e", 64))) if backend == "triton" else ("cpu", ())
    spec = Specialisation(backend, target, KINDS[backend][:1], (point,), tile)
    return generate(meaning(source), source, spec)


def test_the_text_has_the_tile() -> None:
    text = text_with(Tile(32, 256, 2, 4))
    assert '"BLOCK_Q": 32, "BLOCK_K": 256, "BLOCK_D": 64, "BLOCK_E": 64,' in text
    assert '"num_warps": 2, "num_stages": 4,' in text
    assert text.count('"num_warps"') == 1
    assert "KINDS = (torch.float16,)" in text
    assert "BLOCK_Q = 32\nBLOCK_K = 256\n" in text_with(Tile(32, 256, 1, 1), "torch")
    for backend, tile in (("triton", candidates("cuda:90", 2, 64)[0]), ("torch", SQUARE[0])):
        assert text_with(tile, backend) == text_with(None, backend)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("feature", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("dtype", KINDS["triton"])
def test_which_tiles_are_tried(target: str, feature: int, dtype: str) -> None:
    """The target's own first, whatever the walk; then a few that kernels can have."""
    if target == "cpu":
        return
    o = tuned.Occasion((), "triton", target, "", dtype, (("d", feature), ("e", 16)), ())
    found = tune.tiles(o)
    width, extent = {"float32": 4}.get(dtype, 2), 128 if feature == 80 else feature
    own = {t for narrow in (False, True) for t in candidates(target, width, extent, narrow)}
    assert set(found[: len(own)]) == own
    assert len(own) <= len(found) <= 21
    assert len(set(found)) == len(found)
    assert all(tuned.possible(tile) for tile in found)


def test_outputs_without_the_widest_feature() -> None:
    """The default is among what is tried, also for outputs that read fewer features."""
    source = Source.read(CAUSAL)
    extents = (("d", 64), ("e", 256))
    o = tuned.Occasion(("lse",), "triton", "cuda:90", "", "float16", extents, ())
    cascade = meaning(source, ("lse",))

    def made(tile: Tile | None) -> str:
        return generate(cascade, source, Specialisation("triton", "cuda:90", ("float16",), (extents,), tile))

    assert made(None) in [made(tile) for tile in tune.tiles(o)]


def test_a_gpu_without_a_row_has_the_tiles_of_an_older_one() -> None:
    o = tuned.Occasion((), "triton", "cuda:103", "", "bfloat16", (("d", 64),), ())
    assert tune.tiles(o) == tune.tiles(replace(o, target="cuda:100"))


def test_tuned_texts_are_kept_like_others(kept: Path, slow: Callable[[int], None]) -> None:
    slow(64)
    attend = attncc.load(CAUSAL)
    attend.tune(*tensors())
    before = sorted(kept.glob("*.py"))
    attend(*tensors())
    (text,) = attend.modules.values()
    assert text in [cache.opened(path.name, path.read_bytes()) for path in before]
    assert sorted(kept.glob("*.py")) == before
