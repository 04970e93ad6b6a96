"""Panels → a picture of them as SVG, in light and dark: axes, tiles by class, shades, caption and legend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby, pairwise
from math import ceil
from xml.sax.saxutils import escape, quoteattr

from attncc.viz.colours import DARK_DEEP, DARK_PALE, DEEP, PALE, WORDS, depth
from attncc.viz.panel import KINDS, WHOLE, Panel

SIDE = 6
"""Side of a cell where all of them are drawn and there is room."""

LINED = 40
"""Up to so many tiles a side, lines are drawn between them."""

LEVELS = 8
"""So many depths are told apart."""

MARGIN, TOP, GAP, LINE = 26, 40, 40, 19
LETTER = 7.2

PAPER, INK = ("#ffffff", "#14171b"), ("#1c2128", "#e4e8ec")


def svg(panels: Sequence[Panel], caption: Sequence[str], side: int = 620, across: int = 4) -> str:
    """Panels side by side, `across` in a line, the caption and a legend under them."""
    across = min(across, len(panels))
    room = side if across == 1 else 2 * side // max(across, 3)
    most = max(chain.from_iterable(panel.pixels for panel in panels))
    scale = min(SIDE, room / most)
    high, wide = (max(panel.pixels[axis] for panel in panels) * scale for axis in (0, 1))
    gap = max(GAP, *(LETTER * len(f"{panel.size[0]:,}") + 12 for panel in panels))
    words = LETTER * max(len(line) for line in caption) + 2 * MARGIN
    width = max(across * (wide + gap) + MARGIN, words, 470)
    foot = ceil(len(panels) / across) * (high + TOP + MARGIN)
    height = foot + LINE * len(caption) + 2 * MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="attncc" width="{_px(width)}" '
        f'height="{_px(height)}" viewBox="0 0 {_px(width)} {_px(height)}" role="img" '
        f"aria-label={quoteattr(caption[0])} "
        f'font-family="system-ui, DejaVu Sans, sans-serif" font-size="13" fill="{INK[0]}">',
        f"<style>{_dark()}</style>",
        f'<rect class="paper" width="100%" height="100%" fill="{PAPER[0]}"/>',
    ]
    for n, panel in enumerate(panels):
        left, top = gap + n % across * (wide + gap), TOP + n // across * (high + TOP + MARGIN)
        lines += _panel(panel, left, top, scale)
    for n, line in enumerate(caption):
        lines.append(f'<text x="{MARGIN}" y="{_px(foot + LINE * (n + 1))}">{escape(line)}</text>')
    lines += _legend(MARGIN, foot + LINE * len(caption) + 12)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _dark() -> str:
    """What differs in the dark; all else stands at the elements, for readers that drop styles."""
    rules = [f".paper {{ fill: {PAPER[1]}; }}", f"text {{ fill: {INK[1]}; }}"]
    rules += [f".{kind}-0 {{ fill: {colour}; }}" for kind, colour in DARK_PALE.items()]
    rules += [f".{kind}-1 {{ fill: {colour}; }}" for kind, colour in DARK_DEEP.items()]
    own = " ".join(f".attncc {rule}" for rule in rules)
    return f"@media (prefers-color-scheme: dark) {{ {own} }}"


def _px(x: float) -> str:
    return f"{x:.2f}".rstrip("0").rstrip(".")


def _panel(panel: Panel, left: float, top: float, scale: float) -> Iterator[str]:
    high, wide = (n * scale for n in panel.pixels)
    last_row, last_column = (f"{n - 1:,}" for n in panel.size)
    small = 'font-size="11" fill-opacity="0.75"'
    middle = left + wide / 2
    if panel.title:
        yield f'<text x="{_px(left)}" y="{_px(top - 24)}" font-weight="600">{escape(panel.title)}</text>'
    yield f'<text x="{_px(middle)}" y="{_px(top - 8)}" text-anchor="middle">{escape(panel.columns)} →</text>'
    yield f'<text x="{_px(left)}" y="{_px(top - 8)}" {small}>0</text>'
    yield f'<text x="{_px(left + wide)}" y="{_px(top - 8)}" text-anchor="end" {small}>{last_column}</text>'
    at = f'x="{_px(left - 6)}" text-anchor="end"'
    yield f'<text {at} y="{_px(top + 10)}" {small}>0</text>'
    yield f'<text {at} y="{_px(top + high / 2 + 4)}">{escape(panel.rows)} ↓</text>'
    yield f'<text {at} y="{_px(top + high)}" {small}>{last_row}</text>'
    yield f'<g transform="translate({_px(left)},{_px(top)}) scale({scale:.6g})" shape-rendering="crispEdges">'
    yield from _paths(panel)
    yield from _lines(panel, scale)
    yield "</g>"
    yield (
        f'<rect x="{_px(left)}" y="{_px(top)}" width="{_px(wide)}" height="{_px(high)}" fill="none" '
        'stroke="#808892"/>'
    )


def _paths(panel: Panel) -> Iterator[str]:
    """One path for every class of tiles, and one for every class and depth of what is seen in them."""
    places: dict[tuple[int, int], list[str]] = {}
    row = 0
    levels = [0, *(ceil(LEVELS * shade / WHOLE) for shade in range(1, WHOLE + 1))]
    for (kinds, shades), alike in groupby(zip(panel.kinds(), panel.shades, strict=True)):
        high = len(list(alike))
        for key, start, stop in _runs([(kind, 0) for kind in kinds]):
            places.setdefault(key, []).append(f"M{start} {row}h{stop - start}v{high}h{start - stop}z")
        for key, start, stop in _runs([(kind, levels[s]) for kind, s in zip(kinds, shades, strict=True)]):
            if key[1]:
                places.setdefault(key, []).append(f"M{start} {row}h{stop - start}v{high}h{start - stop}z")
        row += high
    names = {n: kind for kind, n in KINDS.items()}
    for (kind, level), path in sorted(places.items(), key=lambda item: item[0][1]):
        name = names[kind]
        colour = DEEP[name] if level else PALE[name]
        shade = f' fill-opacity="{depth(WHOLE * level // LEVELS):.3g}"' if 0 < level < LEVELS else ""
        yield f'<path class="{name}-{min(level, 1)}" fill="{colour}"{shade} d="{"".join(path)}"/>'


def _runs(keys: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], int, int]]:
    """Neighbours that are the same, with where they start and stop."""
    edges = [0, *(n for n in range(1, len(keys)) if keys[n] != keys[n - 1]), len(keys)]
    for start, stop in pairwise(edges):
        yield keys[start], start, stop


def _lines(panel: Panel, scale: float) -> Iterator[str]:
    """Between tiles, while they are few."""
    (high, wide), per = panel.pixels, panel.tile // panel.step
    if 0 < max(high, wide) <= LINED * per:
        path = [f"M0 {y}h{wide}" for y in range(per, high, per)]
        path += [f"M{x} 0v{high}" for x in range(per, wide, per)]
        stroke = 'stroke="#808892" stroke-opacity="0.35"'
        yield f'<path fill="none" {stroke} stroke-width="{1 / scale:.4g}" d="{"".join(path)}"/>'


def _legend(x: float, y: float) -> Iterator[str]:
    """Of every class the colours that it has: where nothing and where all is seen."""
    for kind, word in WORDS.items():
        swatches = ((0, PALE[kind]), (1, DEEP[kind]))
        for n, colour in {"full": swatches[1:], "skipped": swatches[:1]}.get(kind, swatches):
            yield (
                f'<rect class="{kind}-{n}" x="{_px(x)}" y="{_px(y)}" width="12" height="12" fill="{colour}" '
                'stroke="#808892"/>'
            )
            x += 12
        yield f'<text x="{_px(x + 6)}" y="{_px(y + 11)}">{word}</text>'
        x += 24 + LETTER * len(word)
