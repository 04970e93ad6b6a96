"""A call → the tile that was measured for calls like it, in this process or by another that kept it on disk.

Nothing is measured here. What `Attention.tune` found holds for the same pattern, outputs, device, element
type and feature extents, for lengths up to the same powers of two, and for the versions it was found with.
"""

from __future__ import annotations

import json
import platform
import warnings
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch

from attncc.ir.cascade import Cascade
from attncc.runtime.cache import digest, folder, read_bytes, write
from attncc.schedule.tiles import Tile
from attncc.source import Source


@dataclass(frozen=True)
class Occasion:
    """What a tile is chosen for; `lengths` are exponents of two, by sequence index."""

    outputs: tuple[str, ...]
    backend: str
    target: str
    device: str
    dtype: str
    extents: tuple[tuple[str, int], ...]
    lengths: tuple[tuple[str, int], ...]


def listed() -> dict[str, dict[Occasion, Tile | None]]:
    """Nothing yet, by every pattern of which something is on disk."""
    where = folder()
    try:
        return {path.name[:16]: {} for path in where.glob("*.json")} if where else {}
    except OSError:
        return {}


KNOWN = listed()
"""What this process has read or measured, by pattern; None is the default. Patterns that were never tuned are
not in it, and cost their calls nothing.
"""


@cache
def _pattern(source: Source) -> str:
    return digest(source.text, 16)


def _file(source: Source, occasion: Occasion) -> str:
    return f"{_pattern(source)}{digest([asdict(occasion), _versions(occasion.backend)], 16)}.json"


def _versions(backend: str) -> list[str]:
    if backend != "triton":
        return [torch.__version__]
    import triton

    return [torch.__version__, triton.__version__]


def occasion_of(
    cascade: Cascade,
    arguments: dict[str, Any],
    outputs: tuple[str, ...],
    backend: str,
    target: str,
    extents: tuple[tuple[str, int], ...],
) -> Occasion | None:
    """What a call is, as far as its tile depends on it; None without a tensor of real numbers."""
    floats = [arguments.get(t.name) for t in cascade.inputs if t.kind == "float"]
    first = next((x for x in floats if isinstance(x, torch.Tensor)), None)
    if first is None:
        return None
    lengths: dict[str, int] = {}
    for tensor in cascade.inputs:
        shape = getattr(arguments.get(tensor.name), "shape", ())
        if len(shape) == len(tensor.indices):
            for index, size in zip(tensor.indices, shape, strict=True):
                if index.role == "sequence":
                    lengths.setdefault(index.name, max(0, int(size) - 1).bit_length())
    device = torch.cuda.get_device_name(first.device) if first.is_cuda else platform.machine()
    known = tuple(sorted(lengths.items()))
    return Occasion(outputs, backend, target, device, str(first.dtype)[6:], extents, known)


def tuned(
    source: Source,
    cascade: Cascade,
    arguments: dict[str, Any],
    outputs: tuple[str, ...],
    backend: str,
    target: str,
    extents: tuple[tuple[str, int], ...],
) -> tuple[str, Tile] | None:
    """The element type of a call and the tile that was measured for calls like it, if one was. The disk is
    asked once a process and occasion.
    """
    known = KNOWN.get(_pattern(source))
    if known is None or backend == "reference":
        return None
    occasion = occasion_of(cascade, arguments, outputs, backend, target, extents)
    if occasion is None:
        return None
    if occasion not in known:
        known[occasion] = _stored(_file(source, occasion))
    tile = known[occasion]
    return (occasion.dtype, tile) if tile else None


def _stored(name: str) -> Tile | None:
    data = read_bytes(name)
    if data is None:
        return None
    try:
        said = json.loads(data)["tile"]
        if said is None:
            return None
        tile = Tile(**said)
        sound = all(type(n) is int for n in said.values()) and possible(tile)
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        warnings.warn(f"{name} in {folder()} holds no tile and is ignored: tune again", stacklevel=2)
        return None
    return tile


def keep(source: Source, occasion: Occasion, tile: Tile | None, measured: dict[str, float | str]) -> None:
    """From now on calls like this one have this tile, None for the default; the figures are for readers of
    the file.
    """
    KNOWN.setdefault(_pattern(source), {})[occasion] = tile
    said = {
        "pattern": source.name,
        "for": asdict(occasion),
        "tile": tile and asdict(tile),
        "milliseconds": measured,
    }
    write(_file(source, occasion), json.dumps(said, indent=2).encode())


def possible(tile: Tile) -> bool:
    """Whether kernels can be written for a tile: their offsets hold 256 elements a side."""
    sides = all(16 <= n <= 256 and n & (n - 1) == 0 for n in (tile.rows, tile.columns))
    return sides and tile.warps in (1, 2, 4, 8) and 1 <= tile.stages <= 4
