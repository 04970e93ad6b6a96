"""Cascade → cascades in the order they run: what reductions leave at rows that others walk, and the rest.

    dK[k] = sum(q) (x[q,k] + c[q]) * Q[q],   dQ[q] = sum(k) (x[q,k] + c[q]) * K[k],   c[q] = sum(k) y[q,k]
      -->
    c[q] = sum(k) y[q,k]   |   dK[k] = sum(q) (x[q,k] + c[q]) * Q[q],   dQ[q] = sum(k) (x[q,k] + c[q]) * K[k]

dK's walk needs `c`, which therefore has a kernel before it. dQ reads it, too: where it followed its own `c`,
`sum(k) x * K + c * sum(k) K` would be another product, and less exact where the two cancel. So this comes
before the passes by which reductions follow each other.
"""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import Cascade, Equation, Expr, Read, children, rebuild
from attncc.schedule.cuts import cut, joined, of_other_rows
from attncc.schedule.groups import by_place, part_of, rows_of


def apart(cascade: Cascade) -> tuple[Cascade, ...]:
    """The cascades; the last one gives the outputs of the whole."""
    first: list[Cascade] = []
    at_rows = tuple(t for t in cascade.outputs if any(i.role == "sequence" for i in t.indices))
    for group in by_place(replace(cascade, outputs=at_rows)):
        part = part_of(cascade, group)
        while part.outputs and (found := of_other_rows(part, rows_of(part))) is not None:
            made = [found[0].equation(t.name) for t in found[1]]
            before, cascade = cut(_said_once(joined(cascade, found[0]), made), found[1])
            first += apart(before)
            part = part_of(cascade, group)
    return (*first, cascade)


def _said_once(cascade: Cascade, made: list[Equation]) -> Cascade:
    """The cascade in which the values of some equations are read wherever they are said again."""
    held = {e.body: Read(e.tensor, e.tensor.indices) for e in made}
    own = {e.tensor for e in made}

    def put(e: Expr) -> Expr:
        return held[e] if e in held else rebuild(e, tuple(map(put, children(e))))

    return replace(
        cascade,
        equations=tuple(e if e.tensor in own else replace(e, body=put(e.body)) for e in cascade.equations),
    )
