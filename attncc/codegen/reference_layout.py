"""Long assignments → the same over several lines, broken where a formatter breaks them."""

from __future__ import annotations

import re

WIDTH = 110
LOOSEST = (" if ", " < ", " <= ", " > ", " >= ", " == ", " != ", " | ", " & ", " + ", " - ", " * ", " / ")
"""Where an expression is broken first."""


def wrapped(line: str) -> list[str]:
    """A line as it is where it fits; else broken at its loosest operators, or inside its call."""
    found = re.fullmatch(r"( *)([\w\[\], ]+) = (.*)", line)
    if len(line) <= WIDTH or found is None:
        return [line]
    indent, name, text = found.groups()
    for operator in LOOSEST:
        parts = _parts(text, operator)
        if len(parts) > 1:
            if len(f"{indent}    {text}") <= WIDTH:
                return [f"{indent}{name} = (", f"{indent}    {text}", f"{indent})"]
            first, *rest = parts
            marks = operator.strip()
            broken = [f"{indent}    {first}", *(f"{indent}    {marks} {part}" for part in rest)]
            if operator == " if ":
                broken = [broken[0], *_otherwise(broken[1], indent)]
            return [f"{indent}{name} = (", *broken, f"{indent})"]
    call = re.match(r"[\w.]+\(", text)
    if call is None or _closed(text, call.end()) < len(text):
        return [line]
    inside = text[call.end() : -1]
    start = f"{indent}{name} = {call.group()}"
    if len(f"{indent}    {inside}") <= WIDTH:
        return [start, f"{indent}    {inside}", f"{indent})"]
    return [start, *(f"{indent}    {part}," for part in _parts(inside, ", ")), f"{indent})"]


def _otherwise(line: str, indent: str) -> list[str]:
    """`if c` and `else y` of a conditional expression."""
    condition, *rest = _parts(line.strip(), " else ")
    return [f"{indent}    {condition}", *(f"{indent}    else {part}" for part in rest)]


def _closed(text: str, start: int) -> int:
    """Behind the bracket that closes what was opened before a place."""
    depth = 1
    for n in range(start, len(text)):
        depth += (text[n] in "([{") - (text[n] in ")]}")
        if depth == 0:
            return n + 1
    return start


def _parts(text: str, operator: str) -> list[str]:
    """A text split at an operator outside of all brackets and strings."""
    parts, depth, start, quoted = [], 0, 0, False
    for n, c in enumerate(text):
        if c == '"':
            quoted = not quoted
        elif quoted:
            continue
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif depth == 0 and n >= start and text.startswith(operator, n):
            parts.append(text[start:n])
            start = n + len(operator)
    return [*parts, text[start:]]
