"""ast.File → text: the one canonical form of a pattern."""

from __future__ import annotations

import re
from typing import assert_never

from attncc.syntax import ast
from attncc.syntax.layout import INDENT, Break, Edge, Group, Piece, bracketed, flat, laid_out, listed, row


def show(file: ast.File) -> str:
    """A file as `attncc fmt` writes it: `parse(show(f)) == f` for all that the language can say."""
    parts = [_doc(file.doc, 0)] if file.doc else []
    parts.extend(_said(definition, 0) for definition in file.definitions)
    if file.pattern is not None:
        parts.append(_pattern(file.pattern))
    text = "\n\n".join(parts) + "\n"
    margin = INDENT if file.pattern is not None and file.pattern.statements else 0
    return text + "".join(f"{' ' * margin}{_comment(note)}\n" for note in file.notes_after)


def show_expr(e: ast.Expr) -> str:
    """An expression on one line."""
    return flat(_expr(e))


def show_statement(statement: ast.Statement) -> str:
    """A statement without its comments."""
    return laid_out(_statement(statement))


def _pattern(pattern: ast.Pattern) -> str:
    lines = [_said(pattern, 0)]
    if pattern.doc:
        lines.append(" " * INDENT + _doc(pattern.doc, INDENT))
    lines.extend(_said(statement, INDENT) for statement in pattern.statements)
    return "\n".join(lines)


def _doc(doc: str, indent: int) -> str:
    """A docstring; its end stands alone behind several lines, and apart from a quotation mark."""
    margin = " " * indent
    first, *more = doc.split("\n")
    if more:
        return "\n".join(
            [f'"""{first}', *(f"{margin}{line}" if line else "" for line in more), f'{margin}"""']
        )
    space = " " if first.endswith('"') else ""
    return f'"""{first}{space}"""'


def _said(spoken: ast.Statement | ast.Pattern, indent: int) -> str:
    """A statement or a header with its comments, indented."""
    margin = " " * indent
    piece = _header(spoken) if isinstance(spoken, ast.Pattern) else _statement(spoken)
    behind = f"  {_comment(spoken.notes.behind)}" if spoken.notes.behind else ""
    before = [margin + _comment(note) for note in spoken.notes.before]
    return "\n".join([*before, f"{margin}{laid_out(piece, indent)}{behind}"])


def _comment(note: str) -> str:
    return f"# {note}" if note else "#"


def _header(pattern: ast.Pattern) -> Piece:
    params = listed(map(_parameter, pattern.params))
    outputs = ", ".join(f"{o.name}[{_plain(o.indices)}]" for o in pattern.outputs)
    return row(f"pattern {pattern.name}", bracketed("(", params, ")"), f" -> {outputs}:")


def _parameter(param: ast.TensorParam | ast.ScalarParam) -> str:
    match param:
        case ast.TensorParam():
            kind = "" if param.kind == "float" else f": {param.kind}"
            return f"{param.name}[{_plain(param.indices)}]{kind}"
        case ast.ScalarParam():
            default = "" if param.default is None else f" = {_number(param.default)}"
            return f"{param.name}: {param.kind}{default}"
        case _:
            assert_never(param)


def _statement(s: ast.Statement) -> Piece:
    match s:
        case ast.OverStatement():
            start = f"over {_spaced(s.indices)}"
            starts = (" with ", *(", " for _ in s.derived[1:]))
            derived = (
                row(f"{w}{n.name} = ", _outermost(e)) for w, (n, e) in zip(starts, s.derived, strict=False)
            )
            return row(start, *derived)
        case ast.Along():
            return f"along {_spaced(s.indices)}"
        case ast.Align():
            start = f"align {s.index.name} to {s.to.name}"
            return start if s.start is None else row(f"{start} at ", _outermost(s.start))
        case ast.Split():
            return row(f"split {s.index.name} into {s.outer.name}, {s.inner.name} by ", _outermost(s.by))
        case ast.Declare():
            return row(f"index {s.index.name}: ", _outermost(s.extent))
        case ast.Define():
            return _definition(s)
        case ast.Require():
            return row("require ", _outermost(s.demand))
        case ast.AssumeRange():
            return row(
                f"assume {s.tensor.name} in ", bracketed("[", listed((_lines(s.low), _lines(s.high))), "]")
            )
        case ast.AssumeSorted():
            return f"assume sorted {s.tensor.name}"
        case ast.Equate():
            left = f"{s.tensor.name}[{_plain(s.indices)}]" if s.indices else s.tensor.name
            return row(f"{left} = ", _outermost(s.body))
        case _:
            assert_never(s)


def _definition(d: ast.Define) -> Piece:
    names: list[Piece] = [*d.params, *d.options]
    if d.where:
        names[len(d.params) - 1] = f"{d.params[-1]} where {d.where}"
    params = bracketed("(", listed(names), ")")
    return row(f"def {d.name}", params, f" {d.body} = " if d.body else " = ", _outermost(d.value))


def _plain(names: tuple[ast.Name, ...]) -> str:
    return ",".join(n.name for n in names)


def _spaced(names: tuple[ast.Name, ...]) -> str:
    return ", ".join(n.name for n in names)


def _number(value: int | float | bool) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return re.sub(r"e([+-])0*", lambda e: "e-" if e[1] == "-" else "e", repr(value))
        case int():
            return str(value)
        case _:
            assert_never(value)


# ---- expressions -------------------------------------------------------------------------------

# how tightly the rules of the grammar bind, by their names there
EXPR, DISJUNCTION, CONJUNCTION, NEGATION, COMPARISON, SUM, PRODUCT, FACTORS, POWER, ATOM = range(10)

_RULES = {
    **dict.fromkeys(["or"], (DISJUNCTION, DISJUNCTION, CONJUNCTION)),
    **dict.fromkeys(["and"], (CONJUNCTION, CONJUNCTION, NEGATION)),
    **dict.fromkeys(["<", "<=", ">", ">=", "==", "!="], (COMPARISON, SUM, SUM)),
    **dict.fromkeys(["+", "-"], (SUM, SUM, PRODUCT)),
    **dict.fromkeys(["*", "/", "//", "%"], (FACTORS, FACTORS, POWER)),
    **dict.fromkeys(["**"], (POWER, ATOM, POWER)),
}
"""For each operator the rule it makes, and the rules of its left and right side."""


def _rule(e: ast.Expr) -> int:
    """The tightest rule of the grammar that an expression is without brackets."""
    match e:
        case ast.Number() | ast.Name() | ast.Extent() | ast.Subscript() | ast.Call():
            return ATOM
        case ast.Unary():
            return NEGATION if e.op == "not" else SUM
        case ast.Binary():
            rule = _RULES[e.op][0]
            return PRODUCT if rule == FACTORS and isinstance(e.right, ast.Over) else rule
        case ast.If():
            return EXPR
        case ast.Over():
            return PRODUCT
        case _:
            assert_never(e)


def _outermost(e: ast.Expr) -> Piece:
    """An expression outside all brackets, where no line may end: one too long gets brackets of its own."""
    match e:
        case ast.Binary() | ast.If():
            return bracketed(Edge("("), _lines(e), Edge(")"))
        case ast.Over():
            body = _outermost(e.body) if _rule(e.body) >= PRODUCT else _expr(e.body, PRODUCT)
            return row(_application(e), " ", body)
        case _:
            return _expr(e)


def _expr(e: ast.Expr, rule: int = EXPR) -> Piece:
    """An expression where the grammar wants `rule`."""
    if _rule(e) < rule:
        return bracketed("(", _lines(e), ")")
    match e:
        case ast.Number():
            return _number(e.value)
        case ast.Name():
            return e.name
        case ast.Extent():
            return f"|{e.index}|"
        case ast.Subscript():
            bare = all(isinstance(i, ast.Name | ast.Number) for i in e.at)
            return f"{e.tensor}[{(',' if bare else ', ').join(map(show_expr, e.at))}]"
        case ast.Unary():
            return row("not ", _expr(e.body, NEGATION)) if e.op == "not" else row("-", _expr(e.body, PRODUCT))
        case ast.Binary() | ast.If():
            return row(*_parts(e, " "))
        case ast.Call():
            return row(e.name, bracketed("(", listed(map(_lines, e.args)), ")"))
        case ast.Over():
            return row(_application(e), " ", _expr(e.body, PRODUCT))
        case _:
            assert_never(e)


def _lines(e: ast.Expr) -> Piece:
    """An expression inside brackets, where lines may end in front of its outermost operators."""
    match e:
        case ast.Binary() | ast.If():
            return Group(row(*_parts(e, Break(" "))))
        case _:
            return _expr(e)


def _application(e: ast.Over) -> Piece:
    indices = _spaced(e.indices)
    first = indices if e.where is None else row(f"{indices} where ", _lines(e.where))
    options = (row(f"{name} = ", _lines(value)) for name, value in e.options)
    return row(e.op, bracketed("(", listed([first, *options]), ")"))


def _parts(e: ast.Binary | ast.If, space: Piece) -> list[Piece]:
    """The operands of operators that bind alike, or the branches of a choice, with `space` between them."""
    parts: list[Piece] = []
    if isinstance(e, ast.If):
        other: ast.Expr = e
        while isinstance(other, ast.If):
            condition, then = _expr(other.condition, DISJUNCTION), _expr(other.then, DISJUNCTION)
            parts += [row("if ", condition, " then ", then), space, "else "]
            other = other.other
        return [*parts, _expr(other)]
    rule, left, right = _RULES[e.op]
    first: ast.Expr = e
    while isinstance(first, ast.Binary) and (first is e or _rule(first) == rule == left):
        last = PRODUCT if isinstance(first.right, ast.Over) and rule == FACTORS else right
        parts += [row(f"{first.op} ", _expr(first.right, last)), space]
        first = first.left
    return [_expr(first, left), *reversed(parts)]
