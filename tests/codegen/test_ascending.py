"""`assume sorted`: a table that is not sorted is an error, never a search that misses tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import attncc

PATTERNS = Path(__file__).parents[2] / "patterns"


def call(length: int = 90, batch: int = 2) -> dict[str, Any]:
    source = torch.Generator().manual_seed(3)
    given: dict[str, Any] = {n: torch.randn(batch, 2, length, 8, generator=source) for n in "QKV"}
    given["doc"] = (torch.arange(length) // 20).repeat(batch, 1)
    return given


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_a_table_that_falls_is_an_error(dtype: torch.dtype) -> None:
    attend = attncc.load(PATTERNS / "document.attn", backend="torch")
    given = call()
    given["doc"] = given["doc"].to(dtype)
    attend(**given)
    given["doc"][1, 41] = 0
    with pytest.raises(ValueError, match=r"`doc` is not sorted along `k`.*it falls behind k = 40"):
        attend(**given)
    given["doc"][1, 41] = 2
    attend(**given)


@pytest.mark.parametrize("length, batch", [(0, 2), (1, 2), (5, 0)])
def test_short_tables_are_sorted(length: int, batch: int) -> None:
    attend = attncc.load(PATTERNS / "document.attn", backend="torch")
    assert attend(**call(length, batch)).shape == (batch, 2, length, 8)


def test_a_pattern_that_assumes_nothing_takes_any_table() -> None:
    text = (PATTERNS / "document.attn").read_text("utf-8").replace("    assume sorted doc\n", "")
    attend, plain = attncc.compile(text, "torch"), attncc.compile(text, "reference")
    given = call()
    given["doc"] = given["doc"].flip(-1)
    torch.testing.assert_close(attend(**given), plain(**given))
