"""Small inputs for the patterns of `masks.py`."""

from __future__ import annotations

from tests.patterns.sizes import ALONE, GROUPED, PAIRED, SHAPES, Case, cases, extents

TENSORS: dict[str, dict[str, str]] = {
    "s2_relative": GROUPED,
    "longgen": GROUPED,
    "sinklora": GROUPED,
    "duo": {**GROUPED, "full": "g"},
    "duo_train": {**GROUPED, "alpha": "g"},
    "razor": {**GROUPED, "retrieval": "h"},
    "moa": {**GROUPED, "spans": "h"},
    "masformer": GROUPED,
    "lserve": {**GROUPED, "streaming": "g"},
    "a_shape": {**GROUPED, "shaped": "h"},
    "uni_encoder": {**GROUPED, "segment": "bk"},
    "yopo": {**GROUPED, "keep": "h"},
    "natten1d": GROUPED,
    "bigbird": {**GROUPED, "random": "hnc"},
    "longformer": {**GROUPED, "marked": "bk"},
    "block_causal": GROUPED,
    "block_diffusion": GROUPED,
    "sparse_strided": GROUPED,
    "sparse_fixed": GROUPED,
    "halonet": {**GROUPED, "rows": "hrd", "columns": "hrd"},
    "halonet_padded": {**GROUPED, "rows": "hrd", "columns": "hrd"},
    "hilo": {**PAIRED, "X": "blqd", "Y": "blkd", "Z": "blke"},
    "agent": {"Q": "bhqd", "A": "bhad", "K": "bhkd", "V": "bhke", "B": "hak", "C": "hqa"},
}
"""Their tensors in their order, each with its indices, one letter an index."""


HALOS = ((1, 1, 1, 0), (3, 5, 2, 1), (6, 4, 4, 2), (9, 7, 3, 3), (5, 11, 8, 3), (7, 9, 1, 2))
"""Height and width of grids, block and halo."""


def _halo(name: str, height: int, width: int, block: int, around: int) -> Case:
    cells, rows = height * width, 2 * (block + 2 * around) - 1
    sizes = {**extents(cells, cells, b=2, h=3, g=1, d=5), "r": rows}
    return Case(name, sizes, {"width": width, "block": block, "around": around})


CASES: dict[str, tuple[Case, ...]] = {
    "s2_relative": cases(
        "s2_relative",
        SHAPES,
        {"block": 4, "left": 2, "right": 2, "stride": 3},
        {"block": 7, "left": 1, "right": 3, "stride": 2},
        {"block": 5, "left": 3, "right": 1, "stride": 4},
        {},
    ),
    "longgen": cases(
        "longgen",
        SHAPES,
        *({"layer": n, "layers": m, "window": 16, "sinks": 3} for n, m in ((0, 6), (2, 6), (4, 6), (6, 10))),
        {"layer": 10},
        {"layer": 11},
    ),
    "sinklora": cases(
        "sinklora", SHAPES, {"group": 16}, {"group": 7, "sinks": 3}, {"group": 4, "sinks": 9}, {}
    ),
    "duo": cases("duo", SHAPES, {"window": 9, "sinks": 5}, {"window": 30, "sinks": 1}, {}),
    "duo_train": cases("duo_train", SHAPES, {"window": 9, "sinks": 5}, {"window": 30, "sinks": 1}, {}),
    "razor": cases("razor", SHAPES, {"sinks": 3, "recent": 7}, {"sinks": 1, "recent": 20, "part": 2}, {}),
    "moa": cases("moa", SHAPES, {"block": 8}, {"block": 5, "sinks": 2}, {"block": 16, "sinks": 0}, {}),
    "masformer": cases(
        "masformer", SHAPES, {"block": 9}, {"block": 16}, {"block": 5, "full": True}, {"block": 64}, {}
    ),
    "lserve": cases("lserve", SHAPES, {"block": 8, "local": 2}, {"block": 5, "sinks": 2, "local": 3}, {}),
    "a_shape": cases("a_shape", SHAPES, {"first": 9, "local": 5}, {"first": 1, "local": 30}, {}),
    "uni_encoder": cases("uni_encoder", SHAPES[:-1]),
    "yopo": tuple(
        Case("yopo", shape, {"first": first, "height": height, "width": width, "window": window})
        for shape, first, height, width, window in (
            (SHAPES[0], 0, 1, 1, 1),
            (SHAPES[1], 3, 5, 7, 3),
            (SHAPES[2], 2, 3, 4, 5),
            (SHAPES[3], 0, 9, 7, 4),
            (SHAPES[4], 1, 6, 9, 5),
            (SHAPES[5], 60, 6, 11, 7),
            (SHAPES[7], 9, 5, 5, 3),
        )
    ),
    "natten1d": tuple(
        Case("natten1d", shape, {"window": window, "dilation": dilation, "stride": stride, "causal": causal})
        for shape, window, dilation, stride, causal in (
            (SHAPES[0], 1, 1, 1, False),
            (SHAPES[1], 4, 3, 2, False),
            (SHAPES[2], 5, 2, 1, True),
            (SHAPES[3], 6, 4, 6, False),
            (SHAPES[3], 4, 3, 3, True),
            (SHAPES[4], 7, 5, 3, True),
            (SHAPES[4], 3, 1, 2, False),
            (SHAPES[5], 9, 7, 4, False),
            (SHAPES[6], 8, 2, 5, True),
            (SHAPES[6], 63, 2, 1, False),
        )
    ),
    "bigbird": tuple(
        Case("bigbird", {**shape, "n": n, "c": n}, {"block": block, "window": window, "globals": first})
        for shape, n, block, window, first in (
            (SHAPES[0], 1, 4, 3, 0),
            (SHAPES[1], 11, 6, 3, 1),
            (SHAPES[2], 5, 3, 1, 1),
            (SHAPES[3], 9, 7, 3, 2),
            (SHAPES[4], 8, 8, 5, 0),
            (SHAPES[5], 16, 8, 3, 1),
            (SHAPES[6], 3, 64, 1, 0),
        )
    ),
    "longformer": cases("longformer", SHAPES[:-1], {"window": 9}, {"window": 4}, {"window": 0}, {}),
    "block_causal": cases("block_causal", SHAPES, {"block": 8}, {"block": 5}, {"block": 1}, {}),
    "block_diffusion": cases("block_diffusion", SHAPES, {"block": 8}, {"block": 5}, {"block": 1}, {}),
    "sparse_strided": cases("sparse_strided", SHAPES, {"stride": 8}, {"stride": 11}, {"stride": 1}, {}),
    "sparse_fixed": cases(
        "sparse_fixed",
        SHAPES,
        {"block": 16, "summary": 3},
        {"block": 9, "summary": 1},
        {"block": 5, "summary": 0},
        {},
    ),
    "halonet": tuple(_halo("halonet", *sizes) for sizes in HALOS),
    "halonet_padded": tuple(_halo("halonet_padded", *sizes) for sizes in HALOS),
    "hilo": tuple(
        Case("hilo", {**shape, "q": h * w, "k": h * w, "l": heads}, {"width": w, "window": window})
        for shape, h, w, window, heads in (
            (ALONE[0], 1, 1, 1, 1),
            (ALONE[1], 4, 6, 2, 3),
            (ALONE[2], 9, 6, 3, 1),
            (ALONE[3], 5, 7, 1, 2),
        )
    ),
    "agent": tuple(
        Case("agent", {**shape, "a": agents})
        for shape, agents in zip(ALONE, (1, 4, 3, 9, 16, 49, 7, 1), strict=True)
    ),
}
"""What they are tried on."""
