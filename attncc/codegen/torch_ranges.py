"""Bands of a walk → plain torch: the tiles that any head sees, and which of them all heads see whole.

The whole batch takes the same tiles. An end that differs between heads, or that a table tells, is computed
for all of them, and the farthest one bounds the walk; where it is found by search, every tile is tested.
"""

from __future__ import annotations

from dataclasses import replace

from attncc.codegen.ranges import scalar
from attncc.codegen.torch_code import Body, code_of, counts
from attncc.ir.cascade import (
    TRUE,
    Apply,
    Expr,
    Read,
    Reduce,
    Tensor,
    children,
    free,
    reads,
    rebuild,
    substitute,
    walk,
)
from attncc.masks.band import Band, Bound
from attncc.masks.counted import count_of
from attncc.masks.ranges import OWN


def together(bands: tuple[Band, ...], first: str, last: str, k: Body) -> tuple[list[str], list[Band]]:
    """Lines that find the ends over all heads in the rows from `first` to `last`, and the bands they make."""
    lines: dict[str, Tensor] = {}
    made = []
    for band in bands:
        if band.residue is not None and not all(_plain(e, k) for e in band.residue.parts):
            band = band.untested()
        lows, inner = _ends(band.lows, "lowest", (first, last), lines, k)
        highs, outer = _ends(band.highs, "highest", (last, first), lines, k)
        guards = tuple(g for g in band.guards if _plain(g, k))
        rest = band.rest if inner and outer and guards == band.guards else (*band.rest, TRUE)
        made.append(replace(band, lows=lows, highs=highs, guards=guards, rest=rest))
    return [f"{k.words.value(local)} = {text}" for text, local in lines.items()], made


def without_heads(band: Band, k: Body) -> Band:
    """The band of an axis as all heads see it: what differs between them is left to the element test."""
    lows = tuple(b for b in band.lows if _plain(b.value, k))
    highs = tuple(b for b in band.highs if _plain(b.value, k))
    guards = tuple(g for g in band.guards if _plain(g, k))
    same = (lows, highs, guards) == (band.lows, band.highs, band.guards)
    rest = band.rest if same else (*band.rest, TRUE)
    return replace(band, lows=lows, highs=highs, guards=guards, rest=rest)


def _ends(
    bounds: tuple[Bound, ...], farthest: str, rows: tuple[str, str], lines: dict[str, Tensor], k: Body
) -> tuple[tuple[Bound, ...], bool]:
    """Bounds of the whole batch, and whether they say where all heads see all columns, too."""
    found, exact = [], True
    for bound in bounds:
        searched = any(isinstance(x, Reduce) for x in walk(bound.value))
        if _plain(bound.value, k) and not searched:
            found.append(bound)
        elif not searched:
            found.append(replace(bound, direction="free"))
        else:
            exact = False
            if bound.direction != "free":
                found.append(_over_heads(bound, farthest, rows, lines, k))
    return tuple(found), exact


def _plain(e: Expr, k: Body) -> bool:
    """Whether a value is one number for the whole batch, without a look at memory."""
    return not free(e) & set(k.program.batch) and all(not r.tensor.indices for r in reads(e))


def _over_heads(
    bound: Bound, farthest: str, rows: tuple[str, str], lines: dict[str, Tensor], k: Body
) -> Bound:
    """A bound at the row where it is farthest out, over all heads."""
    row = rows[1] if bound.direction == "down" else rows[0]
    value = substitute(bound.value, {k.program.rows: scalar(row)})
    k.steps.add(scalar(row).tensor)
    code = code_of(_looked_up(value, lines, k), k)
    k.helpers[farthest] = None
    end = _named(f"{farthest}({code.text})", farthest, lines, k)
    k.steps.add(end.tensor)
    return Bound(end, "flat")


def _looked_up(e: Expr, lines: dict[str, Tensor], k: Body) -> Expr:
    """An expression with names for what is found in tables."""
    match e:
        case Reduce() if count := count_of(e):
            row = Read(count.row.tensor, tuple(_looked_up(at, lines, k) for at in count.row.at))
            found = replace(e, where=Apply("<=", (row, _looked_up(count.limit, lines, k))))
            return _named(counts(found, k).text, f"{row.tensor.name}_count", lines, k)
        case Read(tensor) if tensor.loaded:
            k.helpers["gather"] = None
            places = ", ".join(code_of(_looked_up(at, lines, k), k).text for at in e.at)
            return _named(f"gather({k.words.tensor(tensor.name)}, {places})", f"{tensor.name}_at", lines, k)
        case _:
            return rebuild(e, tuple(_looked_up(part, lines, k) for part in children(e)))


def _named(text: str, name: str, lines: dict[str, Tensor], k: Body) -> Read:
    """A local for a value of every head."""
    if text not in lines:
        count = sum(known.name.startswith(name) for known in lines.values())
        lines[text] = Tensor(f"{name}{count}{OWN}", (), "int", "equation")
    return Read(lines[text], ())
