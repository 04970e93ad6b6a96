"""Element test → one that divides no columns: what bands say of a comparison, asked of the column itself.

    k // B <= q // B        -->   k <= q // B * B + B - 1
    (k // B + c) % s == 0   -->   (k + c * B % (B * s)) % (B * s) < B

A row is divided once for all its columns, and a class of columns is told by one remainder.
"""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import TRUE, Apply, Expr, Index, free, rebuild, walk
from attncc.ir.logic import OPPOSITE
from attncc.masks.band import Band, Plane
from attncc.masks.normal import assumed, both, total
from attncc.masks.residues import Residue
from attncc.masks.solve import solved
from attncc.masks.sums import canonical


def undivided(e: Expr, plane: Plane) -> Expr:
    """The same predicate, comparisons of divided columns solved for the column, where each is one band."""
    rows, columns = plane.rows, plane.columns
    match e:
        case Apply(op="and" | "or" | "not", args=args):
            return rebuild(e, tuple(undivided(part, plane) for part in args))
        case Apply(op=op) if op in OPPOSITE and _divides(e, columns) and total(e) == e:
            found = solved(e, replace(plane, positive=assumed(e, rows, columns)))
            if len(found) == 1 and not found[0].rest:
                return _test(found[0])
            return e
        case _:
            return e


def _divides(e: Expr, columns: Index) -> bool:
    return any(isinstance(x, Apply) and x.op in ("//", "%") and columns in free(x.args[0]) for x in walk(e))


def _test(band: Band) -> Expr:
    """What a band says of an element, but for the range of the columns."""
    k = band.columns
    tests: list[Expr] = [Apply("<=", (low.value, k)) for low in band.lows]
    tests += [Apply("<=", (k, high.value)) for high in band.highs]
    tests += [*band.guards, *([_member(band.residue, k)] if band.residue else [])]
    said: Expr = TRUE
    for test in tests:
        said = both(said, test)
    return said


def _member(residue: Residue, columns: Index) -> Expr:
    """Whether a column is of a class."""
    behind = Apply("%", (canonical(Apply("neg", (residue.ahead,))), residue.period))
    return Apply("<", (Apply("%", (canonical(Apply("+", (columns, behind))), residue.period)), residue.run))
