"""Random cascades, with arguments, from a seed: every node kind, odd subscripts, empty index sets."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import torch
from torch import Tensor as Array

from attncc.ir.cascade import (
    ONE,
    TRUE,
    ZERO,
    Cascade,
    Choose,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    Tensor,
    extent,
    kind,
    number,
)
from attncc.ops import Kind
from tests.ir.cascades import batch, feature, made, op, scalar, sequence, tensor

b, h, g = batch("b"), batch("h"), batch("g")
q, k, j = sequence("q", "k"), sequence("k"), sequence("j", "k")
n, i, c = sequence("n"), sequence("i"), sequence("c")
d, place = feature("d"), feature("place")
INDICES = (b, h, g, q, k, n, i, d, j)
REDUCED = (k, j, n, i, d, q, c, place)

size, shift, scale = scalar("size", origin="static"), scalar("shift"), scalar("scale", "float")
INPUTS = (
    tensor("X", b, q, k),
    tensor("K", b, g, k, d),
    tensor("v", k),
    tensor("T"),
    tensor("tab", b, k, kind="int", origin="table"),
    tensor("flag", k, kind="bool", origin="table"),
    tensor("E", h, place),
    size,
    shift,
    scale,
)
BLOCK = Read(size, ())
LENGTHS = (
    (n, op("//", op("-", op("+", extent(k), BLOCK), 1), BLOCK)),
    (i, BLOCK),
    (j, extent(k)),
    # none of these positions exists where k is short
    (c, op("+", op("//", op("-", extent(k), 4), 2), 1)),
)
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
SMOOTH = ("tanh", "sigmoid", "softplus", "silu", "relu", "abs", "sin", "cos", "neg", "sign")


def draw(seed: int) -> tuple[Cascade, dict[str, Array | int | float]]:
    """A cascade whose equations are all outputs, and arguments for it; not every one passes `verified`."""
    random = Random(seed)
    grower = Grower(random)
    for name in "ZYUW"[: random.randint(1, 4)]:
        grower.equation(name)
    made = tuple(grower.equations)
    cascade = Cascade(f"random{seed}", "", INPUTS, (), LENGTHS, made, tuple(e.tensor for e in made))
    sizes = {b: 2, h: 4, g: 2, d: 2, place: 5, q: random.choice((1, 3, 5)), k: random.choice((1, 3, 4, 5, 7))}
    values = arguments(cascade, {index.name: extent for index, extent in sizes.items()}, seed)
    numbers = {"size": random.choice((1, 2, 3)), "shift": random.choice((-1, 0, 2)), "scale": 0.3}
    return cascade, {**values, **numbers}


def arguments(
    cascade: Cascade, sizes: dict[str, int], seed: int = 0, dtype: torch.dtype = torch.float64
) -> dict[str, Array]:
    """A tensor for every input that is one: real numbers near 0, integers in and around small axes."""
    source = torch.Generator().manual_seed(seed)
    values = {}
    for t in cascade.inputs:
        if t.origin in ("scalar", "static"):
            continue
        shape = [sizes[index.name] for index in t.indices]
        match t.kind:
            case "float":
                values[t.name] = torch.randn(shape, generator=source, dtype=torch.float64).to(dtype)
            case "int":
                values[t.name] = torch.randint(-2, 9, shape, generator=source)
            case _:
                values[t.name] = torch.rand(shape, generator=source) < 0.5
    return values


@dataclass
class Grower:
    """Grows expressions of a kind over some free indices, at most so deep."""

    random: Random
    tensors: list[Tensor] = field(default_factory=lambda: list(INPUTS))
    equations: list[Equation] = field(default_factory=list)

    def equation(self, name: str) -> None:
        wanted: Kind = self.random.choice(("float", "float", "float", "bool", "int"))
        indices = tuple(self.random.sample(INDICES, self.random.randint(0, 3)))
        body = self.grown(wanted, indices, self.random.randint(1, 4))
        if wanted == "float" and kind(body) != "float":
            body = op("*", 1.0, body)
        target = made(name, *indices, kind=wanted)
        self.equations.append(Equation(target, body))
        self.tensors.append(target)

    def grown(self, wanted: Kind, free: tuple[Index, ...], depth: int) -> Expr:
        match wanted:
            case "int":
                return self.integer(free, depth)
            case "bool":
                return self.predicate(free, depth)
            case _:
                return self.real(free, depth)

    def integer(self, free: tuple[Index, ...], depth: int) -> Expr:
        chance = self.random.random()
        if depth <= 0 or chance < 0.35:
            if free and self.random.random() < 0.75:
                return self.random.choice(free)
            constants = (number(self.random.randint(-2, 4)), Read(shift, ()), BLOCK, extent(k), extent(n))
            return self.random.choice(constants)
        part = self.integer(free, depth - 1)
        if chance < 0.6:
            return op(self.random.choice("+-"), part, self.integer(free, depth - 1))
        if chance < 0.68:
            return op("*", part, self.random.choice((number(2), BLOCK)))
        if chance < 0.8:
            return op(
                self.random.choice(("//", "%")), part, self.random.choice((number(2), number(3), BLOCK))
            )
        if chance < 0.86:
            return op(self.random.choice(("min", "max")), part, self.integer(free, depth - 1))
        if chance < 0.92:
            return self.read("int", free, depth - 1)
        if chance < 0.96:
            return Choose(self.predicate(free, depth - 1), part, self.integer(free, depth - 1))
        return self.reduced("int", free, depth)

    def predicate(self, free: tuple[Index, ...], depth: int) -> Expr:
        chance = self.random.random()
        if depth <= 0 or chance < 0.5:
            sides = (self.integer(free, depth - 1), self.integer(free, depth - 1))
            return op(self.random.choice(COMPARISONS), *sides)
        if chance < 0.6:
            sides = (self.real(free, depth - 1), self.real(free, depth - 1))
            return op(self.random.choice(("<", ">=")), *sides)
        if chance < 0.8:
            sides = (self.predicate(free, depth - 1), self.predicate(free, depth - 1))
            return op(self.random.choice(("and", "or")), *sides)
        if chance < 0.86:
            return op("not", self.predicate(free, depth - 1))
        if chance < 0.94:
            return self.read("bool", free, depth - 1)
        return self.reduced("bool", free, depth)

    def real(self, free: tuple[Index, ...], depth: int) -> Expr:
        chance = self.random.random()
        if depth <= 0 or chance < 0.3:
            constants = (number(0.5), number(2), Read(scale, ()))
            return (
                self.read("float", free, 1) if self.random.random() < 0.85 else self.random.choice(constants)
            )
        part = self.real(free, depth - 1)
        if chance < 0.5:
            return op(self.random.choice("+-**"), part, self.real(free, depth - 1))
        if chance < 0.56:
            return op("/", part, op("+", 3.0, op("abs", self.real(free, depth - 1))))
        if chance < 0.7:
            return self.function(part)
        if chance < 0.74:
            return op(self.random.choice(("min", "max")), part, self.real(free, depth - 1))
        if chance < 0.82:
            other = self.random.choice((ZERO, self.real(free, depth - 1)))
            return Choose(self.predicate(free, depth - 1), part, other)
        if chance < 0.86:
            return op("+", part, self.integer(free, 1))
        return self.reduced("float", free, depth)

    def function(self, part: Expr) -> Expr:
        """A function of what it and its derivative are finite of."""
        name = self.random.choice(("exp", "sqrt", "log", *SMOOTH))
        if name == "exp":
            return op("exp", op("tanh", part))
        return op(name, op("+", 1.5, op("abs", part)) if name in ("sqrt", "log") else part)

    def read(self, wanted: Kind, free: tuple[Index, ...], depth: int) -> Expr:
        """A tensor of a kind, mostly at its own indices, their parts and wholes, else anywhere."""
        source = self.random.choice([t for t in self.tensors if t.kind == wanted])
        return Read(source, tuple(self.subscript(index, free, depth) for index in source.indices))

    def subscript(self, index: Index, free: tuple[Index, ...], depth: int) -> Expr:
        usual = self.random.random() < 0.75
        if index in free and usual:
            return index
        if index in (k, q) and j in free and usual:
            return j
        if index == g and h in free and usual:
            return op("//", h, op("//", extent(h), extent(g)))
        if index == k and {n, i} <= set(free) and usual:
            return op("+", op("*", n, BLOCK), i)
        if index == n and k in free and usual:
            return op("//", k, BLOCK)
        return self.integer(free, min(depth, 1))

    def reduced(self, wanted: Kind, free: tuple[Index, ...], depth: int) -> Expr:
        over = tuple(self.random.sample(REDUCED, self.random.choice((1, 1, 1, 2))))
        inside = tuple(dict.fromkeys((*free, *over)))
        where = TRUE if self.random.random() < 0.3 else self.predicate(inside, min(depth - 1, 2))
        match wanted:
            case "bool":
                return Reduce(
                    self.random.choice(("any", "all")), over, where, self.predicate(inside, depth - 1)
                )
            case "int":
                name = self.random.choice(("sum", "min", "max", "argmax", "argmin", "count"))
                if name == "count":
                    return Reduce("sum", over, where, ONE)
                if name in ("argmax", "argmin"):
                    return Reduce(name, over[:1], where, self.real(inside, depth - 1))
                return Reduce(name, over, where, self.integer(inside, depth - 1))
            case _:
                name = self.random.choice(
                    ("sum", "sum", "sum", "mean", "max", "min", "prod", "rank", "ahead")
                )
                if name not in ("rank", "ahead"):
                    return Reduce(name, over, where, self.real(inside, depth - 1))
                if not free:
                    return self.real(free, 0)
                kept = (self.random.choice(free),)
                return op("*", 0.5, Reduce(name, kept, self.predicate(free, 1), self.real(free, 1)))
