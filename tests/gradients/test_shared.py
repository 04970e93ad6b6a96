"""Gradients of tensors that are shared, next to those of the reference: exact up to rounding in float64, and
through Triton's interpreter in float32.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attncc.pipeline import meaning, trained
from tests.gradients.shared import LENGTHS, SHARED, arguments, errors, module, poisoned, source


@pytest.mark.parametrize("name", SHARED)
def test_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = module(name, "torch", "cpu", "float64")
    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    for lengths in LENGTHS:
        off = dict(errors(made, arguments(name, lengths), torch.float64))
        assert off and all(error <= 1e-9 for error in off.values()), off


@pytest.mark.parametrize("name", SHARED)
def test_nothing_of_rows_and_columns_is_kept(name: str) -> None:
    plan = trained(meaning(source(name)), None).backward_plan
    wide = [t.name for t in plan.kept if sum(i.role == "sequence" for i in t.indices) > 1]
    assert not wide


INTERPRETED = (
    ("bias_qk", "bias_of_groups", "positions", "two_scales", "gate_of_groups"),
    ("distance", "of_groups", "bucket_of_batch", "plane", "sigmoids"),
    ("vectors", "vectors_of_keys", "vectors_of_values", "of_column", "unused"),
)


@pytest.mark.parametrize("names", INTERPRETED, ids="-".join)
def test_interpreted(names: tuple[str, ...], root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gradients.shared", *names],
        cwd=root,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{done.stdout[-300:]}\n{done.stderr[-3000:]}"
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {name for _, name, _ in lines} == set(names)
    wrong = [line for line in lines if not float(line[0]) <= 1e-5]
    assert not wrong, "\n".join(map(" ".join, wrong))
