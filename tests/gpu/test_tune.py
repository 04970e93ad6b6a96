"""Tuning on a GPU: real times, one result whatever the tile, and what a first call costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import attncc
from attncc.runtime import tuned
from attncc.verify.criterion import worst

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of its own, and a process that has read nothing."""
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tuned, "KNOWN", {})
    return tmp_path


@pytest.mark.parametrize(
    ("name", "numbers", "feature", "dtype"),
    [
        ("causal", {}, 64, torch.bfloat16),
        ("causal", {}, 128, torch.bfloat16),
        ("causal", {}, 64, torch.float32),
        ("window", {"window": 300}, 64, torch.float16),
    ],
)
def test_the_fastest_is_kept_and_right(
    name: str, numbers: dict[str, int], feature: int, dtype: torch.dtype, kept: Path
) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, 1024, feature, device="cuda", dtype=dtype) for _ in range(3))
    attend = attncc.load(ROOT / "patterns" / f"{name}.attn")
    report = attend.tune(q, k, v, **numbers)
    print(f"\n{name} {feature} {dtype}\n{report}")
    times = {tile: ms for tile, ms in report.measured if isinstance(ms, float)}
    assert len(times) >= 2
    assert all(0.001 < ms < 100 for ms in times.values())
    assert times[report.best] == min(times.values())
    assert len(list(kept.glob("*.json"))) == 1
    fresh = attncc.load(ROOT / "patterns" / f"{name}.attn")
    made = fresh(q, k, v, **numbers)
    (text,) = fresh.modules.values()
    if report.best != report.measured[0][0]:
        assert f'"num_warps": {report.best.warps}, "num_stages": {report.best.stages}' in text
    plain = attncc.load(ROOT / "patterns" / f"{name}.attn", "reference")
    exact = plain(q.double(), k.double(), v.double(), **numbers)
    assert worst(made, plain(q, k, v, **numbers), exact, dtype, features=True) <= 1


FIRST = """
import sys, time
import torch
x = torch.randn(1, 4, 512, 64, device="cuda", dtype=torch.bfloat16)
torch.cuda.synchronize()
start = time.perf_counter()
import attncc
attend = attncc.load("patterns/streaming.attn")
loaded = time.perf_counter()
attend(x, x, x)
torch.cuda.synchronize()
called = time.perf_counter()
print(f"load {loaded - start:.2f} s, first call {called - loaded:.2f} s", file=sys.stderr)
print(called - start)
"""


def test_from_text_to_launch_within_three_seconds(tmp_path: Path) -> None:
    """In a process that has torch, no kernel on disk; then with our texts and Triton's binaries there.

    Python's modules are compiled by a process before, as an installer does.
    """
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "python")}
    environment |= {"PYTHONDONTWRITEBYTECODE": "", "TRITON_CACHE_DIR": str(tmp_path / "before")}
    environment |= {"ATTNCC_CACHE_DIR": str(tmp_path / "before")}
    seconds = []
    for n in range(4):
        if n == 1:
            environment |= {"ATTNCC_CACHE_DIR": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "triton")}
        done = subprocess.run(
            [sys.executable, "-c", FIRST], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        print(done.stderr.strip())
        seconds += [float(done.stdout)] if n else []
    binaries = [path for path in (tmp_path / "triton").rglob("streaming_kernel.cubin")]
    assert len(binaries) == 1, "another process did not find the binary of the first"
    assert seconds[0] < 3
    assert seconds[-1] < seconds[0]
