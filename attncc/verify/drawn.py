"""Cascade → calls drawn by Hypothesis: odd extents, numbers with edges inside, tables, strides.

Hypothesis draws what a person would want to read, and shrinks it; the elements follow from one seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from torch import Tensor

from attncc.calls import (
    Number,
    bounds,
    divisors,
    extents,
    indices,
    scalars,
    subscript,
    table,
    tensors,
)
from attncc.ir.cascade import Cascade, Index
from attncc.ir.cascade import Tensor as Named

LENGTHS = (1, 0, 15, 63, 65, 127, 129, 250, 296, 333, 1023, 1025, 2047, 4097, 8193)
HEADS = (1, 2, 3)
GROUPS = (1, 2, 3)
FEATURES = {"cpu": (4, 1, 5, 7, 16, 24, 40, 64), "cuda": (64, 16, 80, 96, 128)}
"""On a GPU every pair of them is a kernel to compile."""

VALUES = ("normal", "positive", "negative", "small")
LAYOUTS = ("contiguous", "axes reversed", "a slice of a wider tensor", "every second element", "one for all")


@dataclass(frozen=True)
class Space:
    """What is drawn from: `longest` is the greatest length by element type; `numbers` are given. Of what is
    listed the first is the simplest.
    """

    cascade: Cascade
    device: str
    longest: Mapping[str, int]
    numbers: Mapping[str, Number]
    lengths: tuple[int, ...] = LENGTHS
    values: tuple[str, ...] = VALUES
    layouts: tuple[str, ...] = LAYOUTS


@dataclass(frozen=True)
class Made:
    """How one argument is made: the distribution of its elements or the span of a table, and the layout."""

    values: str
    span: tuple[int, int]
    layout: str


@dataclass(frozen=True)
class Case:
    """One call: extents by index, numbers, how every tensor is made, and of what element type."""

    dtype: str
    extents: Mapping[str, int]
    numbers: Mapping[str, Number]
    made: Mapping[str, Made]
    seed: int

    @property
    def kind(self) -> torch.dtype:
        """The element type."""
        kind = getattr(torch, self.dtype)
        assert isinstance(kind, torch.dtype)
        return kind

    def data(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "dtype": self.dtype,
            "extents": dict(self.extents),
            "numbers": dict(self.numbers),
            "tensors": {name: _said(made) for name, made in self.made.items()},
            "seed": self.seed,
        }

    def __str__(self) -> str:
        sizes = ", ".join(f"|{name}| = {size}" for name, size in self.extents.items())
        numbers = "".join(f", {name} = {value}" for name, value in self.numbers.items())
        strange = {n: _said(m) for n, m in self.made.items() if _said(m) != "normal"}
        tensors = "".join(f"; {name} {said}" for name, said in strange.items())
        return f"{self.dtype}, {sizes}{numbers}{tensors}; seed {self.seed}"

    def arguments(self, cascade: Cascade, device: str) -> dict[str, Any]:
        """The tensors on a device, and the numbers."""
        made: dict[str, Any] = {}
        for n, tensor in enumerate(tensors(cascade)):
            shape = tuple(self.extents[i.name] for i in tensor.indices)
            how, seed = self.made[tensor.name], self.seed * 1000 + n
            if tensor.kind == "float":
                x = _floats(shape, how.values, bounds(cascade, tensor.name), seed).to(self.kind)
            else:
                elements = torch.from_numpy(table(cascade, tensor, shape, how.span, seed))
                x = elements.to(torch.int32) if tensor.kind == "int" else elements
            made[tensor.name] = _laid(x.to(device), how.layout)
        return {**made, **self.numbers}


def _said(made: Made) -> str:
    layout = "" if made.layout == "contiguous" else f", {made.layout}"
    return f"{made.values}{layout}"


def tries(examples: int) -> settings:
    """How often something is tried: drawn from a seed alone, shrunk where it fails."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        report_multiple_bugs=False,
        print_blob=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def cases(draw: Any, space: Space) -> Case:
    """A call of the pattern."""
    cascade = space.cascade
    dtype = draw(st.sampled_from(list(space.longest)))
    lengths = st.sampled_from([n for n in space.lengths if n <= space.longest[dtype]])
    common = draw(lengths)

    def choose(index: Index) -> int:
        match index.role:
            case "sequence":
                return int(draw(st.one_of(st.just(common), lengths)))
            case "feature":
                return int(draw(st.sampled_from(FEATURES[space.device])))
            case _:
                return int(draw(st.sampled_from(HEADS)))

    def times(index: Index) -> int:
        return int(draw(st.sampled_from(GROUPS)))

    sizes = extents(cascade, choose, times)
    most = max((sizes[i.name] for i in indices(cascade) if i.role == "sequence"), default=1)
    numbers = {t.name: draw(_number(space, t, most)) for t in scalars(cascade)}
    made = {t.name: draw(_made(space, t, sizes, most)) for t in tensors(cascade)}
    return Case(dtype, sizes, numbers, made, draw(st.integers(0, 2**16)))


def _number(space: Space, tensor: Named, most: int) -> st.SearchStrategy[Number]:
    """Small, so that its edges lie inside; what something is divided by is positive."""
    name = tensor.name
    if name in space.numbers:
        return st.just(space.numbers[name])
    divides, said = name in divisors(space.cascade), bounds(space.cascade, name)
    if tensor.kind == "bool":
        return st.booleans()
    if tensor.kind == "float":
        low, high = said or ((0.125, 4.0) if divides else (-4.0, 4.0))
        drawn = st.floats(low, high)
        known = dict(space.cascade.defaults).get(name)
        return drawn if known is None else st.one_of(st.just(known), drawn)
    least = 1 if divides else 0
    if said is not None:
        return st.integers(max(least, int(said[0])), int(said[1]))
    near = st.sampled_from([4, 16, 17, 37, 64, 100])
    return st.one_of(near, st.integers(least, max(least, most + 1)))


def _made(space: Space, tensor: Named, sizes: Mapping[str, int], most: int) -> st.SearchStrategy[Made]:
    cascade = space.cascade
    layouts = st.sampled_from(space.layouts if tensor.indices else space.layouts[:1])
    if tensor.kind == "float":
        ranged = bounds(cascade, tensor.name) is not None
        values = st.just("in its range") if ranged else st.sampled_from(space.values)
        return st.builds(Made, values, st.just((0, 0)), layouts)
    if tensor.kind == "bool":
        return st.builds(Made, st.just("truth values"), st.just((0, 1)), layouts)
    axis = subscript(cascade, tensor.name)
    if axis is not None and axis.name in sizes:
        last = max(sizes[axis.name] - 1, 0)
        # one beyond either end is a read that has no value
        spans = st.sampled_from([(0, last), (0, last), (0, last), (-1, last + 1)])
    else:
        spans = st.sampled_from([(0, 3), (0, 0), (0, 1), (0, 40), (0, most)])
    return spans.flatmap(
        lambda span: st.builds(Made, st.just(f"{span[0]} to {span[1]}"), st.just(span), layouts)
    )


def _floats(shape: tuple[int, ...], values: str, said: tuple[float, float] | None, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    if said is not None:
        low, high = (max(min(x, 1e3), -1e3) for x in said)
        return low + (high - low) * torch.rand(shape, generator=source, dtype=torch.float64)
    x = torch.randn(shape, generator=source, dtype=torch.float64)
    match values:
        case "positive":
            return x.abs()
        case "negative":
            return -x.abs()
        case "small":
            return x / 32
        case "large":
            return x * 16
        case _:
            return x


def _laid(x: Tensor, layout: str) -> Tensor:
    """The tensor in another layout; "one for all" has one batch, or one element, in place of every one."""
    match layout:
        case "axes reversed":
            back = tuple(range(x.dim()))[::-1]
            return x.permute(back).contiguous().permute(back)
        case "a slice of a wider tensor":
            return torch.cat([x, x, x], dim=-1)[..., x.shape[-1] : 2 * x.shape[-1]]
        case "every second element":
            return x.repeat_interleave(2, dim=-1)[..., ::2]
        case "one for all" if x.shape[0]:
            return x[:1].expand_as(x)
        case _:
            return x
