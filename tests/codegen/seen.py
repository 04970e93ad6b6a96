"""Calls of patterns whose tiles tables decide, and the masks that they mean, by brute force."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Drawn:
    """One call, its mask over batch, heads, rows and columns; `exact`: tables stand in runs of a tile."""

    name: str
    given: dict[str, Any]
    mask: Tensor
    exact: bool


def runs(source: torch.Generator, low: int, high: int, shape: tuple[int, ...], length: int) -> Tensor:
    """Numbers that change at multiples of a length only, in no order."""
    few = torch.randint(low, high, (*shape[:-1], -(-shape[-1] // length)), generator=source)
    return few.repeat_interleave(length, -1)[..., : shape[-1]]


def positions(rows: int, keys: int) -> tuple[Tensor, Tensor]:
    """Rows as a column, and keys; the last of both at one place."""
    return torch.arange(keys - rows, keys)[:, None], torch.arange(keys)[None, :]


def at(table: Tensor, place: Tensor) -> Tensor:
    """A table at positions along its last axis, whatever stands there for those outside."""
    return table[..., place.clamp(0, table.shape[-1] - 1)]


def CASES() -> Iterator[Drawn]:
    """Square ones whose tables change where tiles do, then any."""
    shapes = ((2, 4, 2, 256, 256, 32), (1, 4, 2, 230, 230, 32), (2, 2, 1, 100, 230, 20), (1, 2, 2, 70, 40, 7))
    for n, (b, h, g, rows, keys, length) in enumerate((*shapes, (2, 4, 4, 1, 300, 32))):
        source = torch.Generator().manual_seed(n)
        q, k = positions(rows, keys)
        exact = n < 2

        def real(heads: int, length: int, source: torch.Generator = source, b: int = b) -> Tensor:
            return torch.randn(b, heads, length, 16, generator=source)

        plain = {"Q": real(h, rows), "K": real(g, keys), "V": real(g, keys)}
        cluster = runs(source, -1, 6, (b, g, keys), length)
        own = cluster.repeat_interleave(h // g, 1)
        same = own[..., None, :] == at(own, q[:, 0])[..., None]
        mask = (k <= q) & (same & (q >= 0) | (own[..., None, :] < 0))
        yield Drawn("clusters", {**plain, "cluster": cluster.int()}, mask, exact)

        image = runs(source, -2, 4, (b, keys), length)[:, None]
        same = (image[..., None, :] == at(image, q[:, 0])[..., None]) & (q >= 0)
        mask = ((k <= q) | same & (image[..., None, :] >= 0)).expand(b, h, rows, keys)
        yield Drawn("transfusion", {**plain, "image": image[:, 0].int()}, mask, exact)

        layout = torch.rand((h, 9, 9), generator=source) < 0.4
        blocks = layout[:, (q // length).clamp(0, 8), (k // length).clamp(0, 8)]
        inside = (q >= 0) & (q < 9 * length) & (k < 9 * length) & (k <= q)
        mask = (blocks & inside).expand(b, h, rows, keys)
        yield Drawn("block_layout", {**plain, "layout": layout, "block": length}, mask, exact)

        nodes = 13
        above = (torch.rand((b, nodes, nodes), generator=source) < 0.3).tril() | torch.eye(
            nodes, dtype=torch.bool
        )
        own = above[:, (q - keys + nodes).clamp(0), (k - keys + nodes).clamp(0)]
        mask = (k <= q) & ((k < keys - nodes) | own & (q >= keys - nodes))
        yield Drawn("tree", {**plain, "above": above}, mask[:, None].expand(b, h, rows, keys), False)
