"""Files, functions and lines stay small enough to be read."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "attncc"
FILE, FUNCTION, LINE = 400, 60, 110


def texts() -> list[tuple[str, str]]:
    """Every module of the package: its path in the checkout and its text."""
    return [(p.relative_to(ROOT).as_posix(), p.read_text("utf-8")) for p in sorted(PACKAGE.rglob("*.py"))]


def functions(text: str) -> list[tuple[str, int, int]]:
    """Name, first line and number of lines of every function, its docstring and decorators included."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found.append((node.name, first, (node.end_lineno or first) - first + 1))
    return found


def test_files() -> None:
    long = [f"{path}: {n} lines" for path, text in texts() if (n := len(text.splitlines())) > FILE]
    assert not long, "\n".join(long)


def test_functions() -> None:
    long = [
        f"{path}:{first} {name} has {n} lines"
        for path, text in texts()
        for name, first, n in functions(text)
        if n > FUNCTION
    ]
    assert not long, "\n".join(long)


def test_lines() -> None:
    long = [
        f"{path}:{number} has {len(line)} characters"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > LINE
    ]
    assert not long, "\n".join(long)


def test_function_lengths_are_counted() -> None:
    text = "@cache\ndef f():\n    '''why'''\n    return 1\n\nclass A:\n    def g(self): ...\n"
    assert functions(text) == [("f", 1, 4), ("g", 7, 1)]
