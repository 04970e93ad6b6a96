"""The compiler names no attention variant, no file a machine's folders; every module says what it does."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "attncc"
COMPILER = ("ir", "passes", "masks", "schedule", "codegen")
FOLDERS = ("attncc", "benchmarks", "docs", "examples", "grammar", "patterns", "tests", ".ci")

VARIANT = re.compile(r"is_causal|is_softmax|sliding_window|flash_?att|softmax\b", re.IGNORECASE)
MACHINE = re.compile(r"(?<![\w.~-])/(work|farm)\b")


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (PACKAGE / folder).rglob("*.py"))


def words(text: str) -> Iterator[tuple[int, str]]:
    """Every identifier of a module, and every string that is one; sentences and comments are free."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.lineno, node.value


def test_no_variant_is_named_in_the_compiler() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{line} {word}"
        for path in modules(*COMPILER)
        for line, word in words(path.read_text("utf-8"))
        if VARIANT.search(word)
    ]
    assert not named, "\n".join(named)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("if pattern.is_causal: pass", True),
        ("def online_softmax(x): ...", True),
        ("if name == 'softmax': pass", True),
        ("FlashAttention = 1", True),
        ('"""softmax(k) x --> a stream"""\n# softmax is streamed', False),
        ("raise ValueError('a softmax over nothing')", False),
        ("if demand.name == 'causal': pass", False),
    ],
)
def test_variants_are_found_where_code_names_them(text: str, named: bool) -> None:
    assert any(VARIANT.search(word) for _, word in words(text)) is named


def test_no_path_of_a_machine() -> None:
    files = [p for p in ROOT.iterdir() if p.is_file() and p.name != ".git"]
    files += [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.is_file()]
    wrong = []
    for path in sorted(files):
        if "__pycache__" in path.parts:
            continue
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number} {line.strip()}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("folder", ["work", "farm"])
def test_paths_of_a_machine_are_found(folder: str) -> None:
    assert MACHINE.search(f"open('/{folder}/x')")
    assert not MACHINE.search(f"see https://example.org/{folder}/x")


def test_every_module_says_what_it_does() -> None:
    """A docstring of its own, whose first line stands alone; the empty marker of a folder needs none."""
    silent = []
    for path in modules("."):
        text = path.read_text("utf-8")
        said = ast.get_docstring(ast.parse(text)) or ""
        first, *rest = said.split("\n")
        if text.strip() and (not first.strip() or (rest and rest[0].strip())):
            silent.append(str(path.relative_to(ROOT)))
    assert not silent, f"no one-line summary at the top of {silent}"
