"""All gradients of every pattern on a GPU: row by row against float64, in 16 bits, at odd lengths.

Every pair of feature extents is kernels to compile, so there are two in bfloat16, D = E and D unlike E, and
one in float16.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attncc.runtime.tune import tiles
from attncc.runtime.tuned import occasion_of
from attncc.verify.compared import doubled
from attncc.verify.gradients import Trained, gradients, slopes, weights
from attncc.verify.trial import poisoned
from tests.gradients.trained import SHORT, TRAINED, dense, drawn, judged, source, trained
from tests.shapes import FOLDED, LENGTHS, UNBOUNDED, Shape

pytestmark = pytest.mark.gpu

TUNED = ("causal", "streaming", "alibi")
"""Patterns for which every tile is tried: full rows, narrow walks, a bias that is learned."""

PARTS = 4
"""Tests that share the tiles of a pattern."""


def shapes(name: str, d: int, e: int) -> list[Shape]:
    """Odd lengths, groups of 3, one query, empty rows, no row at all."""
    longest = 333 if name in FOLDED else max(LENGTHS)
    found = [Shape(1, 2, 2, n, n, d, e) for n in LENGTHS if n <= longest]
    found += [Shape(2, 6, 2, 129, 333, d, e), Shape(1, 3, 1, 1, longest, d, e)]
    found += [Shape(1, 2, 1, 0, 40, d, e), Shape(1, 3, 1, 250, 296, d, e)]
    early = [Shape(1, 2, 1, 40, 0, d, e), Shape(1, 3, 1, 200, 70, d, e)]
    return [*found, *early]


def wrong(given: dict[str, Any], dtype: torch.dtype, run: Trained) -> dict[str, float]:
    """The worst row of every gradient that is not right."""
    with poisoned():
        found = judged(run, given, dtype)
    return {t: w for t, w in found.items() if t != "verdict" and not w <= 1}


CALLS = ((torch.bfloat16, 64, 64), (torch.bfloat16, 80, 32), (torch.float16, 32, 64))


@pytest.mark.parametrize(("dtype", "d", "e"), CALLS, ids=str)
@pytest.mark.parametrize("name", TRAINED)
def test_gradients(name: str, dtype: torch.dtype, d: int, e: int) -> None:
    if name in UNBOUNDED and dtype == torch.float16:
        pytest.skip("powers pass what float16 holds")
    run = trained(name, (), None)
    found = {str(s): wrong(drawn(name, s, dtype, "cuda"), dtype, run) for s in shapes(name, d, e)}
    assert not {shape: worst for shape, worst in found.items() if worst}


@pytest.mark.parametrize("name", ["causal", "streaming", "alibi", "s2", "document", "kronecker"])
def test_bitwise_equal_from_run_to_run(name: str) -> None:
    run = trained(name, (), None)
    given = drawn(name, Shape(2, 6, 2, 333, 333, 64, 64), torch.bfloat16, "cuda")
    reach = weights(run(given), torch.bfloat16, 3)
    first = gradients(run, given, run.wrt, reach)
    for _ in range(5):
        assert all(
            torch.equal(x, y) for x, y in zip(gradients(run, given, run.wrt, reach), first, strict=True)
        )


@pytest.mark.parametrize("dtype", SHORT, ids=str)
@pytest.mark.parametrize("asked", [("lse",), ("lse", "O")], ids="-".join)
def test_through_the_logarithms_of_sums(asked: tuple[str, ...], dtype: torch.dtype) -> None:
    """What reaches a statistic of rows is float32 beside 16-bit tensors."""
    given = drawn("streaming", Shape(1, 6, 2, 333, 250, 64, 64), dtype, "cuda")
    run, reference = trained("streaming", asked, None), dense("streaming", asked)
    found = slopes(run, reference, given, dtype, 1, reference(doubled(given))).verdict(given)
    assert found.right and not found.unknown, found.worst


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("name", TUNED)
def test_every_tile_that_may_be_picked(name: str, part: int) -> None:
    """A tile for which there is no memory is one that the tuner does not pick."""
    given = drawn(name, Shape(1, 6, 2, 333, 250, 64, 64), torch.bfloat16, "cuda")
    target = "cuda:" + "".join(map(str, torch.cuda.get_device_capability()))
    occasion = occasion_of(trained(name).cascade, given, (), "triton", target, (("d", 64), ("e", 64)))
    assert occasion is not None
    right = 0
    for tile in tiles(occasion)[part::PARTS]:
        try:
            found = wrong(given, torch.bfloat16, Trained(source(name), tile=tile))
        except Exception as error:
            if "out of resource" not in str(error):
                raise
            continue
        assert not found, (tile, found)
        right += 1
    assert right, "no tile of these fits"
