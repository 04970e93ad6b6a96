"""Outputs → those of one kernel: outputs over the same rows, and what it leaves beside them for the others.

A number at every position that the kernel of one group has as a row, and another one walks, is left by the
first: dQ's kernel leaves `sum(e) dO[q,e] * O[q,e]` for dK's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from attncc.ir.cascade import Cascade, Index, Tensor, reads
from attncc.passes.companions import accompany
from attncc.passes.share import pruned
from attncc.schedule.turned import turns

Outputs: TypeAlias = frozenset[str]
"""Outputs of one kernel, by name."""

Waits: TypeAlias = dict[Outputs, dict[Outputs, None]]
"""For every group those whose kernels run before its own."""


def by_place(cascade: Cascade) -> tuple[Outputs, ...]:
    """The outputs by name, those over the same rows together."""
    found: dict[tuple[frozenset[Index], frozenset[Index], bool], list[str]] = {}
    for t in cascade.outputs:
        places = (frozenset(i for i in t.indices if i.role == role) for role in ("batch", "sequence"))
        batch, rows = places
        # what is written at rows and columns goes with what is written at the rows
        own = turns(cascade.equation(t.name).body)
        key = next((k for k in found if k[0] == batch and (k[1] & rows) and k[2] == own), (batch, rows, own))
        found.setdefault(key, []).append(t.name)
    return tuple(map(frozenset, found.values()))


def part_of(cascade: Cascade, names: Outputs, beside: tuple[Tensor, ...] = ()) -> Cascade:
    """The part of a cascade that gives some outputs, and what is left `beside` them, with the sums beside
    which others move.
    """
    outputs = (*(t for t in cascade.outputs if t.name in names), *beside)
    return cascade if outputs == cascade.outputs else accompany(pruned(replace(cascade, outputs=outputs)))


def host_of(tensors: tuple[Tensor, ...], cascade: Cascade, waits: Waits, group: Outputs) -> Outputs | None:
    """The outputs whose kernel can leave some tensors for a group: it has their rows, reads them nowhere
    else, and does not wait for the group.
    """
    place = _place(tensors[0])
    for host in waits:
        rows = any(_place(t) == place for t in cascade.outputs if t.name in host)
        if rows and not _waiting(host, group, waits) and _at_rows(tensors, part_of(cascade, host)):
            return host
    return None


def _place(tensor: Tensor) -> set[Index]:
    return {i for i in tensor.indices if i.role != "feature"}


def _at_rows(tensors: tuple[Tensor, ...], part: Cascade) -> bool:
    return all(r.at == r.tensor.indices for e in part.equations for r in reads(e.body) if r.tensor in tensors)


def _waiting(group: Outputs, other: Outputs, waits: Waits) -> bool:
    return group == other or any(_waiting(own, other, waits) for own in waits[group])
