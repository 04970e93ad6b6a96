"""Cascade → how it is mapped over one more axis: folded into one of its own, or one slice after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from attncc.ir.cascade import Cascade, Expr, Index, Read, Reduce, Tensor, children

Rule: TypeAlias = Callable[[Any, int, tuple[int | None, ...], tuple[Any, ...]], tuple[Any, Any]]
"""What is called, how many slices, their axes in the arguments, the arguments → outputs and their axes."""


def rule(cascade: Cascade) -> Rule:
    """How what goes from a cascade's inputs to its outputs is mapped over one more axis."""
    index = folding(cascade)

    def mapped(call: Any, size: int, axes: tuple[int | None, ...], given: tuple[Any, ...]) -> tuple[Any, Any]:
        pairs = zip(cascade.inputs, axes, strict=True)
        if index is not None and all(axis is None or index in t.indices for t, axis in pairs):
            made = _folded(call, cascade, index, size, axes, given)
        else:
            made = _each(call, size, axes, given)
        return (made[0], 0) if len(made) == 1 else (tuple(made), (0,) * len(made))

    return mapped


def folding(cascade: Cascade) -> Index | None:
    """An index at whose every position the same is computed, apart from the others; None if there is none."""
    bodies = [*(e.body for e in cascade.equations), *(e for _, e in cascade.lengths)]
    for index in (i for i in cascade.outputs[0].indices if i.role == "batch"):
        if all(index in t.indices for t in cascade.outputs) and all(_apart(e, index) for e in bodies):
            return index
    return None


def _apart(e: Expr, index: Index) -> bool:
    """Whether an expression takes everything at the position of an index that it is for, and no other."""
    match e:
        case Index():
            return e != index
        case Read(tensor, at):
            pairs = zip(tensor.indices, at, strict=True)
            return all((axis == x == index) or (axis != index and _apart(x, index)) for axis, x in pairs)
        case Reduce(over=over) if index in over:
            return False
        case _:
            return all(_apart(x, index) for x in children(e))


def _each(call: Any, size: int, axes: tuple[int | None, ...], given: tuple[Any, ...]) -> list[torch.Tensor]:
    """One slice after the other."""
    made = []
    for n in range(size):
        slices = (x if axis is None else x.select(axis, n) for x, axis in zip(given, axes, strict=True))
        found = call(*slices)
        made.append(found if isinstance(found, tuple) else (found,))
    return [torch.stack(found) for found in zip(*made, strict=True)]


def _folded(
    call: Any, cascade: Cascade, index: Index, size: int, axes: tuple[int | None, ...], given: tuple[Any, ...]
) -> list[torch.Tensor]:
    """The new axis and that of the index as one."""

    def fold(tensor: Tensor, x: Any, axis: int | None) -> Any:
        if not tensor.loaded or index not in tensor.indices:
            return x
        whole = x.expand(size, *x.shape) if axis is None else x.movedim(axis, 0)
        at = tensor.indices.index(index)
        return whole.movedim(0, at).flatten(at, at + 1)

    def unfold(tensor: Tensor, x: Any) -> Any:
        at = tensor.indices.index(index)
        return x.unflatten(at, (size, x.shape[at] // size)).movedim(at, 0)

    made = call(*(fold(*each) for each in zip(cascade.inputs, given, axes, strict=True)))
    found = made if isinstance(made, tuple) else (made,)
    return [unfold(t, x) for t, x in zip(cascade.outputs, found, strict=True)]
