"""Random expressions that mean something where they stand: bounded values, predicates, subscripts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from hypothesis import strategies as st

from attncc.ir.said import names
from attncc.ops import Kind
from attncc.syntax import ast

T = TypeVar("T")


def name(word: str) -> ast.Name:
    return ast.Name(word)


def num(value: int | float) -> ast.Expr:
    return ast.Number(value) if value >= 0 else ast.Unary("-", ast.Number(-value))


def binary(op: str, a: ast.Expr, b: ast.Expr) -> ast.Expr:
    return ast.Binary(op, a, b)


def call(word: str, *args: ast.Expr) -> ast.Expr:
    return ast.Call(word, args)


def read(tensor: str, *at: ast.Expr | str) -> ast.Expr:
    if not at:
        return ast.Name(tensor)
    return ast.Subscript(tensor, tuple(name(s) if isinstance(s, str) else s for s in at))


def over(
    op: str, indices: str, body: ast.Expr, where: ast.Expr | None = None, **options: ast.Expr
) -> ast.Expr:
    """`op(i, j where c, option = v) body`; `indices` are letters."""
    return ast.Over(op, tuple(map(name, indices)), where, tuple(options.items()), body)


@dataclass(frozen=True)
class Known:
    """A tensor that can be read: its indices, batched ones apart, and what kind of values it has.

    `tame` values are finite and small; others may only be an output.
    """

    name: str
    own: tuple[str, ...]
    batch: frozenset[str]
    kind: Kind = "float"
    tame: bool = True


@dataclass
class Page:
    """A pattern while it is written. `heads` are its batched indices, `plain` keeps to what one kernel does.

    `sizes` are the extents of indices, `block` that of blocks, `scalars` numbers with a default.
    `touched` are the batched indices on which the present equation depends.
    """

    draw: st.DrawFn
    heads: tuple[str, ...]
    aligned: bool
    blocks: bool
    plain: bool
    sizes: dict[str, int]
    block: ast.Expr
    scalars: dict[str, int] = field(default_factory=dict)
    params: dict[str, tuple[Known, str]] = field(default_factory=dict)
    made: dict[str, Known] = field(default_factory=dict)
    equations: list[ast.Equate] = field(default_factory=list)
    touched: set[str] = field(default_factory=set)
    scans: bool = False
    grouped: bool = False

    def one(self, options: Sequence[T]) -> T:
        """One of some options."""
        return options[self.draw(st.integers(0, len(options) - 1))]

    def odds(self, most: int) -> bool:
        """True once in `most` times."""
        return self.draw(st.integers(1, most)) == most

    # Tensors

    def param(self, own: str, sort: str = "float", heads: frozenset[str] | None = None) -> Known:
        """An input over some indices; one there is already, or a new one."""
        kind: Kind = "int" if sort == "int" else "bool" if sort == "bool" else "float"
        fitting = [k for k, s in self.params.values() if k.own == tuple(own) and s == sort]
        if fitting and heads is None and not self.odds(3):
            return self.one(fitting)
        if heads is None:
            choices = [frozenset(), *(frozenset((h,)) for h in self.heads)]
            heads = self.one(choices)
        known = Known(f"x{len(self.params)}", tuple(own), heads, kind)
        self.params[known.name] = (known, sort)
        return known

    def at(self, tensor: Known, *subscripts: ast.Expr | str) -> ast.Expr:
        """A read, whose batched indices are noted."""
        self.touched |= tensor.batch
        return read(tensor.name, *(subscripts or tensor.own))

    def define(self, left: str, body: ast.Expr, kind: Kind = "float", tame: bool = True) -> Known:
        """An equation of the pattern."""
        word = f"{'BCDEFGHIJKLMNOPRSTUW'[len(self.equations)]}{len(self.equations)}"
        if "h" in self.touched:
            self.touched.discard("g")
        own = tuple(i for i in left if i not in self.heads)
        known = Known(word, own, frozenset(self.touched), kind, tame)
        self.made[word] = known
        self.equations.append(ast.Equate(name(word), tuple(map(name, left)), body))
        self.touched.clear()
        return known

    # Subscripts

    def place(self, axis: str, scope: str, direct: bool) -> ast.Expr:
        """A position along an axis; mostly inside it."""
        options: list[ast.Expr] = []
        if axis in scope:
            options += [name(axis)] * (6 if not direct else 1)
            if not direct and axis in "qkjn":
                options += [binary("-", name(axis), num(1)), binary("+", name(axis), num(1))]
        if self.aligned and axis in "qkj" and not direct:
            options += [name(other) for other in "qkj" if other in scope and other != axis]
        if axis == "n" and "k" in scope:
            options += [binary("//", name("k"), self.block)]
        if axis == "i" and "k" in scope:
            options += [binary("%", name("k"), self.block)]
        if axis == "k" and "n" in scope:
            first = binary("*", name("n"), self.block)
            options += [binary("+", first, name("i")) if "i" in scope else first]
        if not options:
            options = [num(0), binary("-", ast.Extent(axis), num(1))]
        return self.one(options)

    def read(self, tensor: Known, scope: str) -> ast.Expr:
        """A tensor where the indices of `scope` stand; in a kernel, an equation at its own position."""
        if tensor.own == ("k",) and "k" in scope and not self.plain and self.odds(12):
            table = self.param("k", "int")
            return self.at(tensor, self.at(table, "k"))
        direct = self.plain and tensor.name in self.made
        return self.at(tensor, *(self.place(axis, scope, direct) for axis in tensor.own))

    def readable(self, scope: str, kind: Kind, own: bool = False) -> list[Known]:
        """Tensors of a kind that can be read where `scope` stands; only at their own indices if `own`."""
        own = own or self.plain
        everything = [k for k, _ in self.params.values()] + list(self.made.values())
        return [
            k
            for k in everything
            if k.kind == kind and k.tame and (set(k.own) <= set(scope) or not (own and k.name in self.made))
        ]

    def reduced(
        self, op: str, i: str, body: ast.Expr, where: ast.Expr | None = None, **options: ast.Expr
    ) -> ast.Expr:
        """A reduction over an index, on which something in it has to depend."""
        said = [n for e in (body, where) if e is not None for n, _ in names(e)]
        if i not in said:
            few = self._early(i)
            where = few if where is None else binary("and", where, few)
        return over(op, i, body, where, **options)

    # Values

    def value(self, scope: str, depth: int = 2) -> ast.Expr:
        """A number of modest size, smooth in the inputs it depends on; it may lack a value somewhere."""
        again = partial(self.value, scope, depth - 1)
        match self.draw(st.integers(0, 11 if depth > 0 else 3)):
            case 0:
                return num(self.one((0.5, 1.5, 2, 0.3)))
            case 1 | 2:
                return self.leaf(scope)
            case 3:
                return self.position(scope)
            case 4 | 5:
                word = self.one(("tanh", "sigmoid", "sin", "cos", "abs", "relu", "softplus", "silu"))
                return call(word, again())
            case 6:
                return ast.Unary("-", again())
            case 7:
                return call(self.one(("min", "max")), again(), again())
            case 8:
                condition = self.predicate(scope, 1)
                return ast.If(condition, again(), again())
            case 9:
                return binary("/", again(), binary("+", num(1.5), call("abs", self.leaf(scope))))
            case 10:
                return binary("*", again(), call("exp", ast.Unary("-", call("abs", self.leaf(scope)))))
            case _:
                return binary(self.one(("+", "-", "*")), again(), again())

    def leaf(self, scope: str) -> ast.Expr:
        """A tensor that is read."""
        known = self.readable(scope, "float")
        if not known or self.odds(4):
            return self.read(self.param(self.one([i for i in "qk" if i in scope] or ["k"])), scope)
        return self.read(self.one(known), scope)

    def position(self, scope: str) -> ast.Expr:
        """A number that says where one is."""
        # positions of sequences that have nothing to do with one another are not subtracted
        known = [i for i in scope if i in ("qkjn" if self.aligned else "kn")]
        if not known:
            return num(1)
        i = name(self.one(known))
        if self.aligned and "q" in scope and "k" in scope and self.odds(2):
            return binary("*", num(0.1), binary("-", name("q"), name("k")))
        return binary("*", num(0.2), binary("%", i, num(3)))

    def weight(self, scope: str, score: ast.Expr) -> ast.Expr:
        """A positive number made of a score."""
        match self.draw(st.integers(0, 9)):
            case 0 | 1 | 2:
                return call("exp", score)
            case 3:
                return binary("**", num(self.one((2, 0.5, 3.0))), score)
            case 4:
                return binary("+", call("relu", score), num(0.1))
            case 5:
                return call(self.one(("sigmoid", "softplus")), score)
            case 6:
                return binary("+", num(0.5), binary("*", score, score))
            case 7:
                return binary("+", call("exp", score), call("exp", ast.Unary("-", score)))
            case 8:
                other = binary("+", num(1), binary("*", score, score))
                return ast.If(self.predicate(scope, 1), call("exp", score), other)
            case _:
                return binary("*", call("exp", score), call("sigmoid", self.leaf(scope)))

    # Predicates

    def predicate(self, scope: str, depth: int = 2) -> ast.Expr:
        """True or false, and where a read has no value, neither."""
        again = partial(self.predicate, scope, depth - 1)
        match self.draw(st.integers(0, 8 if depth > 0 else 4)):
            case 0 | 1 | 2:
                return self.where(scope)
            case 3:
                return self.compared(scope)
            case 4:
                known = self.readable(scope, "bool")
                return self.read(self.one(known), scope) if known else self.where(scope)
            case 5:
                return ast.Unary("not", again())
            case _:
                return binary(self.one(("and", "or")), again(), again())

    def where(self, scope: str) -> ast.Expr:
        """A predicate on positions and tables."""
        options: list[Callable[[], ast.Expr]] = []
        for i in scope:
            if i in "qkjn":
                options += [partial(self._early, i), partial(self._even, name(i))]
        pair = "jk" if "j" in scope and "k" in scope else "kq" if "k" in scope and "q" in scope else ""
        if self.aligned and pair:
            options += [partial(self._near, *map(name, pair))] * 4
        if "k" in scope:
            options += [self._head] if self.heads else []
            options += [lambda: binary("<=", self.at(self.param("k", "int"), "k"), num(1))]
            options += [lambda: self.at(self.param("k", "bool"), "k")]
        return self.one(options)() if options else binary("<", self.leaf(scope), num(0.31))

    def _early(self, i: str) -> ast.Expr:
        return binary(self.one(("<", ">=")), name(i), num(self.one((1, 2, 3))))

    def _even(self, e: ast.Expr) -> ast.Expr:
        return binary("==", binary("%", e, num(2)), num(0))

    def _head(self) -> ast.Expr:
        self.touched.add("h")
        return self._even(binary("+", name("k"), name("h")))

    def _near(self, first: ast.Expr, second: ast.Expr) -> ast.Expr:
        match self.draw(st.integers(0, 5)):
            case 0 | 1 | 2:
                return binary("<=", first, second)
            case 3:
                if "window" not in self.scalars and self.odds(2):
                    self.scalars["window"] = self.one((1, 2, 3))
                width = name("window") if "window" in self.scalars else num(2)
                return binary("<", binary("-", second, first), width)
            case 4:
                return self._even(binary("-", second, first))
            case _:
                return binary("==", binary("//", second, num(2)), binary("//", first, num(2)))

    def compared(self, scope: str) -> ast.Expr:
        """A comparison of what is read with a number that it never meets."""
        return binary(self.one(("<", ">")), self.leaf(scope), num(self.one((0.31, -0.27, 0.83))))
