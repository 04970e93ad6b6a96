"""What is shown parses to the same tree, and is shown again as the same text: one canonical form."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from attncc import resources
from attncc.source import Source
from attncc.syntax import ast
from attncc.syntax.layout import WIDTH
from attncc.syntax.parser import parse
from attncc.syntax.printer import show, show_expr, show_statement
from tests.strategies_syntax import exprs, files

HEADER = "pattern p(x: int) -> O[q]:\n"


def parsed(text: str) -> ast.File:
    return parse(Source("test.attn", text))


@given(files())
@settings(max_examples=3 * settings().max_examples)
def test_round_trip(file: ast.File) -> None:
    text = show(file)
    again = parsed(text)
    assert again == file
    assert repr(again) == repr(file)  # 1, 1.0 and true are equal in Python
    assert show(again) == text


@given(exprs(6))
@settings(max_examples=settings().max_examples)
def test_brackets_stand_only_where_they_are_needed(e: ast.Expr) -> None:
    """Without any one pair of brackets that groups, the text says something else, or nothing."""
    text = show_expr(e)
    for start, end in _groups(text):
        # a choice may do without inside another; there they are for the reader
        if text[start + 1 : end].startswith("if "):
            continue
        bare = text[:start] + " " + text[start + 1 : end] + " " + text[end + 1 :]
        try:
            (equation,) = parsed(f"{HEADER}O = {bare}").pattern.statements  # type: ignore[union-attr]
        except Exception as refused:
            assert type(refused).__name__ == "PatternError"
            continue
        assert isinstance(equation, ast.Equate)
        assert equation.body != e, bare


def _groups(text: str) -> list[tuple[int, int]]:
    """Places of the brackets that group: those no name stands before."""
    found, waiting = [], []
    for place, char in enumerate(text):
        if char == "(":
            waiting.append(place)
        elif char == ")":
            start = waiting.pop()
            if start == 0 or not (text[start - 1].isalnum() or text[start - 1] == "_"):
                found.append((start, place))
    return found


@pytest.mark.parametrize(
    "path", sorted(resources.folder("patterns").glob("*.attn")), ids=lambda path: path.stem
)
def test_patterns_are_in_the_canonical_form(path) -> None:  # type: ignore[no-untyped-def]
    source = Source.read(path)
    assert show(parse(source)) == source.text


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("S[ q , k ]=T[q,k]", "S[q,k] = T[q,k]"),
        ("S[q]=T[q,k-1]+T[0,  q]", "S[q] = T[q, k - 1] + T[0,q]"),
        ("O = ((a)+(b*c))", "O = a + b * c"),
        ("O = (a+b)*c-(d-e)", "O = (a + b) * c - (d - e)"),
        ("O = (a*b)/(c/d)", "O = a * b / (c / d)"),
        ("O = (a**b)**c**d", "O = (a ** b) ** c ** d"),
        ("O = (-a)*b - (-c)", "O = (-a) * b - (-c)"),
        ("O = -(a*b)", "O = -a * b"),
        ("O = (sum(k)(x*y))+(sum(k)x)*y", "O = sum(k) x * y + (sum(k) x) * y"),
        ("O = 2*(sum(k where(k<=q))(x))", "O = 2 * sum(k where k <= q) x"),
        ("O = sum(k) (a+b)", "O = sum(k) (a + b)"),
        ("O = not(a==b)and(c or d)", "O = not a == b and (c or d)"),
        ("O = (a and b) or c", "O = a and b or c"),
        ("O = if(if a then b else c)then(if d then e else f)else(if g then h else i)",
         "O = if (if a then b else c) then (if d then e else f) else if g then h else i"),
        ("O = (if a then b else c)+1", "O = (if a then b else c) + 1"),
        ("O = top(n,count=16,   mass = 1.)R[q,n]", "O = top(n, count = 16, mass = 1.0) R[q,n]"),
        ("O = 1E-06 + 1e+30 + .50 + 007", "O = 1e-6 + 1e30 + 0.5 + 7"),
        ("over b,h with g=h//2,r=3", "over b, h with g = h // 2, r = 3"),
        ("split  k into n,i  by(block)", "split k into n, i by block"),
        ("assume g in[-5,0]", "assume g in [-5, 0]"),
        ("def f(i,j where c,n)x=x", "def f(i, j where c, n) x = x"),
        ("O[] = 1", "O = 1"),
    ],
)  # fmt: skip
def test_statements(written: str, shown: str) -> None:
    file = parsed(HEADER + written)
    assert file.pattern is not None
    assert show_statement(file.pattern.statements[0]) == shown
    assert show(file) == f"{HEADER}    {shown}\n"


def test_file() -> None:
    written = (
        '"""A title.\n   more\n   of "it" """\n'
        "#one\n"
        "def f(x)=x #two\n\n\n"
        "def g(x)=x\n"
        "pattern p ( Q[ q , d ] ,T[],n:int=-4,\n x : float = -inf, # three\n f:bool=false) -> O[q],l[] :\n"
        '"""In it.\n\n  more"""\n'
        "\n\n  # four\n"
        "O[q]=1\n"
        "\n"
        "  #   five\n"
    )
    assert show(parsed(written)) == (
        '"""A title.\nmore\nof "it"\n"""\n'
        "\n"
        "# one\n"
        "def f(x) = x  # two\n"
        "\n"
        "def g(x) = x\n"
        "\n"
        "# three\n"
        "pattern p(Q[q,d], T[], n: int = -4, x: float = -inf, f: bool = false) -> O[q], l[]:\n"
        '    """In it.\n\n    more\n    """\n'
        "    # four\n"
        "    O[q] = 1\n"
        "    #   five\n"
    )


def test_long_lines_break_inside_brackets() -> None:
    a, b, c = "a" * 40, "b" * 40, "c" * 40
    written = (
        f"pattern p({a}: int, {b}: int, {c}[q]) -> O[q]:\n"
        f"S = {a} + {b} * {c} - {a}  # behind\n"
        f"P = softmax(k where {a} <= {b} and ({a} or {c}) and x) S[q,k]\n"
        f"Z = if {a} then {b} else if {b} then {c} else {a}\n"
        f"W = sum(d) {a} * {b} / {c}\n"
        f"V = f({a}, g({b}), {c}) + 1\n"
        f"def f({a}, {b}, {c}) = 1\n"
    )
    file = parsed(written)
    text = show(file)
    assert text == (
        "pattern p(\n"
        f"    {a}: int,\n"
        f"    {b}: int,\n"
        f"    {c}[q]\n"
        ") -> O[q]:\n"
        "    S = (\n"
        f"        {a}\n"
        f"        + {b} * {c}\n"
        f"        - {a}\n"
        "    )  # behind\n"
        "    P = softmax(\n"
        f"        k where {a} <= {b}\n"
        f"        and ({a} or {c})\n"
        "        and x\n"
        "    ) S[q,k]\n"
        "    Z = (\n"
        f"        if {a} then {b}\n"
        f"        else if {b} then {c}\n"
        f"        else {a}\n"
        "    )\n"
        "    W = sum(d) (\n"
        f"        {a}\n"
        f"        * {b}\n"
        f"        / {c}\n"
        "    )\n"
        "    V = (\n"
        "        f(\n"
        f"            {a},\n"
        f"            g({b}),\n"
        f"            {c}\n"
        "        )\n"
        "        + 1\n"
        "    )\n"
        "    def f(\n"
        f"        {a},\n"
        f"        {b},\n"
        f"        {c}\n"
        "    ) = 1\n"
    )
    assert parsed(text) == file
    assert max(map(len, text.split("\n"))) <= WIDTH


@pytest.mark.parametrize("width", [WIDTH, WIDTH + 1])
def test_a_line_breaks_where_it_no_longer_fits(width: int) -> None:
    name = "x" * (width - len("    O = 1 + "))
    text = show(parsed(f"{HEADER}O = 1 + {name}\n"))
    lines = text.removeprefix(HEADER).rstrip("\n").split("\n")
    assert (len(lines) == 1) == (width <= WIDTH)
    assert max(map(len, lines)) <= WIDTH


def test_every_comment_survives() -> None:
    """Wherever it stands, the last line of a file and the inside of a bracket included."""
    text = (
        "# 0\npattern p(# 1\n  x: int # 2\n) # 3\n-> O[]: # 4\n# 5\n"
        '"""doc"""  # 6\n# 7\nO = ( # 8\n# 9\n1 # 10\n) # 11\n# 12\n'
    ).replace(") # 3\n->", ") ->")
    shown = show(parsed(text))
    for number in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12):
        assert f"# {number}\n" in shown
