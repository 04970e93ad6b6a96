"""A Python function → its docstring, with the places in the Python file of what is made of it."""

from __future__ import annotations

import ast
import inspect
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Any, TypeAlias

from attncc.source import Source

Place: TypeAlias = tuple[int, int]
"""Line and column in a file, both counted from 1."""

_OPENING = re.compile(r"[rRuU]*(\"\"\"|'''|\"|')")


@dataclass(frozen=True)
class Piece:
    """A text without newlines, but for its last character, and where it stands in the file."""

    text: str
    place: Place


@dataclass(frozen=True)
class PythonSource(Source):
    """A text put together from a Python file: its places are reported where the pieces stand in the file."""

    lines: tuple[str, ...]
    places: tuple[tuple[int, Place], ...]

    def position(self, offset: int) -> Place:
        """Line and column in the Python file."""
        start, (line, column) = self.places[bisect_right(self.places, offset, key=itemgetter(0)) - 1]
        return line, column + offset - start

    def line(self, number: int) -> str:
        """A line of the Python file."""
        return self.lines[number - 1].rstrip("\r\n")


@dataclass(frozen=True)
class Function:
    """What is written of a function: the file's lines, places of the name, of the parameters by name, and of
    the docstring's first character, the docstring as it stands there, and whether statements follow it.
    """

    file: str
    lines: tuple[str, ...]
    name: Place
    parameters: dict[str, Place]
    first: Place
    doc: str
    more: bool

    def pieces(self, start: int, end: int) -> list[Piece]:
        """Part of the docstring, line by line."""
        found = []
        for text in self.doc[start:end].splitlines(keepends=True):
            above, newline, before = self.doc[:start].rpartition("\n")
            line = self.first[0] + above.count("\n") + len(newline)
            found.append(Piece(text, (line, len(before) + (1 if newline else self.first[1]))))
            start += len(text)
        return found

    def source(self, pieces: Iterable[Piece]) -> Source:
        """The text of some pieces; where the file is not known, reported as it stands in the text itself."""
        said = tuple(pieces)
        text = "".join(piece.text for piece in said)
        if not self.lines:
            return Source(self.file, text)
        starts = accumulate((len(piece.text) for piece in said), initial=0)
        places = tuple((n, piece.place) for n, piece in zip(starts, said, strict=False))
        return PythonSource(self.file, text, self.lines, places)


def read(function: Callable[..., Any]) -> Function:
    """A function as it is written, so far as its file can be read and says what was run."""
    doc = function.__doc__ or ""
    try:
        lines = tuple(inspect.findsource(function)[0])
        tree = ast.parse("".join(lines))
    except (OSError, SyntaxError):
        lines, tree = (), ast.Module([], [])
    code = function.__code__
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or node.name != code.co_name:
            continue
        if min([node.lineno, *(d.lineno for d in node.decorator_list)]) != code.co_firstlineno:
            continue
        name = _place(node.lineno, node.col_offset + len("def "), lines)
        found = _docstring(node, lines) if ast.get_docstring(node) else (name, "")
        # what runs may be older than the file; `python -OO` drops docstrings
        if found is None or (function.__doc__ and inspect.cleandoc(found[1]) != inspect.cleandoc(doc)):
            break
        a = node.args
        parameters = {
            arg.arg: _place(arg.lineno, arg.col_offset, lines)
            for arg in (*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg)
            if arg is not None
        }
        more = any(not isinstance(s, ast.Pass | ast.Expr) for s in node.body[1:])
        return Function(code.co_filename, lines, name, parameters, *found, more)
    return Function(f"<jit {function.__name__}>", (), (1, 1), {}, (1, 1), doc, False)


def _docstring(node: ast.FunctionDef, lines: tuple[str, ...]) -> tuple[Place, str] | None:
    """Where a docstring's text begins, and the text; None if it is not written as it reads."""
    match node.body[0]:
        case ast.Expr(value=ast.Constant(value=str() as doc) as constant):
            written = ast.get_source_segment("".join(lines), constant) or ""
            opening = _OPENING.match(written)
            if opening is not None and written[opening.end() : -len(opening[1])] == doc:
                line, column = _place(constant.lineno, constant.col_offset, lines)
                return (line, column + opening.end()), doc
    return None


def _place(line: int, offset: int, lines: tuple[str, ...]) -> Place:
    """A place from a line and an offset in its UTF-8 bytes."""
    return line, len(lines[line - 1].encode()[:offset].decode()) + 1
