"""Names in generated text: a value by tensor and indices (`S_qk`), strides `sQ_q`, extents `NQ` and `D`."""

from __future__ import annotations

import keyword
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cached_property

from attncc.codegen.spell import TORCH_HELPERS, TRITON_HELPERS
from attncc.ir.cascade import Index, Tensor
from attncc.masks.ranges import OWN

RESERVED = frozenset(keyword.kwlist) | TORCH_HELPERS.keys() | TRITON_HELPERS.keys() | {
    "contextlib", "fast_log2", "libdevice", "log2", "math", "tl", "torch", "triton", "weakref",
    "ASCENDING", "AT_ONCE", "KINDS", "LONG", "MANY", "TILES", "TensorDescriptor", "accumulator",
    "check_kinds", "check_number", "check_sorted", "describe", "extents", "reference",
    "abs", "bool", "dict", "float", "int", "isinstance", "len", "max", "min", "print", "range", "round",
    "str", "sum", "tuple", "type", "zip", "NotImplementedError", "TypeError", "ValueError",
    "device", "far", "grid", "inside", "kind", "pid", "sizes", "step", "tile", "tiles", "whole",
}  # fmt: skip
"""What the text of a module says by itself: modules, its own functions, Python's, and fixed locals."""


@dataclass(frozen=True)
class Words:
    """The names of one module; `taken` are those of its tensors and numbers, which stay as they are.

    Every other name is given out once: asked for with another meaning, it becomes the nearest one that is
    free.
    """

    taken: frozenset[str]
    indices: tuple[Index, ...] = ()
    given: dict[str, Hashable] = field(default_factory=dict, init=False, repr=False, compare=False)

    def free(self, name: str, meaning: Hashable = None) -> str:
        """The name, or the nearest to it that has no other meaning; by default it means itself."""
        meaning = name if meaning is None else meaning
        while name in self._kept or name in RESERVED or self.given.setdefault(name, meaning) != meaning:
            name += "_"
        return name

    @cached_property
    def _kept(self) -> frozenset[str]:
        return self.taken | {self.tensor(name) for name in self.taken}

    @cached_property
    def _positions(self) -> dict[Index, str]:
        return {i: self.free(i.name, ("position", i)) for i in self.indices}

    def tensor(self, name: str) -> str:
        """A tensor or a number of the pattern, wherever Python and the module leave it its name."""
        if name not in RESERVED:
            return name
        name += "_"
        while name in self.taken:
            name += "_"
        return name

    def function(self, name: str) -> str:
        """The host function of a pattern; a leading `_` marks the reference's helpers, `BLOCK_` tiles."""
        return f"{name}_" if name in RESERVED or name.startswith(("_", "BLOCK_")) else name

    def value(self, local: Tensor) -> str:
        """`S_qk`; a local without indices is `lo0`, or `slope_` away from the argument it was loaded from. A
        name of the ranges stands apart from the pattern's own.
        """
        letters = [i.name for i in local.indices]
        short = all(len(name) == 1 for name in letters)
        tail = ("" if short else "_").join(letters)
        name = local.name.removesuffix(OWN)
        return self.free(f"{name}_{tail}" if tail else name, (local.name, local.indices))

    def position(self, index: Index) -> str:
        """`q`"""
        known = self._positions.get(index)
        return self.free(index.name, ("position", index)) if known is None else known

    def start(self, index: Index) -> str:
        """`q0`, where a tile begins."""
        return self.free(f"{index.name}0", ("start", index))

    def stop(self, index: Index) -> str:
        """`q1`, where a tile ends."""
        return self.free(f"{index.name}1", ("stop", index))

    def inside(self, index: Index) -> str:
        """`q_in`, positions counted from where the tile begins."""
        return self.free(f"{index.name}_in", ("inside", index))

    def extent(self, index: Index) -> str:
        """`NQ` for a sequence or a batched index, `D` for a feature."""
        upper = index.name.upper()
        return self.free(upper if index.role == "feature" else f"N{upper}", ("extent", index))

    def block(self, index: Index) -> str:
        """`BLOCK_Q`"""
        return self.free(f"BLOCK_{index.name.upper()}", ("block", index))

    def stride(self, tensor: Tensor, index: Index) -> str:
        """`sQ_q`"""
        return self.free(f"s{tensor.name}_{index.name}", ("stride", tensor.name, index))
