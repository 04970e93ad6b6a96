"""Any text gives a file or diagnostics, never a traceback, however long, deep or strange it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncc import resources
from attncc.diagnostics import PatternError
from attncc.source import Source
from attncc.syntax.build import DEEPEST
from attncc.syntax.parser import parse
from attncc.syntax.printer import show

PATTERNS = sorted(resources.folder("patterns").glob("*.attn"))


def reads(text: str) -> bool:
    """Whether a text parses; whatever it is, it gives a file or diagnostics that point into it."""
    source = Source("any.attn", text)
    try:
        parse(source)
    except PatternError as error:
        assert error.diagnostics
        for diagnostic in error.diagnostics:
            assert diagnostic.code and diagnostic.message and diagnostic.labels
            for label in diagnostic.labels:
                assert 0 <= label.span.start <= label.span.end <= len(text)
        return False
    return True


@given(st.text())
@settings(max_examples=6 * settings().max_examples)
def test_any_text(text: str) -> None:
    reads(text)


WORDS = (
    *("pattern p(Q[q,d], n: int = 4) -> O[q]:\n", "def f(i where c) x = x\n", "    over q with h = 1\n"),
    *(
        "align",
        "split",
        "index",
        "assume",
        "require",
        "along",
        "over",
        "def",
        "pattern",
        "if",
        "then",
        "else",
    ),
    *("where", "and", "or", "not", "true", "inf", "to", "at", "by", "into", "in", "sorted", "with", "q", "k"),
    *(
        "1",
        "0.5",
        "(",
        ")",
        "[",
        "]",
        ",",
        ":",
        "|",
        "=",
        "==",
        "<=",
        "->",
        "+",
        "-",
        "*",
        "/",
        "//",
        "**",
        "%",
    ),
    *("\n", " ", "\t", "\r", "\0", "#", '"', '"""', "≤", "é", ".", "!", "sum(k)", "S[q,k]", "\n    "),
)


@given(st.lists(st.sampled_from(WORDS), max_size=40))
@settings(max_examples=8 * settings().max_examples)
def test_any_words(words: list[str]) -> None:
    reads(" ".join(words))
    reads("pattern p() -> O[]:\n O = " + " ".join(words))


@given(st.data())
@settings(max_examples=4 * settings().max_examples)
def test_any_change_of_a_pattern(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(PATTERNS)).read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 5)))
        text = text[:start] + data.draw(st.sampled_from(WORDS) | st.text(max_size=2)) + text[end:]
    reads(text)


@pytest.mark.parametrize(
    "text",
    [
        "(" * 20_000,
        "(" * 20_000 + "x" + ")" * 20_000,
        "exp(" * 5_000 + "x" + ")" * 5_000,
        "x" + " + x" * 20_000,
        "x" + " ** x" * 5_000,
        "not " * 5_000 + "x",
        "sum(k) " * 5_000 + "x",
        "if x then y else " * 5_000 + "x",
        "T[" * 5_000 + "k" + "]" * 5_000,
        "9" * 100_000,
        "9" * 100_000 + ".0",
        "1e" + "9" * 100_000,
        "x" * 1_000_000,
        "[" * 3_000 + "\n" + "]\n" * 3_000,
        "\ud800",
        "\0" * 1_000,
    ],
    ids=lambda text: text[:8].strip(),
)
def test_large_and_deep_texts(text: str) -> None:
    reads(text)
    reads(f"pattern p() -> O[]:\n    O = {text}\n")


@pytest.mark.parametrize(
    "piece", ["exp({})", "({} + x)", "({} ** x)", "sum(k where {}) x", "T[{}]", "(if {} then x else y)"]
)
def test_nesting_ends_at_a_limit(piece: str) -> None:
    text = "x"
    for _ in range(DEEPEST - 1):
        text = piece.replace("{}", text)
    file = parse(Source("deep.attn", f"pattern p() -> O[]:\n    O = {text}\n"))
    assert parse(Source("shown.attn", show(file))) == file
    with pytest.raises(PatternError, match="too-deep"):
        parse(Source("deeper.attn", f"pattern p() -> O[]:\n    O = {piece.replace('{}', text)}\n"))
