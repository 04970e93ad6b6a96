"""Texts that are nearly right: checking gives a sound cascade or says what is wrong, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from attncc.diagnostics import PatternError
from attncc.ir.check import check
from attncc.ir.verify import verified
from attncc.source import Source
from attncc.syntax.parser import parse

ROOT = Path(__file__).parents[2]
TEXTS = [
    p.read_text("utf-8")
    for folder in ("patterns", "tests/errors/check")
    for p in sorted((ROOT / folder).glob("*.attn"))
    if "\npattern " in "\n" + p.read_text("utf-8")
]
WORD = re.compile(r"[A-Za-z_]\w*|\d+(?:\.\d+)?|//|\*\*|<=|>=|==|!=|->|[^\s\w]")
STRAY = (
    "q",
    "k",
    "h",
    "d",
    "0",
    "2",
    "0.5",
    "block",
    "1e9",
    "+",
    "-",
    "//",
    "<",
    "and",
    "sum",
    "exp",
    "|q|",
    "x[k]",
    "true",
)


@st.composite
def nearly(draw: st.DrawFn) -> str:
    """A pattern with some words put in place of others, words dropped, and lines moved."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        words = list(WORD.finditer(text))
        if not words:
            break
        at = draw(st.sampled_from(words))
        match draw(st.sampled_from(("other", "stray", "drop", "line"))):
            case "other":
                new = draw(st.sampled_from(words)).group()
                text = text[: at.start()] + new + text[at.end() :]
            case "stray":
                text = text[: at.start()] + draw(st.sampled_from(STRAY)) + text[at.end() :]
            case "drop":
                text = text[: at.start()] + text[at.end() :]
            case _:
                lines = text.split("\n")
                lines.insert(
                    draw(st.integers(0, len(lines))), lines.pop(draw(st.integers(0, len(lines) - 1)))
                )
                text = "\n".join(lines)
    return text


@given(nearly())
@settings(max_examples=150)
def test_any_text_is_meant_or_refused(text: str) -> None:
    source = Source("test.attn", text)
    try:
        cascade = check(parse(source), source)
    except PatternError as error:
        assert error.diagnostics
        assert all(d.code and d.message and len(str(error)) for d in error.diagnostics)
        places = [label.span for d in error.diagnostics for label in d.labels]
        assert all(0 <= span.start <= len(text) for span in places)
    else:
        verified(cascade)


@given(st.sampled_from(TEXTS), st.data())
@settings(max_examples=100)
def test_one_name_for_another(text: str, data: st.DataObject) -> None:
    """Texts that parse, so that checking sees all of them."""
    names = [w for w in WORD.finditer(text) if w.group()[0].isalpha()]
    at, new = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(names)).group()
    source = Source("test.attn", text[: at.start()] + new + text[at.end() :])
    try:
        file = parse(source)
    except PatternError:
        return
    try:
        cascade = check(file, source)
    except PatternError as error:
        assert error.diagnostics
    else:
        verified(cascade)
