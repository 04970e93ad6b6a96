"""Random trees of the language: every file, statement and expression that a text can say."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st

from attncc.syntax import ast
from attncc.syntax.build import clean
from attncc.syntax.lines import RESERVED, STATEMENTS

T = TypeVar("T")

OPERATORS = ("+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!=", "and", "or")
FAMILIAR = ("q", "k", "d", "S", "O", "window", "exp", "x_1", "iffy", "andy", "_", "e5", "truely")
ODD = ("to", "at", "by", "in", "with", "into", "sorted", "int", "float", "const", "bool", *STATEMENTS)

word = st.one_of(
    st.sampled_from(FAMILIAR),
    st.sampled_from(ODD),
    st.from_regex(r"[A-Za-z_][A-Za-z_0-9]{0,20}", fullmatch=True),
).filter(lambda text: text not in RESERVED)

Draw = Callable[[st.SearchStrategy[T]], T]


def _some(of: st.SearchStrategy[T], least: int = 0, most: int = 3) -> st.SearchStrategy[tuple[T, ...]]:
    return st.lists(of, min_size=least, max_size=most).map(tuple)


@st.composite
def names(draw: Draw) -> ast.Name:
    """A name that no word of the grammar is."""
    return ast.Name(draw(word))


@st.composite
def numbers(draw: Draw) -> ast.Number:
    """A number as it can be written, never negative."""
    value = draw(
        st.one_of(
            st.integers(0, 9),
            st.integers(0, 2**63 - 1),
            st.booleans(),
            st.floats(min_value=0, allow_nan=False).map(abs),
        )
    )
    return ast.Number(value)


@st.composite
def exprs(draw: Draw, depth: int = 4) -> ast.Expr:
    """An expression, at most `depth` nodes deep."""
    inner = exprs(depth - 1)
    match draw(st.integers(0, 11 if depth > 1 else 2)):
        case 0:
            return draw(names())
        case 1:
            return draw(numbers())
        case 2:
            return ast.Extent(draw(word))
        case 3:
            return ast.Subscript(draw(word), draw(_some(inner, 1)))
        case 4:
            return ast.Unary(draw(st.sampled_from(("-", "not"))), draw(inner))
        case 5:
            return ast.If(draw(inner), draw(inner), draw(inner))
        case 6:
            return ast.Call(draw(word), draw(_some(inner)))
        case 7 | 8:
            options = draw(_some(st.tuples(word, inner), most=1))
            return ast.Over(
                draw(word), draw(_some(names(), 1)), draw(st.none() | inner), options, draw(inner)
            )
        case _:
            return ast.Binary(draw(st.sampled_from(OPERATORS)), draw(inner), draw(inner))


@st.composite
def remarks(draw: Draw) -> str:
    """One line of a comment: any character but a newline."""
    text = draw(
        st.sampled_from(("", "a remark", "≤ 3", '"""', "#", " (", "pattern x")) | st.text(max_size=12)
    )
    return text.replace("\n", "").rstrip()


@st.composite
def notes(draw: Draw) -> ast.Notes:
    """The comments of a statement, mostly none."""
    if draw(st.integers(0, 2)):
        return ast.Notes()
    return ast.Notes(draw(_some(remarks(), most=2)), draw(remarks()))


@st.composite
def docs(draw: Draw) -> str:
    """A docstring: any text that does not end one."""
    text = draw(st.sampled_from(("", 'a "title"', "title\n\n  more\n  of it")) | st.text(max_size=30))
    return clean(text.replace('"""', ""))


@st.composite
def defines(draw: Draw) -> ast.Define:
    """A definition with a predicate, with a body, or of expressions only."""
    where = draw(st.just("") | word)
    body = draw(word if where else st.just("") | word)
    options = draw(_some(word, most=2)) if where else ()
    params = draw(_some(word, 1 if where else 0))
    return ast.Define(draw(word), params, where, options, body, draw(exprs()), draw(notes()))


@st.composite
def statements(draw: Draw) -> ast.Statement:
    """A statement of a pattern's body."""
    said = draw(notes())
    match draw(st.integers(0, 10)):
        case 0:
            return ast.OverStatement(
                draw(_some(names(), 1)), draw(_some(st.tuples(names(), exprs()), most=2)), said
            )
        case 1:
            return ast.Along(draw(_some(names(), 1)), said)
        case 2:
            return ast.Align(draw(names()), draw(names()), draw(st.none() | exprs()), said)
        case 3:
            return ast.Split(draw(names()), draw(names()), draw(names()), draw(exprs()), said)
        case 4:
            return ast.Declare(draw(names()), draw(exprs()), said)
        case 5:
            return draw(defines())
        case 6:
            return ast.Require(draw(exprs()), said)
        case 7:
            tensor = draw(names().filter(lambda name: name.name != "sorted"))
            return ast.AssumeRange(tensor, draw(exprs()), draw(exprs()), said)
        case 8:
            return ast.AssumeSorted(draw(names()), said)
        case _:
            left = draw(names().filter(lambda name: name.name not in STATEMENTS))
            return ast.Equate(left, draw(_some(names())), draw(exprs()), said)


@st.composite
def params(draw: Draw) -> ast.TensorParam | ast.ScalarParam:
    """A tensor of any kind, or a scalar with a default of its kind or with none."""
    integers = st.integers(-(2**63) + 1, 2**63 - 1)
    match draw(st.integers(0, 3)):
        case 0:
            return ast.ScalarParam(draw(word), "int", draw(st.none() | integers))
        case 1:
            return ast.ScalarParam(
                draw(word), "float", draw(st.none() | integers | st.floats(allow_nan=False))
            )
        case 2:
            return ast.ScalarParam(draw(word), "bool", draw(st.none() | st.booleans()))
        case _:
            kind = draw(st.sampled_from(("float", "const", "int", "bool")))
            return ast.TensorParam(draw(word), draw(_some(names(), most=4)), kind)


@st.composite
def patterns(draw: Draw) -> ast.Pattern:
    """A pattern, not a meaningful one."""
    output = st.builds(ast.OutputParam, word, _some(names()))
    return ast.Pattern(
        name=draw(word),
        doc=draw(docs()),
        params=draw(_some(params(), most=5)),
        outputs=draw(_some(output, 1, 2)),
        statements=draw(_some(statements())),
        notes=draw(notes()),
    )


@st.composite
def files(draw: Draw) -> ast.File:
    """A file with a pattern, definitions, or both."""
    pattern = draw(st.none() | patterns())
    definitions = draw(_some(defines(), 0 if pattern else 1, 2))
    return ast.File(draw(docs()), definitions, pattern, draw(_some(remarks(), most=2)))
