"""What a training run shows: a bar while it runs, and its curves as an SVG picture afterwards."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 760, 400, 56, 44, 190, 46
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
    ends = [points[-1][1] for points in curves.values()]
    xs = [x for points in curves.values() for x, _ in points]
    ys = [y for points in curves.values() for _, y in points] + list(rules.values())
    right, low, high = max(xs) or 1.0, min(0.0, *ys), max(ys) * 1.05 or 1.0

    def across(x: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * x / right

    def down(y: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - low) / (high - low)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="curve" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
        'font-family="system-ui, DejaVu Sans, sans-serif" font-size="12" fill="#1c2128">',
        "<style>@media (prefers-color-scheme: dark) { .curve .paper { fill: #14171b; } "
        ".curve text { fill: #e4e8ec; } }</style>",
        '<rect class="paper" width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="14" font-weight="600">{escape(title)}</text>',
        f'<text x="{across(right / 2):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(axes[0])}</text>',
        f'<text x="{LEFT}" y="{TOP - 4}" text-anchor="end" dx="-6">{escape(axes[1])}</text>',
    ]
    for part in range(5):
        x, y = right * part / 4, low + (high - low) * part / 4
        lines += [
            f'<path d="M{LEFT} {down(y):.1f}H{WIDTH - RIGHT}" stroke="#808892" stroke-opacity="0.3"/>',
            f'<text x="{LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{y:.2f}</text>',
            f'<text x="{across(x):.1f}" y="{HEIGHT - 28}" text-anchor="middle">{x:,.0f}</text>',
        ]
    places = _apart([down(y) for y in [*ends, *rules.values()]])
    for n, (name, points) in enumerate(curves.items()):
        colour = COLOURS[n % len(COLOURS)]
        path = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in points)
        lines.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines.append(_label(places[n], f"{name} {ends[n]:.2f}", colour))
    for n, (name, level) in enumerate(rules.items(), len(curves)):
        line = f'd="M{LEFT} {down(level):.1f}H{WIDTH - RIGHT}"'
        lines.append(f'<path {line} stroke="#808892" stroke-width="1.5" stroke-dasharray="5 4"/>')
        lines.append(_label(places[n], f"{name} {level:.2f}", "#808892"))
    return "\n".join([*lines, "</svg>"]) + "\n"


def _label(y: float, words: str, colour: str) -> str:
    """What a curve is called, at its end, after a dot of its colour."""
    x = WIDTH - RIGHT + 12
    dot = f'<circle cx="{x}" cy="{y - 4:.1f}" r="4" fill="{colour}"/>'
    return f'{dot}<text x="{x + 9}" y="{y:.1f}">{escape(words)}</text>'


def _apart(heights: Sequence[float], least: float = 15.0) -> list[float]:
    """Heights of labels, moved down until none lies upon another."""
    placed = [0.0] * len(heights)
    last = float("-inf")
    for n in sorted(range(len(heights)), key=lambda n: heights[n]):
        placed[n] = last = max(heights[n] + 4, last + least)
    return placed
