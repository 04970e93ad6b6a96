"""lark's tree → ast: one function per group of rules, and what a grammar cannot refuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import dedent
from typing import TypeAlias

from lark import Token, Tree

from attncc.diagnostics import Diagnostic, Label
from attncc.source import Span
from attncc.syntax import ast

DEEPEST = 100
"""How far expressions may nest: every later stage walks them by recursion."""

LARGEST = 2**63 - 1

T: TypeAlias = Tree[Token]


def clean(doc: str) -> str:
    """A docstring's text: no space at its ends or behind a line, no indentation common to its later lines."""
    first, _, rest = doc.strip().partition("\n")
    lines = [first, *dedent(rest).split("\n")] if rest else [first]
    return "\n".join(line.rstrip() for line in lines)


@dataclass
class Build:
    """Makes nodes of one text that begins at `offset` of its source, and gathers what is wrong with them."""

    offset: int = 0
    mistakes: list[Diagnostic] = field(default_factory=list)

    def file(self, tree: T) -> ast.File:
        doc, definitions, pattern = "", [], None
        for part in _trees(tree):
            match part.data:
                case "doc":
                    doc = _doc(part)
                case "pattern":
                    pattern = self.pattern(part)
                case _:
                    definitions.append(self.definition(part))
        return ast.File(doc, tuple(definitions), pattern)

    def pattern(self, tree: T) -> ast.Pattern:
        header, *rest = _trees(tree)
        doc = ""
        if rest and rest[0].data == "doc":
            doc = _doc(rest.pop(0))
        name, params, outputs = self.header(header)
        statements = tuple(map(self.statement, rest))
        return ast.Pattern(name, doc, params, outputs, statements, span=self._span(header))

    def header(
        self, tree: T
    ) -> tuple[str, tuple[ast.TensorParam | ast.ScalarParam, ...], tuple[ast.OutputParam, ...]]:
        *parameters, outputs = _trees(tree)
        params = tuple(self._parameter(p) for group in parameters for p in _trees(group))
        return _token(tree), params, tuple(map(self._output, _trees(outputs)))

    def _parameter(self, tree: T) -> ast.TensorParam | ast.ScalarParam:
        name, *kinds = map(str, _tokens(tree))
        if tree.data == "tensor":
            kind = kinds[0] if kinds else "float"
            return ast.TensorParam(name, self._names(*_trees(tree)), kind, self._span(tree))
        default = None
        for written in _trees(tree):
            default = self._default(written, kinds[0])
        if kinds[0] == "const":
            self._mistake(
                "const-scalar",
                "only a tensor is `const`",
                tree,
                f"write `{name}[]: const` or `{name}: float`",
            )
        return ast.ScalarParam(name, kinds[0], default, self._span(tree))

    def _default(self, tree: T, kind: str) -> int | float | bool:
        *minus, digits = map(str, _tokens(tree))
        value = self._value(digits, tree)
        fits = {"int": type(value) is int, "float": type(value) is not bool, "bool": type(value) is bool}
        if not fits.get(kind, True) or (minus and type(value) is bool):
            self._mistake(
                "default-kind", f"the default is not of kind `{kind}`", tree, _DEFAULTS.get(kind, "")
            )
        return -value if minus else value

    def _output(self, tree: T) -> ast.OutputParam:
        return ast.OutputParam(_token(tree), self._names(*_trees(tree)), self._span(tree))

    # ---- statements ----------------------------------------------------------------------------

    def statement(self, tree: T) -> ast.Statement:
        span = self._span(tree)
        match tree.data:
            case "over":
                batched, *derived = _trees(tree)
                pairs = tuple((self._name(_tokens(d)[0]), self.expr(_trees(d)[0])) for d in derived)
                return ast.OverStatement(self._names(batched), pairs, span=span)
            case "along":
                return ast.Along(self._names(*_trees(tree)), span=span)
            case "align":
                aligned, to = map(self._name, _tokens(tree))
                start = next(map(self.expr, _trees(tree)), None)
                return ast.Align(aligned, to, start, span=span)
            case "split":
                index, outer, inner = map(self._name, _tokens(tree))
                return ast.Split(index, outer, inner, self.expr(_trees(tree)[0]), span=span)
            case "index":
                return ast.Declare(self._name(_tokens(tree)[0]), self.expr(_trees(tree)[0]), span=span)
            case "require":
                return ast.Require(self.expr(_trees(tree)[0]), span=span)
            case "assume_range":
                low, high = map(self.expr, _trees(tree))
                return ast.AssumeRange(self._name(_tokens(tree)[0]), low, high, span=span)
            case "assume_sorted":
                return ast.AssumeSorted(self._name(_tokens(tree)[0]), span=span)
            case "equation":
                *names, body = _trees(tree)
                return ast.Equate(
                    self._name(_tokens(tree)[0]), self._names(*names), self.expr(body), span=span
                )
            case _:
                return self.definition(tree)

    def definition(self, tree: T) -> ast.Define:
        name, *rest = _tokens(tree)
        *groups, value = _trees(tree)
        said = {str(group.data): group for group in groups}
        return ast.Define(
            name=str(name),
            params=tuple(n.name for n in self._names(*(g for g in groups if g.data == "names"))),
            where=str(rest[0]) if tree.data == "definition_where" else "",
            options=tuple(map(str, _tokens(said["options"]))) if "options" in said else (),
            body=_token(said["body"]) if "body" in said else "",
            value=self.expr(value),
            span=self._span(tree),
        )

    # ---- expressions ---------------------------------------------------------------------------

    def expr(self, tree: T, depth: int = 1) -> ast.Expr:
        """An expression; the depth of the node that is made is `depth`."""
        span = self._span(tree)
        if depth > DEEPEST:
            self._mistake(
                "too-deep",
                f"nested more than {DEEPEST} deep",
                tree,
                "give a part of it a name: `part[q,k] = …`",
            )
            return ast.Number(0, span)
        parts = _trees(tree)
        deeper = depth + 1
        match tree.data:
            case "number":
                return ast.Number(self._value(_token(tree), tree), span)
            case "name":
                return ast.Name(_token(tree), span)
            case "extent":
                return ast.Extent(_token(tree), span)
            case "subscript":
                at = tuple([self.expr(part, deeper) for part in _trees(parts[0])])
                return ast.Subscript(_token(tree), at, span)
            case "unary":
                return ast.Unary(_token(tree), self.expr(parts[0], deeper), span)
            case "binary":
                left, right = [self.expr(part, deeper) for part in parts]
                return ast.Binary(_token(tree), left, right, span)
            case "choose":
                condition, then, other = [self.expr(part, deeper) for part in parts]
                return ast.If(condition, then, other, span)
            case "call":
                return self._call(parts[0], deeper, span)
            case _:
                assert tree.data == "reduction", tree.data
                return self._over(parts[0], parts[1], deeper, span)

    def _call(self, tree: T, depth: int, span: Span) -> ast.Call:
        name = _token(tree)
        written, more = _divided(tree)
        if more:
            self._mistake(
                "no-body",
                f"`{name}` reduces nothing: no expression follows it",
                tree,
                "write what is reduced behind it: `sum(k where k <= q) S[q,k]`",
            )
        return ast.Call(name, tuple([self.expr(part, depth) for part in written]), span)

    def _over(self, tree: T, body: T, depth: int, span: Span) -> ast.Over:
        written, more = _divided(tree)
        indices = tuple(self._index(_token(tree), part) for part in written)
        where: ast.Expr | None = None
        options: list[tuple[str, ast.Expr]] = []
        for part in more:
            value = self.expr(_trees(part)[0], depth)
            if part.data == "where":
                where = value
            else:
                options.append((_token(part), value))
        if not indices:
            self._mistake(
                "reduction-index",
                f"`{_token(tree)}` is followed by an expression, but names no index",
                tree,
                "name what it runs over, `sum(k) x[k]`, or put an operator between the two",
            )
        return ast.Over(_token(tree), indices, where, tuple(options), self.expr(body, depth), span)

    def _index(self, op: str, tree: T) -> ast.Name:
        if tree.data != "name":
            self._mistake(
                "reduction-index",
                f"`{op}` is followed by an expression, so it must run over indices",
                tree,
                "name an index, `sum(k) x[k]`, or put an operator behind the closing bracket",
            )
            return ast.Name("?", self._span(tree))
        return ast.Name(_token(tree), self._span(tree))

    # ---- the smallest parts --------------------------------------------------------------------

    def _value(self, digits: str, tree: T) -> int | float | bool:
        match digits:
            case "true" | "false":
                return digits == "true"
            case "inf":
                return float("inf")
        whole = digits.isdigit()
        small = len(digits) < 400
        value = (int(digits) if whole else float(digits)) if small else LARGEST + 1
        if value == float("inf") or (whole and value > LARGEST):
            self._mistake(
                "number-too-large",
                "this number is too large",
                tree,
                "integers have 64 bits; write `inf` for infinity",
            )
            return 0
        return value

    def _names(self, *groups: T) -> tuple[ast.Name, ...]:
        return tuple(ast.Name(_token(n), self._span(n)) for group in groups for n in _trees(group))

    def _name(self, token: Token) -> ast.Name:
        assert token.start_pos is not None and token.end_pos is not None
        return ast.Name(str(token), Span(self.offset + token.start_pos, self.offset + token.end_pos))

    def _span(self, tree: T) -> Span:
        return Span(self.offset + tree.meta.start_pos, self.offset + tree.meta.end_pos)

    def _mistake(self, code: str, message: str, tree: T, help: str) -> None:
        self.mistakes.append(Diagnostic(code, message, (Label(self._span(tree)),), help))


_DEFAULTS = {
    "int": "write a whole number: `window: int = 1024`",
    "float": "write a number: `scale: float = 0.5`",
    "bool": "write `true` or `false`",
}


def _doc(tree: T) -> str:
    return clean(_token(tree)[3:-3])


def _trees(tree: T) -> list[T]:
    return [child for child in tree.children if isinstance(child, Tree)]


def _tokens(tree: T) -> list[Token]:
    return [child for child in tree.children if isinstance(child, Token)]


def _token(tree: T) -> str:
    return str(_tokens(tree)[0])


def _divided(application: T) -> tuple[list[T], list[T]]:
    """What an application runs over or is applied to, and its predicate and options."""
    parts = _trees(application)
    more = [part for part in parts if part.data in ("where", "option")]
    return parts[: len(parts) - len(more)], more
