"""Every node of a tree knows its place: the text there, read by itself, is that node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings

from attncc import resources
from attncc.source import Source, Span
from attncc.syntax import ast
from attncc.syntax.parser import parse
from attncc.syntax.printer import show
from tests.strategies_syntax import files

PATTERNS = sorted(resources.folder("patterns").glob("*.attn"))


def parsed(text: str) -> ast.File:
    return parse(Source("test.attn", text))


def statement(text: str) -> ast.Statement:
    """What one line in a pattern's body says."""
    pattern = parsed(f"pattern p() -> O[]:\n    {text}\n").pattern
    assert pattern is not None
    (only,) = pattern.statements
    return only


def expr(text: str) -> ast.Expr:
    """What the right side of an equation says."""
    equation = statement(f"y = {text}")
    assert isinstance(equation, ast.Equate)
    return equation.body


def nodes(tree: object) -> Iterator[object]:
    """Every node of a tree that has a place in the text."""
    if isinstance(tree, tuple):
        for part in tree:
            yield from nodes(part)
    elif is_dataclass(tree) and not isinstance(tree, Span):
        yield tree
        for part in fields(tree):
            yield from nodes(getattr(tree, part.name))


@pytest.mark.parametrize("path", PATTERNS, ids=lambda path: path.stem)
def test_every_node_of_a_pattern_knows_its_place(path: Path) -> None:
    _places(Source.read(path))


@given(files())
@settings(max_examples=settings().max_examples)
def test_every_node_knows_its_place(file: ast.File) -> None:
    _places(Source("shown.attn", show(file)))


def _places(source: Source) -> None:
    """The text of each node, read by itself, is that node; spaces and brackets around it are not its own."""
    for node in nodes(parse(source)):
        span = getattr(node, "span", None)
        if span is None:
            continue
        text = source.text[span.start : span.end]
        assert text == text.strip()
        match node:
            case ast.Pattern():
                assert text.startswith("pattern") and text.endswith(":")
            case ast.TensorParam() | ast.ScalarParam():
                again = parsed(f"pattern p({text}) -> O[]:").pattern
                assert again is not None and again.params == (node,)
            case ast.OutputParam():
                again = parsed(f"pattern p() -> {text}:").pattern
                assert again is not None and again.outputs == (node,)
            case ast.Name() | ast.Number() | ast.Extent() | ast.Subscript() | ast.Unary() | ast.Binary():
                assert expr(f"({text})") == node
            case ast.If() | ast.Call() | ast.Over():
                assert expr(f"({text})") == node
            case _:
                again_said = statement(text)
                assert repr(again_said).partition("notes=")[0] == repr(node).partition("notes=")[0]


def test_brackets_belong_to_what_is_around_them() -> None:
    text = "pattern p() -> O[]:\n    O = (x + y) * (q)\n"
    (equation,) = parsed(text).pattern.statements  # type: ignore[union-attr]
    assert isinstance(equation, ast.Equate) and isinstance(equation.body, ast.Binary)
    said = [text[e.span.start : e.span.end] for e in (equation.body, equation.body.left, equation.body.right)]
    assert said == ["(x + y) * (q)", "x + y", "q"]
