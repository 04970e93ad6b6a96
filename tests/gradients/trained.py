"""Patterns with gradients, and what is known of those that have none yet."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import attncc
from attncc.codegen.words import Words
from attncc.ir.evaluate import evaluate, outputs
from attncc.source import Source
from attncc.verify.compared import Compared, Function, Verdict, doubled
from attncc.verify.gradients import Trained, slopes
from tests.shapes import KERNELS, MORE, PACKED, UNBOUNDED, Shape, arguments, numbers

PATTERNS = Path(__file__).parents[2] / "patterns"

REFUSED: dict[str, str] = {}
"""Patterns with kernels whose gradients have none at present, and the rule that says so."""

TRAINED = tuple(n for n in (*KERNELS, *MORE, *PACKED, *UNBOUNDED) if n not in REFUSED)
"""Patterns with kernels for their gradients."""

SHORT = (torch.bfloat16, torch.float16)
"""Element types of 16 bits."""


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


GROWING = ("lightning",)
"""Sums that are not normalised: of standard normal numbers the dense reference passes what float16 holds."""


def drawn(name: str, shape: Shape, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> dict[str, Any]:
    """Arguments of a shape, with numbers that leave edges inside."""
    more = {**numbers(name), "cap": 20.0, "bias": -3.0}
    full = Shape(**{**vars(shape), "numbers": more})
    made = arguments(trained(name).cascade, full, dtype, device, seed)
    if name in GROWING and dtype == torch.float16:
        made = {n: x / 8 if torch.is_tensor(x) and x.is_floating_point() else x for n, x in made.items()}
    return made


POWERS = "powers of differences of scores, made again, in float32: 1 to 3 of the bound"
"""Of a gradient that only the same rounding in the forward and the backward pass would make better."""

ROUNDED = ("selective_self", "padded", "left_padded", "s2_relative", "yopo")
"""Patterns in which a row may see so few keys, or one of so great a weight, that the terms of its gradient
cancel, and in 16 bits one of them is made of an output as its rounding left it. PyTorch's softmax takes both
from the same products; its fused kernels do as these. Such a row is right where nothing saved is rounded."""


@contextmanager
def unrounded(run: Trained, given: dict[str, Any]) -> Iterator[None]:
    """The backward pass of a call is given in float32 what was saved in the precision of the call."""
    forward = run.training.forward
    inputs = {n: x.detach().cpu().numpy() if torch.is_tensor(x) else x for n, x in doubled(given).items()}
    made = outputs(forward, evaluate(forward, {**dict(forward.defaults), **inputs}))
    exact = {t.name: x for t, x in zip(forward.outputs, made, strict=True)}
    module, name = run.module(given), Words(frozenset()).function(f"{run.cascade.name}_backward")
    whole = getattr(module, name)
    saved = {t.name for t in run.training.saved}
    places = {n: exact[t] for n, t in enumerate(inspect.signature(whole).parameters) if t in saved}

    def backward(*args: Any) -> Any:
        wide = list(args)
        for n, x in places.items():
            if wide[n].dtype in SHORT:
                wide[n] = torch.from_numpy(x).to(wide[n].device, torch.float32)
        return whole(*wide)

    setattr(module, name, backward)
    try:
        yield
    finally:
        setattr(module, name, whole)


def verdict(
    name: str,
    given: dict[str, Any],
    dtype: torch.dtype,
    asked: tuple[str, ...] = (),
    backend: str | None = "torch",
    seed: int = 1,
) -> dict[str, Any]:
    """The verdict on a pattern's gradients, and the worst row of each by name."""
    return judged(trained(name, asked, backend), given, dtype, asked, seed)


def judged(
    run: Trained, given: dict[str, Any], dtype: torch.dtype, asked: tuple[str, ...] = (), seed: int = 1
) -> dict[str, Any]:
    """The same of any kernels of a pattern."""
    compared = _compared(run, given, dtype, asked, seed)
    found: Verdict = compared.verdict(given)
    if run.cascade.name in ROUNDED and dtype in SHORT and not found.right:
        with unrounded(run, given):
            found = compared.verdict(given)
    assert not found.unknown and not found.strange, found.strange or "the reference has no gradients"
    return {"verdict": found, **dict(zip((t.name for t in compared.tensors), found.worst, strict=True))}


def past(name: str, given: dict[str, Any], dtype: torch.dtype) -> int:
    """The most rows of a gradient past what PyTorch gets wrong, whatever they are sums of."""
    compared = _compared(trained(name), given, dtype)
    return max(int((rows > 1).sum()) for rows in replace(compared, terms=None).verdict(given).rows)


def _compared(
    run: Trained, given: dict[str, Any], dtype: torch.dtype, asked: tuple[str, ...] = (), seed: int = 1
) -> Compared:
    """Kernels of a pattern beside its reference."""
    reference = dense(run.cascade.name, asked)
    with torch.no_grad():
        exact = reference(doubled(given))
    return slopes(run, reference, given, dtype, seed, exact)
