"""The cascade: what a pattern means, as an ordered list of equations. Eight node kinds, and no others.

A cascade says everything outright. Batched indices stand in every tensor and every read; an index is a
*storage position* `0 <= i < |i|` (an aligned index used as a number has become `q + (|k| - |q|)`);
definitions, splits and defaults are written out. What is left:

    Index       `q`                 a position, also read as an integer
    Tensor      `S[q,k]`            a name over indices, of a kind, from a source
    Equation    `S[q,k] = body`
    Literal     `2`, `0.5`, `true`, `inf`
    Read        `K[b, h // 4, k, d]`    a tensor at integer subscripts; out of range it has no value
    Apply       `a + b`, `exp(x)`       a scalar function of `ops.FUNCTIONS`
    Reduce      `sum(k where c) x`      a reduction of `ops.REDUCTIONS`; terms without a value are absent
    Choose      `if c then a else b`    only the branch taken has to have a value
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal as OneOf
from typing import TypeAlias, assert_never

from attncc.ops import FUNCTIONS, REDUCTIONS, Kind
from attncc.source import NOWHERE, Span

Role = OneOf["batch", "sequence", "feature"]
"""Batched indices become the grid, sequence extents are known at run time only, feature extents when a kernel
is compiled."""

Origin = OneOf["input", "table", "scalar", "static", "equation", "kept"]
"""Where a tensor comes from: a differentiable argument, a constant one, a number known at run time or when a
kernel is compiled, an equation, or an equation of an earlier kernel."""


@dataclass(frozen=True)
class Index:
    """A position along one axis. Those of one `space` count the same positions (`align`, never a merge)."""

    name: str
    role: Role
    space: str


@dataclass(frozen=True)
class Tensor:
    """A name over indices. Scalars are tensors without indices."""

    name: str
    indices: tuple[Index, ...]
    kind: Kind
    origin: Origin

    @property
    def loaded(self) -> bool:
        """Whether it stands in memory when a kernel runs."""
        return self.origin in ("input", "table", "kept")


@dataclass(frozen=True)
class Literal:
    """A number or a truth value."""

    value: int | float | bool
    kind: Kind


@dataclass(frozen=True)
class Read:
    """A tensor at one integer subscript per index of it."""

    tensor: Tensor
    at: tuple[Expr, ...]


@dataclass(frozen=True)
class Apply:
    """A scalar function of its arguments."""

    op: str
    args: tuple[Expr, ...]


@dataclass(frozen=True)
class Reduce:
    """`op(over where ...) body`; for an op that `keeps`, `over` is one index and stays free in the result."""

    op: str
    over: tuple[Index, ...]
    where: Expr
    body: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Choose:
    """`if condition then then else other`"""

    condition: Expr
    then: Expr
    other: Expr


Expr: TypeAlias = Index | Literal | Read | Apply | Reduce | Choose


@dataclass(frozen=True)
class Equation:
    """`tensor[indices] = body`"""

    tensor: Tensor
    body: Expr
    span: Span = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Demand:
    """`require causal`, `require passes(k) <= 1`, `assume g in [-5, 0]`, `assume sorted doc`, as data.

    name: "causal" (no more), "covers" (value: what excuses from it), "cache" (value: how many keys), "passes"
    (subject: index, bound), "range" (subject: tensor, low, high), "sorted" (subject). A value is made of
    numbers and extents; that of "above" is the read of a tensor that the subject is at least, as is known of
    what an earlier kernel has made.
    """

    name: OneOf["causal", "covers", "cache", "passes", "range", "sorted", "above"]
    subject: str = ""
    low: float = 0
    high: float = 0
    span: Span = field(default=NOWHERE, compare=False, repr=False)
    value: Expr = Literal(False, "bool")


@dataclass(frozen=True)
class Cascade:
    """Equations, each reading only earlier ones, but for recurrent groups, which stand together.

    `lengths` gives the extent of every index that no input shows (`|n| = (|k| + block - 1) // block`).
    `outputs` name equations, with the order in which their indices are wanted, which may be another than the
    equation's own; an index the equation does not have is repeated along.
    """

    name: str
    doc: str
    inputs: tuple[Tensor, ...]
    defaults: tuple[tuple[str, int | float | bool], ...]
    lengths: tuple[tuple[Index, Expr], ...]
    equations: tuple[Equation, ...]
    outputs: tuple[Tensor, ...]
    demands: tuple[Demand, ...] = ()

    def equation(self, name: str) -> Equation:
        """The equation that defines a tensor."""
        return next(e for e in self.equations if e.tensor.name == name)

    @property
    def sorted_tables(self) -> frozenset[str]:
        """The tables that are assumed never to fall along their sequence."""
        return frozenset(d.subject for d in self.demands if d.name == "sorted")

    @property
    def batch(self) -> tuple[Index, ...]:
        """Every batched index, in order of appearance."""
        found = dict.fromkeys(
            i for t in (*self.inputs, *self.outputs) for i in t.indices if i.role == "batch"
        )
        return tuple(found)


TRUE = Literal(True, "bool")
FALSE = Literal(False, "bool")
ZERO = Literal(0, "int")
ONE = Literal(1, "int")


def number(value: int | float | bool) -> Literal:
    """A literal of the kind its Python type says."""
    return Literal(value, "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float")


def extent(index: Index) -> Apply:
    """`|i|`"""
    return Apply("extent", (index,))


def kind(e: Expr) -> Kind:
    """What a value is: bool, int or float."""
    match e:
        case Index():
            return "int"
        case Literal():
            return e.kind
        case Read():
            return e.tensor.kind
        case Apply():
            result = FUNCTIONS[e.op].result
            return join(*map(kind, e.args)) if result == "join" else result
        case Reduce():
            row = REDUCTIONS[e.op].result
            return kind(e.body) if row == "body" else row
        case Choose():
            return join(kind(e.then), kind(e.other))
        case _:
            assert_never(e)


def join(*kinds: Kind) -> Kind:
    """The widest of some kinds; a bool among numbers counts as 0 or 1."""
    order: tuple[Kind, ...] = ("bool", "int", "float")
    return max(kinds, key=order.index)


def children(e: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside one, subscripts, predicates and bodies alike."""
    match e:
        case Index() | Literal():
            return ()
        case Read():
            return e.at
        case Apply():
            return e.args
        case Reduce():
            return (e.where, e.body)
        case Choose():
            return (e.condition, e.then, e.other)
        case _:
            assert_never(e)


def rebuild(e: Expr, parts: tuple[Expr, ...]) -> Expr:
    """The same node around other children, in the order of `children`."""
    match e:
        case Index() | Literal():
            return e
        case Read():
            return replace(e, at=parts)
        case Apply():
            return replace(e, args=parts)
        case Reduce():
            return replace(e, where=parts[0], body=parts[1])
        case Choose():
            return Choose(*parts)
        case _:
            assert_never(e)


def walk(e: Expr) -> Iterator[Expr]:
    """An expression and everything inside it, outermost first."""
    yield e
    for part in children(e):
        yield from walk(part)


def reads(e: Expr) -> tuple[Read, ...]:
    """Every read inside an expression, in order, each once."""
    return tuple(dict.fromkeys(x for x in walk(e) if isinstance(x, Read)))


def free(e: Expr) -> frozenset[Index]:
    """Indices whose position an expression depends on: `|q|` does not depend on `q`."""
    match e:
        case Index():
            return frozenset((e,))
        case Apply(op="extent"):
            return frozenset()
        case Reduce():
            inside = free(e.where) | free(e.body)
            return inside | set(e.over) if REDUCTIONS[e.op].keeps else inside - set(e.over)
        case _:
            return frozenset().union(*(free(part) for part in children(e)))


def substitute(e: Expr, values: dict[Index, Expr]) -> Expr:
    """An expression with indices replaced by expressions; bound ones are left alone, none may be captured.

    The index of a place among members stands for the member, too: it cannot be replaced.
    """
    match e:
        case Index():
            return values.get(e, e)
        case Apply(op="extent"):
            return e
        case Reduce():
            moved = {i for i in e.over if values.get(i, i) != i}
            assert not (moved and REDUCTIONS[e.op].keeps), f"a place at {moved} is known by a read of it: {e}"
            inner = {i: v for i, v in values.items() if i not in e.over}
            captured = frozenset().union(*(free(v) for v in inner.values())) & set(e.over)
            assert not captured, f"{captured} captured in {e}"
            return replace(e, where=substitute(e.where, inner), body=substitute(e.body, inner))
        case _:
            return rebuild(e, tuple(substitute(part, values) for part in children(e)))
