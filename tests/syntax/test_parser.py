"""Every form of the language becomes its tree, comments and docstrings find their statement."""

from __future__ import annotations

import pytest
from lark import Lark

from attncc import resources
from attncc.diagnostics import PatternError
from attncc.source import Source
from attncc.syntax import ast
from attncc.syntax.parser import parse

q, k, x, y = (ast.Name(n) for n in "qkxy")


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


def over(
    op: str, *indices: str, body: ast.Expr, where: ast.Expr | None = None, **options: ast.Expr
) -> ast.Over:
    return ast.Over(op, tuple(map(ast.Name, indices)), where, tuple(options.items()), body)


def binary(left: ast.Expr, op: str, right: ast.Expr) -> ast.Binary:
    return ast.Binary(op, left, right)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("1", ast.Number(1)),
        ("1.", ast.Number(1.0)),
        (".5e-3", ast.Number(0.0005)),
        ("1e3", ast.Number(1000.0)),
        ("true", ast.Number(True)),
        ("inf", ast.Number(float("inf"))),
        ("truely", ast.Name("truely")),
        ("|k|", ast.Extent("k")),
        ("K[n, i, k - q]", ast.Subscript("K", (ast.Name("n"), ast.Name("i"), binary(k, "-", q)))),
        ("-x * y", ast.Unary("-", binary(x, "*", y))),
        ("-x + y", binary(ast.Unary("-", x), "+", y)),
        ("x - y - q", binary(binary(x, "-", y), "-", q)),
        ("x // y % q", binary(binary(x, "//", y), "%", q)),
        ("x ** y ** q", binary(x, "**", binary(y, "**", q))),
        ("-x ** y", ast.Unary("-", binary(x, "**", y))),
        ("x <= -y", binary(x, "<=", ast.Unary("-", y))),
        ("not x == y", ast.Unary("not", binary(x, "==", y))),
        ("x and not y or q", binary(binary(x, "and", ast.Unary("not", y)), "or", q)),
        ("x or y and q", binary(x, "or", binary(y, "and", q))),
        ("if x then y else if q then k else x", ast.If(x, y, ast.If(q, k, x))),
        ("if if x then y else q then k else x", ast.If(ast.If(x, y, q), k, x)),
        ("if x then y else q or k", ast.If(x, y, binary(q, "or", k))),
        ("f()", ast.Call("f", ())),
        ("max(x, y)", ast.Call("max", (x, y))),
        ("max(k) x", over("max", "k", body=x)),
        ("max(k) (x)", over("max", "k", body=x)),
        ("max(k) |k|", over("max", "k", body=ast.Extent("k"))),
        ("sum(k, q) x * y", over("sum", "k", "q", body=binary(x, "*", y))),
        (
            "2 * sum(k) x / y - q",
            binary(binary(ast.Number(2), "*", over("sum", "k", body=binary(x, "/", y))), "-", q),
        ),
        ("(sum(k) x) / y", binary(over("sum", "k", body=x), "/", y)),
        ("sum(k) sum(q) x", over("sum", "k", body=over("sum", "q", body=x))),
        ("sum(k) x <= y", binary(over("sum", "k", body=x), "<=", y)),
        ("sum(k where k <= q) x", over("sum", "k", where=binary(k, "<=", q), body=x)),
        ("top(k, count = 16) x", over("top", "k", count=ast.Number(16), body=x)),
        ("top(k where x, a = 1, b = y) x", over("top", "k", where=x, a=ast.Number(1), b=y, body=x)),
        ("(\n    x\n    + y)", binary(x, "+", y)),
        ("f(x, # one\n  # two\n y)", ast.Call("f", (x, y))),
    ],
)
def test_expressions(text: str, tree: ast.Expr) -> None:
    found = expr(text)
    assert found == tree
    assert repr(found) == repr(tree)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("over x, y", ast.OverStatement((x, y), ())),
        ("over x with y = q, k = 1", ast.OverStatement((x,), ((y, q), (k, ast.Number(1))))),
        ("along q, k", ast.Along((q, k))),
        ("align q to k", ast.Align(q, k, None)),
        ("align q to k at start[x]", ast.Align(q, k, ast.Subscript("start", (x,)))),
        ("split k into x, y by |k| // 2", ast.Split(k, x, y, binary(ast.Extent("k"), "//", ast.Number(2)))),
        ("index x: |k|", ast.Declare(x, ast.Extent("k"))),
        ("def f(a) = a", ast.Define("f", ("a",), "", (), "", ast.Name("a"))),
        ("def f(i) a = a", ast.Define("f", ("i",), "", (), "a", ast.Name("a"))),
        ("def f(i where c, n, m) a = a", ast.Define("f", ("i",), "c", ("n", "m"), "a", ast.Name("a"))),
        ("require causal", ast.Require(ast.Name("causal"))),
        ("require passes(k) <= 1", ast.Require(binary(ast.Call("passes", (k,)), "<=", ast.Number(1)))),
        ("assume x in [-5, 0]", ast.AssumeRange(x, ast.Unary("-", ast.Number(5)), ast.Number(0))),
        ("assume sorted x", ast.AssumeSorted(x)),
        ("y = x", ast.Equate(y, (), x)),
        ("y[] = x", ast.Equate(y, (), x)),
        ("S[q,k] = x", ast.Equate(ast.Name("S"), (q, k), x)),
        # the words of statements are names wherever no statement begins
        ("y = index + over * at", ast.Equate(y, (), expr("(index) + (over) * (at)"))),
        ("align to to at at by", ast.Align(ast.Name("to"), ast.Name("at"), ast.Name("by"))),
        ("overlap = x", ast.Equate(ast.Name("overlap"), (), x)),
    ],
)
def test_statements(text: str, tree: ast.Statement) -> None:
    assert statement(text) == tree


def test_header() -> None:
    pattern = parsed(
        "pattern p(\n"
        "    Q[b,q], C[k]: const, doc[b,k]: int, seen[k]: bool, s[], # learned\n"
        "    n: int = -4, x: float, y: float = -inf, f: bool = true, z: float = 1\n"
        ") -> O[q], lse[]:\n"
    ).pattern
    assert pattern is not None
    b = ast.Name("b")
    assert repr(pattern.params) == repr(
        (
            ast.TensorParam("Q", (b, q)),
            ast.TensorParam("C", (k,), "const"),
            ast.TensorParam("doc", (b, k), "int"),
            ast.TensorParam("seen", (k,), "bool"),
            ast.TensorParam("s", ()),
            ast.ScalarParam("n", "int", -4),
            ast.ScalarParam("x", "float"),
            ast.ScalarParam("y", "float", -float("inf")),
            ast.ScalarParam("f", "bool", True),
            ast.ScalarParam("z", "float", 1),
        )
    )
    assert pattern.outputs == (ast.OutputParam("O", (q,)), ast.OutputParam("lse", ()))
    assert pattern.notes == ast.Notes(before=("learned",))


def test_docstrings_and_comments() -> None:
    file = parsed(
        "# first\n"
        '"""About the file.\n\n      More.\n    """  # behind it\n'
        "def f(x) = x  # a formula\n"
        "\n"
        "# the pattern\n"
        "pattern p() -> O[]: #header\n"
        '    """About the pattern."""\n'
        "    # one\n"
        "    #\n"
        "    #  two\n"
        "    O = (1  # inside\n"
        "         + 2)  # last\n"
        "  # end\n"
    )
    assert file.doc == "About the file.\n\nMore."
    assert file.definitions[0].notes == ast.Notes(("first", "behind it"), "a formula")
    assert file.pattern is not None
    assert file.pattern.doc == "About the pattern."
    assert file.pattern.notes == ast.Notes(("the pattern",), "header")
    assert file.pattern.statements[0].notes == ast.Notes(("one", "", " two", "inside"), "last")
    assert file.notes_after == ("end",)


def test_line_ends_do_not_matter() -> None:
    text = '"""Two\nlines."""\npattern p(\n  x: int\n) -> O[]:  # c\n    O = (x\n    + 1)\n'
    assert parsed(text.replace("\n", "\r\n")) == parsed(text)
    assert parsed(text.rstrip("\n")) == parsed(text)
    assert parsed("\n\n  \n" + text.replace("\n    ", "\n")) == parsed(text)


def test_every_mistake_is_reported_where_it_is() -> None:
    text = (
        "pattern p() -> O[]:\n    a = (1\n    b = 2\n    c = 3 +\n    d = 0 < 1 < 2\n    O = f(\n  1,\n 2)\n"
    )
    with pytest.raises(PatternError) as caught:
        parsed(text)
    source = caught.value.source
    lines = [source.position(d.labels[0].span.start)[0] for d in caught.value.diagnostics]
    assert lines == [2, 4, 5]


def test_the_grammar_has_no_conflict(caplog: pytest.LogCaptureFixture) -> None:
    """lark settles conflicts without a word, but for a warning where it is asked to debug."""

    def conflicts(grammar: str, *start: str) -> int:
        caplog.clear()
        Lark(grammar, parser="lalr", start=list(start), debug=True)
        return sum("conflict" in record.message.lower() for record in caplog.records)

    with caplog.at_level("WARNING", logger="lark"):
        assert conflicts('start: "i" start | "i" start "e" start | "x"', "start") > 0
        assert conflicts(resources.grammar(), "file", "line") == 0
