"""Cascade and length → one HTML page about its mask that stands alone: no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from attncc.calls import Number
from attncc.example import said_of
from attncc.explain.costs import FEATURES, products, tile_of
from attncc.explain.markup import Markup, element
from attncc.explain.parts import document, equations, figures, opening, section, table
from attncc.ir.brief import briefly
from attncc.ir.cascade import Cascade
from attncc.masks.seen import CHUNK, FULL, PARTIAL, stretches
from attncc.schedule.plan import Kernel, Loop, Plan
from attncc.schedule.refused import Refused
from attncc.schedule.tiles import GPUS
from attncc.viz.mask import Drawn, heads_of, known, listed, places, tiles_of, walked

GPU = "H100"
"""Whose tiles are counted where none are asked for."""

LOOKED = 1 << 24
"""Cells that are looked at for a count, where it does not follow from the ends of bands."""


@dataclass(frozen=True)
class Counted:
    """The tiles and cells of one head in one walk; `exact` is false where cells are an estimate."""

    full: int
    partial: int
    skipped: int
    cells: int
    exact: bool
    every: int
    flops: int


@dataclass(frozen=True)
class Block:
    """The rows and columns of the tiles that are counted, and whose they are."""

    rows: int
    columns: int
    whose: str


def report(
    drawn: Drawn,
    cascade: Cascade,
    plan: Plan,
    tile: int | None = None,
    numbers: Mapping[str, Number] | None = None,
    head: int | None = None,
    extents: Mapping[str, int] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> str:
    """The page around a picture: equations, tiles and work of every walk and head, and what stands for the
    inputs; `tile` is the side of the tiles that are counted, if not the kernel's own.
    """
    env, example = known(cascade, plan, drawn.length, numbers or {}, extents or {})
    block = _block(plan, tile, drawn.tile)
    found = list(_counted(cascade, plan, env, head, block, tell))
    parts = _parts(cascade, drawn, found, block, env, example)
    return document(f"{cascade.name}: who sees whom, and which tiles are visited", parts)


def _block(plan: Plan, tile: int | None, drawn: int) -> Block:
    if tile is not None:
        return Block(tile, tile, "as asked for")
    try:
        own = tile_of(plan, GPUS[GPU])
    except Refused:  # a plan may have a picture where there is no kernel for a GPU
        return Block(drawn, drawn, "as drawn")
    return Block(own.rows, own.columns, f"those of the kernel on an {GPU}")


def _counted(
    cascade: Cascade,
    plan: Plan,
    env: dict[str, Any],
    head: int | None,
    block: Block,
    tell: Callable[[str], None],
) -> Iterator[tuple[str, str, Counted]]:
    """Every walk in words, the heads for which it counts the same, and that count."""
    for kernel, loop in walked(cascade, plan):
        groups: dict[Counted, list[int]] = {}
        for n, place in places(kernel, loop, env, head):
            tell(f"counting head {n}" if place else "counting")
            groups.setdefault(_count(kernel, loop, {**env, **place}, block), []).append(n)
        heads = heads_of(kernel, loop)
        for one, numbers in groups.items():
            walk = f"{kernel.cascade.name}: {kernel.rows.name} over {loop.index.name}"
            yield walk, f"{heads.name} = {listed(numbers)}" if heads else "every head", one


def _count(kernel: Kernel, loop: Loop, env: dict[str, Any], block: Block) -> Counted:
    """The tiles of a head, and its cells: all of them, or from rows and columns that stand for the others."""
    rows, columns = (int(env[f"|{i.name}|"]) for i in (kernel.rows, loop.index))
    here = {**env, kernel.rows.name: 0, loop.index.name: 0}
    full = partial = tiles = 0
    for row in tiles_of(loop, here, rows, columns, block.rows, block.columns):
        full, partial = full + int((row == FULL).sum()), partial + int((row == PARTIAL).sum())
        tiles += len(row)
    counted = stretches(loop.bands, loop.reach, here, np.array([0, columns]), CHUNK)
    some = rows
    if not counted.counted:
        some = max(min(rows, LOOKED // min(columns, CHUNK)), 1)
    chosen = np.arange(some) if some == rows else (np.arange(some) + 0.5) * rows / some
    parts = np.split(chosen.astype(int), range(CHUNK, some, CHUNK))
    cells = sum(float(counted.of(part).sum()) for part in parts) * rows / some
    exact = counted.exact and some == rows
    work = round(cells) * products(loop, env)
    return Counted(full, partial, tiles - full - partial, round(cells), exact, rows * columns, work)


def _parts(
    cascade: Cascade,
    drawn: Drawn,
    found: list[tuple[str, str, Counted]],
    block: Block,
    env: Mapping[str, Any],
    example: Mapping[str, Any],
) -> Iterator[Markup]:
    yield opening(cascade)
    ones = [one for *_, one in found]
    every = sum(one.full + one.partial + one.skipped for one in ones)
    least, most = (pick(one.cells / one.every for one in ones if one.every) for pick in (min, max))
    about = "" if all(one.exact for one in ones) else "about "
    share = f"{least:.2%}" if f"{least:.2%}" == f"{most:.2%}" else f"{least:.2%} to {most:.2%}"
    yield figures(
        [
            (f"{drawn.length:,}", "positions"),
            (f"{sum(one.full + one.partial for one in ones) / max(every, 1):.1%}", "of the tiles visited"),
            (about + share, "of the cells seen"),
        ]
    )
    yield section("As it is written", equations(briefly(cascade)))
    yield section("Who sees whom", element("figure", Markup(drawn.svg)))
    yield section(
        "Tiles and work", table(TITLES, map(_row, found)), element("p", *_terms(block), class_="note")
    )
    inputs = list(_inputs(cascade, env, example))
    if inputs:
        yield section("With these numbers and tables", table(("name", "value"), inputs))


TITLES = (
    "walk",
    "head",
    "visited",
    "seen whole",
    "tested",
    "skipped",
    "cells seen",
    "density",
    "GFLOP",
)


def _row(found: tuple[str, str, Counted]) -> Iterator[str]:
    walk, heads, one = found
    about = "" if one.exact else "about "
    yield from (walk, heads)
    yield from (f"{n:,}" for n in (one.full + one.partial, one.full, one.partial, one.skipped))
    yield f"{about}{one.cells:,}"
    yield f"{about}{one.cells / one.every:.4%}" if one.every else "0"
    yield f"{about}{one.flops / 1e9:,.3f}"


def _terms(block: Block) -> Iterator[str]:
    yield f"Tiles of {block.rows:,} by {block.columns:,}, {block.whose}; of one head each. "
    yield f"Work is that of the matrix products over the cells that are seen, with features of {FEATURES}."


def _inputs(
    cascade: Cascade, env: Mapping[str, Any], example: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """What the masks read, and what stands for it."""
    for tensor in cascade.inputs:
        if not tensor.indices and tensor.name in env:
            yield tensor.name, str(env[tensor.name])
    for name, values in example.items():
        yield name, f"an example: {said_of(values)}"
