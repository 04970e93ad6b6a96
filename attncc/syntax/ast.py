"""The tree of a pattern as its author wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from attncc.source import NOWHERE, Span


def place() -> Span:
    """A node's place in the source; two nodes that say the same are equal wherever they stand."""
    return field(default=NOWHERE, compare=False, repr=False)


# ---- expressions -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """`16`, `0.5`, `1e-6`, `true`, `false`, `inf`: the value, an int, a float or a bool; never negative."""

    value: int | float | bool
    span: Span = place()


@dataclass(frozen=True)
class Name:
    """`q`, `window`, `slope`: an index, a scalar, or a tensor read at its batched indices."""

    name: str
    span: Span = place()


@dataclass(frozen=True)
class Extent:
    """`|d|`"""

    index: str
    span: Span = place()


@dataclass(frozen=True)
class Subscript:
    """`K[n, i, d]`"""

    tensor: str
    at: tuple[Expr, ...]
    span: Span = place()


@dataclass(frozen=True)
class Unary:
    """`-x`, `not x`"""

    op: str
    body: Expr
    span: Span = place()


@dataclass(frozen=True)
class Binary:
    """`a op b`, op one of `+ - * / // % ** < <= > >= == != and or`"""

    op: str
    left: Expr
    right: Expr
    span: Span = place()


@dataclass(frozen=True)
class If:
    """`if c then a else b`"""

    condition: Expr
    then: Expr
    other: Expr
    span: Span = place()


@dataclass(frozen=True)
class Call:
    """`exp(x)`, `min(a, b)`, `through(C, R)`, `alibi(q, k, slope)`: a function, or a definition of values."""

    name: str
    args: tuple[Expr, ...]
    span: Span = place()


@dataclass(frozen=True)
class Over:
    """`op(i, j where c, count = 16) body`: a reduction, a selection or a definition that takes indices."""

    op: str
    indices: tuple[Name, ...]
    where: Expr | None
    options: tuple[tuple[str, Expr], ...]
    body: Expr
    span: Span = place()


Expr: TypeAlias = Number | Name | Extent | Subscript | Unary | Binary | If | Call | Over


# ---- statements --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Notes:
    """The comments of a statement, without `#`: those on the lines before it, and the one behind it."""

    before: tuple[str, ...] = ()
    behind: str = ""


def notes() -> Notes:
    return field(default=Notes())


@dataclass(frozen=True)
class OverStatement:
    """`over b, h with g = h // (|h| // |g|)`"""

    indices: tuple[Name, ...]
    derived: tuple[tuple[Name, Expr], ...]
    notes: Notes = notes()
    span: Span = place()


@dataclass(frozen=True)
class Along:
    """`along q, k`"""

    indices: tuple[Name, ...]
    notes: Notes = notes()
    span: Span = place()


@dataclass(frozen=True)
class Align:
    """`align q to k`, `align q to k at start[b]`"""

    index: Name
    to: Name
    start: Expr | None
    notes: Notes = notes()
    span: Span = place()


@dataclass(frozen=True)
class Split:
    """`split k into n, i by block`"""

    index: Name
    outer: Name
    inner: Name
    by: Expr
    notes: Notes = notes()
    span: Span = place()


@dataclass(frozen=True)
class Declare:
    """`index c: (|k| - l) // stride + 1`"""

    index: Name
    extent: Expr
    notes: Notes = notes()
    span: Span = place()


@dataclass(frozen=True)
class Define:
    """`def softmax(i where c) x = ...` (indices, predicate, options, body) or `def softcap(x, cap) = ...`.

    `where` and `body` are the names bound to the predicate and to the body, "" when the definition takes
    none.
    """

    name: str
    params: tuple[str, ...]
    where: str
    options: tuple[str, ...]
    body: str
    value: Expr
    notes: Notes = notes()
    span: Span = place()


@dataclass(frozen=True)
class Require:
    """`require causal`, `require passes(k) <= 1`"""

    demand: Expr
    notes: Notes = notes()
    span: Span = place()


@dataclass(frozen=True)
class AssumeRange:
    """`assume g in [-5, 0]`"""

    tensor: Name
    low: Expr
    high: Expr
    notes: Notes = notes()
    span: Span = place()


@dataclass(frozen=True)
class AssumeSorted:
    """`assume sorted doc`"""

    tensor: Name
    notes: Notes = notes()
    span: Span = place()


@dataclass(frozen=True)
class Equate:
    """`S[q,k] = body`; `indices` is empty for `y = body`."""

    tensor: Name
    indices: tuple[Name, ...]
    body: Expr
    notes: Notes = notes()
    span: Span = place()


Statement: TypeAlias = (
    OverStatement | Along | Align | Split | Declare | Define | Require | AssumeRange | AssumeSorted | Equate
)


# ---- the file ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorParam:
    """`Q[b,h,q,d]`, `T[b,k]: const`, `doc[b,k]: int`, `T[]`; kind is one of `float const int bool`."""

    name: str
    indices: tuple[Name, ...]
    kind: str = "float"
    span: Span = place()


@dataclass(frozen=True)
class ScalarParam:
    """`window: int = 1024`; kind is one of `int float bool`; default is None where none was written."""

    name: str
    kind: str
    default: int | float | bool | None = None
    span: Span = place()


@dataclass(frozen=True)
class OutputParam:
    """`O[b,h,q,e]`"""

    name: str
    indices: tuple[Name, ...]
    span: Span = place()


@dataclass(frozen=True)
class Pattern:
    """One attention mechanism. `definitions` are the file's own `def`s that stand before it."""

    name: str
    doc: str
    params: tuple[TensorParam | ScalarParam, ...]
    outputs: tuple[OutputParam, ...]
    statements: tuple[Statement, ...]
    notes: Notes = notes()
    span: Span = place()


@dataclass(frozen=True)
class File:
    """What one `.attn` text holds: definitions, and at most one pattern."""

    doc: str
    definitions: tuple[Define, ...]
    pattern: Pattern | None
    notes_after: tuple[str, ...] = ()
