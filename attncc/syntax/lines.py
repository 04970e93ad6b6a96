"""Text → words, logical lines and comments: what is read where the grammar refuses or does not look."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from attncc.source import Span

OPENING = {"(": ")", "[": "]"}
CLOSING = {close: opening for opening, close in OPENING.items()}

STATEMENTS = ("over", "along", "align", "split", "index", "def", "require", "assume")
"""The words that begin a statement."""

RESERVED = frozenset(
    ("pattern", "def", "if", "then", "else", "where", "or", "and", "not", "true", "false", "inf")
)
"""The words that are never names."""

_WORD = re.compile(
    r"""
    (?P<doc>\"\"\"[\s\S]*?\"\"\")
  | (?P<unended>\"\"\"[\s\S]*)
  | (?P<comment>\#[^\n]*)
  | (?P<newline>\r?\n)
  | (?P<space>\ +)
  | (?P<number>[0-9]+\.[0-9]*(?:[eE][+-]?[0-9]+)?|\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+(?:[eE][+-]?[0-9]+)?)
  | (?P<name>[A-Za-z_][A-Za-z_0-9]*)
  | (?P<mark>->|\*\*|//|<=|>=|==|!=|[-+*/%<>=()\[\],:|])
  | (?P<other>[\s\S])
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Word:
    """One word of the text; kind is one of `doc unended comment newline number name mark other`."""

    kind: str
    text: str
    span: Span


def words(text: str) -> Iterator[Word]:
    """Every word of a text but its spaces; no text is refused."""
    for found in _WORD.finditer(text):
        assert found.lastgroup is not None
        if found.lastgroup != "space":
            yield Word(found.lastgroup, found.group(), Span(*found.span()))


@dataclass(frozen=True)
class Comment:
    """A comment without its `#`, and whether nothing but spaces stands before it on its line."""

    text: str
    start: int
    alone: bool


def comments(text: str) -> tuple[Comment, ...]:
    """Every comment of a text, in order."""
    found = []
    alone = True
    for word in words(text):
        match word.kind:
            case "comment":
                said = word.text[1:].removeprefix(" ").rstrip()
                found.append(Comment(said, word.span.start, alone))
            case "newline":
                alone = True
            case _:
                alone = False
    return tuple(found)


Line = tuple[Word, ...]


def logical_lines(text: str) -> tuple[Line, ...]:
    """The statements of a text, each as its words, without comments and newlines.

    Newlines inside brackets do not end a line, unless what follows can only be a new statement: so a bracket
    that is never closed spoils one line and not the rest of the text.
    """
    found: list[Line] = []
    line: list[Word] = []
    depth = 0
    said = [w for w in words(text) if w.kind != "comment"]
    for rank, word in enumerate(said):
        if word.kind != "newline":
            depth = max(0, depth + (word.text in OPENING) - (word.text in CLOSING))
            line.append(word)
        elif line and (depth == 0 or _begins_statement(said, rank + 1, line[-1])):
            found.append(tuple(line))
            line, depth = [], 0
    if line:
        found.append(tuple(line))
    return tuple(found)


def _begins_statement(said: list[Word], rank: int, before: Word) -> bool:
    """Whether the words from `rank` on, read inside brackets after `before`, can only be a new statement."""
    if rank + 1 >= len(said) or said[rank].kind != "name":
        return False
    first, second = said[rank], said[rank + 1]
    if first.text in STATEMENTS or first.text == "pattern":
        return second.kind == "name"
    if second.text == "=":
        return before.text != ","
    if second.text != "[":
        return False
    close = next((i for i in range(rank, min(rank + 40, len(said))) if said[i].text == "]"), len(said))
    return close + 1 < len(said) and said[close + 1].text == "="


def kind(line: Line) -> str:
    """What a line was meant to be, so far as its words tell: doc, header, definition or statement."""
    if line[0].text == "pattern" or any(word.text == "->" for word in line):
        return "header"
    if line[0].kind in ("doc", "unended"):
        return "doc"
    return "definition" if line[0].text == "def" else "statement"
