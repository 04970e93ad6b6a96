"""The examples run, and do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest
import torch

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(
    path.name
    for path in (ROOT / "examples").glob("*.py")
    if "def main" in path.read_text("utf-8") and path.name not in ("demo.py", "train_lm.py")
)
"""`make demo` and `make train` run the others, which take their time."""

SHORT = "streaming(window=16, sinks=2), s2(block=8, local=2, stride=2), alibi, document"


def example(folder: Path, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def train(folder: Path, *options: str) -> str:
    """What training on a CPU printed."""
    done = example(folder, "train_lm.py", "--device", "cpu", "--backend", "reference", *options)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "examples")
    import tasks

    return tasks


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    done = example(tmp_path, name)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


def test_a_model_of_text_learns(tmp_path: Path) -> None:
    sizes = ("--steps", "40", "--points", "4", "--rows", "4", "--length", "64", "--width", "64")
    said = train(tmp_path, "--patterns", SHORT, "--sample", "8", "--seconds", "600", *sizes)
    held_out = [float(x) for x in re.findall(r"held out (\S+)", said)]
    counted = [float(x) for x in re.findall(r"single bytes ([\d.]+)", said)]
    assert len(held_out) == 4 and held_out == sorted(held_out, reverse=True)
    assert held_out[-1] < counted[0], "40 steps are enough to know more than how frequent a byte is"
    assert "\r" not in said, "a bar is drawn where nobody sees it"
    drawn = ElementTree.parse(tmp_path / "curve.svg").getroot()
    words = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert f"held out {held_out[-1]:.2f}" in words and f"single bytes {counted[0]:.2f}" in words


def test_a_run_ends_when_its_time_is_over(tmp_path: Path) -> None:
    said = train(tmp_path, "--task", "mqar", "--patterns", "causal", "--steps", "1000000", "--seconds", "0.5")
    assert "16 questions after 16 pairs" in said
    assert ElementTree.parse(tmp_path / "curve.svg").getroot().get("aria-label")


@pytest.mark.slow
def test_recall_separates_patterns(tmp_path: Path) -> None:
    patterns = "causal, window(window=8)"
    said = train(tmp_path, "--task", "mqar", "--patterns", patterns, "--steps", "200", "--seconds", "600")
    right = {name: float(x) for name, x in re.findall(r"^(\S+) +([\d.]+)%", said, re.MULTILINE)}
    assert right["causal"] > 95 and right["window(window=8)"] < 15


def test_text_is_refused_to_what_sees_the_future(tmp_path: Path) -> None:
    done = example(
        tmp_path, "train_lm.py", "--device", "cpu", "--backend", "reference", "--patterns", "dense"
    )
    assert done.returncode == 1 and "later tokens" in done.stderr


@pytest.mark.parametrize(("pattern", "word"), [("gla", "g, which"), ("nowhere.attn", "nowhere.attn")])
def test_what_has_no_place_in_the_model_is_named(tmp_path: Path, pattern: str, word: str) -> None:
    done = example(tmp_path, "train_lm.py", "--patterns", pattern)
    assert done.returncode == 1 and word in done.stderr and "Traceback" not in done.stderr


def test_every_answer_of_recall_is_in_its_row(tasks: ModuleType) -> None:
    for tokens, _, targets in islice(tasks.recall(8, seed=3), 2):
        asked = targets != tasks.NOT_ASKED
        assert asked.sum(1).eq(tasks.PAIRS).all() and not asked[:, : 2 * tasks.PAIRS].any()
        for row, target in zip(tokens.tolist(), targets.tolist(), strict=True):
            values = dict(zip(row[: 2 * tasks.PAIRS : 2], row[1 : 2 * tasks.PAIRS : 2], strict=True))
            assert len(values) == tasks.PAIRS
            assert [values[key] for key in row[2 * tasks.PAIRS :]] == target[2 * tasks.PAIRS :]


def test_packed_rows_go_on_where_the_last_ended(tasks: ModuleType) -> None:
    texts = [torch.tensor([0, 1, 2, 3, 4]), torch.tensor([0, 5, 6])]
    batches = list(islice(tasks.packed(texts, 2, 3, seed=0), 4))
    stream = torch.cat([tokens.flatten() for tokens, _, _ in batches])
    assert torch.equal(stream[1:], torch.cat([targets.flatten() for *_, targets in batches])[:-1])
    for tokens, doc, _ in batches:
        assert torch.equal(doc.diff(dim=1), tokens[:, 1:].eq(0).int()), "a document begins at every 0 alone"
    assert {*tasks.documents(held_out=True)[0].tolist()} > {0}
    files = len(tasks.documents(held_out=True)) + len(tasks.documents(held_out=False))
    assert files == len([*(ROOT / "patterns").glob("*.attn")])
