"""A line the grammar refuses → what is wrong with it, said to its author: the first of `RULES` that knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from attncc.diagnostics import Diagnostic, Label
from attncc.source import Source, Span
from attncc.syntax import beginnings, foreign, operands
from attncc.syntax.lines import Line
from attncc.syntax.refused import HEADER, Refused, at

RULES: tuple[Callable[[Refused], Diagnostic | None], ...] = (
    foreign.character,
    foreign.mark,
    foreign.spelling,
    operands.brackets,
    operands.comma,
    beginnings.lone_docstring,
    beginnings.no_pattern_word,
    beginnings.header,
    beginnings.definition,
    beginnings.left_side,
    beginnings.no_statement,
    beginnings.form,
    operands.chain,
    operands.equals,
    operands.choice,
    operands.sign,
    operands.where,
    operands.subscript,
    operands.pair,
    operands.bars,
    operands.operand,
    operands.juxtaposed,
    beginnings.otherwise,
)


def explain(source: Source, line: Line, place: int) -> Diagnostic:
    """What is wrong with a line of which the grammar refuses the word at `place`, or the end."""
    rank = next((rank for rank, word in enumerate(line) if word.span.end > place), len(line))
    refused = Refused(source.text, line, rank)
    return next(found for rule in RULES if (found := rule(refused)) is not None)


def disorder(lines: Sequence[Line], kinds: Sequence[str]) -> Iterator[Diagnostic]:
    """Lines that stand where their kind cannot."""
    headers = [rank for rank, said in enumerate(kinds) if said == "header"]
    for rank in headers[1:]:
        first = Label(lines[headers[0]][0].span, "the first")
        labels = (Label(lines[rank][0].span), first)
        yield Diagnostic(
            "two-patterns", "a file holds one pattern", labels, "put this one into a file of its own"
        )
    start = headers[0] if headers else len(lines)
    for rank, said in enumerate(kinds):
        if said == "doc" and rank not in (0, start + 1):
            help = "a docstring is the first in a file, or the first in a pattern; comments begin with `#`"
            yield at(
                Span(lines[rank][0].span.start, lines[rank][0].span.start + 3),
                "docstring",
                "a docstring cannot stand here",
                help,
            )
    early = next((rank for rank in range(start) if kinds[rank] == "statement"), None)
    if early is not None:
        help = "only definitions stand before it" if headers else f"begin with {HEADER}"
        message = "this stands before the pattern's header" if headers else "this stands in no pattern"
        yield at(lines[early][0].span, "no-pattern", message, help)


def nothing(source: Source) -> Diagnostic:
    """There is neither a pattern nor a definition in the text."""
    return at(Span(0, 0), "empty-file", "there is no pattern here", f"begin with {HEADER}")


def unexpected(source: Source, place: int) -> Diagnostic:
    """A text of which every line is right, but not the whole."""
    return at(Span(place, min(place + 1, len(source.text))), "syntax", "this cannot stand here")
