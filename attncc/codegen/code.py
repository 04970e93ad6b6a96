"""Expressions as Python text: each piece knows its precedence and the tile axes it spreads over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attncc.ir.cascade import Index

ATOM, POWER, UNARY, PRODUCT, SUM, AND, OR, COMPARISON, LOOSE = range(9)
"""How tightly Python binds, tightest first."""

BINDS = {
    "*": PRODUCT, "/": PRODUCT, "//": PRODUCT, "%": PRODUCT, "+": SUM, "-": SUM, "&": AND, "|": OR,
    "<": COMPARISON, "<=": COMPARISON, ">": COMPARISON, ">=": COMPARISON, "==": COMPARISON, "!=": COMPARISON,
}  # fmt: skip


@dataclass(frozen=True)
class Code:
    """A piece of text, how tightly it binds, the tile axes of its value in order, and whether batched axes
    stand before.
    """

    text: str
    binds: int = ATOM
    axes: tuple[Index, ...] = ()
    lead: bool = False

    @property
    def scalar(self) -> bool:
        """A number, not a tile."""
        return not self.axes and not self.lead

    def within(self, binds: int) -> str:
        """The text, in brackets where its place binds more tightly."""
        return self.text if self.binds <= binds else f"({self.text})"


def union(parts: Sequence[Code], order: Sequence[Index]) -> tuple[Index, ...]:
    """The axes that any part has, in the kernel's order."""
    return tuple(i for i in order if any(i in p.axes for p in parts))


def spread(code: Code, axes: tuple[Index, ...]) -> Code:
    """A value placed along more axes: `m_q[:, None]`, or `m_q[..., :, None]` behind batched axes."""
    if code.axes == axes or code.scalar:
        return code
    assert set(code.axes) <= set(axes), f"{code} cannot be placed along {axes}"
    marks = [":" if i in code.axes else "None" for i in axes]
    place = ", ".join(["...", *marks] if code.lead else marks)
    return Code(f"{code.within(ATOM)}[{place}]", ATOM, axes, code.lead)


def binary(op: str, a: Code, b: Code, axes: tuple[Index, ...]) -> Code:
    """`a op b`, bracketed as needed; comparisons and subtraction do not associate to the right."""
    binds = BINDS[op]
    left = a.within(binds - 1 if binds == COMPARISON else binds)
    right = b.within(binds if op in ("&", "|") else binds - 1)
    return Code(f"{left} {op} {right}", binds, axes, a.lead or b.lead)
