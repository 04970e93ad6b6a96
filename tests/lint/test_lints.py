"""What `check` warns of: every warning on a pattern made for it, none on those that are shipped.

`tests/errors/lint/*.attn` may not be meant, `tests/errors/demands/*.attn` are not what they require; the
`.txt` beside each is all that is said of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings

from attncc import cli
from attncc.diagnostics import PatternError, render
from attncc.ir.check import check
from attncc.lint import lints
from attncc.pipeline import demanded, meaning, planned
from attncc.source import Source
from attncc.syntax.parser import parse
from attncc.syntax.printer import show
from tests.strategies import Drawn, patterns

ROOT = Path(__file__).parents[2]
LINTS = sorted((ROOT / "tests" / "errors" / "lint").glob("*.attn"))
DEMANDS = sorted((ROOT / "tests" / "errors" / "demands").glob("*.attn"))
PATTERNS = sorted(p for p in (ROOT / "patterns").glob("*.attn") if p.stem != "std")

MEANT: dict[str, set[str]] = {name: {"cache-unsafe"} for name in ("sparse_strided", "dilated")}
"""Warnings that published patterns deserve."""

CODES = {"empty-row", "future-leak", "cache-unsafe", "same-heads", "unseen-key", "unreachable"}


def said_of(path: Path) -> str:
    source = Source(path.name, path.read_text("utf-8"))
    return render(source, lints(check(parse(source), source), source))


@pytest.mark.parametrize("path", LINTS, ids=lambda p: p.stem)
def test_what_is_said(path: Path) -> None:
    assert said_of(path) + "\n" == path.with_suffix(".txt").read_text("utf-8")


def test_every_warning_has_an_example() -> None:
    text = "".join(path.with_suffix(".txt").read_text("utf-8") for path in LINTS)
    assert all(f"warning[{code}]" in text for code in CODES)


@pytest.mark.parametrize("path", PATTERNS, ids=lambda p: p.stem)
def test_no_false_alarm(path: Path) -> None:
    source = Source.read(path)
    found = lints(meaning(source), source)
    assert {d.code for d in found} == MEANT.get(path.stem, set()), render(source, found)


@pytest.mark.parametrize("path", DEMANDS, ids=lambda p: p.stem)
def test_demands_that_are_not_met(path: Path) -> None:
    source = Source(path.name, path.read_text("utf-8"))
    with pytest.raises(PatternError) as raised:
        demanded(meaning(source), source)
    assert str(raised.value) + "\n" == path.with_suffix(".txt").read_text("utf-8")
    with pytest.raises(PatternError) as compiled:
        planned(meaning(source), source)
    assert str(compiled.value).startswith(str(raised.value))


HELD = [
    ("causal", "covers"),
    ("prefix_lm", "covers"),
    ("differential", "covers"),
    ("s2", "causal"),
    ("s2", "covers or alike or |g| < stride"),
    ("longlora", "causal"),
    ("longlora", "cache <= group"),
    ("window", "cache <= window"),
    ("window", "cache <= window - 1"),
    ("streaming", "cache <= window + sinks"),
    ("chunked", "cache <= chunk"),
    ("causal", "cache <= |k|"),
]


def demanding(name: str, demand: str) -> Source:
    text = (ROOT / "patterns" / f"{name}.attn").read_text("utf-8")
    return Source(name, text.replace("    align q to k", f"    align q to k\n    require {demand}"))


@pytest.mark.parametrize(("name", "demand"), HELD)
def test_demands_that_are_met(name: str, demand: str) -> None:
    source = demanding(name, demand)
    demanded(meaning(source), source)


@pytest.mark.parametrize(
    ("name", "demand", "words"),
    [
        ("s2", "covers or alike", "|g| = 1"),
        ("s2", "covers or |g| < stride", "not proved"),
        # heads that step by 2 take every other residue, however many steps fit into the stride
        ("s2", "covers or alike or |g| * max(1, stride // |g|) < stride", "not covered: row"),
        ("window", "covers", "window = 4096"),
        ("window", "cache <= window - 2", "4,095 keys are still seen later"),
        ("document", "covers", "not proved"),
        ("prefix_lm", "causal", "`q` = 0 sees `k` = 1"),
    ],
)
def test_what_breaks_a_demand(name: str, demand: str, words: str) -> None:
    source = demanding(name, demand)
    with pytest.raises(PatternError) as raised:
        demanded(meaning(source), source)
    assert words in str(raised.value)


def test_check_warns_and_succeeds() -> None:
    path = str(ROOT / "tests" / "errors" / "lint" / "empty-row.attn")
    result = CliRunner().invoke(cli.main, ["check", path])
    assert (result.exit_code, result.stdout) == (0, "1 file, no mistakes, 1 warning\n")
    assert result.stderr.startswith("warning[empty-row]")
    assert CliRunner().invoke(cli.main, ["check", "--strict", path]).exit_code == 1
    found = json.loads(CliRunner().invoke(cli.main, ["check", "--json", path]).stdout)
    assert [(d["severity"], d["code"]) for d in found] == [("warning", "empty-row")]


def test_a_predicate_used_elsewhere_is_left_alone() -> None:
    """What is asked of `near` beside a reduction may need what the reduction does not."""
    text = (ROOT / "tests" / "errors" / "lint" / "unreachable-named.attn").read_text("utf-8")
    used = text.replace("P[q,k] * V[k,e]", "(if near[q,k] then P[q,k] else 0) * V[k,e]")
    assert used != text
    source = Source("used", used)
    assert lints(meaning(source), source) == ()


@settings(max_examples=60)
@given(patterns())
def test_any_pattern(drawn: Drawn) -> None:
    """Of any pattern something can be said, at a place in its text."""
    source = Source("any", show(drawn.file))
    for found in lints(meaning(source), source):
        assert found.severity == "warning" and found.code in CODES
        assert all(0 < label.span.end <= len(source.text) for label in found.labels)


def test_rows_past_the_last_query_are_positions() -> None:
    """`q < |q|` is no triviality where queries are fewer than keys: `q` is a position among these."""
    text = """pattern p(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e]:
    over b, h
    align q to k
    require covers
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    P[q,k] = softmax(k where k <= q and q < |q|) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
"""
    source = Source("p.attn", text)
    with pytest.raises(PatternError) as raised:
        demanded(meaning(source), source)
    assert [d.code for d in raised.value.diagnostics] == ["not-covered"]
    assert "unreachable" not in {d.code for d in lints(meaning(source), source)}
