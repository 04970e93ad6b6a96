"""Source → ast.File, or every syntax mistake in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache

from lark import Lark, Token
from lark.exceptions import UnexpectedInput, UnexpectedToken

from attncc import resources
from attncc.diagnostics import Diagnostic, PatternError
from attncc.source import Source
from attncc.syntax import ast, mistakes
from attncc.syntax.build import Build
from attncc.syntax.lines import kind, logical_lines
from attncc.syntax.remarks import with_comments


def parse(source: Source) -> ast.File:
    """What a text says. Raises PatternError with every mistake of syntax in it, whatever the text."""
    try:
        tree = _lark().parse(source.text, start="file")
    except UnexpectedInput as error:
        raise PatternError(source, _mistakes(source, error)) from None
    build = Build()
    file = build.file(tree)
    if not file.definitions and file.pattern is None:
        build.mistakes.append(mistakes.nothing(source))
    if build.mistakes:
        raise PatternError(source, build.mistakes)
    return with_comments(file, source)


def _mistakes(source: Source, error: UnexpectedInput) -> list[Diagnostic]:
    """What is wrong with a text the grammar refuses: each line by itself, then the order of the lines."""
    found: list[Diagnostic] = []
    kinds: list[str] = []
    lines = logical_lines(source.text)
    for line in lines:
        start = line[0].span.start
        try:
            tree = _lark().parse(source.text[start : line[-1].span.end], start="line")
        except UnexpectedInput as refused:
            found.append(mistakes.explain(source, line, start + _place(refused)))
            kinds.append(kind(line))
        else:
            build = Build(start)
            match tree.data:
                case "doc":
                    kinds.append("doc")
                case "header":
                    build.header(tree)
                    kinds.append("header")
                case _:
                    build.statement(tree)
                    kinds.append("definition" if tree.data.startswith("definition") else "statement")
            found.extend(build.mistakes)
    found.extend(mistakes.disorder(lines, kinds))
    return found or [mistakes.unexpected(source, min(_place(error), len(source.text)))]


def _place(error: UnexpectedInput) -> int:
    """Where a text goes wrong; behind all of it, if it ends too early."""
    match error:
        case UnexpectedToken(token=Token(type="_NEWLINE" | "$END")):
            return sys.maxsize
        case _:
            return error.pos_in_stream or 0


class _Newlines:
    """Keeps the newlines that end a statement: not those inside brackets, nor those of empty lines."""

    always_accept = ("_NEWLINE",)

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        depth = 0
        last: Token | None = None
        for token in stream:
            depth = max(0, depth + (token.type in ("LPAR", "LSQB")) - (token.type in ("RPAR", "RSQB")))
            if token.type != "_NEWLINE" or (depth == 0 and last is not None and last.type != "_NEWLINE"):
                last = token
                yield token
        if last is not None and last.type != "_NEWLINE":
            yield Token.new_borrow_pos("_NEWLINE", "\n", last)


@cache
def _lark() -> Lark:
    return Lark(
        resources.grammar(),
        parser="lalr",
        start=["file", "line"],
        postlex=_Newlines(),
        propagate_positions=True,
        maybe_placeholders=False,
    )
