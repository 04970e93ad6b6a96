"""ast expressions → the questions that checking asks of them, and a list to put mistakes in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import assert_never

from attncc.diagnostics import Diagnostic, Label
from attncc.source import Source, Span
from attncc.syntax import ast


@dataclass
class Mistakes:
    """Every mistake found so far, each once: a definition may bring the same text to several places."""

    source: Source
    found: dict[Diagnostic, None] = field(default_factory=dict)

    def add(self, code: str, message: str, at: Span, label: str = "", help: str = "", *more: Label) -> None:
        """One mistake; `more` are other places that matter, with what is to be seen there."""
        self.found[Diagnostic(code, message, (Label(at, label), *more), help)] = None

    def written(self, e: ast.Expr) -> str:
        """An expression as its author wrote it."""
        if isinstance(e, ast.Name):
            return e.name
        return " ".join(self.source.text[e.span.start : e.span.end].split())


def near(name: str, known: Iterable[str]) -> str:
    """What was probably meant, as advice, or no advice."""
    close = get_close_matches(name, sorted(set(known)), n=1, cutoff=0.6)
    # names of one letter are never close, but for their case
    close = close or [k for k in sorted(set(known)) if k.lower() == name.lower()]
    return f"did you mean `{close[0]}`?" if close else ""


def listed(names: Iterable[str]) -> str:
    """`` `a`, `b` and `c` ``"""
    *first, last = [f"`{n}`" for n in names] or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def parts(e: ast.Expr) -> tuple[ast.Expr, ...]:
    """The expressions directly inside one; the indices of a reduction are none."""
    match e:
        case ast.Number() | ast.Name() | ast.Extent():
            return ()
        case ast.Subscript():
            return e.at
        case ast.Unary():
            return (e.body,)
        case ast.Binary():
            return (e.left, e.right)
        case ast.If():
            return (e.condition, e.then, e.other)
        case ast.Call():
            return e.args
        case ast.Over():
            where = () if e.where is None else (e.where,)
            return (*where, *(option for _, option in e.options), e.body)
        case _:
            assert_never(e)


def walk(e: ast.Expr) -> Iterator[ast.Expr]:
    """An expression and everything inside it, outermost first."""
    yield e
    for part in parts(e):
        yield from walk(part)


def names(e: ast.Expr) -> Iterator[tuple[str, Span]]:
    """Everything an expression refers to by name, but for extents and the indices of reductions."""
    for x in walk(e):
        match x:
            case ast.Name():
                yield x.name, x.span
            case ast.Subscript():
                yield x.tensor, Span(x.span.start, x.span.start + len(x.tensor))
            case _:
                pass


def extents(e: ast.Expr) -> Iterator[tuple[str, Span]]:
    """The indices whose extents an expression mentions."""
    for x in walk(e):
        if isinstance(x, ast.Extent):
            yield x.index, x.span
