"""The criterion: it passes rounding, and fails one bad row among many."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attncc.verify.criterion import ratios, worst


@pytest.fixture
def exact() -> Tensor:
    return torch.randn(2, 3, 300, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounding_passes(exact: Tensor, dtype: torch.dtype) -> None:
    made = exact.to(dtype)
    assert 0 < worst(made, exact.to(dtype), exact, dtype, features=True) < 1
    assert worst(made[..., 0], exact[..., 0].to(dtype), exact[..., 0], dtype, features=False) < 1


@pytest.mark.parametrize("bad", [0.0, torch.nan, torch.inf])
def test_one_bad_row_fails(exact: Tensor, bad: float) -> None:
    made = exact.bfloat16()
    made[1, 2, 150] = bad
    found = ratios(made, exact.bfloat16(), exact, torch.bfloat16, features=True)
    assert found.shape == (2, 3, 300)
    assert (found > 1).nonzero().tolist() == [[1, 2, 150]]


def test_infinities_have_to_be_where_they_belong(exact: Tensor) -> None:
    rows = exact[..., 0].clone()
    rows[0, 0, 7] = -torch.inf
    assert worst(rows.float(), rows.float(), rows, torch.float32, features=False) < 1
    finite = rows.float().clone()
    finite[0, 0, 7] = -1e30
    assert worst(finite, rows.float(), rows, torch.float32, features=False) == torch.inf
    opposite = rows.float().clone()
    opposite[0, 0, 7] = torch.inf
    assert worst(opposite, rows.float(), rows, torch.float32, features=False) == torch.inf


def test_nothing_is_right() -> None:
    none = torch.zeros(2, 0, 4)
    assert worst(none, none, none.double(), torch.float32, features=True) == 0
