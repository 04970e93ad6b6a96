"""Scope → the extents that no input shows, and the integers that must be known when a kernel is compiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attncc.ir.cascade import ONE, Apply, Expr, Index, Tensor, extent
from attncc.ir.compare import COMPARISONS
from attncc.ir.lower import lower
from attncc.ir.positions import Here, Seen
from attncc.ir.said import Mistakes, extents, listed, names, parts
from attncc.ir.scope import Known, Scope
from attncc.syntax import ast


def lengths(scope: Scope, inputs: Mapping[str, Tensor], mistakes: Mistakes) -> tuple[tuple[Index, Expr], ...]:
    """The extents, each after those it needs; those that need themselves are reported."""
    here = Here(scope, inputs, frozenset(), frozenset(), Seen(mistakes))
    found: dict[Index, Expr | None] = {}
    for name, known in scope.indices.items():
        if known.sized:
            _derive(name, here, found, ())
    return tuple((index, size) for index, size in found.items() if size is not None)


def _derive(name: str, here: Here, found: dict[Index, Expr | None], inside: tuple[str, ...]) -> bool:
    """Adds one extent after those it needs; whether that could be done."""
    known = here.scope.indices[name]
    if known.shown or known.index in found:
        return known.shown or found[known.index] is not None
    if name in inside:
        circle = [here.scope.indices[n] for n in inside[inside.index(name) :]]
        sizes = listed(f"|{k.name}|" for k in circle)
        message = f"{sizes} needs itself" if len(circle) == 1 else f"{sizes} need one another"
        help = "let an input show one of them" if len(circle) > 1 else f"let an input show `{name}`"
        here.mistakes.add("unknown-extent", message, known.span, "", help)
        found |= {k.index: None for k in circle}
        return False
    whole = all([_derive(n, here, found, (*inside, name)) for n in _needs(known)])
    if known.index not in found:
        found[known.index] = _extent(known, here) if whole else None
    return found[known.index] is not None


def _needs(known: Known) -> tuple[str, ...]:
    if known.parent is not None:
        return (known.parent.index.name, *(n for n, _ in extents(known.parent.by)))
    if known.declare is not None:
        return tuple(n for n, _ in extents(known.declare.extent))
    return (known.align.to.name,) if known.align is not None else ()


def _extent(known: Known, here: Here) -> Expr | None:
    if known.parent is not None:
        size = lower(known.parent.by, here)
        if size is None or known.name == known.parent.inner.name:
            return size
        whole = extent(here.scope.indices[known.parent.index.name].index)
        # the last block may be ragged
        return Apply("//", (Apply("-", (Apply("+", (whole, size)), ONE)), size))
    if known.declare is not None:
        return lower(known.declare.extent, here)
    assert known.align is not None, known
    return extent(here.scope.indices[known.align.to.name].index)


def statics(scope: Scope) -> frozenset[str]:
    """The integers that shape a split, an index or a count, or are powers: each choice is another kernel."""
    whole = {n for n, p in scope.params.items() if isinstance(p, ast.ScalarParam) and p.kind == "int"}
    sizes = [k.parent.by for k in scope.indices.values() if k.parent is not None]
    sizes += [k.declare.extent for k in scope.indices.values() if k.declare is not None]
    said = {n for e in sizes for n, _ in names(e)}
    counted: set[str] = set()
    while more := {n for n, q in scope.equations.items() if n not in counted and _ranked(q.body, counted)}:
        counted |= more
    for equation in scope.equations.values():
        said |= _counts(equation.body, counted) | _powers(equation.body, whole)
    return frozenset(said & whole)


def _powers(e: ast.Expr, whole: set[str]) -> set[str]:
    """The whole numbers of which alone a power is made, of what is more than a number."""
    here: set[str] = set()
    match e:
        case ast.Binary("**", base, power) if not isinstance(base, ast.Number):
            found = {name for name, _ in names(power)}
            here = found if found <= whole else here
    return here.union(*(_powers(part, whole) for part in parts(e)))


def _ranked(e: ast.Expr, counted: set[str]) -> bool:
    """Whether a value is made of a rank, here or in an equation it reads."""
    return any(
        (isinstance(x, ast.Over) and x.op == "rank")
        or (isinstance(x, ast.Subscript) and x.tensor in counted)
        or (isinstance(x, ast.Name) and x.name in counted)
        for x in _value(e)
    )


def _counts(e: ast.Expr, counted: set[str]) -> set[str]:
    """The names that a rank is compared with, anywhere in an expression."""
    found: set[str] = set()
    if (
        isinstance(e, ast.Binary)
        and e.op in COMPARISONS
        and (_ranked(e.left, counted) or _ranked(e.right, counted))
    ):
        found |= {x.name for side in (e.left, e.right) for x in _value(side) if isinstance(x, ast.Name)}
    return found.union(*(_counts(part, counted) for part in parts(e)))


def _value(e: ast.Expr) -> Iterator[ast.Expr]:
    """What a value is made of by arithmetic: nothing inside reductions, subscripts and comparisons."""
    yield e
    match e:
        case ast.Over() | ast.Subscript():
            return
        case ast.Binary(op=op) if op in COMPARISONS:
            return
        case _:
            for part in parts(e):
                yield from _value(part)
