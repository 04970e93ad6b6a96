"""Plan, length and GPU → what one head costs at least: tiles visited, operations, bytes, milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

from attncc.ir.cascade import Cascade, Expr, Index, Reduce, free, reads
from attncc.masks.boxes import Sides, count_boxes
from attncc.masks.counts import TileCounts, count
from attncc.masks.integers import at
from attncc.schedule.boxes import box
from attncc.schedule.cost import tiles_for
from attncc.schedule.lower import lower
from attncc.schedule.plan import Loop, Plan
from attncc.schedule.tiles import GPUS, PEAKS, Tile

FEATURES = 128
"""The extent taken for every feature index."""

BYTES = 2
"""Those of an element."""

GPU = "H100"

COUNTS = ("live", "full", "partial", "skipped", "cells")


@dataclass(frozen=True)
class Costs:
    """One head on a GPU. `tile` is None where there is no kernel, `tiles` and `flops` also where they depend
    on what `depends` names.
    """

    gpu: str
    tile: Tile | None
    tiles: TileCounts | None
    depends: str
    flops: int | None
    bytes: int

    @property
    def intensity(self) -> float | None:
        """Operations for every byte that is moved."""
        return None if self.flops is None else self.flops / self.bytes

    @property
    def floor_ms(self) -> float | None:
        """Milliseconds at least: by the GPU's matrix units, or by its memory."""
        if self.flops is None:
            return None
        flops, bandwidth = PEAKS[self.gpu]
        return max(self.flops / flops, self.bytes / bandwidth) / 1e9

    @property
    def bound(self) -> str:
        """What the floor is set by."""
        flops, bandwidth = PEAKS[self.gpu]
        by_memory = self.intensity is not None and self.intensity < flops / bandwidth
        return "memory" if by_memory else "matrix units"


def costs(
    cascade: Cascade,
    plan: Plan | None,
    length: int,
    numbers: Mapping[str, int | float | bool],
    gpu: str,
) -> Costs:
    """What a cascade and its kernels cost when every sequence has a length; a number that is neither given
    nor has a default makes the tiles unknown. Refused where a kernel cannot be written down.
    """
    sizes = {i.name: {"sequence": length, "feature": FEATURES, "batch": 1}[i.role] for i in _indices(cascade)}
    moved = traffic(cascade, sizes, BYTES)
    if plan is None:
        return Costs(gpu, None, None, "", None, moved)
    tile = tile_of(plan, GPUS[gpu])
    known = dict(cascade.defaults) | dict(numbers)
    read = [*(loop.reach for k in plan.kernels for loop in k.loops), *(size for _, size in cascade.lengths)]
    loops = [loop for k in plan.kernels for loop in k.loops]
    turning = {f"`{i.name}`" for loop in loops for i in loop.outers if i in free(loop.reach)}
    depends = ", ".join([*unknown(read, known), *sorted(turning)])
    if depends:
        return Costs(gpu, tile, None, depends, None, moved)
    tiles, flops = work(plan, environment(cascade, length, known), tile)
    return Costs(gpu, tile, tiles, "", flops, moved)


def tile_of(plan: Plan, target: str) -> Tile:
    """The tile that the last kernel gets."""
    kernel = plan.kernels[-1]
    program = lower(kernel)
    extents = {i.name: FEATURES for i in program.features}
    return tiles_for(program, target, BYTES, extents, kernel.narrow)[0]


def _indices(cascade: Cascade) -> set[Index]:
    return {i for t in (*cascade.inputs, *cascade.outputs) for i in t.indices}


def work(plan: Plan, env: Mapping[str, Any], tile: Tile) -> tuple[TileCounts, int]:
    """The tiles of all loops at every place of the batch, and the operations of their matrix products: two
    for every multiply-add, over the cells that are seen.

    `env` binds what the predicates read, every extent among it; places that no predicate asks for are not
    counted apart.
    """
    total, flops = TileCounts(0, 0, 0, 0, 0), 0
    for kernel in plan.kernels:
        for loop in kernel.loops:
            places = (*kernel.batch, *loop.outers)
            apart = [i for i in places if i in free(loop.reach)]
            alike = prod(env[f"|{i.name}|"] for i in places if i not in apart)
            for place in product(*(range(env[f"|{i.name}|"]) for i in apart)):
                here = {**env, **{i.name: n for i, n in zip(apart, place, strict=True)}}
                here |= {kernel.rows.name: 0, loop.index.name: 0}
                rows, columns = env[f"|{kernel.rows.name}|"], env[f"|{loop.index.name}|"]
                one = count(loop.bands, loop.reach, here, rows, columns, tile.rows, tile.columns)
                if loop.grid is not None:
                    sides = Sides(box(tile.rows, loop.grid), box(tile.columns, loop.grid))
                    one = count_boxes(loop.grid, sides, one.cells, here)
                if not loop.uniform:  # no tile goes untested
                    one = replace(one, full=0, partial=one.live)
                total = TileCounts(*(getattr(total, f) + alike * getattr(one, f) for f in COUNTS))
                flops += alike * one.cells * products(loop, env)
    return total, flops


def products(loop: Loop, env: Mapping[str, Any]) -> int:
    """Operations of the matrix products at one cell of a loop."""

    def features(indices: tuple[Index, ...]) -> int:
        return prod(env[f"|{i.name}|"] for i in indices if i.role == "feature")

    found = sum(
        features(e.tensor.indices) * features(e.body.over)
        for e in loop.tiles
        if isinstance(e.body, Reduce) and sum(i.role == "sequence" for i in e.tensor.indices) > 1
    )
    states = (s.equation.tensor.indices for s in loop.states)
    return 2 * (found + sum(features(own) for own in states if any(i.role == "feature" for i in own)))


def environment(
    cascade: Cascade,
    length: int,
    numbers: Mapping[str, int | float | bool] | None = None,
    extents: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """What the names of a predicate stand for in the first head, every sequence having one length; `numbers`
    stand for the pattern's, and `extents` for those of single indices, where the defaults do not.
    """
    env: dict[str, Any] = dict(cascade.defaults) | dict(numbers or {})
    for index in _indices(cascade):
        size = {"sequence": length, "feature": FEATURES, "batch": 1}[index.role]
        env[f"|{index.name}|"] = (extents or {}).get(index.name, size)
        if index.role == "batch":
            env[index.name] = 0
    for index, formula in cascade.lengths:
        env[f"|{index.name}|"] = at(formula, env)
    return env


def unknown(read: Iterable[Expr], known: Mapping[str, Any]) -> list[str]:
    """What some expressions read and is not known."""
    return sorted({f"`{r.tensor.name}`" for e in read for r in reads(e) if r.tensor.name not in known})


def traffic(cascade: Cascade, sizes: Mapping[str, int], width: int) -> int:
    """Bytes, if every input is read once and every output written once; `width` of a real number."""
    tensors = [t for t in (*cascade.inputs, *cascade.outputs) if t.origin not in ("scalar", "static")]
    bytes = {"float": width, "int": 4, "bool": 4}
    return sum(bytes[t.kind] * prod(sizes[i.name] for i in t.indices) for t in tensors)
