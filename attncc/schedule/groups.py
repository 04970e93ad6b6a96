"""Outputs → those of one kernel: outputs over the same rows, and what it leaves beside them for the others.

A number at every position that the kernel of one group has as a row, and another one walks, is left by the
first: dQ's kernel leaves `sum(e) dO[q,e] * O[q,e]` for dK's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from attncc.ir.cascade import Cascade, Index, Reduce, Tensor, reads
from attncc.passes.companions import accompany
from attncc.passes.share import pruned
from attncc.schedule.refused import REFERENCE, refuse
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


def rows_of(cascade: Cascade) -> Index:
    """The one sequence index that every output is over, alone or with one that is walked."""
    places = {i for t in cascade.outputs for i in t.indices if i.role == "batch"}
    own = {t.name: [i for i in t.indices if i.role == "sequence"] for t in cascade.outputs}
    reduced = {i for e in cascade.equations if isinstance(e.body, Reduce) for i in e.body.over}
    shared = [i for i in own[cascade.outputs[0].name] if all(i in indices for indices in own.values())]
    rows = next((i for i in shared if i not in reduced), shared[0] if shared else None)
    for tensor in cascade.outputs:
        span = cascade.equation(tensor.name).span
        missing = (places | set(tensor.indices)) - set(cascade.equation(tensor.name).tensor.indices)
        if missing:
            names = ", ".join(f"`{i.name}`" for i in sorted(missing, key=lambda i: i.name))
            message = (
                f"no kernel plan for `{tensor.name}`: the kernel's outputs are over {names}, and it is not"
            )
            raise refuse("plan-rows", message, span, "its rows are another kernel's", REFERENCE)
        if (rows is None and own[tensor.name] != own[cascade.outputs[0].name]) or not own[tensor.name]:
            names = ", ".join(f"`{i.name}`" for i in own[tensor.name]) or "none"
            message = (
                f"no kernel plan for `{tensor.name}`: outputs share one sequence index, this one has {names}"
            )
            raise refuse("plan-rows", message, span, "its rows are another kernel's", REFERENCE)
    assert rows is not None, "outputs over the same sequence indices share one"
    return rows


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
