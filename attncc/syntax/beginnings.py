"""A refused line → what is wrong with how it begins, or with the statement as a whole, if that is it."""

from __future__ import annotations

from difflib import get_close_matches

from attncc.diagnostics import Diagnostic
from attncc.source import Span
from attncc.syntax.lines import OPENING, RESERVED, STATEMENTS, Line, kind
from attncc.syntax.refused import FORMS, HEADER, Refused, at

ARGUMENTS = {"over": "=", "align": "at", "split": "by", "index": ":", "assume": "[", "def": "="}
"""The word behind which the expressions of a statement begin."""


def lone_docstring(r: Refused) -> Diagnostic | None:
    '''`"""A title.""" pattern p(…`'''
    for word in r.line:
        if word.kind == "doc":
            opening = Span(word.span.start, word.span.start + 3)
            help = "give it a line of its own; comments begin with `#`"
            return at(opening, "docstring", "a docstring stands alone", help)
    return None


def no_pattern_word(r: Refused) -> Diagnostic | None:
    """`p(V[q,e]) -> O[q,e]:`"""
    if kind(r.line) == "header" and r.line[0].text != "pattern":
        return at(r.line[0].span, "header", "a header begins with `pattern`", f"write {HEADER}")
    return None


def header(r: Refused) -> Diagnostic | None:
    """`pattern p(Q[q,64], window = 3)`"""
    if r.line[0].text != "pattern":
        return None
    if not r.opened():
        if "->" not in (word.text for word in r.line):
            return r.wrong("header", "the header names no outputs", f"write {HEADER}")
        return r.wrong("header", "a header ends in `:`", f"write {HEADER}") if not r.here else None
    if r.opened() == "[":
        help = "an extent is not written in the header: name the index, and call its extent `|d|`"
        return r.wrong("header", "only names of indices stand here", help)
    if r.before == ":":
        return r.wrong(
            "kind", f"`{r.here}` is no kind", "write `int`, `float` or `bool`; for a tensor also `const`"
        )
    if r.here == "=":
        help = "write `window: int = 1024`; tensors have no defaults"
        return r.wrong("default-kind", "a default follows a kind", help)
    if r.here in (",", ")") and r.line[r.rank - 1].kind == "name":
        help = f"write `{r.before}[]` for a tensor, `{r.before}: int` for a number"
        return at(r.span_before, "kind", f"`{r.before}` is of no kind", help)
    return None


def definition(r: Refused) -> Diagnostic | None:
    """`def causal(q, k): k <= q`"""
    if r.line[0].text != "def":
        return None
    if "=" not in (word.text for word in r.line):
        return r.wrong("definition", "this definition has no `=`", f"write {FORMS['def']}")
    if r.here == ":" or r.before == "def":
        return r.wrong("definition", f"`{r.here}` cannot stand here", f"write {FORMS['def']}")
    return None


def left_side(r: Refused) -> Diagnostic | None:
    """`index[q] = k`, `S[t - 1] = x`, `f(x) = x + 1`, `S[q,k] == x`"""
    first = r.line[0]
    sign = _sign(r.line)
    if sign is None or first.kind != "name" or first.text in ("pattern", "def"):
        return None
    if first.text in RESERVED or (first.text in STATEMENTS and r.line[1].text != "("):
        help = "choose another name: words that begin a statement define nothing"
        return at(first.span, "reserved", f"`{first.text}` is a word of the language", help)
    if r.line[1].text == "[" and 1 < r.rank < sign:
        help = "an equation holds at every position: write `S[t] = … S[t - 1] …`, with names only on the left"
        return r.wrong("left-side", "only names of indices stand on the left", help)
    if r.line[1].text == "(" and r.rank == 1:
        help = f"write `def` before it: {FORMS['def']}"
        return r.wrong("left-side", f"`{first.text}` is defined like a function", help)
    if r.rank == sign and r.here == "==":
        return r.wrong("equals", "an equation is written with `=`", "`==` compares two values")
    return None


def _sign(line: Line) -> int | None:
    """The rank of the `=`, or the `==` in its place, behind a name and what it has in brackets."""
    if len(line) < 2:
        return None
    rank = 1
    if line[1].text in OPENING:
        rank = next((i for i, w in enumerate(line) if w.text == OPENING[line[1].text]), len(line) - 1) + 1
    return rank if rank < len(line) and line[rank].text in ("=", "==") else None


def no_statement(r: Refused) -> Diagnostic | None:
    """`aling q to k`, `return O`"""
    first = r.line[0]
    if first.kind != "name" or first.text in FORMS or r.rank != 1:
        return None
    if r.here and r.line[1].kind not in ("name", "number"):
        return None
    close = get_close_matches(first.text.lower(), FORMS, n=2, cutoff=0.7)
    help = "a statement is an equation, or begins with " + ", ".join(f"`{word}`" for word in STATEMENTS)
    if close:
        help = f"did you mean {' or '.join(f'`{word}`' for word in close)}?"
    return at(first.span, "statement", f"`{first.text}` begins no statement", help)


def form(r: Refused) -> Diagnostic | None:
    """`align q k`, `split k by 4`: a statement that goes wrong before its expressions begin."""
    first = r.line[0].text
    if first not in FORMS or first == "require":
        return None
    begins = (rank for rank, word in enumerate(r.line) if word.text == ARGUMENTS.get(first))
    return otherwise(r) if r.rank <= next(begins, len(r.line)) else None


def otherwise(r: Refused) -> Diagnostic:
    """Any other word that fits nothing."""
    first = r.line[0].text
    help = f"`{first}` is written {FORMS[first]}" if first in FORMS else ""
    if not r.here:
        return r.wrong("syntax", "this line ends too early", help)
    if r.here in RESERVED:
        return r.wrong("reserved", f"`{r.here}` is a word of the language and cannot stand here", help)
    shown = r.here if len(r.here) < 20 else r.here[:17] + "…"
    return r.wrong("syntax", f"`{shown}` cannot stand here", help)
