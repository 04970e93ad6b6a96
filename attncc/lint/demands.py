"""Cascade → the demands on its masks that are not proved, each with a call that breaks it where one is found.

    require covers              every row, in some head and by some sum, sees every key up to its position
    require covers or c         the same wherever `c` does not hold, `c` made of numbers and extents
    require cache <= n          in every head, after any row, later rows see at most n of the keys so far

A proof holds for every length and all numbers: divisors are taken to be positive, and what `n` is made of not
to be negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from attncc.diagnostics import Diagnostic, Label
from attncc.ir.cascade import (
    Apply,
    Cascade,
    Demand,
    Expr,
    Index,
    Literal,
    walk,
)
from attncc.ir.logic import conjoin, disjoin, negated
from attncc.ir.show import show_expr
from attncc.lint.branches import void
from attncc.lint.found import WIDE, Cell, decided, first
from attncc.lint.heads import together
from attncc.lint.kept import kept_at_most, position
from attncc.lint.sampled import HEADS, MANY, Trial, cells, trials, tried
from attncc.lint.seen import Mask, groups, masks
from attncc.masks.integers import values

COUNTS = (HEADS, 1, MANY)
"""Numbers of heads in which a demand may break."""


def unmet(cascade: Cascade) -> Iterator[Diagnostic]:
    """`require covers` and `require cache <= n` where that is not proved."""
    for demand in cascade.demands:
        if demand.name not in ("covers", "cache"):
            continue
        found = list(groups(tuple(m for m in masks(cascade) if m.aligned)))
        if not found:
            message = f"nothing to hold to `require {demand.name}`: no row and column are of one sequence"
            help = "align the rows to the columns: `align q to k`"
            yield Diagnostic("bad-demand", message, (Label(demand.span, "required here"),), help)
        for group in found:
            judge = _uncovered if demand.name == "covers" else _kept
            diagnostic = judge(cascade, demand, group)
            if diagnostic is not None:
                yield diagnostic
                break


def witnessed(diagnostic: Diagnostic, cascade: Cascade) -> Diagnostic:
    """What says that a pattern is not causal, with a row that sees a later column where one is found."""
    for mask in masks(cascade):
        if mask.aligned and mask.known and not mask.tables:
            for trial in tried((mask,), trials(cascade)):
                at = trial.places
                cell = first(mask, trial, cells(mask, trial, at, at) & (at[None, :] > at[:, None]))
                if cell is not None:
                    message = f"{diagnostic.message}: {cell.where} sees {cell.key}: {cell.call}"
                    return replace(diagnostic, message=message)
    return diagnostic


def leaking(cascade: Cascade) -> Iterator[Diagnostic]:
    """`require causal` of a pattern without kernels, by its masks."""
    for demand in cascade.demands:
        for mask in masks(cascade) if demand.name == "causal" else ():
            if not mask.aligned:
                continue
            later = Apply(">", (mask.columns[0], position(mask.rows, mask.columns[0])))
            if not void(conjoin((mask.where, later)), mask.rows, mask.columns[0]):
                q, k = mask.rows.name, mask.columns[0].name
                message = f"not causal: a row of `{q}` may see later places of `{k}`"
                labels = (Label(demand.span, "required here"), Label(mask.span, "seen here"))
                yield Diagnostic("not-causal", message, labels, f"restrict the reduction: `where {k} <= {q}`")
                break


def _uncovered(cascade: Cascade, demand: Demand, group: tuple[Mask, ...]) -> Diagnostic | None:
    """What is wrong with `require covers` for the rows and columns of some masks, if anything is."""
    sums = tuple(m for m in group if m.op == "sum") or group
    rows, columns = sums[0].rows, sums[0].columns[0]
    given = negated(demand.value)
    seen = disjoin(together(m.where, m.heads, given) for m in sums if m.known and not m.tables)
    causal = Apply("<=", (columns, position(rows, columns)))
    if void(conjoin((given, causal, negated(seen))), rows, columns):
        return None
    labels = (Label(demand.span, "required here"), Label(sums[0].span, "seen here"))
    lost = _lost(cascade, demand, sums) if decided(sums) else None
    if lost is not None:
        counts = _counts(lost.trial, (*(m.where for m in sums), demand.value))
        message = (
            f"not covered: row {lost.where} sees {lost.key} in no head: {lost.trial.said(lost.mask, {})}"
        )
        help = "let some head see it, or say where none has to, as in `require covers or |h| < 8`"
        return Diagnostic("not-covered", message + counts, labels, help)
    message = "it is not proved that the heads together see every key up to the row"
    help = "a proof holds for all lengths, numbers and heads; `require covers or c` asks none where `c` holds"
    return Diagnostic("not-covered", message, labels, help)


def _lost(cascade: Cascade, demand: Demand, group: tuple[Mask, ...]) -> Cell | None:
    """A row and an earlier column that it sees in no head."""
    for count in COUNTS:
        for trial in tried(group, trials(cascade, count)):
            if values(demand.value, trial.env):
                continue
            at = trial.places
            seen = np.logical_or.reduce([cells(m, trial, at, at).any(axis=0) for m in group])
            lost = first(group[0], trial, (~seen & (at[None, :] <= at[:, None]))[None])
            if lost is not None:
                return lost
    return None


def _counts(trial: Trial, read: tuple[Expr, ...]) -> str:
    """`, |g| = 8`: how many heads there are, as far as that is asked."""
    found: dict[str, None] = {}
    for e in read:
        for index in sorted(_asked(e), key=lambda i: i.name):
            found[f"|{index.name}|"] = None
    return "".join(f", {name} = {trial.env[name]}" for name in found)


def _asked(e: Expr) -> frozenset[Index]:
    """The batched indices that an expression depends on, or asks the extent of."""
    return frozenset(i for i in walk(e) if isinstance(i, Index) and i.role == "batch")


def _kept(cascade: Cascade, demand: Demand, group: tuple[Mask, ...]) -> Diagnostic | None:
    """What is wrong with `require cache <= n` for the rows and columns of some masks, if anything is."""
    if kept_at_most(demand.value, group):
        return None
    bound = show_expr(demand.value)
    labels = (Label(demand.span, "required here"), Label(group[0].span, "seen here"))
    for trial in tried(group, trials(cascade)) if decided(group) else ():
        most = max(0, int(values(demand.value, trial.env)))
        found = _most_kept(group, trial)
        if found is not None and found[2] > most:
            head, row, count = found
            mask = max(group, key=lambda m: len(m.heads))
            cell = Cell(mask, trial, head, row, 0)
            allowed = bound if isinstance(demand.value, Literal) else f"{bound} = {most:,}"
            message = f"after row {cell.where}, {count:,} keys are still seen later, of at most {allowed}"
            help = "a cache has to keep them: raise the bound, or let rows see fewer"
            return Diagnostic("cache-too-large", f"{message}: {cell.call}", labels, help)
    message = f"it is not proved that at most {bound} keys are still seen later, after any row"
    help = "what is counted are ends that move with the row, as `q - k < window`, or stay, as `k < sinks`"
    return Diagnostic("cache-too-large", message, labels, help)


def _most_kept(group: tuple[Mask, ...], trial: Trial) -> tuple[int, int, int] | None:
    """The head and the row after which most columns are still seen, and how many."""
    mask = max(group, key=lambda m: len(m.heads))
    if trial.length > WIDE or any(m.heads not in ((), mask.heads) for m in group):
        return None
    some = trial.places if trial.whole else trial.places[:: max(1, trial.places.size // 32)]
    at = np.unique(np.minimum(np.r_[some, some + 1], trial.length - 1))
    seen = np.logical_or.reduce(np.broadcast_arrays(*(cells(m, trial, at) for m in group)))
    later = np.logical_or.accumulate(seen[:, ::-1], axis=1)[:, ::-1][:, 1:]
    if not later.size:
        return None
    kept = (later & (np.arange(trial.length)[None, :] <= at[:-1, None])).sum(axis=2)
    head, row = np.unravel_index(int(np.argmax(kept)), kept.shape)
    return int(head), int(at[row]), int(kept[head, row])
