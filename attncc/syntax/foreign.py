"""Characters and words of mathematics and of other languages → how this language says it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from itertools import pairwise

from attncc.diagnostics import Diagnostic
from attncc.source import Span
from attncc.syntax.lines import RESERVED, STATEMENTS, Line, Word
from attncc.syntax.refused import Refused, at

CHARACTERS = {
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "×": "write `*`",
    "·": "write `*`",
    "⋅": "write `*`",
    "÷": "write `/`",
    "−": "write `-`",
    "–": "write `-`",
    "→": "write `->`",
    "∞": "write `inf`",
    "∑": "write `sum(k) x[k]`",
    "∏": "write `prod(k) x[k]`",
    "√": "write `sqrt(x)`",
    "²": "write `** 2`",
    "∧": "write `and`",
    "∨": "write `or`",
    "¬": "write `not`",
    "&": "write `and`",
    "!": "write `not`",
    "~": "write `not`",
    "^": "write `**` for a power",
    "@": "a product of matrices is a sum: `sum(d) Q[q,d] * K[k,d]`",
    "?": "write `if c then a else b`",
    ";": "write one statement a line",
    "{": "write `(` and `)`",
    "}": "write `(` and `)`",
    "\\": "a line goes on as long as a bracket is open",
    ".": "there are no attributes; a number has a digit before or behind its point",
    '"': 'comments begin with `#`, a docstring with `"""`',
    "'": "comments begin with `#`; names have no primes",
    "“": 'a docstring stands between `"""`',
    "”": 'a docstring stands between `"""`',
    "`": "names stand without quotes",
    "$": "there are no dimension variables: name the index and write `|d|`",
    "\t": "indent with spaces",
    "\r": "end lines with a newline",
    "\ufeff": "save the file as UTF-8 without a byte-order mark",
}

MARKS = {
    "=<": "write `<=`",
    "=>": "write `>=`",
    "==<": "write `<=`",
    "===": "write `==`",
    "=!": "write `!=`",
    "<>": "write `!=`",
    ":=": "write `=`",
    "||": "write `or`",
    "<<": "there are no shifts: multiply or divide by a power of two",
    ">>": "there are no shifts: multiply or divide by a power of two",
    "+=": "an equation defines its tensor once: write the sum in full",
    "-=": "an equation defines its tensor once: write the difference in full",
    "*=": "an equation defines its tensor once: write the product in full",
    "/=": "an equation defines its tensor once; unequal is written `!=`",
    "++": "write one `+`",
    "--": "write `a - (-b)`, or one `-`",
}

WORDS = {
    "elif": "write `else if`",
    "elseif": "write `else if`",
    "xor": "write `!=`",
    "mod": "write `%`",
    "div": "write `//`",
    "nan": "there is no such number: leave members out with `where`",
}


def character(r: Refused) -> Diagnostic | None:
    """The first character that is no part of the language."""
    for rank, word in enumerate(r.line):
        if word.kind == "unended":
            opening = Span(word.span.start, word.span.start + 3)
            return at(opening, "docstring", "this docstring never ends", 'end it with `"""`')
        if word.kind == "other":
            return _unknown(_run(r.line, rank))
    return None


def _run(line: Line, rank: int) -> Word:
    """The character at `rank`, with the same one behind it: `&&`."""
    word = line[rank]
    for after in line[rank + 1 :]:
        if after.text != line[rank].text or after.span.start != word.span.end:
            break
        word = Word(word.kind, word.text + after.text, Span(word.span.start, after.span.end))
    return word


def _unknown(word: Word) -> Diagnostic:
    char = word.text[0]
    shown = "a tab" if char == "\t" else f"`{word.text[:3]}`" if char.isprintable() else f"U+{ord(char):04X}"
    help = CHARACTERS.get(char, "")
    if not help and char.isalpha():
        letter = unicodedata.name(char, "").title()
        help = "names are made of the letters a to z, digits and `_`" + (
            f"; this is {letter}" if letter else ""
        )
    return at(word.span, "character", f"{shown} is no part of the language", help)


def mark(r: Refused) -> Diagnostic | None:
    """The first two marks that stand together as in another language."""
    for first, second in _adjacent(r.line):
        both = first.text + second.text
        if first.kind == second.kind == "mark" and both in MARKS:
            span = Span(first.span.start, second.span.end)
            return at(span, "mark", f"`{both}` is no part of the language", MARKS[both])
    return None


def _adjacent(line: Line) -> Iterator[tuple[Word, Word]]:
    return ((first, second) for first, second in pairwise(line) if first.span.end == second.span.start)


def spelling(r: Refused) -> Diagnostic | None:
    """The first word that is one of the language's but for its case, or one of another language's."""
    for rank, word in enumerate(r.line):
        lower = word.text.lower()
        meant = lower in RESERVED or (rank == 0 and lower in STATEMENTS)
        if word.kind == "name" and word.text != lower and meant:
            message = f"`{word.text}` is written `{lower}`"
            return at(word.span, "spelling", message, "the words of the language have no capitals")
        if word.kind == "name" and lower in WORDS:
            return at(word.span, "spelling", f"`{word.text}` is no word of the language", WORDS[lower])
    return None
