"""Cascade after all passes → the demands of its pattern that it does not meet, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator

from attncc.diagnostics import Diagnostic, Label
from attncc.ir.brief import one_place
from attncc.ir.cascade import Apply, Cascade, Demand, Expr, extent
from attncc.ir.show import show_expr
from attncc.masks.bands import Band, bands
from attncc.masks.intervals import at_most
from attncc.passes.analyse import Passes, walked
from attncc.passes.online import passes_over
from attncc.passes.waits import waits
from attncc.schedule.plan import Plan


def too_many_passes(cascade: Cascade) -> Iterator[Diagnostic]:
    """`require passes(k) <= n` where there are more, with the reads that force them (theory §A.9)."""
    for demand in cascade.demands:
        if demand.name != "passes":
            continue
        for index in walked(cascade):
            passes, _ = passes_over(cascade, index)
            if index.name == demand.subject and demand.high is not None and passes.count > demand.high:
                yield _too_many(cascade, demand, passes)


def _too_many(cascade: Cascade, demand: Demand, passes: Passes) -> Diagnostic:
    k, count = demand.subject, passes.count
    message = f"{count} passes over `{k}`, where at most {demand.high:.0f} may be"
    labels = [Label(demand.span, "required here")]
    advice: dict[str, None] = {}
    for edges in passes.waiting:
        wait, reader = waits(cascade, passes, edges[0]), edges[0].reader
        read = " and ".join(f"`{edge.read}`" for edge in edges)
        labels.append(Label(cascade.equation(reader).span, f"`{reader}` waits for {read}: {wait.reason}"))
        advice |= {wait.advice: None} if wait.advice else {}
    help = ", or ".join([*advice, f"accept `require passes({k}) <= {count}`"])
    return Diagnostic("too-many-passes", message, tuple(labels), help)


def not_causal(plan: Plan) -> Iterator[Diagnostic]:
    """`require causal` where a row may see a later column, or where that is not proved.

    The last row stands beside the last column, as `align q to k` has it.
    """
    for demand in plan.cascade.demands:
        loops = [(kernel.rows, loop) for kernel in plan.kernels for loop in kernel.loops if loop.states]
        for rows, loop in loops if demand.name == "causal" else []:
            wheres = dict.fromkeys(state.reduce.where for state in loop.states)
            found = (
                [*loop.bands] if not loop.stored else [b for c in wheres for b in bands(c, rows, loop.index)]
            )
            for outer in loop.outers:
                found += bands(loop.reach, rows, outer) if outer.role == "sequence" else ()
            if not all(_behind(band) for band in found):
                message = f"not causal: a row of `{rows.name}` may see later places of `{loop.index.name}`"
                seen = f"these are seen: {show_expr(one_place(loop.reach))}"
                labels = (Label(demand.span, "required here"), Label(loop.states[0].equation.span, seen))
                help = f"restrict the reduction: `where {loop.index.name} <= {rows.name}`"
                yield Diagnostic("not-causal", message, labels, help)
                break


def _behind(band: Band) -> bool:
    own: Expr = Apply("+", (band.rows, Apply("-", (extent(band.columns), extent(band.rows)))))
    return any(at_most(high.value, own, band.plane.facts) for high in band.highs)
