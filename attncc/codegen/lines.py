"""Lines of Python → those that are needed, and that fit: broken in brackets, or at the loosest operators."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

WIDTH = 100
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
LEVELS = (
    (" for ",), (" if ", " else "), (" or ",), (" and ",), (" < ", " <= ", " > ", " >= ", " == ", " != "),
    (" | ",), (" & ",), (" + ", " - "), (" * ", " / ", " // ", " % "),
)  # fmt: skip
"""What a line is broken before, loosest first."""


def folded(text: str) -> str:
    """The text, every line of code and every comment in it at most WIDTH wide where it can be broken."""
    lines: list[str] = []
    inside = False
    for line in text.split("\n"):
        quotes = line.count('"""')
        code = line.lstrip()
        pad = line[: len(line) - len(code)]
        if len(line) <= WIDTH or inside or quotes:
            lines.append(line)
        elif code.startswith("#"):
            lines += _comment(code, pad)
        else:
            lines += _statement(code, pad)
        inside ^= quotes % 2 == 1
    return "\n".join(lines)


def said(name: str, lines: Iterable[str]) -> bool:
    """Whether code, not a comment, says a name."""
    code = (line for line in lines if not line.lstrip().startswith("#"))
    return any(re.search(rf"\b{name}\b", line) for line in code)


def needed(assignments: Iterable[str], after: Iterable[str]) -> list[str]:
    """Those of some assignments whose name is said later: by what follows, or by one of them that is."""
    kept = list(after)
    count = len(kept)
    for line in reversed(list(assignments)):
        if said(line.partition(" = ")[0], kept):
            kept.insert(0, line)
    return kept[: len(kept) - count]


def hanging(text: str, pad: str = "") -> list[str]:
    """A line of prose or of a formula, continued four spaces in."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=pad, subsequent_indent=f"{pad}    ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def _comment(code: str, pad: str) -> list[str]:
    return textwrap.wrap(
        code.removeprefix("# "), WIDTH, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}#     ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _statement(code: str, pad: str) -> list[str]:
    """`x = a + b`, `x, y = a, b`: the value is put in brackets; anything else is broken in those it has."""
    if code.endswith(","):
        return _body(code, pad)
    target, equals, value = code.partition(" = ")
    whole = bool(_operators(value)) or len(_cut(value, (", ",))) > 1
    if equals and whole and not re.search(r"[(\[\"]", target):
        return [f"{pad}{target} = (", *_body(value, f"{pad}    "), f"{pad})"]
    return list(_bracketed(code, pad))


def _bracketed(code: str, pad: str) -> Iterator[str]:
    """`f(a, b)` with what stands in its widest brackets on lines of its own."""
    depth = _depth(code)
    edges = [n for n, c in enumerate(code) if c in "()[]{}" and depth[n] == 0]
    pairs = list(zip(edges[::2], edges[1::2], strict=True))
    if not pairs:
        yield pad + code
        return
    start, stop = max(pairs, key=lambda pair: pair[1] - pair[0])
    yield pad + code[: start + 1]
    yield from _body(code[start + 1 : stop], f"{pad}    ")
    yield pad + code[stop:]


def _body(inside: str, pad: str) -> list[str]:
    """What stands in brackets: on one line, or an item a line, or an operand a line."""
    if len(pad) + len(inside) <= WIDTH:
        return [pad + inside]
    items = _cut(inside, (", ",))
    if len(items) > 1 and len(_cut(inside, LEVELS[0])) == 1:
        # the last one may end in a comma already
        return [line for item in items for line in _item(f"{item.removesuffix(',')},", pad)]
    return _item(inside, pad)


def _item(text: str, pad: str) -> list[str]:
    if len(pad) + len(text) <= WIDTH:
        return [pad + text]
    level = _operators(text)
    if level:
        return [line for part in _cut(text, level) for line in _item(part, pad)]
    return list(_bracketed(text, pad))


def _operators(text: str) -> tuple[str, ...]:
    """The loosest operators that stand outside all brackets."""
    return next((level for level in LEVELS if len(_cut(text, level)) > 1), ())


def _cut(text: str, marks: tuple[str, ...]) -> list[str]:
    """The text cut at some marks outside of all brackets; a comma ends its piece, an operator begins one."""
    depth = _depth(text)
    parts, start, n = [], 0, 0
    while n < len(text):
        mark = next((m for m in marks if depth[n] == 0 and text.startswith(m, n)), "")
        if mark:
            parts.append(text[start:n])
            start = n + (len(mark) if mark == ", " else 1)
            n += len(mark) - 1
        n += 1
    return [*parts, text[start:]]


def _depth(text: str) -> list[int]:
    """How many brackets are open at every character, the outer ones not within themselves; strings count as
    one.
    """
    hidden = STRING.sub(lambda m: "\0" * len(m[0]), text)
    found, depth = [], 0
    for at, c in enumerate(hidden):
        if c in ")]}":
            depth -= 1
        found.append(depth + (text[at] != c))
        if c in "([{":
            depth += 1
    return found
