"""Every semantic mistake: what is said about it, that all are said at once, and that one is said once.

`tests/errors/check/*.attn` are malformed patterns; the `.txt` beside each is all that checking says of it.
"""

from __future__ import annotations

import ast as python
from pathlib import Path

import pytest

from attncc.diagnostics import PatternError
from attncc.ir.check import check
from attncc.source import Source
from attncc.syntax.parser import parse

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "errors" / "check"
FILES = sorted(FOLDER.glob("*.attn"))


def mistakes(source: Source, outputs: tuple[str, ...] = ()) -> PatternError:
    file = parse(source)
    with pytest.raises(PatternError) as raised:
        check(file, source, outputs)
    return raised.value


def codes(text: str) -> list[str]:
    return [d.code for d in mistakes(Source("test.attn", text)).diagnostics]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_what_is_said(path: Path) -> None:
    found = mistakes(Source(path.name, path.read_text("utf-8")))
    assert str(found) + "\n" == path.with_suffix(".txt").read_text("utf-8")


def test_every_code_has_an_example() -> None:
    """A code is the first argument of `mistakes.add`, or of a Diagnostic."""
    used = set()
    for path in sorted((ROOT / "attncc" / "ir").glob("*.py")):
        for call in python.walk(python.parse(path.read_text("utf-8"))):
            match call:
                case python.Call(
                    func=python.Attribute(attr="add") | python.Name(id="Diagnostic"),
                    args=[python.Constant(value=str(code)), _, *_],
                ):
                    used.add(code)
                case _:
                    pass
    assert len(used) > 20
    shown = {
        d.code for path in FILES for d in mistakes(Source(path.name, path.read_text("utf-8"))).diagnostics
    }
    # chosen among two where they are reported
    assert used <= shown, used - shown
    assert {"missing-body", "unknown-function"} <= shown


def test_every_expectation_belongs_to_a_file() -> None:
    assert {p.stem for p in FOLDER.glob("*.txt")} == {p.stem for p in FILES}


def test_all_mistakes_are_reported_at_once() -> None:
    text = (FOLDER / "many.attn").read_text("utf-8")
    lines = [
        Source("many", text).position(d.labels[0].span.start)[0]
        for d in mistakes(Source("many", text)).diagnostics
    ]
    # one on each line of the body but the last, which has two
    assert lines == [4, 5, 6, 7, 8, 8]


def test_one_mistake_is_reported_once() -> None:
    """Whatever reads it, directly or not, and wherever a definition takes it."""
    text = """pattern p(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e], lse[b,h,q]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d] * scale
    P[q,k] = softmax(k where k <= q) S[q,k]
    O[q,e] = sum(k) P[h,q,k] * V[k,e]
    lse[q] = logsumexp(k where k <= q) S[q,k]
"""
    assert codes(text) == ["unknown-name"]
    assert codes(
        text.replace(" * scale", "").replace("P[h,q,k]", "P[q,k] * (if k <= win then 1 else 0)")
    ) == ["unknown-name"]
    twice = text.replace(" * scale", "").replace("softmax(k where k <= q)", "softmax(k where k <= win)")
    assert codes(twice) == ["unknown-name"]


def test_kinds_that_are_not_known_are_not_reported() -> None:
    text = """pattern p(Q[q]) -> O[q]:
    along q
    a[q] = nothing[q]
    b[q] = if a[q] then 1 else 2
    c[q] = a[q] + 1
    d[q] = Q[a[q]]
    O[q] = b[q] + c[q] + d[q]
"""
    assert codes(text) == ["unknown-name"]


@pytest.mark.parametrize(
    "predicate",
    [
        "k <= q",
        "k // 4 <= n",
        "i < k % 4",
        "doc[k] == doc[q]",
        "k < |q|",
        "c < k and c > d",
        "m == n",
        "argmax(k) K[k,0] <= q",
        "tab[x] < k",
    ],
)
def test_what_may_be_compared(predicate: str) -> None:
    text = f"""pattern p(Q[q,d], K[k,d], X[x], doc[k]: int, tab[x]: int) -> O[q]:
    align q to k
    align m to n
    along x
    split k into n, i by 4
    index c: |k| // 2
    O[q] = sum(k, n, i, c, m, x, d where {predicate}) Q[q,d] * K[k,d] * X[x] * (n + i + m + c)
"""
    source = Source("test.attn", text)
    check(parse(source), source)


@pytest.mark.parametrize(
    "predicate", ["x < k", "n < x", "m != x // 4", "x - q < 4", "(if q < 3 then k else x) < q"]
)
def test_what_may_not_be_compared(predicate: str) -> None:
    text = f"""pattern p(Q[q,d], K[k,d], X[x], doc[k]: int, tab[x]: int) -> O[q]:
    align q to k
    align m to n
    along x
    split k into n, i by 4
    index c: |k| // 2
    O[q] = sum(k, n, i, c, m, x, d where {predicate}) Q[q,d] * K[k,d] * X[x] * (n + i + m + c)
"""
    assert codes(text) == ["unaligned-comparison"]


@pytest.mark.parametrize(
    "body",
    [
        "x[t - 1]",
        "x[t - 2] + x[-1 + t]",
        "sum(j where j < t) x[j]",
        "sum(j where t > j) x[j - 3]",
        "sum(j where j <= t - 1 and f[j] > 0) x[j]",
        "sum(j where not (j >= t or f[j] > 0)) x[j]",
        "sum(j where j + 1 <= t) f[j] * max(i where i <= j) x[i]",
        "if t > 3 then x[t - 3] else f[t]",
        "sum(j) (if j < t then x[j] else 0)",
        "sum(j) (if t <= j then 0 else x[j])",
        "sum(j where j + 2 == t) x[j]",
    ],
)
def test_recurrences_that_are_proved(body: str) -> None:
    source = Source("test.attn", RECURRENT.format(body=body))
    check(parse(source), source)


@pytest.mark.parametrize(
    "body",
    [
        "x[t]",
        "x[t + 1]",
        "x[0]",
        "x[t // 2]",
        "x[t - n]",
        "sum(j where j <= t) x[j]",
        "sum(j where j < t) x[j + 1]",
        "sum(j where j < t or f[j] > 0) x[j]",
        "sum(j where f[j] > 0) x[j]",
        "sum(j where j < t) max(j) x[j]",
        "sum(t where t < 4) x[t - 1] + f[t]",
        "if t > 0 then f[t] else x[t]",
        "sum(j where x[j] > 0 and j < t) f[j]",
        "sum(j where j < t) max(i where i <= j + 1) x[i]",
    ],
)
def test_recurrences_that_are_not(body: str) -> None:
    assert codes(RECURRENT.format(body=body)) == ["cyclic-recurrence"]


RECURRENT = """pattern p(f[t], n: int) -> x[t]:
    along t
    align j to t
    align i to t
    x[t] = f[t] + ({body})
"""


def test_outputs_that_no_equation_defines() -> None:
    source = Source("p", "pattern p(Q[q]) -> O[q]:\n along q\n O[q] = Q[q]\n")
    (found,) = mistakes(source, ("P",)).diagnostics
    assert (found.code, found.labels) == ("unknown-output", ())
    assert "the equations are `O`" in found.help
