"""Patterns with gradients, and what is known of those that have none yet."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import attncc
from attncc.source import Source
from attncc.verify.compared import Function, Verdict, doubled
from attncc.verify.gradients import Trained, slopes
from tests.shapes import KERNELS, MORE, PACKED, UNBOUNDED, Shape, arguments, numbers

PATTERNS = Path(__file__).parents[2] / "patterns"

REFUSED: dict[str, str] = {}
"""Patterns with kernels whose gradients have none at present, and the rule that says so."""

TRAINED = tuple(n for n in (*KERNELS, *MORE, *PACKED, *UNBOUNDED) if n not in REFUSED)
"""Patterns with kernels for their gradients."""


def source(name: str) -> Source:
    return Source.read(PATTERNS / f"{name}.attn")


@cache
def trained(name: str, asked: tuple[str, ...] = (), backend: str | None = "torch") -> Trained:
    """A pattern's kernels."""
    return Trained(source(name), asked, backend)


@cache
def dense(name: str, asked: tuple[str, ...] = ()) -> Function:
    """A pattern's reference."""
    reference = attncc.Attention(source(name), "reference")
    return partial(_outputs, reference, asked)


def _outputs(reference: attncc.Attention, asked: tuple[str, ...], given: dict[str, Any]) -> Any:
    out = reference(**{_named(n): x for n, x in given.items()}, outputs=asked)
    return out if isinstance(out, tuple) else (out,)


def _named(name: str) -> str:
    return f"{name}_" if name == "lambda" else name


def drawn(name: str, shape: Shape, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
    """Arguments of a shape, with numbers that leave edges inside."""
    more = {**numbers(name), "cap": 20.0, "bias": -3.0}
    full = Shape(**{**vars(shape), "numbers": more})
    return arguments(trained(name).cascade, full, dtype, device, seed)


def verdict(
    name: str,
    given: dict[str, Any],
    dtype: torch.dtype,
    asked: tuple[str, ...] = (),
    backend: str | None = "torch",
    seed: int = 1,
) -> dict[str, Any]:
    """The verdict on a pattern's gradients, and the worst row of each by name."""
    exact = dense(name, asked)(doubled(given))
    compared = slopes(trained(name, asked, backend), dense(name, asked), given, dtype, seed, exact)
    found: Verdict = compared.verdict(given)
    assert not found.unknown and not found.strange, found.strange or "the reference has no gradients"
    return {"verdict": found, **dict(zip((t.name for t in compared.tensors), found.worst, strict=True))}
