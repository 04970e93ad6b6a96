"""Cascade → its equations in few words: at one place of the batch, long predicates called by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attncc.ir.cascade import TRUE, Cascade, Equation, Expr, Read, Reduce, Tensor, children, rebuild
from attncc.ir.show import show_equation, show_expr

LONG = 24
"""Characters of a predicate that is still written out."""


def brief(equation: Equation, names: dict[Expr, str] | None = None) -> str:
    """One equation without its batched subscripts; `names` stand for the predicates they name."""
    body = one_place(_called(equation.body, names or {}))
    return show_equation(Equation(_unbatched(equation.tensor), body))


def briefly(cascade: Cascade) -> list[str]:
    """All equations, after the predicates that they call by name."""
    names = predicates(cascade)
    said = [f"{name}: {show_expr(one_place(e))}" for e, name in names.items()]
    return said + [brief(e, names) for e in cascade.equations]


def predicates(cascade: Cascade) -> dict[Expr, str]:
    """Long predicates of reductions, each with a name: `seen`, or `seen1`, `seen2`..."""
    taken = {t.name for t in cascade.inputs} | {e.tensor.name for e in cascade.equations}
    word = "seen"
    while any(name.startswith(word) for name in taken):
        word += "_"
    wheres = [where for e in cascade.equations for where in _wheres(e.body)]
    long = [w for w in dict.fromkeys(wheres) if w != TRUE and len(show_expr(one_place(w))) > LONG]
    return {w: word if len(long) == 1 else f"{word}{n}" for n, w in enumerate(long, 1)}


def _wheres(e: Expr) -> Iterator[Expr]:
    """The predicates of reductions, but for those inside other predicates."""
    if isinstance(e, Reduce):
        yield e.where
        yield from _wheres(e.body)
        return
    for part in children(e):
        yield from _wheres(part)


def one_place(e: Expr) -> Expr:
    """An expression without the batched subscripts of what it reads."""
    if isinstance(e, Read):
        kept = [s for s, i in zip(e.at, e.tensor.indices, strict=True) if i.role != "batch"]
        return Read(_unbatched(e.tensor), tuple(one_place(s) for s in kept))
    return rebuild(e, tuple(one_place(part) for part in children(e)))


def _unbatched(tensor: Tensor) -> Tensor:
    return replace(tensor, indices=tuple(i for i in tensor.indices if i.role != "batch"))


def _called(e: Expr, names: dict[Expr, str]) -> Expr:
    if isinstance(e, Reduce) and e.where in names:
        called = Read(Tensor(names[e.where], (), "bool", "scalar"), ())
        return replace(e, where=called, body=_called(e.body, names))
    return rebuild(e, tuple(_called(part, names) for part in children(e)))
