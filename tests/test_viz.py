"""The picture of a mask: its cells and its tiles are those of the predicate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from attncc.calls import BadNumber
from attncc.ir.check import check
from attncc.pipeline import planned
from attncc.schedule.plan import Refused
from attncc.source import Source
from attncc.svg import CELL, CELLS, SHADES, SIDE
from attncc.syntax.parser import parse
from attncc.viz import Drawn, Unseen, draw, fitting, picture


def cascade(root: Path, name: str):  # type: ignore[no-untyped-def]
    source = Source.read(root / "patterns" / f"{name}.attn")
    return check(parse(source), source)


def test_cells_and_tiles(root: Path) -> None:
    """50 positions, a window of 20 and 3 sinks: bars and tiles against the predicate, cell by cell."""
    length, tile, window, sinks = 50, 8, 20, 3
    svg = picture(cascade(root, "streaming"), length, tile, {"window": window, "sinks": sinks})
    ElementTree.fromstring(svg)
    seen = [[k <= q and (q - k < window or k < sinks) for k in range(length)] for q in range(length)]
    drawn = [[False] * length for _ in range(length)]
    for bar in re.findall(rf'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="\d+" fill="{CELL}"', svg):
        x, y, width = map(int, bar)
        for k in range(x // SIDE, (x + width) // SIDE + 1):
            drawn[y // SIDE][k] = True
    assert drawn == seen
    kinds = {shade: kind for kind, shade in SHADES.items()}
    tiles = re.findall(
        r'<rect x="(\d+)" y="(\d+)" width="(\d+)" height="(\d+)" fill="(#\w+)" stroke="#ddd', svg
    )
    assert len(tiles) == 7 * 7
    for x, y, width, height, shade in tiles:
        rows = range(int(y) // SIDE, (int(y) + int(height)) // SIDE)
        columns = range(int(x) // SIDE, (int(x) + int(width)) // SIDE)
        cells = [seen[q][k] for q in rows for k in columns]
        ragged = int(x) // SIDE + tile > length
        expected = "skipped" if not any(cells) else "full" if all(cells) and not ragged else "partial"
        assert kinds[shade] == expected, (x, y)


def test_no_kernel_no_picture(root: Path) -> None:
    with pytest.raises(Refused):
        picture(cascade(root, "moba"))


def drawn(text: str, length: int = 48, tile: int = 8, **more: Any) -> Drawn:
    source = Source("p", text)
    cascade = check(parse(source), source)
    return draw(cascade, planned(cascade, source), length, tile, **more)


TEXT = """
pattern p(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]{more}) -> O[b,h,q,e]:
    over b, h
    align q to k{assumed}
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    O[q,e] = sum(k) (softmax(k where {where}) S[q,k]) * V[k,e]
"""


def text(where: str, more: str = "", assumed: str = "") -> str:
    return TEXT.format(where=where, more=more and f", {more}", assumed=assumed and f"\n    {assumed}")


def seen(panel: Any, length: int) -> list[list[bool]]:
    """The cells that a panel draws."""
    found = [[False] * length for _ in range(length)]
    for row, runs in panel.cells:
        for start, stop in runs:
            found[row][start:stop] = [True] * (stop - start)
    return found


def kinds(panel: Any) -> list[list[str]]:
    return [[kind for a, b, kind in row for _ in range(a, b)] for row in panel.tiles]


def test_documents_are_an_example() -> None:
    found = drawn(text("doc[q] == doc[k] and k <= q", "doc[b,k]: int", "assume sorted doc"))
    (panel,) = found.panels
    starts = [0, 10, 24, 39]
    own = [max(s for s in starts if s <= i) for i in range(48)]
    assert seen(panel, 48) == [[k <= q and own[k] == own[q] for k in range(48)] for q in range(48)]
    assert found.caption[1] == "an example of doc: 0 from 0, 10 from 10, 24 from 24, 39 from 39"
    assert "an example of doc" in found.svg


def test_one_panel_a_head_where_heads_differ() -> None:
    found = drawn(text("k <= q and q - k < span", "span[h]: int"))
    assert [panel.title for panel in found.panels] == [f"h = {n}" for n in range(4)]
    for panel, span in zip(found.panels, (24, 12, 6, 3), strict=True):
        assert seen(panel, 48) == [[0 <= q - k < span for k in range(48)] for q in range(48)]
    assert found.svg.count("<g ") == 4
    ElementTree.fromstring(found.svg)
    few = drawn(text("k <= q and q - k < span", "span[h]: int"), extents={"h": 2})
    assert len(few.panels) == 2
    (one,) = drawn(text("k <= q and q - k < span", "span[h]: int"), head=2).panels
    assert one == found.panels[2]


def test_one_panel_where_heads_are_alike() -> None:
    (panel,) = drawn(text("k <= q or h < 0")).panels
    assert seen(panel, 48) == [[k <= q for k in range(48)] for q in range(48)]
    (same,) = drawn(text("k <= q")).panels
    assert same.title == ""


def test_no_tile_is_whole_where_sums_differ(root: Path) -> None:
    source = Source.read(root / "patterns" / "based_window.attn")
    whole = check(parse(source), source)
    (panel,) = draw(whole, planned(whole, source), 64, 8, {"window": 20}).panels
    assert "full" not in {kind for row in kinds(panel) for kind in row}


def test_long_sequences_are_drawn_coarsely(root: Path) -> None:
    source = Source.read(root / "patterns" / "window.attn")
    whole = check(parse(source), source)
    length = 20_000
    found = draw(whole, planned(whole, source), length, numbers={"window": 3000})
    assert found.tile == fitting(length) == 512
    (panel,) = found.panels
    assert len(panel.cells) == CELLS == 160
    for row, runs in panel.cells:
        assert runs == ((max(0, row - 2999), row + 1),)
    assert "one row of 125 is drawn" in found.caption[-1]
    assert len(found.svg) < 100_000
    expected = []
    for top in range(0, length, 512):
        bottom = min(top + 512, length) - 1
        row = []
        for left in range(0, length, 512):
            live = left <= bottom and left + 511 > top - 3000
            full = left + 511 <= top and left > bottom - 3000 and left + 512 <= length
            row.append("full" if live and full else "partial" if live else "skipped")
        expected.append(row)
    assert kinds(panel) == expected


def test_narrow_gaps_are_closed() -> None:
    (panel,) = drawn(text("k % 7 == 0"), 1600, 32).panels
    assert panel.cells[0] == (0, ((0, 1597),))
    (wide,) = drawn(text("k % 70 == 0"), 1600, 32).panels
    assert len(wide.cells[0][1]) == 23


@pytest.mark.parametrize(
    ("where", "more", "said"),
    [("S[q,k] > 0", "", "the mask depends on the values of"), ("k <= x[k]", "x[b,k]", "the values of `x`")],
)
def test_masks_of_real_numbers_are_not_drawn(where: str, more: str, said: str) -> None:
    with pytest.raises(Unseen, match=said):
        drawn(text(where, more))


def test_truth_values_and_ranges_of_tables() -> None:
    found = drawn(text("open[k] and k <= q", "open[b,k]: bool"))
    assert found.caption[1] == "an example of open: True from 0, False from 10, True from 24, False from 39"
    within = drawn(text("k < length", "length[b]: int", "assume length in [5, 9]"))
    assert within.caption[1] == "an example of length: 5, 6, 7, 8"


def test_a_number_that_shapes_a_split_needs_a_value() -> None:
    split = text("k <= q", "block: int", "split k into n, i by block")
    with pytest.raises(BadNumber, match="`block` has no default"):
        drawn(split)
    assert drawn(split, numbers={"block": 16}).panels == drawn(text("k <= q")).panels
