"""All gradients of every pattern, tile by tile in plain PyTorch, against the dense reference in float64.

In float64 every small case of every pattern: there the bound is 4 * 2**-44 of what is around, and whatever is
left out or counted twice is far past it. In shorter kinds by the criterion, at odd lengths.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from attncc.diagnostics import PatternError
from tests.gradients.trained import POWERS, REFUSED, SHORT, TRAINED, drawn, past, trained, verdict
from tests.patterns.cases import CASES, inputs
from tests.patterns.sizes import Case
from tests.shapes import LENGTHS, PAIRING, UNBOUNDED, Shape

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left unwritten is NaN."""
    make = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: make(*a, **k).fill_(torch.nan))


CANCELLING = (
    *("agent", "chunked", "differential", "document", "evoformer", "halonet", "l2_softmax", "longlora"),
    *("music", "packed", "padded", "selective_self", "nap", "pointer"),
)
"""Patterns in which a row may see so few keys, or one of so great a weight, that the terms of its gradient
cancel: PyTorch's softmax takes both from the same products, kernels one of them from the output. In float32
such rows are held to 4 eps of the terms."""

FEW = 3
"""Such rows of a gradient in any other pattern, where PyTorch is right by chance; where there is one feature,
over which no error is spread, there may be more."""

QUICK = (
    "causal",
    "sink",
    "alibi",
    "streaming",
    "document",
    "differential",
    "sigmoid",
    "qk_norm",
    "yopo",
    "tree",
)
"""Tried in float32 by default."""


def small() -> list[Any]:
    """Every case of every pattern; by default one of each: more queries than keys, so that rows are empty,
    groups of 3, D unlike E.
    """
    found = []
    for name in TRAINED:
        cases = [c for c in CASES[name] if max(c.extents["q"], c.extents["k"]) > 1]
        for n, case in enumerate(cases):
            few = n == min(6, len(cases) - 1)
            marks = () if few else (pytest.mark.slow,)
            found.append(pytest.param(name, case, marks=marks, id=str(case)))
    return found


@pytest.mark.parametrize(("name", "case"), small())
def test_in_float64(name: str, case: Case) -> None:
    found = verdict(name, inputs(case), torch.float64)
    assert found.pop("verdict").right, found


GROUPED = (
    Shape(2, 6, 2, 65, 333, 64, 32),  # groups of 3; fewer queries than keys
    Shape(1, 3, 1, 200, 70, 32, 64),  # the first queries stand before the first key
    Shape(1, 2, 1, 129, 129, 64, 64),
)
SQUARE = tuple(Shape(1, 2, 2, n, n, 64, 64) for n in LENGTHS if 1 < n <= 333)
SIZES = tuple(
    Shape(1, 3, 1, 70, 130, d, e) for d, e in ((16, 64), (80, 96), (128, 128), (256, 256), (7, 5), (1, 1))
)


def shapes() -> list[Any]:
    """Every pattern in every kind; by default a few in float32 at one shape."""
    found = []
    for name in TRAINED:
        for n, shape in enumerate((*GROUPED, *SQUARE, *SIZES)):
            if shape.d % 2 and name in PAIRING:
                continue
            for dtype in (torch.float32, *SHORT):
                if dtype == torch.float16 and name in UNBOUNDED:
                    continue
                marks: tuple[pytest.MarkDecorator, ...] = ()
                if name == "lssar" and dtype == torch.float32:
                    marks = (pytest.mark.xfail(strict=False, reason=POWERS),)
                quick = n == 0 and dtype == torch.float32 and name in QUICK
                marks += () if quick else (pytest.mark.slow,)
                found.append(pytest.param(name, shape, dtype, marks=marks, id=f"{name}-{shape}-{dtype}"))
    return found


@pytest.mark.parametrize(("name", "shape", "dtype"), shapes())
def test_by_the_criterion(name: str, shape: Shape, dtype: torch.dtype) -> None:
    given = drawn(name, shape, dtype)
    found = verdict(name, given, dtype)
    judged = found.pop("verdict")
    assert judged.right, found
    many = name in CANCELLING or shape.e == 1
    assert not judged.terms or many or past(name, given, dtype) <= FEW, found


@pytest.mark.parametrize("name", REFUSED)
def test_gradients_that_are_refused(name: str) -> None:
    """So that the list of them cannot grow old."""
    with pytest.raises(PatternError) as refused:
        trained(name).module(drawn(name, Shape(1, 2, 2, 5, 9, 4, 4), torch.float32))
    assert [d.code for d in refused.value.diagnostics] == [REFUSED[name]]
