"""Each malformed file beside this folder gives just the message that stands beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from attncc import resources
from attncc.diagnostics import PatternError, render
from attncc.source import Source
from attncc.syntax.beginnings import ARGUMENTS
from attncc.syntax.lines import RESERVED, STATEMENTS, logical_lines
from attncc.syntax.parser import parse
from attncc.syntax.refused import FORMS

FOLDER = Path(__file__).parents[1] / "errors" / "syntax"
FILES = sorted(FOLDER.glob("*.attn"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_message(path: Path) -> None:
    source = Source(path.name, Source.read(path).text)
    with pytest.raises(PatternError) as caught:
        parse(source)
    expected = path.with_suffix(".txt").read_text(encoding="utf-8")
    assert render(source, caught.value.diagnostics) + "\n" == expected


def test_every_file_has_its_message() -> None:
    assert {path.stem for path in FILES} == {path.stem for path in FOLDER.glob("*.txt")}
    assert len(FILES) > 50


def test_messages_are_one_phrase_in_lower_case() -> None:
    for path in FILES:
        for line in path.with_suffix(".txt").read_text(encoding="utf-8").split("\n"):
            if line.startswith("error["):
                code, _, message = line.removeprefix("error[").partition("]: ")
                assert code == code.lower() and " " not in code
                assert message and not message[0].isupper(), message
                assert not message.endswith(".")


def test_only_the_bad_line_is_reported() -> None:
    """A bracket that is never closed does not swallow what follows, nor does a good one lose a line."""
    text = (
        "pattern p(\n  x: int\n) -> O[q]:\n"
        "a = f(x,\n      y)\n"
        "b = f(x, y\n"
        "c[q] = (1 +\n"
        "over h\n"
        "d = f(\n  top(n, count\n  = 2) x\n)\n"
        "O[q] = ]\n"
    )
    source = Source("p.attn", text)
    with pytest.raises(PatternError) as caught:
        parse(source)
    lines = [source.position(d.labels[0].span.start)[0] for d in caught.value.diagnostics]
    assert lines == [6, 7, 13]


@pytest.mark.parametrize("name", ["nsa", "std"])
@pytest.mark.parametrize("bad", ["a b", "S[q = 1", "x = f(", "y = 1)", "align q k", "z = 0 < 1 < 2"])
def test_one_bad_line_in_a_good_file(name: str, bad: str) -> None:
    """Wherever it is put, it is the only one that is reported."""
    source = Source.read(resources.folder("patterns") / f"{name}.attn")
    file = parse(source)
    said = [*file.definitions, *(file.pattern.statements if file.pattern else ())]
    for statement in said:
        start = statement.span.start
        text = f"{source.text[:start]}{bad}\n{source.text[start:]}"
        with pytest.raises(PatternError) as caught:
            parse(Source(name, text))
        placed = [d for d in caught.value.diagnostics if d.code != "no-pattern"]
        (diagnostic,) = placed
        assert start <= diagnostic.labels[0].span.start < start + len(bad)


def test_logical_lines() -> None:
    text = 'a = 1 # one (\n"""doc (\n"""\nb = (2\n  + 3)\n\nc = [4\nd = 5'
    said = [" ".join(word.text for word in line) for line in logical_lines(text)]
    assert said == ["a = 1", '"""doc (\n"""', "b = ( 2 + 3 )", "c = [ 4", "d = 5"]


def test_the_tables_speak_of_the_same_statements() -> None:
    assert {*FORMS} == {*STATEMENTS, "pattern"}
    assert {*ARGUMENTS} <= {*STATEMENTS}
    assert "where" in RESERVED


@pytest.mark.parametrize("word", [form for said in FORMS.values() for form in said.split("`")[1::2]])
def test_the_forms_that_help_shows_are_right(word: str) -> None:
    """What a message tells people to write does parse."""
    if word.startswith("pattern"):
        parse(Source("help.attn", f"{word}\n"))
    else:
        parse(Source("help.attn", f"pattern p() -> O[]:\n{word}\n"))


def test_a_line_is_not_refused_twice() -> None:
    """What the grammar allows but the tree cannot hold is found in good and in bad files alike."""
    good = "pattern p() -> O[]:\n    O = 99999999999999999999\n"
    for text in (good, good + "    P = )\n"):
        with pytest.raises(PatternError) as caught:
            parse(Source("p.attn", text))
        assert [d.code for d in caught.value.diagnostics].count("number-too-large") == 1
