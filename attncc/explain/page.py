"""Explanation → one HTML page that stands alone: no script, nothing fetched, light and dark."""

from __future__ import annotations

from collections.abc import Iterator

from attncc.calls import BadNumber
from attncc.explain import words
from attncc.explain.costs import BYTES, FEATURES
from attncc.explain.found import Explanation, Rewrite
from attncc.explain.markup import Markup, element
from attncc.explain.parts import document, equations, figures, opening, section, table
from attncc.ir.brief import briefly
from attncc.passes import PASSES
from attncc.viz import Unseen, draw

LONGEST = 1 << 20
"""Positions that the mask is drawn at, at most."""

WHAT = {"online": "Reductions follow others that still run."} | {
    rewrite.__name__: (rewrite.__doc__ or "").split("\n")[0] for rewrite in PASSES
}
"""What every rewrite does, in its own words."""


def page(said: Explanation) -> str:
    """The whole page."""
    name = said.cascade.name
    return document(f"{name}: what it becomes, and what it costs", _parts(said))


def _parts(said: Explanation) -> Iterator[Markup]:
    yield opening(said.cascade)
    yield _figures(said)
    if said.plan is None:
        yield element("p", said.refused, class_="refused")
    yield section("As it is written", equations(briefly(said.cascade)))
    yield section("As it runs", equations(briefly(said.streamed)))
    yield section("Passes", *_passes(said))
    if said.operators:
        yield section("The running state of a row", *_operators(said))
    if said.kernels:
        yield section("Kernels", _kernels(said))
    yield section("Tiles", *_tiles(said))
    yield element("footer", element("p", *_terms(said)))


def _figures(said: Explanation) -> Markup:
    """The numbers that a glance should find."""
    shown = []
    for stands, runs in zip(said.written, said.derived, strict=True):
        word = "pass" if runs.count == 1 else "passes"
        shown.append((str(runs.count), f"{word} over {runs.index.name}, {stands.count} as written"))
    cost = said.costs
    if cost.tiles is not None:
        every = cost.tiles.live + cost.tiles.skipped
        shown.append((f"{cost.tiles.live / every:.0%}", f"of {every:,} tiles visited"))
    if cost.flops is not None:
        shown.append((f"{cost.flops / 1e9:,.2f}", "GFLOP"))
    shown.append((f"{cost.bytes / 1e6:,.1f}", "MB moved"))
    if cost.intensity is not None:
        shown.append((f"{cost.intensity:,.0f}", "FLOP a byte"))
        shown.append((f"{cost.floor_ms:,.4f}", f"ms at least on an {cost.gpu}, by its {cost.bound}"))
    return figures(shown)


def _passes(said: Explanation) -> Iterator[Markup]:
    """Every rewrite and the passes before and after it, and what waits for what."""
    indices = [runs.index.name for runs in said.derived]
    if not indices:
        yield element("p", "No sequence is reduced over.")
        return
    titles = ("rewrite", *(f"over {index}" for index in indices), "what it does")
    yield table(titles, (_row(rewrite) for rewrite in said.rewrites))
    pairs = zip(said.written, said.derived, strict=True)
    sentences = [line for pair in pairs for line in words.waits(said, *pair)]
    sentences += [*words.followers(said.updaters), *words.exponents(said)]
    if sentences:
        yield element("ul", *(element("li", line) for line in sentences))
    if said.plan is None and said.updaters:
        yield equations(words.corrections(said))


def _row(rewrite: Rewrite) -> tuple[str, ...]:
    """One rewrite: what it leaves of the passes over every index, set apart where it saves one."""
    counts = zip(rewrite.before, rewrite.passes, strict=True)
    cells = (element("b", f"{a} → {b}") if b < a else str(b) for (_, a), (_, b) in counts)
    return (rewrite.name, *cells, WHAT[rewrite.name])


def _operators(said: Explanation) -> Iterator[Markup]:
    yield element("p", ", ".join(map(words.named, said.state)))
    for operator in said.operators:
        for title, lines in words.stages(operator):
            yield element("h3", title)
            yield equations(lines)
    if words.guarded(said):
        yield element("p", words.FINITE.replace("`", ""), class_="note")


def _kernels(said: Explanation) -> Markup:
    rows = (
        (
            kernel.name,
            kernel.rows,
            ", then ".join(map(words.walked, kernel.walks)),
            ", ".join(map(words.named, kernel.reads)),
            ", ".join(map(words.named, kernel.writes)),
        )
        for kernel in said.kernels
    )
    return table(("kernel", "rows", "walks", "reads", "writes"), rows)


def _tiles(said: Explanation) -> Iterator[Markup]:
    """How many there are of every kind, as a bar, and the mask as a picture."""
    cost = said.costs
    if cost.tiles is not None and cost.tile is not None:
        t = cost.tiles
        kinds = {"full": "seen whole", "partial": "on an edge", "skipped": "skipped"}
        shares = {kind: getattr(t, kind) for kind in kinds}
        yield element(
            "div",
            *(element("span", class_=k, style=f"flex-grow: {n}") for k, n in shares.items() if n),
            class_="bar",
        )
        yield element(
            "ul",
            *(element("li", element("span", class_=k), f"{n:,} {kinds[k]}") for k, n in shares.items()),
            class_="legend",
        )
        yield element(
            "p",
            f"Tiles of {cost.tile.rows} x {cost.tile.columns} at length {said.length:,};"
            f" {t.cells:,} cells are seen.",
        )
    elif cost.depends:
        yield element("p", f"The tiles visited depend on {cost.depends}.")
    yield _picture(said)


def _picture(said: Explanation) -> Markup:
    """The mask, or why there is no picture of it."""
    if said.plan is None:
        return element("p", "There is no kernel whose tiles could be drawn.")
    try:
        drawn = draw(said.cascade, said.plan, min(said.length, LONGEST), None, said.numbers)
    except (Unseen, BadNumber) as reason:
        return element("p", f"No picture: {reason}.")
    return element("figure", Markup(drawn.svg))


def _terms(said: Explanation) -> Iterator[str]:
    yield f"One head at length {said.length:,}, features of {FEATURES}, {BYTES} bytes an element. "
    yield "Work is that of the matrix products over the cells that are seen; "
    yield "every input is read once and every output written once."
