"""Expressions as Python text: each piece knows its precedence and the tile axes it spreads over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attncc.ir.cascade import Index

ATOM, POWER, UNARY, PRODUCT, SUM, SHIFT, AND, XOR, OR, COMPARISON, LOOSE = range(11)
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


WIDTH = 100
"""Characters of a line of generated text before it is broken."""


def wrapped(line: str) -> list[str]:
    """A long statement on several lines: a call at its commas, a conjunction or a sum at its operators."""
    if len(line) <= WIDTH or line.lstrip().startswith(("#", "for ", "def ", "@")):
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    head, _, value = line.partition(" = ") if " = " in line.split("(")[0] else ("", "", line.strip())
    start = f"{head} = " if head else indent
    opening = value.find("(")
    if opening > 0 and value[:opening].replace(".", "").isidentifier() and _closes_last(value, opening):
        parts = _split(value[opening + 1 : -1], (", ",))
        return [f"{start}{value[: opening + 1]}", *(f"{indent}    {part}," for part in parts), f"{indent})"]
    parts = _split(value, (" & ", " | "))
    if head and len(parts) > 1:
        return [f"{start}(", *(f"{indent}    {part}" for part in parts), f"{indent})"]
    return [line]


def _closes_last(text: str, opening: int) -> bool:
    """Whether the bracket at a place closes at the very end."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if depth == 0 and place > opening:
            return place == len(text) - 1
    return False


def _split(text: str, marks: tuple[str, ...]) -> list[str]:
    """A text cut outside all brackets; commas are dropped, operators begin the next part."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        mark = next((m for m in marks if text.startswith(m, place)), None)
        if mark and depth == 0:
            parts.append(text[start:place])
            start = place + len(mark) if mark == ", " else place + 1
    return [*parts, text[start:]]
