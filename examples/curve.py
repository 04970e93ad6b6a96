"""What a training run shows: a bar while it runs, and its curves as an SVG picture afterwards."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import cycle
from math import ceil, floor, log10
from xml.sax.saxutils import escape

SIDE, HEIGHT, LEFT, TOP, BOTTOM, LETTER = 560, 400, 56, 56, 46, 7.5
COLOURS = ("#0b63a8", "#e08e00", "#2f8f4e", "#b8336a", "#6f5bb5", "#3d8f98", "#8a6d3b", "#808892")

Points = Sequence[tuple[float, float]]


def bar(done: float, words: str, wide: int = 24) -> None:
    """A line that is written over and over; nothing where the output is no terminal."""
    if sys.stdout.isatty():
        full = round(wide * min(done, 1.0))
        print(f"\r[{'#' * full}{'.' * (wide - full)}] {done:4.0%}  {words}\033[K", end="", flush=True)


def say(words: str) -> None:
    """A line that stays, in place of the bar."""
    print(("\r\033[K" if sys.stdout.isatty() else "") + words, flush=True)


def picture(
    title: str, curves: Mapping[str, Points], rules: Mapping[str, float], axes: tuple[str, str]
) -> str:
    """Curves by what they are called, and levels to compare them with, as the text of an SVG file."""
    ends = {name: points[-1][1] for name, points in curves.items()} | dict(rules)
    xs = _ticks(max(x for points in curves.values() for x, _ in points))
    ys = _ticks(max(*rules.values(), *(y for points in curves.values() for _, y in points)))
    width = LEFT + SIDE + LETTER * (max(map(len, ends)) + 8)

    def across(x: float) -> float:
        return LEFT + SIDE * x / xs[-1]

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / ys[-1]

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="curve" width="{width:.0f}" height="{HEIGHT}" '
        f'viewBox="0 0 {width:.0f} {HEIGHT}" role="img" aria-label="{escape(title)}" '
        'font-family="system-ui, DejaVu Sans, sans-serif" font-size="12" fill="#1c2128">',
        "<style>@media (prefers-color-scheme: dark) { .curve .paper { fill: #14171b; } "
        ".curve text { fill: #e4e8ec; } }</style>",
        '<rect class="paper" width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="14" font-weight="600">{escape(title)}</text>',
        f'<text x="{LEFT + SIDE / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(axes[0])}</text>',
        f'<text x="{LEFT}" y="{TOP - 10}">{escape(axes[1])}</text>',
    ]
    for y in ys:
        lines.append(f'<path d="M{LEFT} {down(y):.1f}h{SIDE}" stroke="#808892" stroke-opacity="0.3"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in xs:
        lines.append(f'<text x="{across(x):.1f}" y="{HEIGHT - 28}" text-anchor="middle">{x:g}</text>')
    colours = dict(zip(curves, cycle(COLOURS), strict=False)) | dict.fromkeys(rules, "#808892")
    for name, points in curves.items():
        path = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in points)
        lines.append(f'<path d="M{path}" fill="none" stroke="{colours[name]}" stroke-width="2"/>')
    for level in rules.values():
        path = f'd="M{LEFT} {down(level):.1f}h{SIDE}" stroke-dasharray="5 4"'
        lines.append(f'<path {path} stroke="#808892" stroke-width="1.5"/>')
    for (name, y), place in zip(ends.items(), _apart([down(y) for y in ends.values()]), strict=True):
        x = LEFT + SIDE + 12
        lines.append(f'<circle cx="{x}" cy="{place - 4:.1f}" r="4" fill="{colours[name]}"/>')
        lines.append(f'<text x="{x + 9}" y="{place:.1f}">{escape(name)} {y:.2f}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def _ticks(most: float) -> list[float]:
    """Round numbers from 0 to the first that is not less."""
    ten = 10.0 ** floor(log10(most or 1.0))
    step = next(ten * part for part in (0.2, 0.5, 1.0, 2.0) if most <= 8 * ten * part)
    return [round(step * n, 9) for n in range(max(1, ceil(most / step - 1e-9)) + 1)]


def _apart(heights: Sequence[float], least: float = 15.0) -> list[float]:
    """Heights of labels, moved down until none lies upon another."""
    placed = [0.0] * len(heights)
    last = float("-inf")
    for n in sorted(range(len(heights)), key=lambda n: heights[n]):
        placed[n] = last = max(heights[n] + 4, last + least)
    return placed
