"""A use of a definition is the tree it stands for; whatever would change a name's meaning is diagnosed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from attncc import resources
from attncc.diagnostics import PatternError
from attncc.ops import NAMED, REDUCTIONS
from attncc.source import Source
from attncc.syntax import ast
from attncc.syntax.build import DEEPEST
from attncc.syntax.definitions import expand, form, known_names, standard
from attncc.syntax.parser import parse
from attncc.syntax.printer import show_statement
from tests.strategies_syntax import exprs

HEADER = "pattern p() -> O[]:\n"


def expanded(text: str) -> ast.Pattern:
    source = Source("test.attn", text)
    file = parse(source)
    assert file.pattern is not None
    return expand(file.pattern, file.definitions, source)


def said(line: str, *definitions: str) -> str:
    """A line of a pattern without its definitions."""
    (statement,) = expanded("\n".join(definitions) + f"\n{HEADER}{line}\n").statements
    return show_statement(statement)


def mistakes(line: str, *definitions: str) -> list[tuple[str, str, str]]:
    """Code, message and help of everything wrong with a line and definitions."""
    with pytest.raises(PatternError) as caught:
        said(line, *definitions)
    return [(d.code, d.message, d.help) for d in caught.value.diagnostics]


@pytest.mark.parametrize(
    ("line", "definition", "result"),
    [
        ("O = f(a + b)", "def f(x) = x * x", "O = (a + b) * (a + b)"),
        ("O = 2 ** f(a)", "def f(x) = x + 1", "O = 2 ** (a + 1)"),
        ("O = -f(a) * b", "def f(x) = -x", "O = -(-a) * b"),
        ("O = f(f(a))", "def f(x) = x + 1", "O = a + 1 + 1"),
        ("O = f(b, a)", "def f(a, b) = a - b", "O = b - a"),
        ("O = f()", "def f() = sum(d) Q[d]", "O = sum(d) Q[d]"),
        ("O = f(T, q)", "def f(x, i) = x[i + 1] / |i|", "O = T[q + 1] / |q|"),
        ("O = f(k) S[q,k]", "def f(i) x = sum(i) x * x", "O = sum(k) S[q,k] * S[q,k]"),
        ("O = f(k) x", "def f(i where c) y = sum(i where c) y", "O = sum(k where true) x"),
        ("O = f(k where k <= q) x", "def f(i where c) y = sum(i where c) y", "O = sum(k where k <= q) x"),
        ("O = f(k where a or b) x", "def f(i where c) y = if c and d then y else 0",
         "O = if (a or b) and d then x else 0"),
        ("O = f(k, n = 2) x", "def f(i where c, n) y = sum(i where c) y * n", "O = sum(k where true) x * 2"),
        ("O = f(k, q) x", "def f(i, j) y = sum(i) max(j) y", "O = sum(k) max(q) x"),
        ("O = f(y, x where y < x) S", "def f(i where c) s = sum(i where c) s", "O = sum(y, x where y < x) S"),
        ("O = sum(k) f(k)", "def f(k) = k * k", "O = sum(k) k * k"),
        ("over b with g = f(b)", "def f(x) = x // 2", "over b with g = b // 2"),
        ("align q to k at f(b)", "def f(x) = start[x]", "align q to k at start[b]"),
        ("split k into n, i by f(2)", "def f(x) = x * x", "split k into n, i by 2 * 2"),
        ("index c: f(k)", "def f(i) = |i| // 2", "index c: |k| // 2"),
        ("require f(k) <= 1", "def f(i) = passes(i)", "require passes(k) <= 1"),
        ("assume g in [f(1), 0]", "def f(x) = -x", "assume g in [-1, 0]"),
        ("O = T[f(k)] + g(f(k))", "def f(x) = x - 1", "O = T[k - 1] + g(k - 1)"),
        ("O = if f(a) then b else c", "def f(x) = x > 0", "O = if a > 0 then b else c"),
    ],
)  # fmt: skip
def test_uses(line: str, definition: str, result: str) -> None:
    assert said(line, definition) == result


def test_definitions_use_definitions_in_any_order() -> None:
    first, second = "def f(x) = g(x) + 1", "def g(x) = x * x"
    for order in ((first, second), (second, first)):
        assert said("O = f(a)", *order) == "O = a * a + 1"


def test_definitions_of_a_pattern_are_taken_out() -> None:
    pattern = expanded(f"{HEADER}a = f(1)\ndef f(x) = x + 1\nb = f(2)\n")
    assert [show_statement(s) for s in pattern.statements] == ["a = 1 + 1", "b = 2 + 1"]


def test_options_and_arguments_choose_among_definitions() -> None:
    definitions = (
        "def f(i where c, n) x = sum(i where c) x * n",
        "def f(i where c, m) x = max(i where c) x + m",
        "def f(x) = x",
        "def f(x, y) = x - y",
    )
    assert said("O = f(k, n = 2) x + f(k, m = 3) y", *definitions) == (
        "O = sum(k where true) x * 2 + (max(k where true) y + 3)"
    )
    assert said("O = f(a) * f(a, b)", *definitions) == "O = a * (a - b)"


def test_a_files_own_definitions_come_first() -> None:
    assert said("O = softcap(x, 2)", "def softcap(x, cap) = min(x, cap)") == "O = min(x, 2)"
    # those of another form stay
    assert said("O = softcap(x, 2)", "def softcap(x) = x") == "O = 2 * tanh(x / 2)"


def test_what_nothing_defines_is_left_alone() -> None:
    line = "O = unknown(a) + strange(k where k <= q, n = 2) exp(x)"
    assert said(line) == line


def test_spans_are_those_of_the_use() -> None:
    text = f"def f(i where c) x = sum(i where c) x * 2 + |i|\n{HEADER}O = 1 + f(k) S[k]\n"
    (equation,) = expanded(text).statements
    assert isinstance(equation, ast.Equate) and isinstance(equation.body, ast.Binary)
    use = text.index("f(k)")
    found = [equation.body.right]
    seen = []
    while found:
        e = found.pop()
        seen.append(text[e.span.start : e.span.end])
        match e:
            case ast.Binary():
                found += [e.left, e.right]
            case ast.Over():
                found += [e.body, *([e.where] if e.where else [])]
                assert text[e.indices[0].span.start] == "k" and e.indices[0].span.start > use
            case ast.Subscript():
                assert text[e.span.start : e.span.end] == "S[k]"
    assert set(seen) == {"f(k) S[k]", "S[k]"}


# ---- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "definition", "message"),
    [
        ("O = f(1, 2)", "def f(x) = x", "`f` takes 1 argument, not 2"),
        ("O = f()", "def f(x, y) = x", "`f` takes 2 arguments, not 0"),
        ("O = f(k)", "def f(i) x = sum(i) x", "`f` applies to the expression that follows it, and none does"),
        ("O = f(k) x", "def f(x) = x", "`f` applies to no expression, but one follows it"),
        ("O = f(k where c) x", "def f(i) x = sum(i) x", "`f` takes no `where`"),
        ("O = f(k, n = 1) x", "def f(i where c, m) x = sum(i where c) x", "`f` has no option `n`"),
        ("O = f(k) x", "def f(i where c, m) x = sum(i where c) x", "`f` is given no option"),
        ("O = f(k, m = 1, m = 2) x", "def f(i where c, m) x = sum(i where c) x", "`f` is given `m`, `m`"),
        ("O = f(k) x", "def f(i, j) x = sum(i, j) x", "`f` takes 2 indices, not 1"),
        ("O = f(k + 1)", "def f(i) = |i|", "`f` uses its `i` as the name of an index or a tensor"),
        ("O = f(k + 1)", "def f(i) = sum(i) S[i]", "`f` uses its `i` as the name of an index or a tensor"),
        ("O = f(a * b)", "def f(t) = t[1]", "`f` uses its `t` as the name of an index or a tensor"),
        ("O = f(x, y) S", "def f(i) s = s * i", "`f` uses its `i` as the name of an index or a tensor"),
    ],
)  # fmt: skip
def test_uses_that_do_not_fit(line: str, definition: str, message: str) -> None:
    ((code, found, help),) = mistakes(line, definition)
    assert (code, found) == ("definition-use", message)
    define = parse(Source("d.attn", definition)).definitions[0]
    assert help == f"it is used as `{form(define)}`"


def test_help_lists_every_form() -> None:
    ((_, _, help),) = mistakes("O = top(n) x")
    assert help == "it is used as `top(i where c, count = …) x` or `top(i where c, mass = …) x`"


@pytest.mark.parametrize(
    ("line", "definitions", "name"),
    [
        # what is given mentions an index that the definition runs over itself
        ("O[j] = f(g[j])", ("def f(x) = sum(j) x * j",), "j"),
        ("O[k] = f(k, g[k])", ("def f(i, x) = sum(i) x",), "k"),
        ("O[k] = f(k, n = k) g[k]", ("def f(i where c, n) x = sum(i where c) x * n",), "k"),
        ("O[j] = f(k where k < j) g[k]", ("def f(i where c) x = sum(i, j where c) x",), "j"),
        # two indices of the definition are one where it is used
        ("O = f(k, k) x", ("def f(i, j) x = sum(i) i * max(j) (i + x)",), "k"),
        # a name of the pattern, where it is used, is not the pattern's
        ("O = sum(k) f()", ("def f() = k",), "k"),
        ("O = f(k) x", ("def f(i) x = sum(i) g() * x", "def g() = T[i]"), "i"),
        ("O = f(k) x", ("def f(i) x = sum(i) x / g()", "def g() = |i|"), "i"),
        ("O = f(q)", ("def f(x) = g() + x", "def g() = x"), "x"),
        ("O = f(z)", ("def f(i) = sum(i) z * i",), "z"),
    ],
)  # fmt: skip
def test_no_name_is_captured(line: str, definitions: tuple[str, ...], name: str) -> None:
    ((code, message, _),) = mistakes(line, *definitions)
    assert code == "capture"
    assert message.startswith(f"`{name}` would mean something else inside")


def test_what_is_no_capture() -> None:
    # a body and a predicate are said inside the reduction
    assert (
        said("O = f(k where k < 3) g[k]", "def f(i where c) x = sum(i where c) x")
        == "O = sum(k where k < 3) g[k]"
    )
    # an index that what is given binds itself
    assert said("O = f(sum(j) g[j])", "def f(x) = sum(j) x * j") == "O = sum(j) (sum(j) g[j]) * j"
    # extents are the same everywhere
    assert said("O = f(|j|)", "def f(x) = sum(j) x * j") == "O = sum(j) |j| * j"
    assert said("O = sum(d) Q[d] * f()", "def f() = 1 / sqrt(|d|)") == "O = sum(d) Q[d] * (1 / sqrt(|d|))"
    # names of the pattern that nothing catches
    assert said("O[k] = f() + slope", "def f() = slope * k") == "O[k] = slope * k + slope"


@pytest.mark.parametrize(
    "definitions",
    [
        ("def f(x) = f(x)",),
        ("def f(x) = g(x)", "def g(x) = h(x) + 1", "def h(x) = f(x)"),
        ("def f(i) x = sum(i) f(i) x",),
    ],
)
def test_recursion(definitions: tuple[str, ...]) -> None:
    found = mistakes("O = 1", *definitions)
    assert [code for code, _, _ in found] == ["recursive-definition"]


def test_definitions_that_cannot_be() -> None:
    assert mistakes("O = 1", "def exp(x) = x")[0][:2] == ("two-definitions", "`exp` already has a meaning")
    assert mistakes("O = 1", "def sum(i) x = x")[0][:2] == ("two-definitions", "`sum` already has a meaning")
    assert mistakes("O = 1", "def f(x, x) = x")[0][1] == "`x` is named twice in what `f` takes"
    assert mistakes("O = 1", "def f(i where i) x = x")[0][1] == "`i` is named twice in what `f` takes"
    assert mistakes("O = 1", "def f(x) = x", "def f(y) = 1")[0][1] == "`f(y)` is defined twice"


def test_all_mistakes_at_once() -> None:
    found = mistakes("O = f(1, 2) + softcap(3)", "def f(x) = x", "def g(x) = g(x)", "def h(a, a) = 1")
    assert sorted(code for code, _, _ in found) == [
        "definition-use", "definition-use", "recursive-definition", "two-definitions"
    ]  # fmt: skip


def test_definitions_that_double_without_end() -> None:
    definitions = ["def f0(x) = x + x", *(f"def f{n}(x) = f{n - 1}(f{n - 1}(x))" for n in range(1, 30))]
    found = mistakes("O = f29(1)", *definitions)
    assert {code for code, _, _ in found} == {"too-deep"}
    wide = ["def f0(x) = max(x, x)", *(f"def f{n}(x) = max(f{n - 1}(x), f{n - 1}(x))" for n in range(1, 30))]
    assert {code for code, _, _ in mistakes("O = f29(1)", *wide)} == {"too-deep"}


def test_depth_is_bounded_after_definitions_too() -> None:
    def nested(depth: int, innermost: str) -> str:
        return "O = " + "exp(" * (depth - 1) + innermost + ")" * (depth - 1)

    (plain,) = expanded(f"{HEADER}{nested(DEEPEST, 'x')}\n").statements
    (put,) = expanded(f"def f(y) = exp(y)\n{HEADER}{nested(DEEPEST - 1, 'f(x)')}\n").statements
    assert put == plain
    ((code, message, _),) = mistakes(nested(DEEPEST - 1, "f(x)"), "def f(y) = exp(exp(y))")
    assert (code, message) == ("too-deep", f"written out, this nests more than {DEEPEST} deep")


@given(exprs())
@settings(max_examples=settings().max_examples)
def test_a_definition_that_names_its_argument_changes_nothing(e: ast.Expr) -> None:
    """`def same(x) = x` around any expression leaves the expression, whatever it is."""
    define = ast.Define("same_as_this", ("x",), "", (), "", ast.Name("x"))
    source = Source("", "")

    def equate(body: ast.Expr) -> ast.Pattern:
        return ast.Pattern("p", "", (), (), (ast.Equate(ast.Name("O"), (), body),))

    try:
        plain = expand(equate(e), (), source)
    except PatternError:
        return
    assert expand(equate(ast.Call("same_as_this", (e,))), (define,), source) == plain


# ---- the standard definitions ------------------------------------------------------------------


def test_standard_definitions_stand_alone() -> None:
    """They name nothing of a pattern: whatever they use is given to them."""
    assert len(standard()) > 15
    for formula in standard():
        assert not formula.positions and not formula.extents, form(formula.define)


def test_standard_definitions_are_explained() -> None:
    file = parse(resources.standard())
    assert file.doc and file.pattern is None
    explained: set[str] = set()
    for define in file.definitions:
        assert define.notes.before or define.name in explained, define.name
        explained.add(define.name)


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ("O[q,k] = softmax(k where k <= q) S[q,k]",
         "O[q,k] = if k <= q then exp(S[q,k] - max(k where k <= q) S[q,k])"
         " / sum(k where k <= q) exp(S[q,k] - max(k where k <= q) S[q,k]) else 0"),
        ("O = softmax(k where c, sink = s) x",
         "O = if c then exp(x) / (exp(s) + sum(k where c) exp(x)) else 0"),
        ("O = logsumexp(k) x",
         "O = max(k where true) x + log(sum(k where true) exp(x - max(k where true) x))"),
        ("O = top(n where c, count = 16) R[n]", "O = c and rank(n where c) R[n] < 16"),
        ("O = top(n, mass = 0.9) R[n]", "O = true and ahead(n where true) R[n] < 0.9"),
        ("O = causal(q, k) and window(q, k, w)", "O = k <= q and (k <= q and q - k < w)"),
        ("O = alibi(q, k, slope)", "O = -slope * abs(q - k)"),
        ("O = softcap(S[q,k], 30)", "O = 30 * tanh(S[q,k] / 30)"),
        ("O = same(q, k, doc)", "O = doc[q] == doc[k]"),
    ],
)  # fmt: skip
def test_standard_definitions(line: str, result: str) -> None:
    (found,) = expanded(f"{HEADER}{line}\n").statements
    (wanted,) = parse(Source("", f"{HEADER}{result}\n")).pattern.statements  # type: ignore[union-attr]
    assert found == wanted


def test_known_names() -> None:
    own = parse(Source("", "def mine(x) = x\n")).definitions
    assert {"mine", "softmax", "top", "causal", "window", "alibi", "softcap"} <= known_names(own)
    assert known_names() >= NAMED | REDUCTIONS.keys()
    assert "mine" not in known_names()
