"""Pieces of PyTorch text that know the axes of their value → pieces that broadcast against each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from attncc.codegen.code import ATOM, BINDS, COMPARISON, LOOSE, POWER, PRODUCT, UNARY
from attncc.ir.cascade import Index
from attncc.ops import Kind

Axes = tuple[Index, ...]
NOT, BOTH, EITHER, IF = range(LOOSE, LOOSE + 4)
"""How tightly Python binds `not`, `and`, `or` and `if else`."""

SIMPLE = re.compile(r"-?[\w.]+")


@dataclass(frozen=True)
class Value:
    """A piece of text, the axes of its value in order, and how tightly it binds.

    `host` says that it is a number of Python's, known before any tensor is. A tensor's shape is exactly the
    extents of its axes.
    """

    text: str
    axes: Axes = ()
    kind: Kind = "float"
    binds: int = ATOM
    host: bool = False

    def within(self, binds: int) -> str:
        """The text, in brackets where its place binds more tightly."""
        return self.text if self.binds <= binds else f"({self.text})"

    def method(self, call: str) -> str:
        """`x.call`"""
        return f"{self.within(ATOM)}.{call}"


def union(values: Sequence[Value], order: Axes) -> Axes:
    """The axes that any value has: as they lie in one that has all of them, else in the given order."""
    every = {i for v in values for i in v.axes}
    whole = next((v.axes for v in values if set(v.axes) == every), None)
    return tuple(i for i in order if i in every) if whole is None else whole


def turned(value: Value, order: Axes) -> Value:
    """A value with its axes as they follow each other in an order."""
    axes = tuple(i for i in order if i in value.axes)
    assert set(axes) == set(value.axes), f"{value} has axes beyond {order}"
    if axes == value.axes:
        return value
    moved = [n for n, (a, b) in enumerate(zip(axes, value.axes, strict=True)) if a != b]
    if len(moved) == 2:
        call = f"transpose({moved[0] - len(axes)}, {moved[1] - len(axes)})"
    else:
        call = f"permute({', '.join(str(value.axes.index(i)) for i in axes)})"
    return Value(value.method(call), axes, value.kind)


def placed(value: Value, order: Axes) -> Value:
    """A value that broadcasts against one with all axes of an order: `m[..., None]`, `q[:, None]`."""
    value = turned(value, order)
    if not value.axes or value.axes == order[len(order) - len(value.axes) :]:
        return value
    marks = [":" if i in value.axes else "None" for i in order[order.index(value.axes[0]) :]]
    behind = len(marks) - len(value.axes)
    if marks == [":"] * len(value.axes) + ["None"] * behind and len(value.axes) > 1:
        marks = ["...", *["None"] * behind]
    while marks[-1] == ":":
        marks.pop()
    return Value(f"{value.within(ATOM)}[{', '.join(marks)}]", order, value.kind)


def named(value: Value, name: str) -> Value:
    """The same value under a name."""
    return replace(value, text=name, binds=ATOM)


def call(
    function: str, args: Sequence[Value], order: Axes, kind: Kind = "float", host: bool = False
) -> Value:
    """`function(a, b)` of values placed against each other."""
    axes = union(args, order)
    text = f"{function}({', '.join(placed(a, axes).text for a in args)})"
    return Value(text, axes, kind, ATOM, host)


def binary(op: str, a: Value, b: Value, order: Axes, kind: Kind) -> Value:
    """`a op b`, bracketed as needed; comparisons, subtraction and division do not associate to the right."""
    axes, host = union((a, b), order), a.host and b.host
    left, right = placed(a, axes), placed(b, axes)
    if op == "**":
        text = f"{left.within(ATOM)} ** {right.within(UNARY)}"
        if SIMPLE.fullmatch(left.text) and SIMPLE.fullmatch(right.text):
            text = text.replace(" ", "")
        return Value(text, axes, kind, POWER, host)
    if host and op in ("&", "|"):
        word, binds = {"&": ("and", BOTH), "|": ("or", EITHER)}[op]
        return Value(f"{left.within(binds)} {word} {right.within(binds)}", axes, kind, binds, True)
    binds = BINDS[op]
    head = left.within(binds - 1 if binds == COMPARISON else binds)
    tail = right.within(binds if op in ("&", "|") else binds - 1)
    return Value(f"{head} {op} {tail}", axes, kind, binds, host)


def negative(value: Value) -> Value:
    """`-x`"""
    return replace(value, text=f"-{value.within(UNARY)}", binds=UNARY)


def opposite(value: Value) -> Value:
    """`~x`, of a truth value of Python's `not x`."""
    if value.host:
        return Value(f"not {value.within(COMPARISON)}", (), "bool", NOT, True)
    return replace(value, text=f"~{value.within(UNARY)}", binds=UNARY)


def where(condition: Value, then: Value, other: Value, order: Axes, kind: Kind) -> Value:
    """`torch.where(c, x, y)`"""
    return call("torch.where", (condition, then, other), order, kind)


def divided(value: Value, host: Value) -> Value:
    """A tensor over a number of Python's."""
    return replace(value, text=f"{value.within(PRODUCT)} / {host.within(UNARY)}", binds=PRODUCT)


def scaled(value: Value, host: Value) -> Value:
    """A number of Python's times a tensor."""
    return replace(value, text=f"{host.within(PRODUCT)} * {value.within(UNARY)}", binds=PRODUCT)
