"""A definition's value, and what one use of it gives → the tree that the use stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import assert_never

from attncc.source import Span
from attncc.syntax import ast


class Captured(Exception):
    """An index of what was given would be caught by a reduction inside the definition."""

    def __init__(self, name: str):
        super().__init__(name)
        self.name = name


class NotAnIndex(Exception):
    """What was given stands where only a name can."""

    def __init__(self, param: str, span: Span):
        super().__init__(param)
        self.param = param
        self.span = span


@dataclass(frozen=True)
class Given:
    """What a use gives for one parameter: an expression, and whether the definition's indices run in it.

    They do in a predicate and in a body; an argument and an option are said outside of the reduction.
    """

    value: ast.Expr
    inside: bool

    @cached_property
    def positions(self) -> frozenset[str]:
        """The names it depends on, but for extents."""
        return outer_names(self.value)[0]


@dataclass(frozen=True)
class Use:
    """One use of a definition: the indices and the expressions that its parameters stand for."""

    indices: Mapping[str, tuple[ast.Name, ...]]
    given: Mapping[str, Given]
    span: Span

    @staticmethod
    def of(define: ast.Define, e: ast.Call | ast.Over) -> Use:
        """The use of a definition that fits. One index parameter takes as many indices as there are."""
        match e:
            case ast.Call():
                pairs = zip(define.params, e.args, strict=True)
                return Use({}, {param: Given(arg, False) for param, arg in pairs}, e.span)
            case ast.Over():
                each = [(index,) for index in e.indices] if len(define.params) > 1 else [e.indices]
                where = e.where if e.where is not None else ast.Number(True, e.span)
                given = {name: Given(value, False) for name, value in e.options}
                given |= {define.where: Given(where, True)} if define.where else {}
                given |= {define.body: Given(e.body, True)}
                return Use(dict(zip(define.params, each, strict=True)), given, e.span)
            case _:
                assert_never(e)

    def put(self, e: ast.Expr, bound: Mapping[str, str] | None = None) -> ast.Expr:
        """A part of the definition's value with everything given put into it.

        `bound` are the indices that run in the reductions around it, each with its name in the definition.
        Raises Captured and NotAnIndex.
        """
        bound = bound or {}
        match e:
            case ast.Number():
                return ast.Number(e.value, self.span)
            case ast.Name():
                return self._name(e.name, bound)
            case ast.Extent():
                return ast.Extent(self._single(e.index), self.span)
            case ast.Subscript():
                return ast.Subscript(
                    self._single(e.tensor), tuple([self.put(i, bound) for i in e.at]), self.span
                )
            case ast.Unary():
                return ast.Unary(e.op, self.put(e.body, bound), self.span)
            case ast.Binary():
                return ast.Binary(e.op, self.put(e.left, bound), self.put(e.right, bound), self.span)
            case ast.If():
                condition, then = self.put(e.condition, bound), self.put(e.then, bound)
                return ast.If(condition, then, self.put(e.other, bound), self.span)
            case ast.Call():
                return ast.Call(e.name, tuple([self.put(arg, bound) for arg in e.args]), self.span)
            case ast.Over():
                return self._over(e, bound)
            case _:
                assert_never(e)

    def _over(self, e: ast.Over, bound: Mapping[str, str]) -> ast.Over:
        indices: list[ast.Name] = []
        inner = dict(bound)
        for index in e.indices:
            for actual in self._index(index.name):
                indices.append(actual)
                inner[actual.name] = index.name
        where = None if e.where is None else self.put(e.where, inner)
        options = tuple([(name, self.put(value, bound)) for name, value in e.options])
        return ast.Over(e.op, tuple(indices), where, options, self.put(e.body, inner), self.span)

    def _name(self, name: str, bound: Mapping[str, str]) -> ast.Expr:
        if name in self.given:
            given = self.given[name]
            for index in sorted(given.positions & bound.keys()):
                if not (given.inside and bound[index] in self.indices):
                    raise Captured(index)
            return given.value
        actual = self._single(name)
        if bound.get(actual, name) != name:
            raise Captured(actual)
        return ast.Name(actual, self.span)

    def _index(self, name: str) -> tuple[ast.Name, ...]:
        """The indices that an index of a reduction stands for."""
        return self.indices[name] if name in self.indices else (ast.Name(self._single(name), self.span),)

    def _single(self, name: str) -> str:
        """The one name that a name in the definition stands for."""
        if name in self.indices:
            first, *more = self.indices[name]
            if more:
                raise NotAnIndex(name, more[0].span)
            return first.name
        if name in self.given:
            value = self.given[name].value
            if not isinstance(value, ast.Name):
                raise NotAnIndex(name, value.span)
            return value.name
        return name


def parts(e: ast.Expr) -> tuple[ast.Expr, ...]:
    """The expressions directly inside one; the indices of a reduction are none."""
    match e:
        case ast.Number() | ast.Name() | ast.Extent():
            return ()
        case ast.Subscript():
            return e.at
        case ast.Unary():
            return (e.body,)
        case ast.Binary():
            return (e.left, e.right)
        case ast.If():
            return (e.condition, e.then, e.other)
        case ast.Call():
            return e.args
        case ast.Over():
            where = () if e.where is None else (e.where,)
            return (*where, *(value for _, value in e.options), e.body)
        case _:
            assert_never(e)


def measure(e: ast.Expr, most: int) -> tuple[int, int]:
    """How many nodes an expression has, counted up to `most`, and how deep they nest."""
    size, depth = 0, 0
    rest = [(e, 1)]
    while rest and size <= most:
        part, level = rest.pop()
        size, depth = size + 1, max(depth, level)
        rest.extend((inner, level + 1) for inner in parts(part))
    return size, depth


def outer_names(e: ast.Expr) -> tuple[frozenset[str], frozenset[str]]:
    """The names whose position or value an expression depends on, and the indices whose extent it mentions.

    The indices of its own reductions are not among the first.
    """
    positions: set[str] = set()
    extents: set[str] = set()
    rest: list[tuple[ast.Expr, frozenset[str]]] = [(e, frozenset())]
    while rest:
        part, bound = rest.pop()
        match part:
            case ast.Name():
                positions |= {part.name} - bound
            case ast.Extent():
                extents.add(part.index)
            case ast.Subscript():
                positions.add(part.tensor)
                rest.extend((i, bound) for i in part.at)
            case ast.Over():
                rest.extend((value, bound) for _, value in part.options)
                inner = bound | {i.name for i in part.indices}
                rest.extend((p, inner) for p in (part.where, part.body) if p is not None)
            case _:
                rest.extend((p, bound) for p in parts(part))
    return frozenset(positions), frozenset(extents)
