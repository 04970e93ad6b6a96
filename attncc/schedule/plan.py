"""Cascade → Plan: which equations share a kernel, or the rule that says why they cannot.

A kernel takes tiles of one sequence index, its *rows*, and walks other sequence indices, one loop each. Row
by row it holds the running state of every reduction over a walked index; what reads such a reduction follows
it online, or waits for its walk to end: for the epilogue, or for another walk (`stages`). A value at every
position of a walked index which is itself a reduction over a sequence needs a kernel before this one: it has
one where it asks for no row (`cuts`); a pooled block, a selection, a recurrence are refused by that rule.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

from attncc.ir.cascade import (
    TRUE,
    Cascade,
    Equation,
    Expr,
    Index,
    Reduce,
    Tensor,
    reads,
    walk,
)
from attncc.ir.graph import recurrent
from attncc.ir.logic import disjoin
from attncc.ir.show import show_expr
from attncc.masks.bands import Band, bands
from attncc.masks.grid import Grid, grid
from attncc.masks.summary import deciding
from attncc.masks.uneven import told, uneven
from attncc.ops import REDUCTIONS
from attncc.passes.operator import Operator, State
from attncc.schedule.alike import alike
from attncc.schedule.cuts import cut, joined, of_first_pass, of_other_rows, with_inverses
from attncc.schedule.groups import Outputs, Waits, by_place, host_of, part_of, rows_of
from attncc.schedule.heads import at_grid, beside_walks
from attncc.schedule.refused import REFERENCE, refuse
from attncc.schedule.scattered import by_features
from attncc.schedule.stages import Nests, Stage, nests, stages
from attncc.schedule.totals import by_rows
from attncc.schedule.turned import of_turned, turned, turns


@dataclass(frozen=True)
class Loop:
    """One walk, after its `rows`: `bands`, those of `reach`, bound its tiles for a row tile, `tiles` are
    computed on each, `states` carried.

    `uniform` says that all states run over the same terms, so that there are tiles which none of them has to
    test. Where some of what is computed is `stored`, every tile is visited: the reach is all columns.
    A walk over several indices is a walk over one of them at every position of the `outers`. On a `grid`
    tiles are boxes, bounded along every axis; `bands` are then those that positions in a line have.
    """

    index: Index
    rows: tuple[Equation, ...]
    reach: Expr
    bands: tuple[Band, ...]
    uniform: bool
    tiles: tuple[Equation, ...]
    stored: tuple[Tensor, ...]
    states: tuple[State, ...]
    outers: tuple[Index, ...] = ()
    grid: Grid | None = None

    @property
    def operator(self) -> Operator:
        """What the walk computes: its body is the update."""
        return Operator(self.index, self.states)

    @property
    def narrow(self) -> bool:
        """Whether small tiles fit what rows see: as many columns for every row, for a band ends at a fixed
        column or moves along; or what a class or an element test leaves of them, of which small tiles
        skip more.
        """
        fixed = [any(b.direction == "flat" for b in band.highs) for band in self.ends]
        moving = [any(b.direction == "up" for b in band.lows) for band in self.ends]
        tested = [not band.exact for band in self.ends]
        return all(map(any, zip(fixed, moving, tested, strict=True)))

    @property
    def listed(self) -> tuple[Tensor, ...]:
        """Tables along the index that decide, in no order, which tiles are live: then these are listed."""
        tests = [] if self.outers or self.grid else [test for band in self.bands for test in band.rest]
        return tuple(dict.fromkeys(table for test in tests for table in deciding(test, self.index)))

    @property
    def early(self) -> bool:
        """Whether early rows see most: ranges begin where the row is, and end at a fixed column."""
        begins = [any(b.direction == "up" for b in band.lows) for band in self.ends]
        moves = [any(b.direction == "up" for b in band.highs) for band in self.ends]
        return any(begins) and not any(moves)

    @property
    def ends(self) -> tuple[Band, ...]:
        """What bounds its tiles, along every axis."""
        return self.bands if self.grid is None else tuple(axis.band for axis in self.grid.axes)


@dataclass(frozen=True)
class Kernel:
    """A cascade as row tiles of `rows` at every position of `batch`: prologue, loops, epilogue."""

    cascade: Cascade
    rows: Index
    batch: tuple[Index, ...]
    prologue: tuple[Equation, ...]
    loops: tuple[Loop, ...]
    epilogue: tuple[Equation, ...]

    @property
    def name(self) -> str:
        return self.cascade.name

    @property
    def writes(self) -> tuple[Tensor, ...]:
        """What is stored."""
        return self.cascade.outputs

    @property
    def grid(self) -> Grid | None:
        """The grid whose boxes its rows are cut into; None if they are tiles of a line."""
        return self.loops[0].grid if self.loops else None

    @property
    def narrow(self) -> bool:
        """Whether small tiles fit all of its walks."""
        return all(loop.narrow for loop in self.loops)

    @property
    def uneven(self) -> bool:
        """Whether tables or its place in the batch, known before all walks, decide a row tile's work."""
        known = all(not loop.outers and told(loop.ends) for loop in self.loops)
        return known and any(loop.listed or uneven(loop.ends) for loop in self.loops)


@dataclass(frozen=True)
class Plan:
    """The kernels of a cascade, in the order they run; `cascade` is what they compute, after all passes.

    `totals` add up what kernels leave at their rows, for outputs that have no row.
    """

    cascade: Cascade
    kernels: tuple[Kernel, ...]
    totals: tuple[Equation, ...] = ()

    @property
    def kept(self) -> tuple[Tensor, ...]:
        """What stays in memory between kernels, and is no output."""
        outputs = {t.name for t in self.cascade.outputs}
        return tuple(t for kernel in self.kernels for t in kernel.writes if t.name not in outputs)


def partition(cascade: Cascade) -> Plan:
    """The kernels of a cascade, or `Refused`."""
    check_families(cascade)
    _check_inputs(cascade)
    rows, totals = by_rows(cascade)
    kernels = _kernels(rows)
    if not kernels:
        equation = cascade.equation(cascade.outputs[0].name)
        message = (
            f"no kernel plan for `{equation.tensor.name}`: nothing is over a sequence, which tiles follow"
        )
        raise refuse("plan-rows", message, equation.span, "computed here", REFERENCE)
    equations = dict.fromkeys(e for kernel in kernels for e in kernel.cascade.equations)
    return Plan(replace(cascade, equations=(*equations, *totals)), kernels, totals)


def in_turn(plans: list[Plan]) -> Plan:
    """One plan of many, whose kernels read what those of earlier ones leave."""
    *first, last = plans
    equations = [e for plan in plans for e in plan.cascade.equations]
    left = {t.name for plan in first for t in plan.cascade.outputs}
    inputs = tuple(t for t in last.cascade.inputs if t.name not in left)
    cascade = replace(last.cascade, equations=tuple(dict.fromkeys(equations)), inputs=inputs)
    return Plan(cascade, tuple(k for plan in plans for k in plan.kernels), last.totals)


def _kernels(cascade: Cascade) -> tuple[Kernel, ...]:
    """The kernels of a cascade: first what other kernels read, then one for the outputs over the same rows,
    or one for every pass over an index.
    """
    kernels: list[Kernel] = []
    groups = by_place(cascade)
    waits: Waits = {group: {} for group in groups}
    beside: dict[Outputs, tuple[Tensor, ...]] = {}
    for group in groups:
        while kept := of_turned(part_of(cascade, group)):
            first, cascade = cut(cascade, kept)
            kernels += _kernels(first)
        part = part_of(cascade, group)
        while part.outputs and (found := of_other_rows(part, rows_of(part))) is not None:
            first, cascade = cut(joined(cascade, found[0]), found[1])
            kernels += _kernels(first)
            part = part_of(cascade, group)
        if not part.outputs:
            continue  # others read them, and they have been made
        part, positions = with_inverses(part, rows_of(part))
        cascade = joined(cascade, part) if positions else cascade
        for tensors in positions:
            host = host_of(tensors, cascade, waits, group)
            if host is None:
                first, cascade = cut(cascade, tensors)
                kernels.append(_kernel(first))
            else:
                waits[group][host] = None
                beside[host] = tuple(dict.fromkeys((*beside.get(host, ()), *tensors)))
    for group in TopologicalSorter(waits).static_order():
        part = part_of(cascade, group, beside.get(group, ()))
        if not part.outputs:
            continue
        if len(groups) > 1:
            part = replace(part, name=f"{cascade.name}_{part.outputs[0].name}")
        while (found := of_first_pass(last := _kernel(part))) is not None:
            first, part = cut(*found)
            kernels.append(_kernel(first))
        kernels.append(last)
        if group in beside:
            _, cascade = cut(cascade, beside[group])
    return tuple(kernels)


def _kernel(cascade: Cascade) -> Kernel:
    """One kernel for the whole cascade, or `Refused`."""
    rows = rows_of(cascade)
    batch = tuple(dict.fromkeys(i for t in cascade.outputs for i in t.indices if i.role == "batch"))
    around = turned(cascade)
    cascade = alike(at_grid(by_features(cascade), (*batch, *beside_walks(cascade), *around)))
    sums = {e.tensor: e.body for e in cascade.equations if isinstance(e.body, Reduce)}
    pairs = nests(cascade)
    walks = {t: _walked(e, pairs) for t, e in sums.items()}
    states = {t: i for t, i in walks.items() if i is not None}
    for equation in cascade.equations:
        _check_equation(equation, rows, (*batch, *around), states, pairs)
    prologue, walked, epilogue = stages(cascade, states, _stored(cascade, rows), pairs, rows)
    loops = _on_one_grid(tuple(_loop(stage, rows, cascade, pairs.get(stage.index, ())) for stage in walked))
    return Kernel(cascade, rows, batch, prologue, loops, epilogue)


def check_families(cascade: Cascade) -> None:
    """Refused, where a cascade has what no kernel computes: recurrences, selections, other reductions."""
    groups = recurrent(cascade)
    if groups:
        equation = cascade.equation(groups[0][0])
        message = (
            f"no kernel plan for a recurrence: `{equation.tensor.name}` reads itself at earlier positions"
        )
        raise refuse("plan-recurrence", message, equation.span, "recurrent equation", REFERENCE)
    for equation in cascade.equations:
        for e in walk(equation.body):
            if isinstance(e, Reduce) and REDUCTIONS[e.op].keeps:
                over = e.over[0].name
                message = f"no kernel plan for a selection over `{over}`: it needs a kernel before this one"
                raise refuse("plan-selection", message, equation.span, "selected here", REFERENCE)
            if isinstance(e, Reduce) and e.op not in ("sum", "max", "min"):
                message = f"no kernel plan for `{e.op}`: a kernel folds `sum`, `max` and `min`"
                raise refuse("plan-reduction", message, equation.span, "reduced here", REFERENCE)


def _check_inputs(cascade: Cascade) -> None:
    if not any(r.tensor.origin == "input" for e in cascade.equations for r in reads(e.body)):
        name = cascade.outputs[0].name
        message = f"no kernel plan for `{name}`: it reads no real tensor, whose precision a kernel follows"
        raise refuse("plan-inputs", message, cascade.equation(name).span, "computed here", REFERENCE)


def _stored(cascade: Cascade, rows: Index) -> dict[Tensor, Index]:
    """What is written at every row and column, by the index of its columns."""
    equations = (cascade.equation(t.name).tensor for t in cascade.outputs)
    columns = {t: [i for i in t.indices if i.role == "sequence" and i != rows] for t in equations}
    return {t: found[0] for t, found in columns.items() if found}


def _walked(e: Reduce, pairs: Nests) -> Index | None:
    """The sequence index a reduction walks, the inner one of two; None when it folds features."""
    sequence = [i for i in e.over if i.role == "sequence"]
    inner = next((i for i, outers in pairs.items() if {i, *outers} == set(e.over)), None)
    if inner is not None:
        return inner
    batch = any(i.role == "batch" for i in e.over)
    if len(sequence) > 1 or (sequence and len(e.over) > 1) or (batch and not turns(e)):
        names = ", ".join(i.name for i in e.over)
        message = f"no kernel plan for a reduction over `{names}` at once: a loop walks one sequence index"
        if len(sequence) == len(e.over) == 2:
            message += ", or two that nothing else walks alone"
        raise refuse("plan-walk", message, e.span, "reduced here", REFERENCE)
    return sequence[0] if sequence else None


def _check_equation(
    equation: Equation,
    rows: Index,
    batch: tuple[Index, ...],
    states: dict[Tensor, Index],
    pairs: Nests,
) -> None:
    tensor = equation.tensor
    sequence = [i for i in tensor.indices if i.role == "sequence"]
    if tensor in states and sequence != [rows]:
        place = ", ".join(i.name for i in sequence) or "no position"
        message = (
            f"no kernel plan: `{tensor.name}` is a reduction over `{states[tensor].name}` at every `{place}`,"
            f" and the kernel's rows are `{rows.name}`"
        )
        raise refuse(
            "plan-earlier-kernel", message, equation.span, "needs a kernel before this one", REFERENCE
        )
    walked = {i for i in sequence if i != rows}
    nested = any(walked <= {inner, *outers} for inner, outers in pairs.items())
    places = {*batch, *(i for outers in pairs.values() for i in outers)}
    if (len(walked) > 1 and not nested) or any(i.role == "batch" and i not in places for i in tensor.indices):
        message = f"no kernel plan: `{tensor.name}` is over more than a row and a walked index"
        raise refuse("plan-rank", message, equation.span, "defined here", REFERENCE)
    for read in reads(equation.body):
        if read.tensor.origin == "equation" and read.at != read.tensor.indices:
            message = (
                f"no kernel plan: `{show_expr(read)}` reads an equation at another position than its own"
            )
            raise refuse(
                "plan-position", message, equation.span, f"`{read.tensor.name}` is read here", REFERENCE
            )


def _loop(stage: Stage, rows: Index, cascade: Cascade, outers: tuple[Index, ...]) -> Loop:
    predicates = tuple(
        dict.fromkeys([*([TRUE] if stage.stored else []), *(s.reduce.where for s in stage.states)])
    )
    # a test of what the walk itself computes leaves no tile whole
    uniform = len(predicates) == 1 and not any(r.tensor.origin == "equation" for r in reads(predicates[0]))
    reach = disjoin(predicates)
    found = bands(reach, rows, stage.index, cascade.sorted_tables)
    # positions are taken apart where bands in a line leave something to test
    boxes = any(band.rest for band in found) and not stage.stored and not outers
    axes = grid(reach, rows, stage.index, cascade.sorted_tables) if boxes else None
    return Loop(
        stage.index, stage.rows, reach, found, uniform, stage.tiles, stage.stored, stage.states, outers, axes
    )


def _on_one_grid(loops: tuple[Loop, ...]) -> tuple[Loop, ...]:
    """Walks of one kernel: on a grid if all of them take the rows apart alike, otherwise in a line."""
    grids = [loop.grid for loop in loops]
    if all(g is not None and grids[0] is not None and g.alike(grids[0]) for g in grids):
        return loops
    return tuple(replace(loop, grid=None) for loop in loops)
