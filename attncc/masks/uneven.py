"""Bands → whether how many tiles rows see is known at a call only: by its tables, by a place in the batch.

Where a row alone decides, as where its keys end at it, how much it sees is known beforehand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from attncc.ir.cascade import Expr, Read, free, walk
from attncc.masks.band import Band


def uneven(bands: Iterable[Band]) -> bool:
    """Whether a table, or a batched index, says where some band ends, or whether it is there at all."""
    return any(_called(e) for band in bands for e in _ends(band))


def told(bands: Iterable[Band]) -> bool:
    """Whether arguments of the call alone say where bands end: nothing that is computed for it."""
    found = (x for band in bands for e in _ends(band) for x in walk(e) if isinstance(x, Read))
    return all(x.tensor.loaded or x.tensor.origin in ("scalar", "static") for x in found)


def _ends(band: Band) -> Iterator[Expr]:
    yield from (bound.value for bound in (*band.lows, *band.highs))
    yield from band.guards


def _called(e: Expr) -> bool:
    tables = any(isinstance(x, Read) and x.tensor.loaded and x.at for x in walk(e))
    return tables or any(i.role == "batch" for i in free(e))
