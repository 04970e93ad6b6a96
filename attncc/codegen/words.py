"""Names in generated text: a value by tensor and indices (`S_qk`), strides `sQ_q`, extents `NQ` and `D`."""

from __future__ import annotations

import keyword
from dataclasses import dataclass, field
from functools import cached_property

from attncc.ir.cascade import Index, Tensor

RESERVED = frozenset(keyword.kwlist) | {
    "tl", "torch", "triton", "math", "float", "int", "range", "max", "min", "reference", "pid", "step",
}  # fmt: skip


@dataclass(frozen=True)
class Words:
    """The names of one kernel; `taken` are those of its arguments, which stay as they are."""

    taken: frozenset[str]
    indices: tuple[Index, ...] = field(default=())

    def free(self, name: str) -> str:
        """The name, or the nearest to it that nobody has."""
        while name in self.taken or name in RESERVED:
            name += "_"
        return name

    @cached_property
    def _positions(self) -> dict[Index, str]:
        return {i: self.free(i.name) for i in self.indices}

    def tensor(self, name: str) -> str:
        """An argument of the kernel or of its host function."""
        return name + "_" if name in RESERVED else name

    def value(self, local: Tensor) -> str:
        """`S_qk`; a local without indices is `lo0`, or `slope_` away from the argument it was loaded from."""
        letters = [i.name for i in local.indices]
        short = all(len(name) == 1 for name in letters)
        tail = ("" if short else "_").join(letters)
        return self.free(f"{local.name}_{tail}" if tail else local.name)

    def position(self, index: Index) -> str:
        """`q`"""
        return self._positions[index]

    def start(self, index: Index) -> str:
        """`q0`, where a tile begins."""
        return self.free(f"{index.name}0")

    def inside(self, index: Index) -> str:
        """`q_in`, positions counted from where the tile begins."""
        return self.free(f"{index.name}_in")

    def extent(self, index: Index) -> str:
        """`NQ` for a sequence or a batched index, `D` for a feature."""
        upper = index.name.upper()
        return self.free(upper if index.role == "feature" else f"N{upper}")

    def block(self, index: Index) -> str:
        """`BLOCK_Q`"""
        return self.free(f"BLOCK_{index.name.upper()}")

    def stride(self, tensor: Tensor, index: Index) -> str:
        """`sQ_q`"""
        return self.free(f"s{tensor.name}_{index.name}")
