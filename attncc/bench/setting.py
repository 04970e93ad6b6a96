"""Cascade and extents → random arguments, and what a mask reads of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attncc.attention import Attention
from attncc.calls import Number, bounds, indices, tensors
from attncc.example import tables
from attncc.explain.costs import environment, traffic
from attncc.ir.cascade import Cascade, Index
from attncc.schedule.plan import Plan


@dataclass(frozen=True)
class Setting:
    """One call of a pattern: its arguments by name, and `env`, what predicates read."""

    cascade: Cascade
    plan: Plan
    sizes: Mapping[str, int]
    given: Mapping[str, Any]
    env: Mapping[str, Any]

    @property
    def tables(self) -> dict[str, Tensor]:
        """The arguments that are integers or truth values."""
        return {n: x for n, x in self.given.items() if torch.is_tensor(x) and not x.is_floating_point()}

    def call(self, attend: Attention) -> Callable[[], Any]:
        """The pattern, or its reference, on these arguments."""
        own = zip(attend.__signature__.parameters, attend.cascade.inputs, strict=True)
        named = {name: self.given[t.name] for name, t in own}
        return lambda: attend(**named)


def setting(
    cascade: Cascade,
    plan: Plan,
    shape: tuple[int, ...],
    fixed: Mapping[str, int],
    numbers: Mapping[str, Number],
    dtype: torch.dtype,
    device: str,
) -> Setting:
    """Normal random tensors, uniform in a range that the pattern assumes; example tables; the numbers.

    `shape` is batch, heads, length and features; `fixed` are the extents of single indices. MemoryError
    where the arguments and outputs take more than the device has.
    """
    sizes = _sizes(cascade, shape, fixed)
    env = environment(cascade, shape[2], numbers, sizes)
    taken, there = traffic(cascade, extents(env), dtype.itemsize), memory(device)
    if taken > there:
        raise MemoryError(
            f"arguments and outputs take {taken / 1e9:,.1f} GB, and {device} has {there / 1e9:,.1f}"
        )
    example = tables(cascade, [t for t in tensors(cascade) if t.kind != "float"], env)
    source = torch.Generator(device).manual_seed(0)
    given: dict[str, Any] = {}
    for tensor in tensors(cascade):
        size = [sizes[i.name] for i in tensor.indices]
        said = bounds(cascade, tensor.name)
        if tensor.name in example:
            given[tensor.name] = torch.from_numpy(example[tensor.name]).to(device)
        elif said is None:
            given[tensor.name] = torch.randn(size, generator=source, device=device).to(dtype)
        else:
            x = torch.rand(size, generator=source, device=device) * (said[1] - said[0]) + said[0]
            given[tensor.name] = x.to(dtype)
    return Setting(cascade, plan, sizes, {**given, **numbers}, {**env, **example})


def extents(env: Mapping[str, Any]) -> dict[str, int]:
    """The extent of every index, of what predicates read."""
    return {name[1:-1]: size for name, size in env.items() if name.startswith("|")}


def memory(device: str) -> int:
    """Bytes that a device has in all, so far as the system says."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    if not hasattr(os, "sysconf"):  # Windows
        return sys.maxsize
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def room() -> Iterator[None]:
    """`with room():` what PyTorch says where memory does not suffice becomes a MemoryError."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in said:
            raise MemoryError(said) from None
        raise


def _sizes(cascade: Cascade, shape: tuple[int, ...], fixed: Mapping[str, int]) -> dict[str, int]:
    batch, heads, length, features = shape
    first = next(iter(cascade.batch), None)

    def size(index: Index) -> int:
        own = {"batch": batch if index == first else heads, "sequence": length, "feature": features}
        return own[index.role]

    return {**{i.name: size(i) for i in indices(cascade)}, **fixed}
