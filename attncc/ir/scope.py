"""ast.Pattern → Scope: every parameter, index and equation by name, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from attncc.diagnostics import Label
from attncc.ir.cascade import Index, Role
from attncc.ir.said import Mistakes, extents, near, walk
from attncc.ops import REDUCTIONS
from attncc.source import Span
from attncc.syntax import ast

T = TypeVar("T")


@dataclass(frozen=True)
class Known:
    """An index: where it comes from, and how its positions relate to those of others.

    `related` is the same for indices whose positions compare with one another, "" for what compares freely.
    `value` says what a batched index is in terms of others, as `h // (|h| // |g|)`. `unknown` is a mistake,
    reported.
    """

    name: str
    span: Span
    role: Role
    space: str
    related: str
    shown: bool
    unknown: bool
    align: ast.Align | None
    declare: ast.Declare | None
    parent: ast.Split | None
    splits: tuple[ast.Split, ...]
    value: ast.Expr | None

    @property
    def index(self) -> Index:
        return Index(self.name, self.role, self.space)

    @property
    def sized(self) -> bool:
        """Whether it has an extent; a batched index that only stands for a value has none."""
        return self.shown or any((self.align, self.declare, self.parent))


@dataclass(frozen=True)
class Scope:
    """What every name of a pattern stands for.

    `batch` has the batched indices in the order of a tensor's own, `lone` the axes of tables: only one input
    shows them, and nothing runs over them. `words` are the names of functions, reductions and definitions.
    """

    params: Mapping[str, ast.TensorParam | ast.ScalarParam]
    indices: Mapping[str, Known]
    equations: Mapping[str, ast.Equate]
    batch: tuple[str, ...]
    lone: frozenset[str]
    words: frozenset[str]

    def displaced(self, name: str) -> bool:
        """Whether position 0 of an index may have another number than 0."""
        known = self.indices[name]
        if known.align is None:
            return False
        own = known.shown or known.declare is not None
        return own or known.align.start is not None or self.displaced(known.align.to.name)

    def everything(self) -> tuple[str, ...]:
        """All names, to find the one that was meant."""
        return (*self.indices, *self.params, *self.equations)


@dataclass(frozen=True)
class Statements:
    """The statements of a pattern, by what they are about."""

    params: tuple[ast.TensorParam | ast.ScalarParam, ...]
    over: tuple[ast.Name, ...]
    derived: tuple[tuple[ast.Name, ast.Expr], ...]
    along: tuple[ast.Name, ...]
    aligns: tuple[ast.Align, ...]
    splits: tuple[ast.Split, ...]
    declares: tuple[ast.Declare, ...]
    equations: tuple[ast.Equate, ...]
    outputs: tuple[ast.OutputParam, ...]

    def shown(self) -> dict[str, Span]:
        """The indices that an input shows."""
        found: dict[str, Span] = {}
        for param in self.params:
            if isinstance(param, ast.TensorParam):
                for index in param.indices:
                    found.setdefault(index.name, index.span)
        return found

    def lone(self) -> frozenset[str]:
        """Axes that one input shows and nothing else mentions."""
        axes = [i.name for p in self.params if isinstance(p, ast.TensorParam) for i in p.indices]
        said = {i.name for i in self.mentions()}
        return frozenset(a for a in axes if axes.count(a) == 1 and a not in said)

    def sources(self) -> dict[str, Span]:
        """The indices whose extents follow from something: an input, a split, an alignment, a declaration."""
        found = self.shown()
        for index in (
            *(i for s in self.splits for i in (s.outer, s.inner)),
            *(d.index for d in self.declares),
            *(a.index for a in self.aligns),
        ):
            found.setdefault(index.name, index.span)
        return found

    def mentions(self) -> Iterator[ast.Name]:
        """Every name that stands where only an index may stand."""
        yield from self.over
        yield from self.along
        yield from (i for a in self.aligns for i in (a.index, a.to))
        yield from (i for s in self.splits for i in (s.index, s.outer, s.inner))
        yield from (d.index for d in self.declares)
        for equation in self.equations:
            yield from equation.indices
        for e in self.expressions():
            yield from (ast.Name(name, span) for name, span in extents(e))
            for x in walk(e):
                if isinstance(x, ast.Over) and x.op in REDUCTIONS:
                    yield from x.indices
        yield from (i for o in self.outputs for i in o.indices)

    def expressions(self) -> Iterator[ast.Expr]:
        """Every expression, once."""
        yield from (e for _, e in self.derived)
        yield from (a.start for a in self.aligns if a.start is not None)
        yield from (s.by for s in self.splits)
        yield from (d.extent for d in self.declares)
        yield from (e.body for e in self.equations)


def statements(pattern: ast.Pattern, mistakes: Mistakes) -> Statements:
    """The statements of a pattern by kind, without those that say again what another has said."""
    over, along = _all(ast.OverStatement, pattern), _all(ast.Along, pattern)
    said = Statements(
        params=_first([(p.name, p.span, p) for p in pattern.params], "parameters", mistakes),
        over=_first([(i.name, i.span, i) for s in over for i in s.indices], "batched indices", mistakes),
        derived=tuple(d for s in over for d in s.derived),
        along=tuple(i for s in along for i in s.indices),
        aligns=_all(ast.Align, pattern),
        splits=_all(ast.Split, pattern),
        declares=_all(ast.Declare, pattern),
        equations=_equations(pattern, mistakes),
        outputs=_first([(o.name, o.span, o) for o in pattern.outputs], "outputs", mistakes),
    )
    for holder in (*said.params, *said.outputs, *said.equations):
        if not isinstance(holder, ast.ScalarParam):
            _distinct(holder.indices, mistakes)
    _clashes(said, mistakes)
    return said


def _all(kind: type[T], pattern: ast.Pattern) -> tuple[T, ...]:
    return tuple(s for s in pattern.statements if isinstance(s, kind))


def _first(named: list[tuple[str, Span, T]], what: str, mistakes: Mistakes) -> tuple[T, ...]:
    """The first of each name; the others are mistakes."""
    found: dict[str, tuple[Span, T]] = {}
    for name, span, thing in named:
        if name in found:
            message = f"two {what} are called `{name}`"
            mistakes.add(
                "two-definitions", message, span, "again here", "", Label(found[name][0], "first here")
            )
        else:
            found[name] = span, thing
    return tuple(thing for _, thing in found.values())


def _equations(pattern: ast.Pattern, mistakes: Mistakes) -> tuple[ast.Equate, ...]:
    params = {p.name: p for p in pattern.params}
    found: dict[str, ast.Equate] = {}
    for statement in pattern.statements:
        if not isinstance(statement, ast.Equate):
            continue
        name, span = statement.tensor.name, statement.tensor.span
        if name in params:
            message = f"`{name}` is a parameter, and an equation defines it"
            help = "give one of the two another name"
            first = Label(params[name].span, "the parameter")
            mistakes.add("two-definitions", message, span, "defined here", help, first)
        elif name in found:
            message = f"`{name}` is defined twice"
            first = Label(found[name].tensor.span, "first here")
            help = "one equation defines a tensor whole: use `if … then … else …`, or another name"
            mistakes.add("two-definitions", message, span, "again here", help, first)
        else:
            found[name] = statement
    return tuple(found.values())


def _distinct(indices: tuple[ast.Name, ...], mistakes: Mistakes) -> None:
    seen: dict[str, Span] = {}
    for index in indices:
        if index.name in seen:
            message = f"`{index.name}` names two axes of one tensor"
            help = "give each axis an index of its own"
            mistakes.add("repeated-index", message, index.span, "again here", help)
        seen[index.name] = index.span


def _clashes(said: Statements, mistakes: Mistakes) -> None:
    """A name is that of an index, of a parameter or of an equation, never of two of them."""
    others = {e.tensor.name: (e.tensor.span, "a tensor") for e in said.equations}
    for p in said.params:
        others[p.name] = (p.span, "a tensor" if isinstance(p, ast.TensorParam) else "a number")
    sources = said.sources()
    for name, span in {**{i.name: i.span for i, _ in said.derived}, **sources}.items():
        if name in others:
            place, what = others.pop(name)
            message, help = f"`{name}` is both an index and {what}", "give one of the two another name"
            mistakes.add("name-clash", message, place, f"{what} here", help, Label(span, "the index"))
    for index in said.mentions():
        if index.name in others:
            _, what = others.pop(index.name)
            message = f"`{index.name}` is {what}, and an index is wanted here"
            help = near(index.name, sources) or "an index is a name that inputs show: `k` in `K[b,h,k,d]`"
            mistakes.add("not-an-index", message, index.span, "", help)
