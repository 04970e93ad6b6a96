"""Loop tree → the arguments of its kernel, in order, and which of them never make it specialise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from attncc.codegen.words import Words
from attncc.ir.cascade import Apply, Cascade, Expr, Index, Read, Reduce, Tensor, walk
from attncc.masks.counted import count_of
from attncc.schedule.loops import Listing, Program, Walk, expressions, statements


@dataclass(frozen=True)
class Signature:
    """The kernel's arguments: pointers, strides, numbers and extents at run time; the rest when it is
    compiled. `described` tensors come as descriptors, without strides.
    """

    program: Program
    cascade: Cascade
    words: Words
    described: frozenset[Tensor] = frozenset()

    @cached_property
    def walks(self) -> tuple[Walk, ...]:
        return tuple(s for s in statements(self.program.body) if isinstance(s, Walk))

    @cached_property
    def walked(self) -> tuple[Index, ...]:
        """Indices that loops walk, those of listed tiles and the numbers of these tiles."""
        lists = (s for s in statements(self.program.body) if isinstance(s, Listing))
        return tuple(
            dict.fromkeys([*(s.index for s in self.walks), *(i for s in lists for i in (s.index, s.tile))])
        )

    @property
    def features(self) -> tuple[Index, ...]:
        """Feature indices of tiles, by name."""
        return self.program.features

    @cached_property
    def extents(self) -> tuple[Index, ...]:
        """Sequence and batched indices whose extent the kernel reads."""
        found = [self.program.rows, *self.walked, *self.program.batch, *self._read_extents, *self._bounds]
        return tuple(i for i in dict.fromkeys(found) if i.role != "feature")

    @cached_property
    def fixed_extents(self) -> tuple[Index, ...]:
        """Feature extents that the kernel reads: those of its tiles, those in formulas, and those that bound
        a position.
        """
        inside = (i for i in (*self._read_extents, *self._bounds) if i.role == "feature")
        return tuple(dict.fromkeys((*self.features, *inside)))

    @cached_property
    def _bounds(self) -> tuple[Index, ...]:
        """Indices that are read at other positions than a tile's, or at one after the other."""
        found = list(self.program.each.values())
        for e in expressions(self.program.body):
            for read in (x for x in walk(e) if isinstance(x, Read) and x.tensor.loaded):
                found += [i for i, at in zip(read.tensor.indices, read.at, strict=True) if i != at]
        return tuple(dict.fromkeys(found))

    @cached_property
    def _read_extents(self) -> tuple[Index, ...]:
        found: list[Index] = []
        for e in expressions(self.program.body):
            for x in walk(e):
                match x:
                    case Apply("extent", (Index() as index,)):
                        found.append(index)
                    case Reduce() if count := count_of(x):
                        places = zip(count.row.tensor.indices, count.row.at, strict=True)
                        found += (i for i, at in places if at == count.axis)
                    case Reduce(over=over):
                        found += over
        return tuple(dict.fromkeys(found))

    @cached_property
    def scalars(self) -> tuple[Tensor, ...]:
        """Numbers that arrive with the call."""
        return self._numbers("scalar")

    @cached_property
    def statics(self) -> tuple[Tensor, ...]:
        """Numbers that a kernel is compiled for."""
        return self._numbers("static")

    def _numbers(self, origin: str) -> tuple[Tensor, ...]:
        used = {x.tensor for e in expressions(self.program.body) for x in walk(e) if isinstance(x, Read)}
        return tuple(t for t in self.cascade.inputs if t.origin == origin and t in used)

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """Tensors, those with a descriptor first."""
        inputs = sorted(self.program.inputs, key=lambda t: t not in self.described)
        return (*inputs, *self.program.outputs)

    @cached_property
    def blocks(self) -> tuple[Index, ...]:
        """Indices that are cut into tiles."""
        return (self.program.rows, *self.walked, *self.program.digits, *self.features)

    @cached_property
    def positives(self) -> tuple[Expr, ...]:
        """What the ranges of tiles take for positive, for the host to check."""
        planes = [band.plane for walk in self.walks for band in walk.bands]
        return tuple(dict.fromkeys(e for plane in planes for e in sorted(plane.positive, key=str)))

    @cached_property
    def periods(self) -> tuple[Expr, ...]:
        """After how many columns classes of columns repeat, which the host bounds."""
        found = (band.residue.period for walk in self.walks for band in walk.bands if band.residue)
        return tuple(dict.fromkeys(found))

    @property
    def strided(self) -> tuple[Tensor, ...]:
        """Tensors whose strides are passed."""
        return tuple(t for t in self.tensors if t.indices and t not in self.described)

    @property
    def unspecialised(self) -> list[str]:
        """Arguments whose value, 1 or a multiple of 16, must not lead to another compilation."""
        w = self.words
        loose = [t for t in self.strided if not any(i.role == "feature" for i in t.indices)]
        strides = [w.stride(t, i) for t in loose for i in t.indices]
        numbers = [w.tensor(t.name) for t in self.scalars]
        return [*strides, *numbers, *(w.extent(i) for i in self.extents), *self.ordered[1:]]

    @property
    def ordered(self) -> tuple[str, ...]:
        """The order of its programs, how long it is, and how many places run beside one another."""
        p = self.program
        if p.ordered is None:
            return ()
        names = ("order", "ordered", *(["beside"] if set(p.batch) - set(p.ordered) else []))
        return tuple(map(self.words.free, names))

    def kernel_lines(self) -> Iterator[str]:
        """The argument list of the kernel, a line for each kind."""
        w = self.words
        yield ", ".join(w.tensor(t.name) for t in self.tensors) + ","
        for tensor in self.strided:
            yield ", ".join(w.stride(tensor, i) for i in tensor.indices) + ","
        if self.scalars:
            yield ", ".join(w.tensor(t.name) for t in self.scalars) + ","
        yield ", ".join(w.extent(i) for i in self.extents) + ","
        if self.ordered:
            yield ", ".join(self.ordered) + ","
        fixed = [w.tensor(t.name) for t in self.statics] + [w.extent(i) for i in self.fixed_extents]
        if fixed:
            yield ", ".join(f"{name}: tl.constexpr" for name in fixed) + ","
        yield ", ".join(f"{w.block(i)}: tl.constexpr" for i in self.blocks) + ","

    def argument_lines(self) -> Iterator[str]:
        """What the host passes for them, but for the tiles."""
        w = self.words
        for tensor in self.program.inputs:
            if tensor in self.described:
                yield f"describe({w.tensor(tensor.name)}{_turned(tensor)}, {block(tensor, w)}),"
        plain = [t for t in self.tensors if t not in self.described]
        yield ", ".join(w.tensor(t.name) for t in plain) + ","
        if self.strided:
            yield ", ".join(f"*{w.tensor(t.name)}.stride()" for t in self.strided) + ","
        if self.scalars:
            yield ", ".join(self._passed(t) for t in self.scalars) + ","
        yield ", ".join(w.extent(i) for i in self.extents) + ","
        if self.ordered:
            order, _, *beside = self.ordered
            yield ", ".join([order, f"{order}.numel()", *beside]) + ","
        fixed = [w.tensor(t.name) for t in self.statics] + [w.extent(i) for i in self.fixed_extents]
        if fixed:
            yield ", ".join(fixed) + ","

    def _passed(self, number: Tensor) -> str:
        """A truth value travels as an integer, which all of Triton takes."""
        name = self.words.tensor(number.name)
        return f"int({name})" if number.kind == "bool" else name


def block(tensor: Tensor, words: Words) -> str:
    """The shape of a tile of a tensor, as the host says it: `[1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]`."""
    axes = (tensor.indices[n] for n in places_first(tensor))
    sides = ("1" if i.role == "batch" else f'tile["{words.block(i)}"]' for i in axes)
    return f"[{', '.join(sides)}]"


def places_first(tensor: Tensor) -> tuple[int, ...]:
    """The axes of a tensor as its descriptor has them: a tile whose axes are the last ones stays in shared
    memory, where any other one would be taken through registers.
    """
    return tuple(sorted(range(len(tensor.indices)), key=lambda n: tensor.indices[n].role != "batch"))


def _turned(tensor: Tensor) -> str:
    """`.permute(1, 0, 2)`, if the axes are in another order."""
    axes = places_first(tensor)
    return "" if axes == tuple(range(len(axes))) else f".permute({', '.join(map(str, axes))})"
