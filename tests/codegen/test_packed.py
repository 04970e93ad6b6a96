"""Packed sequences: each is as it would be alone; neither their number nor their lengths compile anything."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attncc

ROOT = Path(__file__).parents[2]
PATTERNS = ROOT / "patterns"
GOLDEN = ROOT / "tests" / "golden"


def call(lengths: list[int], dtype: torch.dtype = torch.float64, h: int = 4, g: int = 2) -> dict[str, Any]:
    """Sequences of these lengths, one behind the other."""
    source = torch.Generator().manual_seed(1)
    total = sum(lengths)
    shapes = {"Q": (total, h, 16), "K": (total, g, 16), "V": (total, g, 24)}
    given = {n: torch.randn(s, generator=source, dtype=torch.float64).to(dtype) for n, s in shapes.items()}
    return {**given, "cu": torch.tensor([0, *lengths]).cumsum(0).int()}


def one_by_one(given: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The outputs of causal attention, once for every sequence."""
    causal = attncc.load(PATTERNS / "causal.attn", backend="reference")
    parts = []
    for start, end in pairwise(given["cu"].tolist()):
        q, k, v = (given[n][start:end].transpose(0, 1)[None] for n in "QKV")
        o, lse = causal(q, k, v, outputs=("O", "lse"))
        parts.append((o[0].transpose(0, 1), lse[0]))
    return torch.cat([o for o, _ in parts]), torch.cat([lse for _, lse in parts], -1)


LENGTHS = ([1], [5, 1, 64, 0, 130, 63], [300], [1] * 90, [128, 128], [0, 0, 7], [])


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_each_sequence_is_as_it_would_be_alone(lengths: list[int]) -> None:
    attend = attncc.load(PATTERNS / "packed.attn", backend="torch")
    given = call(lengths)
    o, lse = attend(**given, outputs=("O", "lse"))
    if lengths:
        alone, sums = one_by_one(given)
        torch.testing.assert_close(o, alone, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(lse, sums, rtol=1e-12, atol=1e-12)
    assert o.shape == (*given["V"].shape[:1], 4, 24)


@pytest.mark.parametrize("rows", [1, 40, 200])
def test_the_last_queries_of_a_prefill(rows: int) -> None:
    """The same positions, the same sequences: fewer queries are the last rows."""
    attend = attncc.load(PATTERNS / "packed.attn", backend="torch")
    given = call([70, 90, 40])
    whole = attend(**given)
    last = attend(**{**given, "Q": given["Q"][-rows:]})
    torch.testing.assert_close(last, whole[-rows:], rtol=1e-12, atol=1e-12)


def test_keys_of_other_sequences_are_not_even_read() -> None:
    """What lies outside the tiles of a sequence may be anything: a product with it would be NaN."""
    attend = attncc.load(PATTERNS / "packed.attn", backend="torch")
    given = call([512, 512, 512])
    whole = attend(**given)
    for n in "KV":
        given[n][:512] = torch.nan
        given[n][1024:] = torch.nan
    torch.testing.assert_close(attend(**given)[512:1024], whole[512:1024], rtol=0, atol=0)


def test_padding_is_not_even_read() -> None:
    """Nor are whole tiles of padding, on either side, that no sequence of a batch reaches."""
    source = torch.Generator().manual_seed(2)
    tensors = {n: torch.randn(2, 2, 640, 16, generator=source) for n in "QKV"}
    for name, table, padding in (
        ("padded", {"length": torch.tensor([100, 250])}, slice(256, None)),
        ("left_padded", {"pad": torch.tensor([640, 400])}, slice(0, 384)),
        ("ragged", {"start": torch.tensor([-200, -150])}, slice(512, None)),
    ):
        attend = attncc.load(PATTERNS / f"{name}.attn", backend="torch")
        plain = attncc.load(PATTERNS / f"{name}.attn", backend="reference")
        exact = plain(**tensors, **table, outputs=("O", "lse"))
        garbage = {n: x.clone() for n, x in tensors.items()}
        for n in "KV":
            garbage[n][:, :, padding] = torch.nan
        made = attend(**garbage, **table, outputs=("O", "lse"))
        torch.testing.assert_close(made[0], exact[0])
        torch.testing.assert_close(made[1], exact[1])
        nothing = exact[1] == -torch.inf
        assert nothing.any() and (made[0][nothing] == 0).all()


def test_lengths_and_their_number_compile_nothing() -> None:
    attend = attncc.load(PATTERNS / "packed.attn", backend="torch")
    for lengths in LENGTHS:
        attend(**call(lengths))
    assert attend.compilations == 1
    padded = attncc.load(PATTERNS / "padded.attn", backend="torch")
    for b, n in ((1, 7), (2, 130), (3, 65)):
        padded(*(torch.randn(b, 2, n, 8) for _ in "QKV"), length=torch.arange(b))
    assert padded.compilations == 1


@pytest.mark.parametrize(
    "name", ["packed", "document", "padded", "left_padded", "ragged", "shared_prefix", "anchor"]
)
def test_no_number_of_a_call_is_compiled_in(name: str) -> None:
    """A kernel is compiled for feature extents and tiles; all else are arguments, and not specialised."""
    tree = ast.parse((GOLDEN / f"{name}.cuda.py").read_text("utf-8"))
    kernel = next(f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == f"{name}_kernel")
    fixed = {a.arg for a in kernel.args.args if a.annotation is not None}
    assert fixed == {"D", "E", "BLOCK_Q", "BLOCK_K", "BLOCK_D", "BLOCK_E"}
    loose = {a.arg for a in kernel.args.args if a.arg.startswith("N") or a.arg == "prefix"}
    said = ast.unparse(kernel.decorator_list[0])
    assert loose and all(f"'{name}'" in said for name in loose)


INTERPRETED = """
import torch
from tests.codegen.test_packed import LENGTHS, PATTERNS, call, one_by_one
import attncc
attend = attncc.load(PATTERNS / "packed.attn", backend="triton")
for lengths in LENGTHS[:-1]:
    given = call(lengths, torch.float32)
    o, lse = attend(**given, outputs=("O", "lse"))
    alone, sums = one_by_one(given)
    torch.testing.assert_close(o, alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse, sums, rtol=1e-5, atol=1e-5)
    print(lengths)
"""


def test_interpreted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == len(LENGTHS) - 1
