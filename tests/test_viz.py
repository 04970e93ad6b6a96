"""The picture of a mask: its cells and its tiles are those of the predicate."""

from __future__ import annotations

import re
import time
import tracemalloc
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import attncc
from attncc.calls import BadNumber
from attncc.ir.check import check
from attncc.masks.integers import values
from attncc.masks.normal import total
from attncc.masks.seen import FULL, PARTIAL, SKIPPED, stretches
from attncc.pipeline import planned, streamed
from attncc.schedule.plan import partition
from attncc.schedule.refused import Refused
from attncc.source import Source
from attncc.syntax.parser import parse
from attncc.viz import Drawn, Unseen, draw, fitting, picture
from attncc.viz.colours import DEEP, PALE, mixed, palette
from attncc.viz.mask import known, listed, pixel, tiles_of, walked
from attncc.viz.panel import KINDS, WHOLE
from attncc.viz.report import report
from tests.explain.test_page import Read


def cascade(root: Path, name: str):  # type: ignore[no-untyped-def]
    source = Source.read(root / "patterns" / f"{name}.attn")
    return check(parse(source), source)


def squares(path: str) -> set[tuple[int, int]]:
    """The points that a path fills, as (row, column)."""
    found = set()
    for x, y, wide, high in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)h-\d+z", path):
        rows, columns = range(int(y), int(y) + int(high)), range(int(x), int(x) + int(wide))
        found |= {(row, column) for row in rows for column in columns}
    return found


def test_cells_and_tiles(root: Path) -> None:
    """50 positions, a window of 20 and 3 sinks: paths of the SVG against the predicate, cell by cell."""
    length, tile, window, sinks = 50, 8, 20, 3
    svg = picture(cascade(root, "streaming"), length, tile, {"window": window, "sinks": sinks})
    ElementTree.fromstring(svg)
    seen = {(q, k) for q in range(length) for k in range(q + 1) if q - k < window or k < sinks}
    paths = {name: squares(path) for name, path in re.findall(r'<path class="([\w-]+)" .* d="(.*)"/>', svg)}
    assert paths.keys() == {"full-0", "full-1", "partial-0", "partial-1", "skipped-0"}
    assert paths["full-1"] == paths["full-0"]
    assert paths["full-1"] | paths["partial-1"] == seen
    whole = set()
    for kind in ("full", "partial", "skipped"):
        assert not whole & paths[f"{kind}-0"]
        whole |= paths[f"{kind}-0"]
        for q, k in paths[f"{kind}-0"]:
            rows, columns = (range(x // tile * tile, x // tile * tile + tile) for x in (q, k))
            cells = [(y, x) in seen for y in rows if y < length for x in columns]
            assert kind == ("skipped" if not any(cells) else "full" if all(cells) else "partial"), (q, k)
    assert len(whole) == length * length


def test_no_kernel_no_picture(root: Path) -> None:
    with pytest.raises(Refused):
        picture(cascade(root, "moba"))


def drawn(text: str, length: int = 48, tile: int | None = 8, **more: Any) -> Drawn:
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
    """The cells that a panel draws, each a point."""
    assert (panel.step, panel.size) == (1, (length, length))
    assert {shade for row in panel.shades for shade in row} <= {0, WHOLE}
    return [[shade == WHOLE for shade in row] for row in panel.shades]


def kinds(panel: Any) -> list[list[str]]:
    names = {n: kind for kind, n in KINDS.items()}
    return [[names[n] for n in row] for row in panel.tiles]


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
    ElementTree.fromstring(drawn(text("k <= q and q - k < span", "span[h]: int"), extents={"h": 13}).svg)


def test_one_panel_where_heads_are_alike() -> None:
    (panel,) = drawn(text("k <= q or h < 0")).panels
    assert panel.title == "h = 0 to 3 (identical)"
    assert seen(panel, 48) == [[k <= q for k in range(48)] for q in range(48)]
    (same,) = drawn(text("k <= q")).panels
    assert same.title == ""
    assert "every head has the same mask" in drawn(text("k <= q")).caption
    two = drawn(text("if h % 2 == 0 then k <= q else k >= q")).panels
    assert [panel.title for panel in two] == ["h = 0, 2 (identical)", "h = 1, 3 (identical)"]
    assert listed([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7, 8"


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
    assert found.tile == fitting(length) == 128
    (panel,) = found.panels
    assert (panel.step, panel.pixels, panel.exact) == (128, (157, 157), True)
    assert "a point is 128 by 128 cells" in found.caption[-1]
    assert len(found.svg) < 100_000
    ends = range(0, length, 128)
    for first, shades in zip(ends, panel.shades, strict=True):
        rows = range(first, min(first + 128, length))
        for left, shade in zip(ends, shades, strict=True):
            right = min(left + 128, length)
            counts = [max(0, min(right, q + 1) - max(left, q - 2999)) for q in (rows[0], rows[-1])]
            if min(counts) == right - left:
                assert shade == WHOLE
            elif not any(counts):
                assert shade == 0
            else:
                assert 0 < shade < WHOLE
    expected = []
    for top in range(0, length, 128):
        bottom = min(top + 128, length) - 1
        row = []
        for left in range(0, length, 128):
            live = left <= bottom and left + 127 > top - 3000
            full = left + 127 <= top and left > bottom - 3000 and left + 128 <= length
            row.append("full" if live and full else "partial" if live else "skipped")
        expected.append(row)
    assert kinds(panel) == expected


MASKS = [
    ("k <= q and q - k < window or k < 3", "window: int = 100", ""),
    ("k % 7 == 0", "", ""),
    ("k <= q and (q - k < 90 or k % 32 < 8)", "", ""),
    ("k <= q and (q - k < 90 or k // 8 % 3 == 1) or k < 20", "", ""),
    ("k <= q and (q - k) % 5 == 0", "", ""),
    ("k % 3 == 0 and q - k < 50 or k % 5 == 0 and k > q", "", ""),
    ("doc[q] == doc[k] and k <= q", "doc[b,k]: int", "assume sorted doc"),
    ("doc[q] == doc[k] or open[k] and k <= q", "doc[b,k]: int, open[k]: bool", ""),
]


@pytest.mark.parametrize(("where", "more", "assumed"), MASKS, ids=[where for where, *_ in MASKS])
def test_counts_are_those_of_the_predicate(where: str, more: str, assumed: str) -> None:
    """Every stretch of every row, and every tile, against the predicate at every cell."""
    length, block = 333, 32
    source = Source("p", text(where, more, assumed))
    whole = check(parse(source), source)
    ((_, loop),) = walked(whole, plan := planned(whole, source))
    env, _ = known(whole, plan, length, {}, {})
    cells = values(total(loop.reach), {**env, "q": np.arange(length)[:, None], "k": np.arange(length)})
    cells = np.broadcast_to(cells, (length, length))
    edges = np.array([0, 1, 40, 41, 256, 256 + 64, length])
    counted = stretches(loop.bands, loop.reach, {**env, "q": 0, "k": 0}, edges)
    assert counted.exact
    expected = np.add.reduceat(cells, edges[:-1], axis=1, dtype=int)
    assert (counted.of(np.arange(length)) == expected).all()
    assert (counted.of(np.array([300, 7])) == expected[[300, 7]]).all()
    for top, row in zip(
        range(0, length, block), tiles_of(loop, env, length, length, block, block), strict=True
    ):
        for left, kind in zip(range(0, length, block), row, strict=True):
            tile = cells[top : top + block, left : left + block]
            assert kind != SKIPPED or not tile.any()
            assert kind != FULL or (tile.all() and left + block <= length)


def test_what_is_not_counted_is_estimated() -> None:
    """A test of rows and columns on more cells than are looked at: the shades are near what they would be."""
    source = Source("p", text("k <= q and (q - k) % 5 == 0"))
    whole = check(parse(source), source)
    ((_, loop),) = walked(whole, plan := planned(whole, source))
    env, _ = known(whole, plan, 4096, {}, {})
    edges, rows = np.arange(0, 4097, 1024), np.arange(2048, 4096, 64)
    near = stretches(loop.bands, loop.reach, {**env, "q": 0, "k": 0}, edges, 200)
    true = stretches(loop.bands, loop.reach, {**env, "q": 0, "k": 0}, edges)
    assert true.exact and not near.exact
    assert abs(near.of(rows).sum(0) / true.of(rows).sum(0).clip(1) - 1).max() < 0.1
    assert abs(near.of(rows) - true.of(rows)).max() < 0.1 * 1024
    found = drawn(text("k <= q and (q - k) % 5 == 0"), 1 << 18, None)
    assert not found.panels[0].exact
    assert found.caption[-1].endswith("by 4 of its rows and some cells of each")


@pytest.mark.parametrize("name", ["window", "streaming", "s2", "document", "longlora", "chunked"])
def test_a_million_positions(name: str, root: Path) -> None:
    """Little time, and no more memory than a few tables of the positions."""
    whole = cascade(root, name)
    plan = partition(streamed(whole))
    start = time.process_time()
    found = draw(whole, plan, 1 << 20)
    assert found.svg and found.png
    assert time.process_time() - start < 4
    tracemalloc.start()
    found = draw(whole, plan, 1 << 20)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 80 * 2**20
    for panel in found.panels:
        assert panel.exact and panel.pixels == (256, 256)
        for kinds, shades in zip(panel.kinds(), panel.shades, strict=True):
            for kind, shade in zip(kinds, shades, strict=True):
                assert shade == {FULL: WHOLE, SKIPPED: 0}.get(kind, shade)
        assert all(row[n] for n, row in enumerate(panel.shades))  # everybody sees somebody


def test_many_tiles_in_a_pixel() -> None:
    """Tiles of 2 at 1100 positions, a window of 40: 3 by 3 of them in a pixel, each counted by hand."""
    found = drawn(text("k <= q and q - k < 40"), 1100, 2)
    (panel,) = found.panels
    assert (panel.step, panel.pixels) == (6, (184, 184))
    assert found.caption[-2].startswith("a point holds 3 by 3 tiles")
    here = np.arange(1100)
    seen = (here <= here[:, None]) & (here[:, None] - here < 40)
    tiles = seen.reshape(550, 2, 550, 2)
    whole, some = tiles.all((1, 3)), tiles.any((1, 3))
    assert panel.counts == ((~some).sum(), (some & ~whole).sum(), whole.sum())
    for row, (kinds, high) in enumerate(zip(panel.kinds(), range(0, 550, 3), strict=True)):
        assert row * 3 == high
        for kind, wide in zip(kinds, range(0, 550, 3), strict=True):
            part = (slice(high, high + 3), slice(wide, wide + 3))
            expected = FULL if whole[part].all() else PARTIAL if some[part].any() else SKIPPED
            assert kind == expected


def test_stretches_far_away(root: Path) -> None:
    """The blocks of one head at a million positions, by hand."""
    whole = cascade(root, "s2")
    found = draw(whole, partition(streamed(whole)), 1 << 20, head=3, numbers={"local": 128})
    (panel,) = found.panels
    assert panel.title == "h = 3"
    # far from the diagonal one block in eight is seen
    assert set(panel.shades[200][:190]) == {round(WHOLE / 8)}
    assert panel.shades[200][199] == WHOLE


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


def test_pixels_divide_tiles() -> None:
    for length, tile in ((96, 16), (256, 7), (257, 16), (5000, 60), (5000, 97), (1 << 20, 16384)):
        step = pixel(length, tile)
        assert tile % step == 0 and -(-length // step) <= 256
    assert [pixel(256, 7), pixel(257, 16), pixel(5000, 60), pixel(5000, 97)] == [1, 2, 20, 97]
    assert [pixel(5000, 7), pixel(1 << 20, 128)] == [21, 4096]


def unpacked(png: bytes) -> tuple[Any, str]:
    """The pixels and the description of a PNG file, its parts checked."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    parts: dict[bytes, bytes] = {}
    rest = png[8:]
    while rest:
        size = int.from_bytes(rest[:4])
        name, body, sum = rest[4:8], rest[8 : 8 + size], rest[8 + size : 12 + size]
        assert int.from_bytes(sum) == zlib.crc32(name + body)
        parts[name], rest = body, rest[12 + size :]
    assert list(parts) == [b"IHDR", b"iTXt", b"IDAT", b"IEND"]
    wide, high = int.from_bytes(parts[b"IHDR"][:4]), int.from_bytes(parts[b"IHDR"][4:8])
    assert parts[b"IHDR"][8:] == bytes((8, 2, 0, 0, 0))
    rows = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(high, 1 + 3 * wide)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(high, wide, 3), parts[b"iTXt"].split(b"\0")[-1].decode()


def test_png(tmp_path: Path) -> None:
    found = drawn(text("k <= q and q - k < 20"))
    pixels, description = unpacked(found.png)
    assert description == "\n".join(found.caption)
    colours = {
        n: {"pale": mixed(PALE[k], DEEP[k], 0), "deep": mixed(PALE[k], DEEP[k], 1)} for k, n in KINDS.items()
    }
    (panel,) = found.panels
    side = (pixels.shape[0] - 2 * 12 - 2) // 48
    for q, (kinds, shades) in enumerate(zip(panel.kinds(), panel.shades, strict=True)):
        for k, (kind, shade) in enumerate(zip(kinds, shades, strict=True)):
            middle = tuple(pixels[13 + q * side + side // 2, 13 + k * side + side // 2].tolist())
            assert middle == colours[kind]["deep" if shade else "pale"]
    found.save(tmp_path / "a.png")
    found.save(tmp_path / "a.svg")
    assert (tmp_path / "a.png").read_bytes() == found.png and (tmp_path / "a.svg").read_text() == found.svg


def test_colours_differ_without_hue() -> None:
    """What is seen whole, seen and tested, tested, and skipped: by lightness alone, in this order."""
    table = palette()
    inks = [table[KINDS["full"]][WHOLE], table[KINDS["partial"]][WHOLE], table[KINDS["partial"]][0]]
    inks += [table[KINDS["skipped"]][0]]
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in inks]
    assert all(b - a > 6 for a, b in pairwise(light)), light
    # one cell of many is told from none
    pale, faint = table[KINDS["partial"]][0], table[KINDS["partial"]][1]
    assert max(abs(a - b) for a, b in zip(pale, faint, strict=True)) > 40


# ---- the page ----------------------------------------------------------------------------------


def page(root: Path, name: str, length: int, tile: int | None = None, **numbers: int) -> Read:
    source = Source.read(root / "patterns" / f"{name}.attn")
    whole = check(parse(source), source)
    plan = planned(whole, source)
    return Read(report(draw(whole, plan, length, None, numbers), whole, plan, tile, numbers))


def test_a_page_counts_what_the_mask_holds(root: Path) -> None:
    """Tiles of 32 and cells of a window of 100 at 1000 positions, by hand; nothing is fetched."""
    found = page(root, "window", 1000, 32, window=100)
    assert {"svg", "table", "figure"} <= set(found.seen)
    cells = sum(min(q + 1, 100) for q in range(1000))
    live = sum(row // 32 - max(row - 99, 0) // 32 + 1 for row in range(0, 1000, 32))
    last = sum(max(min(32, 1000 - row), 1) for row in range(0, 1000, 32))
    assert last == 1000
    full = sum(
        32 * n + 31 <= top and 32 * n > min(top + 31, 999) - 100 and 32 * n + 32 <= 1000
        for top in range(0, 1000, 32)
        for n in range(32)
    )
    row = f"q over kevery head{live:,}{full:,}{live - full:,}{1024 - live:,}{cells:,}{cells / 1e6:.4%}"
    assert row in found.text
    assert f"{cells * 4 * 128 / 1e9:,.3f}" in found.text
    assert "Tiles of 32 by 32, as asked for" in found.text and "window100" in found.text


def test_a_page_of_heads_and_tables(root: Path) -> None:
    found = page(root, "per_head_window", 2048)
    assert "an example: 1024, 512, 256, 128" in found.text
    cells = [sum(min(q + 1, span) for q in range(2048)) for span in (1024, 512, 256, 128)]
    for head, count in enumerate(cells):
        assert re.search(rf"h = {head}[\d,]+{count:,}{count / 2**22:.4%}", found.text)
    assert "those of the kernel on an H100" in found.text


def test_a_page_at_a_million_positions(root: Path) -> None:
    """Blocks of 64, the last 16 and one in eight of the others, from the one that the head begins with."""
    found = page(root, "s2", 1 << 20)
    q = np.arange(1 << 20)
    start = np.maximum(q // 64 - 15, 0)
    for head in range(4):
        ahead = -2 * head % 8
        far = 64 * ((start - ahead + 7) // 8).clip(0)
        cells = int((q + 1 - 64 * start + far).sum())
        assert re.search(rf"h = {head}[\d,]+{cells:,}{cells / 2**40:.4%}", found.text)


def test_a_page_says_what_it_estimates() -> None:
    source = Source("p", text("k <= q and (q - k) % 5 == 0"))
    whole = check(parse(source), source)
    plan = planned(whole, source)
    found = Read(report(draw(whole, plan, 1 << 17), whole, plan))
    (share,) = re.findall(r"about ([\d.]+)%of the cells seen", found.text)
    assert abs(float(share) - 10) < 0.1
    exact = Read(report(draw(whole, plan, 2048), whole, plan))
    assert "about" not in exact.text and f"{sum(q // 5 + 1 for q in range(2048)):,}" in exact.text


# ---- in Python and in notebooks ----------------------------------------------------------------


def test_in_python(root: Path) -> None:
    attend = attncc.load(root / "patterns" / "prefix_lm.attn")
    found = attend.viz(64, tile=8, numbers={"prefix": 9})
    assert found.svg == found._repr_html_() and "prefix = 9" in found.caption[0]
    with pytest.raises(ValueError, match=re.escape('say `numbers={"prefix": ...}`')):
        attend.viz()
    with pytest.raises(ValueError, match="leave out `head=`"):
        attend.viz(head=1, numbers={"prefix": 9})
    with pytest.raises(ValueError, match="has no number `window`; its numbers: prefix"):
        attend.viz(numbers={"prefix": 9, "window": 1})
    with pytest.raises(ValueError, match="at least one position"):
        attend.viz(0, numbers={"prefix": 9})
    with pytest.raises(attncc.PatternError):
        attncc.load(root / "patterns" / "moba.attn").viz()


def test_every_pattern_shows_itself(root: Path) -> None:
    for path in sorted((root / "patterns").glob("*.attn")):
        if path.stem == "std":
            continue
        attend = attncc.load(path)
        shown = attend._repr_html_()
        assert shown is not None and f"<b>{path.stem}</b>" in shown
        ElementTree.fromstring(shown)
        assert ("<svg " in shown) != ("No picture of the mask: " in shown), path.stem
    assert "prefix = 16" in (attncc.load(root / "patterns" / "prefix_lm.attn")._repr_html_() or "")


def test_a_notebook_shows_text_where_the_page_fails(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attend = attncc.load(root / "patterns" / "causal.attn")
    monkeypatch.setattr("attncc.viz.notebook.draw", lambda *_, **__: 1 / 0)
    assert attend._repr_html_() is None
