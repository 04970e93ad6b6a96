"""What a pass is judged by: outputs of a cascade on some inputs, and when two of them are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attncc.ir.cascade import Cascade
from attncc.ir.evaluate import evaluate, outputs
from attncc.ir.verify import verified
from attncc.passes import PASSES
from attncc.pipeline import generate, meaning
from attncc.runtime.module import load
from attncc.schedule.spec import KINDS, Specialisation
from attncc.source import Source

Array = NDArray[Any]

NEAR = 1e-9
"""How far apart two ways to compute one number may be, next to the largest of its tensor."""


def meant(text: str) -> Cascade:
    """The cascade of a text."""
    return meaning(Source("test.attn", text))


def results(cascade: Cascade, values: Mapping[str, Any]) -> dict[str, Array]:
    """The outputs by name."""
    found = outputs(cascade, evaluate(cascade, values))
    return {t.name: x for t, x in zip(cascade.outputs, found, strict=True)}


def differing(found: Array, wanted: Array, near: float = NEAR) -> str:
    """What is wrong with an array, or nothing: infinities are the same, predicates and integers equal."""
    if found.shape != wanted.shape:
        return f"shape {found.shape}, not {wanted.shape}"
    if wanted.dtype.kind != "f":
        return "" if np.array_equal(found, wanted) else f"{found}\nis not\n{wanted}"
    wild = ~np.isfinite(wanted)
    if not np.array_equal(np.where(wild, found, 0.0), np.where(wild, wanted, 0.0), equal_nan=True):
        return f"{found}\nis not\n{wanted}"
    found, wanted = np.where(wild, 0.0, found), np.where(wild, 0.0, wanted)
    size, error = (np.max(np.abs(x), initial=0.0) for x in (wanted, found - wanted))
    # an error that is NaN is one
    return "" if error <= near * (1 + size) else f"{error} off\n{found}\nis not\n{wanted}"


def same(found: Mapping[str, Array], wanted: Mapping[str, Array], near: float = NEAR) -> None:
    """Every output, as it should be."""
    assert found.keys() == wanted.keys()
    wrong = {name: text for name in wanted if (text := differing(found[name], wanted[name], near))}
    assert not wrong, "\n".join(f"{name}: {text}" for name, text in wrong.items())


def passed(cascade: Cascade) -> Cascade:
    """The cascade after all passes, each of which left a sound one."""
    for rewrite in PASSES:
        cascade = verified(rewrite(cascade))
    return cascade


def kernel(text: str, values: Mapping[str, Any], tile: int) -> dict[str, Array]:
    """What the one kernel of a text gives, in plain PyTorch, `tile` rows and columns at a time.

    PatternError where it has none.
    """
    source = Source("test.attn", text)
    cascade = meaning(source)
    module: Any = load(
        generate(cascade, source, Specialisation("torch", "cpu", KINDS["torch"], ((),))), "test"
    )
    for name in vars(module):
        if name.startswith("BLOCK_"):
            setattr(module, name, tile)
    given = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in values.items()}
    found = getattr(module, cascade.name)(**given)
    found = found if isinstance(found, tuple) else (found,)
    return {t.name: x.numpy() for t, x in zip(cascade.outputs, found, strict=True)}
