"""Statements → Statements whose sizes are sizes: made of numbers, `int` parameters and extents."""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.said import Mistakes, names, near, walk
from attncc.ir.scope import Statements
from attncc.syntax import ast

ANYTHING = ast.Number(1)
"""Stands for a size with a mistake in it."""


def sized(said: Statements, mistakes: Mistakes) -> Statements:
    """Reports every size and starting position that depends on what is not known so early."""
    return replace(
        said,
        splits=tuple(replace(s, by=_size(s.by, said, mistakes)) for s in said.splits),
        declares=tuple(replace(d, extent=_size(d.extent, said, mistakes)) for d in said.declares),
        aligns=tuple(replace(a, start=_start(a.start, said, mistakes)) for a in said.aligns),
    )


def _size(e: ast.Expr, said: Statements, mistakes: Mistakes) -> ast.Expr:
    scalars = {p.name for p in said.params if isinstance(p, ast.ScalarParam)}
    if isinstance(e, ast.Number) and type(e.value) is int and e.value < 1:
        mistakes.add("not-a-size", "a size is at least 1", e.span)
        return ANYTHING
    for x in walk(e):
        match x:
            case ast.Name(name) if name in scalars:
                continue
            case ast.Name(name) | ast.Subscript(name):
                known = (
                    {p.name for p in said.params}
                    | said.sources().keys()
                    | {q.tensor.name for q in said.equations}
                )
                if name not in known:
                    mistakes.add("unknown-name", f"there is no `{name}`", x.span, "", near(name, scalars))
                    return ANYTHING
                message = f"`{name}` differs from place to place, and a size does not"
            case ast.Over():
                message = "a reduction is no size"
            case _:
                continue
        help = "sizes are made of numbers, `int` parameters and extents: `|k| // block`"
        mistakes.add("not-a-size", message, x.span, "", help)
        return ANYTHING
    return e


def _start(e: ast.Expr | None, said: Statements, mistakes: Mistakes) -> ast.Expr | None:
    """Where an aligned index starts: of parameters and batched indices."""
    equations = {q.tensor.name for q in said.equations}
    batched = {i.name for i in said.over} | {i.name for i, _ in said.derived}
    for name, span in names(e) if e is not None else ():
        if name in equations or (name in said.sources() and name not in batched):
            message = f"`{name}` cannot say where an index starts"
            help = "a start is made of parameters and batched indices: `start[b]`"
            mistakes.add("bad-align", message, span, "", help)
            return ANYTHING
    return e
