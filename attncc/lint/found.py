"""Masks and trials → warnings: each says what was seen, in which row, of which key, head and call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from attncc.diagnostics import Diagnostic, Label
from attncc.ir.said import listed
from attncc.lint.sampled import Array, Trial, cells, place, tried
from attncc.lint.seen import Mask, groups

Masks = tuple[Mask, ...]
Trials = tuple[Trial, ...]

ROWS = 8
"""So many rows of a long sequence are asked about all columns."""

WIDE = 1 << 15
"""A longer sequence is not asked about all columns."""

FEW = 4
"""A mask looks causal if it has so many times as many cells of the past as of the future."""


@dataclass(frozen=True)
class Cell:
    """A row and a column of one mask, in one head of one call."""

    mask: Mask
    trial: Trial
    head: int
    row: int
    column: int

    @property
    def call(self) -> str:
        """The call in which it is seen."""
        return self.trial.said(self.mask, place(self.mask, self.trial, self.head))

    @property
    def where(self) -> str:
        """`` `q` = 3 ``"""
        return f"`{self.mask.rows.name}` = {self.row}"

    @property
    def key(self) -> str:
        """`` `k` = 9 ``"""
        return f"`{self.mask.columns[0].name}` = {self.column}"


def warning(code: str, message: str, mask: Mask, label: str, help: str) -> Diagnostic:
    """A warning at a reduction."""
    return Diagnostic(code, message, (Label(mask.span, label),), help, "warning")


def decided(group: Masks) -> bool:
    """Whether positions and numbers alone decide some masks, so that a call can be tried."""
    return all(m.known and not m.tables for m in group)


def empty_rows(found: Masks, trials: Trials) -> Iterator[Diagnostic]:
    """Rows to which no reduction over positions leaves a term."""
    for rows in dict.fromkeys(m.rows for m in found):
        group = tuple(m for m in found if m.rows == rows)
        if not decided(group):
            continue
        cell = next((c for t in tried(group, trials) if (c := _blind(group, t))), None)
        if cell is not None:
            columns = listed(dict.fromkeys(i.name for m in group for i in m.columns))
            message = f"row {cell.where} sees no {columns}: {cell.call}"
            help = f"a sum over nothing is 0, as is a softmax; let each row see at least one of {columns}"
            yield warning("empty-row", message, cell.mask, "nothing is left here", help)


def _blind(group: Masks, trial: Trial) -> Cell | None:
    """A row that sees nothing by any of some masks, in some head."""
    rows = trial.places if trial.whole else trial.places[:: max(1, trial.places.size // ROWS)]
    if trial.length > WIDE or (not trial.whole and any(len(m.columns) > 1 for m in group)):
        return None
    first = max(group, key=lambda m: len(m.heads))
    seen = np.zeros((1, rows.size), dtype=bool)
    for mask in group:
        own = cells(mask, trial, rows).any(axis=2)
        if mask.heads not in ((), first.heads):
            return None
        seen = seen | own
    blind = np.argwhere(~seen)
    if not blind.size:
        return None
    head, row = blind[0].tolist()
    return Cell(first, trial, head, int(rows[row]), 0)


def leaks(found: Masks, trials: Trials) -> Iterator[Diagnostic]:
    """Rows that see later columns, where the mask, most heads or another reduction are causal.

    A prefix and blocks of whole rows leak by design: there, who is seen sees back. A window to both sides has
    as much of the future as of the past. Neither is reported, unless other heads or reductions are causal.
    """
    for group in groups(tuple(m for m in found if m.aligned and m.known and not m.tables)):
        views = [(mask, _Future(mask, tried(group, trials))) for mask in group]
        causal = [mask for mask, view in views if view.leak is None]
        reported = False
        for mask, view in views:
            if view.leak is None or reported:
                continue
            if cell := view.odd:
                why = "most of what it shows is earlier, and that later key does not see the row"
            elif cell := view.minority:
                why = "most heads see no later key"
            elif causal and (cell := view.leak):
                why = f"the same rows see no later key where `{causal[0].equation}` reduces"
            else:
                continue
            reported = True
            message = f"the future leaks: row {cell.where} sees the later {cell.key}: {cell.call}"
            k, q = mask.columns[0].name, mask.rows.name
            help = f"add `{k} <= {q}` to its predicate; `require causal` holds a pattern to it"
            yield warning("future-leak", message, mask, why, help)


class _Future:
    """What a mask shows of the future: any `leak`, an `odd` one, one in a `minority` of its heads."""

    def __init__(self, mask: Mask, trials: Trials) -> None:
        self.leak: Cell | None = None
        self.odd: Cell | None = None
        self.minority: Cell | None = None
        for trial in trials:
            at = trial.places
            seen = cells(mask, trial, at, at)
            later = seen & (at[None, :] > at[:, None])
            earlier = seen & (at[None, :] < at[:, None])
            some = later.any(axis=(1, 2))
            self.leak = self.leak or first(mask, trial, later)
            few = later.sum(axis=(1, 2)) * FEW <= earlier.sum(axis=(1, 2))
            one_way = later & ~np.swapaxes(seen, 1, 2) & few[:, None, None]
            self.odd = self.odd or first(mask, trial, one_way)
            if 0 < some.sum() * 2 < some.size:
                self.minority = self.minority or first(mask, trial, later)


def first(mask: Mask, trial: Trial, found: Array) -> Cell | None:
    """The first cell that is true of (heads, rows, columns), if any is."""
    if not found.any():
        return None
    head, row, column = np.unravel_index(int(np.argmax(found)), found.shape)
    return Cell(mask, trial, int(head), int(trial.places[row]), int(trial.places[column]))


def unsafe(found: Masks, trials: Trials) -> Iterator[Diagnostic]:
    """Columns that a row of a causal mask no longer sees, and a later one does: lost to a cache by then."""
    for group in groups(tuple(m for m in found if m.aligned)):
        mask = max(group, key=lambda m: len(m.heads))
        if not decided(group) or any(m.heads not in ((), mask.heads) for m in group):
            continue
        returned: tuple[Cell, int] | None = None
        for trial in tried(group, trials):
            at = trial.places
            seen = np.logical_or.reduce(np.broadcast_arrays(*(cells(m, trial, at, at) for m in group)))
            if (seen & (at[None, :] > at[:, None])).any():
                returned = None
                break
            returned = returned or _returned(mask, trial, seen)
        if returned is not None:
            cell, dropped = returned
            message = (
                f"{cell.key} is dropped and seen again: not by row `{mask.rows.name}` = {dropped}, "
                f"but by {cell.where}"
            )
            help = (
                "decoding has to keep every key; what stays at the same keys, as `k % step == 0`, can be kept"
            )
            yield warning("cache-unsafe", f"{message}: {cell.call}", mask, "seen here", help)


def _returned(mask: Mask, trial: Trial, seen: Array) -> tuple[Cell, int] | None:
    """A column that is seen, then not, then again, and the row that does not see it."""
    before = np.logical_or.accumulate(seen, axis=1)
    gone = np.logical_or.accumulate(before & ~seen, axis=1)
    cell = first(mask, trial, seen & gone)
    if cell is None:
        return None
    column, row = (int(np.searchsorted(trial.places, n)) for n in (cell.column, cell.row))
    dropped = np.flatnonzero(before[cell.head, :row, column] & ~seen[cell.head, :row, column])[-1]
    return cell, int(trial.places[dropped])


def alike(found: Masks, trials: Trials, many: Trials) -> Iterator[Diagnostic]:
    """Masks that read the head, and are the same for all heads wherever that was tried."""
    for mask in found:
        if not mask.known or mask.tables or not mask.heads or len(mask.columns) > 1:
            continue
        some = tried((mask,), (*trials, *many))
        if some and all(_same(mask, t) for t in some):
            names = listed(i.name for i in mask.heads)
            counts = sorted({t.env[f"|{mask.heads[0].name}|"] for t in some})
            tries = f"{' and '.join(map(str, counts))} heads, lengths to {max(t.length for t in some):,}"
            message = f"the mask reads {names}, and all heads see the same: {tries}"
            help = "leave the head out, or look at the arithmetic that should tell heads apart"
            yield warning("same-heads", message, mask, "the same for every head that was tried", help)
            return


def _same(mask: Mask, trial: Trial) -> bool:
    at = trial.places if trial.length <= 64 else trial.places[:: max(1, trial.places.size // 64)]
    seen = cells(mask, trial, trial.places[-8:], at)
    rows = cells(mask, trial, at, trial.places[:8])
    return bool((seen == seen[:1]).all() and (rows == rows[:1]).all())


def unseen(found: Masks, many: Trials) -> Iterator[Diagnostic]:
    """Early columns that no row sees in any head, though heads see different ones."""
    for group in groups(tuple(m for m in found if m.aligned)):
        mask = next((m for m in group if m.heads), None)
        if mask is None or not decided(group):
            continue
        for trial in tried(group, many):
            if not 32 < trial.length <= 1 << 13:
                continue
            early = trial.places[trial.places < trial.length // 2]
            early = early[:: max(1, early.size // 6)] if not trial.whole else early
            rows = np.arange(trial.length)
            seen = np.logical_or.reduce([cells(m, trial, rows, early).any(axis=(0, 1)) for m in group])
            if not seen.all():
                cell = Cell(mask, trial, 0, 0, int(early[np.argmin(seen)]))
                count = f"{trial.env[f'|{mask.heads[0].name}|']} heads"
                message = f"{cell.key} is seen by no row in any head: {trial.said(mask, {})}, {count}"
                help = "`require covers` demands that the heads together see every key up to the row"
                yield warning("unseen-key", message, mask, "seen here are others", help)
                break
