"""Explanation → text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from attncc.explain.costs import BYTES, FEATURES
from attncc.ir.brief import briefly, one_place
from attncc.ir.cascade import ONE, Read, Tensor
from attncc.ir.logic import terms, times
from attncc.ir.show import show_expr
from attncc.passes.analyse import Edge, Passes
from attncc.passes.online import Updater, before
from attncc.passes.waits import waits as reason

if TYPE_CHECKING:
    from attncc.explain.found import Explanation, Outline, Walked
    from attncc.explain.notation import Notation

FINITE = "`finite(m)` is m, and 0 where m is the maximum of nothing, -inf."


def text(said: Explanation) -> str:
    """All that is found, and what it costs."""
    lines = [f"{said.cascade.name}: {(said.cascade.doc.strip().splitlines() or [''])[0]}", ""]
    lines += _indented(briefly(said.cascade))
    lines += ["", "As it runs:", "", *_indented(briefly(said.streamed)), "", *passes(said)]
    if said.plan is None:
        return "\n".join([*lines, *_indented(corrections(said)), "", f"No kernel: {said.refused}", ""])
    if said.state:
        lines.append(f"State of a row: {', '.join(map(named, said.state))}.")
    for kernel in said.kernels:
        lines += outline(kernel)
    for operator in said.operators:
        for title, equations in stages(operator):
            lines += ["", f"{title}:", "", *_indented(equations)]
    if guarded(said):
        lines += ["", FINITE]
    return "\n".join([*lines, "", *costs(said), ""])


def passes(said: Explanation) -> Iterator[str]:
    """Walks over every index, what waits for what, and what saved a walk."""
    for n, (stands, runs) in enumerate(zip(said.written, said.derived, strict=True)):
        yield f"Passes over {runs.index.name}: {stands.count} as written, {runs.count} as it runs."
        yield from (f"  {line}" for line in waits(said, stands, runs))
        for rewrite in said.rewrites:
            (_, many), (_, few) = rewrite.before[n], rewrite.passes[n]
            if few < many:
                yield f"  `{rewrite.name}` makes {few} of {many} passes"
    yield from followers(said.updaters)
    yield from exponents(said)


def waits(said: Explanation, stands: Passes, runs: Passes) -> Iterator[str]:
    """What has to wait for what to be complete: as it is written, and as it runs, and why."""
    for edges in stands.waiting:
        yield f"as written, {_waits(edges)}"
    for edges in runs.waiting:
        yield f"still, {_waits(edges)}: {reason(said.streamed, runs, edges[0]).reason}"


def _waits(edges: Sequence[Edge]) -> str:
    return f"{edges[0].reader} waits for {_listed([edge.read for edge in edges])}"


def followers(updaters: Mapping[str, Updater]) -> Iterator[str]:
    """The reductions that follow others, by what they follow."""
    found: dict[tuple[str, ...], list[str]] = {}
    for name, updater in updaters.items():
        found.setdefault(tuple(t.name for t in updater.follows), []).append(name)
    for follows, names in found.items():
        yield f"Online, {_listed(names)} follow{'s' * (len(names) == 1)} {_listed(follows)}."


def exponents(said: Explanation) -> Iterator[str]:
    """Whether no exponential can overflow; if one may, which, and where."""
    rest = [f"{show_expr(one_place(x.value))} in {x.equation}" for x in said.exponents if not x.bounded]
    if said.exponents:
        yield f"Every exponent is proved to be at most 0{f', but for {_listed(rest)}' if rest else ''}."


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def corrections(said: Explanation) -> Iterator[str]:
    """How reductions follow others, where no kernel has an operator that says so."""
    for name, updater in said.updaters.items():
        moved = [] if updater.correction == ONE else [f"* {show_expr(one_place(updater.correction))}"]
        moved += [f"+ {show_expr(one_place(x))}" for _, x in terms(updater.shift)]
        for t, weight in updater.companions:
            moved.append(f"+ {show_expr(one_place(times(Read(before(t), t.indices), weight)))}")
        yield f"{name}: {' '.join(moved)}"


def outline(kernel: Outline) -> Iterator[str]:
    """One kernel, as sentences."""
    walks = ", then ".join(map(walked, kernel.walks)) or "nothing"
    yield f"Kernel {kernel.name}: every tile of rows {kernel.rows} walks {walks},"
    yield f"  it reads {', '.join(map(named, kernel.reads))}"
    yield f"  and writes {', '.join(map(named, kernel.writes))}."
    if kernel.uneven:
        yield "  How many tiles a row sees is known on the device: those that see most come first."


def walked(walk: Walked) -> str:
    """`k`, or `k at every j, storing P`, or `k by a list made on the device from doc`"""
    outer = f" at every {', '.join(walk.outers)}" if walk.outers else ""
    stored = f", storing {_listed([t.name for t in walk.stored])}" if walk.stored else ""
    listed = ""
    if walk.listed:
        listed = f" by a list of tiles made on the device from {_listed([t.name for t in walk.listed])}"
    return f"{walk.index}{outer}{stored}{listed}"


def stages(operator: Notation) -> Iterator[tuple[str, Sequence[str]]]:
    """What a walk does, a title and equations each: its states at first, with a tile, and merged."""
    order = "in any order" if operator.unordered else "in this order"
    yield f"Before a walk over {operator.index}", [", ".join(rule.init for rule in operator.rules)]
    yield "With each tile of it", [rule.update for rule in operator.rules]
    yield f"Two parts a and b of it, merged {order}", [rule.merge for rule in operator.rules]


def guarded(said: Explanation) -> bool:
    """Whether an operator reads a value of nothing."""
    return any("finite(" in rule.update for operator in said.operators for rule in operator.rules)


def costs(said: Explanation) -> Iterator[str]:
    """Tiles, work, traffic and the least time of one head."""
    cost = said.costs
    assert cost.tile is not None
    head = f"One head at length {said.length:,}, tiles of {cost.tile.rows} x {cost.tile.columns}"
    if cost.tiles is None or cost.flops is None:
        yield f"{head}: the tiles visited depend on {cost.depends}."
        return
    t = cost.tiles
    yield f"{head}: {t.live:,} of {t.live + t.skipped:,} visited,"
    yield f"{t.full:,} whole and {t.partial:,} on an edge; {t.skipped:,} skipped."
    yield f"{t.cells:,} cells seen; with features of {FEATURES} and {BYTES} bytes an element,"
    yield f"{cost.flops / 1e9:,.2f} GFLOP and {cost.bytes / 1e6:,.1f} MB, {cost.intensity:,.0f} FLOP a byte;"
    yield f"an {cost.gpu} takes {cost.floor_ms:,.4f} ms at least, by its {cost.bound}."


def named(tensor: Tensor) -> str:
    """`O[q,e]`, at one place of the batch; `gain` where no index is left."""
    indices = ",".join(i.name for i in tensor.indices if i.role != "batch")
    return f"{tensor.name}[{indices}]" if indices else tensor.name


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]
