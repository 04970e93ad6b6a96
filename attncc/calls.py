"""Cascade → what it can be called with: extents that belong together, numbers, and tables that make sense."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from attncc.ir.cascade import (
    Apply,
    Cascade,
    Choose,
    Expr,
    Index,
    Read,
    Reduce,
    Tensor,
    children,
    kind,
    walk,
)
from attncc.ops import LARGEST

Number: TypeAlias = int | float | bool
Array: TypeAlias = np.ndarray[Any, Any]


class BadNumber(ValueError):
    """A number or an extent that a pattern does not have, or that does not fit it."""


def tensors(cascade: Cascade) -> tuple[Tensor, ...]:
    """The inputs that are tensors or tables."""
    return tuple(t for t in cascade.inputs if t.origin in ("input", "table"))


def scalars(cascade: Cascade) -> tuple[Tensor, ...]:
    """The inputs that are numbers."""
    return tuple(t for t in cascade.inputs if t.origin in ("scalar", "static"))


def indices(cascade: Cascade) -> tuple[Index, ...]:
    """The indices whose extents the arguments show, in order of appearance."""
    return tuple(dict.fromkeys(i for t in tensors(cascade) for i in t.indices))


def expressions(cascade: Cascade) -> Iterator[Expr]:
    """Every expression of the equations and of the derived extents, each with everything inside it."""
    for body in (*(e.body for e in cascade.equations), *(e for _, e in cascade.lengths)):
        yield from walk(body)


def extents(
    cascade: Cascade, choose: Callable[[Index], int], times: Callable[[Index], int]
) -> dict[str, int]:
    """Extents that fit together: as chosen, but where `|h| // |g|` is read, |h| is |g| times a number."""
    few: dict[Index, list[Index]] = {}
    for e in expressions(cascade):
        match e:
            case Apply("//", (Apply("extent", (Index() as many,)), Apply("extent", (Index() as one,)))):
                few.setdefault(many, []).append(one)
    shown = indices(cascade)
    found: dict[Index, int] = {}

    def size(index: Index, above: tuple[Index, ...] = ()) -> int:
        parts = [one for one in few.get(index, ()) if one in shown and one not in (*above, index)]
        if index not in found:
            sizes = [size(one, (*above, index)) for one in parts]
            found[index] = math.lcm(*sizes) * times(index) if sizes else choose(index)
        return found[index]

    return {index.name: size(index) for index in shown}


def divisors(cascade: Cascade) -> frozenset[str]:
    """The numbers that something is divided by, or that a power or an extent is made of: above 0."""
    found = [size for _, size in cascade.lengths]
    for e in expressions(cascade):
        match e:
            case Apply("//" | "%" | "/", (_, divisor)):
                found.append(divisor)
            case Apply("**", (base, _)):
                found.append(base)
    return frozenset(name for e in found for name in _made_of(e))


def _made_of(e: Expr) -> Iterator[str]:
    """The numbers that a value is made of; not those that only say which of its parts there are."""
    match e:
        case Read(tensor, ()):
            yield tensor.name
        case Reduce(body=body):
            yield from _made_of(body)
        case Choose(_, then, other):
            yield from _made_of(then)
            yield from _made_of(other)
        case Read() | Apply() if kind(e) != "bool":
            for part in children(e):
                yield from _made_of(part)


def bounds(cascade: Cascade, name: str) -> tuple[float, float] | None:
    """What `assume name in [low, high]` says, if anything."""
    return next(((d.low, d.high) for d in cascade.demands if d.name == "range" and d.subject == name), None)


def ascending(cascade: Cascade, name: str) -> bool:
    """Whether `assume sorted name` is said."""
    return any(d.name == "sorted" and d.subject == name for d in cascade.demands)


def subscript(cascade: Cascade, name: str) -> Index | None:
    """The index whose positions a table holds: where another tensor is read at it."""
    for read in expressions(cascade):
        if isinstance(read, Read):
            for index, at in zip(read.tensor.indices, read.at, strict=True):
                if any(isinstance(x, Read) and x.tensor.name == name for x in walk(at)):
                    return index
    return None


def table(
    cascade: Cascade, tensor: Tensor, shape: tuple[int, ...], span: tuple[int, int], seed: int
) -> Array:
    """Random integers of `span`, both ends included, or random truth values of every density.

    What the pattern assumes of the table holds: its range, and that it rises along its sequence.
    """
    source = np.random.default_rng(seed)
    if tensor.kind == "bool":
        return np.asarray(source.random(shape) < source.choice([0.0, 0.1, 0.5, 0.9, 1.0]))
    low, high = span
    said = bounds(cascade, tensor.name)
    if said is not None:
        low, high = math.ceil(said[0]), math.floor(said[1])
    made = source.integers(low, max(low, high), shape, endpoint=True)
    if ascending(cascade, tensor.name):
        made.sort(axis=next(n for n, i in enumerate(tensor.indices) if i.role == "sequence"))
    return made


def given(cascade: Cascade, said: Mapping[str, str]) -> dict[str, Number]:
    """Numbers of a pattern as they were written, `window=1024`. BadNumber if it has no such number."""
    known = {t.name: t for t in scalars(cascade)}
    found: dict[str, Number] = {}
    for name, text in said.items():
        if name not in known:
            has = ", ".join(known) or "none"
            raise BadNumber(f"{cascade.name} has no number `{name}`; its numbers: {has}")
        found[name] = _number(name, known[name].kind, text)
    return found


def _number(name: str, kind: str, text: str) -> Number:
    try:
        match kind:
            case "bool":
                return {"true": True, "false": False}[text.lower()]
            case "int" if abs(whole := int(text)) < LARGEST:
                return whole
            case "float" if not math.isnan(real := float(text)):
                return real
    except (KeyError, ValueError):
        pass
    wanted = {
        "bool": "true or false",
        "int": f"an integer between -{LARGEST} and {LARGEST}",
        "float": "a number",
    }
    raise BadNumber(f"`{name}` is {wanted[kind]}, not `{text}`")


def numbered(cascade: Cascade, chosen: Mapping[str, Number]) -> dict[str, Number]:
    """A value for every number of a pattern: chosen or its default. BadNumber names those without."""
    values = {**dict(cascade.defaults), **chosen}
    missing = [t.name for t in scalars(cascade) if t.name not in values]
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        raise BadNumber(f"{names} has no default: say `--set {missing[0]}=...`")
    whole = {t.name for t in scalars(cascade) if t.kind == "int"}
    for name in sorted(divisors(cascade) & whole):
        if values[name] <= 0:
            raise BadNumber(
                f"`{name}` divides positions or extents, and is {values[name]}: it must be positive"
            )
    return {t.name: values[t.name] for t in scalars(cascade)}


def sized(cascade: Cascade, chosen: Mapping[str, int]) -> None:
    """BadNumber where an extent is given for an index that no argument shows."""
    known = [i.name for i in indices(cascade)]
    for name in chosen:
        if name not in known:
            raise BadNumber(f"{cascade.name} has no index `{name}`; its arguments show {', '.join(known)}")
