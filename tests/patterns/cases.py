"""Small inputs for every pattern: extents and scalars, and the tensors that they and a seed draw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from tests.patterns import masked
from tests.patterns.sizes import (
    ALONE,
    EVEN,
    FOLDED,
    GROUPED,
    PAIRED,
    SHAPES,
    SQUARES,
    TABLED,
    TRIPLES,
    Case,
)
from tests.patterns.sizes import cases as _cases
from tests.patterns.sizes import extents as _extents

Arguments = dict[str, Any]
"""Tensors, and numbers for scalars, by name."""


TENSORS: dict[str, dict[str, str]] = {
    "dense": GROUPED,
    "cross": GROUPED,
    "causal": GROUPED,
    "window": GROUPED,
    "streaming": GROUPED,
    "alibi": {**GROUPED, "slope": "h"},
    "softcap": GROUPED,
    "sigmoid": GROUPED,
    "sink": {**GROUPED, "sink": "h"},
    "s2": GROUPED,
    "landmark": GROUPED,
    "moba": GROUPED,
    "nsa": {**GROUPED, "Gcmp": "bhq", "Gslc": "bhq", "Gwin": "bhq"},
    "neighborhood2d": GROUPED,
    "h2o": GROUPED,
    "lightning": {**PAIRED, "slope": "h"},
    "retnet": PAIRED,
    "gla": {**PAIRED, "g": "bhkd"},
    "based": PAIRED,
    "based_window": PAIRED,
    "gated_delta": {**PAIRED, "g": "bhk", "beta": "bhk"},
    "prefix_lm": GROUPED,
    "document": {**GROUPED, "doc": "bk"},
    "packed": {"Q": "qhd", "K": "kgd", "V": "kge", "cu": "s"},
    "padded": {**GROUPED, "length": "b"},
    "left_padded": {**GROUPED, "pad": "b"},
    "ragged": {**GROUPED, "start": "b"},
    "shared_prefix": {**GROUPED, "doc": "bk"},
    "anchor": {**GROUPED, "doc": "bk"},
    "chunked": GROUPED,
    "gemma2": GROUPED,
    "qk_norm": {**GROUPED, "Wq": "d", "Wk": "d"},
    "longlora": GROUPED,
    "neighborhood1d": GROUPED,
    "neighborhood3d": GROUPED,
    "natten2d": GROUPED,
    "dilated": GROUPED,
    "rope": GROUPED,
    "differential": {"Q1": "bhqd", "K1": "bgkd", "Q2": "bhqd", "K2": "bgkd", "V": "bgke", "lam": ""},
    "per_head_window": {**GROUPED, "span": "h"},
    "lssa": GROUPED,
    "lssar": GROUPED,
    "selective_self": {**GROUPED, "Tq": "bhq", "Tv": "bgk", "alpha": "h"},
    "cosine": {**GROUPED, "scale": ""},
    "softmax1": GROUPED,
    "l2_softmax": GROUPED,
    "entropy": GROUPED,
    "z_loss": GROUPED,
    "max_logit": GROUPED,
    "nap": {**GROUPED, "gain": "h", "shift": "h"},
    "palm": {**GROUPED, "source": "b"},
    "positional": {"X": "hqd", "Y": "hkd", "V": "bhke"},
    "pointer": {"X": "bqd", "Y": "bkd", "v": "d"},
    "evoformer": {"Q": "bmhqd", "K": "bmhkd", "V": "bmhke", "pair": "bhqk", "G": "bmhqe"},
    "music": {**GROUPED, "E": "hrd"},
    **masked.TENSORS,
    "clusters": {**GROUPED, "cluster": "bgk"},
    "block_layout": {**GROUPED, "layout": "hyx"},
    "tree": {**GROUPED, "above": "byx"},
    "transfusion": {**GROUPED, "image": "bk"},
    "kronecker": {"Q": "bhqd", "K1": "bhjd", "K2": "bhkd", "V1": "bhje", "V2": "bhke"},
}
"""Every pattern's tensors in its order, each with its indices, one letter an index."""


def inputs(case: Case, seed: int = 0, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Arguments:
    """The arguments of a case by name, tensors first.

    They are drawn in float64 and rounded to other dtypes. Draws are continuous: no two of the scores that a
    selection compares are equal.
    """
    source = torch.Generator().manual_seed(seed)
    drawn: Arguments = {}
    for name, indices in TENSORS[case.pattern].items():
        shape = [case.extents[i] for i in indices]
        x = torch.randn(shape, generator=source, dtype=torch.float64)
        x = _plausible(case.pattern, name, x)
        drawn[name] = x.to(dtype if x.is_floating_point() else x.dtype).to(device)
    return {**drawn, **case.scalars}


def _plausible(pattern: str, name: str, x: Tensor) -> Tensor:
    """A standard normal draw turned into what a parameter of that name holds."""
    match name:
        case "g":
            return logsigmoid(x + 2)
        case "beta" | "Gcmp" | "Gslc" | "Gwin":
            return torch.sigmoid(x)
        case "slope":
            return 0.2 * x.abs()
        case "doc":
            return (3 * x).floor().long().sort(-1).values
        case "full" | "retrieval" | "streaming" | "shaped":
            return x > 0
        case "marked" | "random":
            return x > 1
        case "segment":
            return (2 * x.abs()).floor().long().sort(-1).values
        case "spans":
            return (3 * x.abs()).long()
        case "alpha":
            return torch.sigmoid(x)
        case "cluster" | "image":
            return (2 * x).round().long()
        case "layout" | "above":
            return x < 0.5
        case "span" | "source" | "length" | "pad" | "start":
            return (20 * x.abs()).long()
        case "cu":
            return (40 * x.abs()).long().sort(-1).values
        case "Tq" | "Tv":
            return torch.tanh(x)
        case "scale":
            return 8 + x
        case "K" if pattern == "gated_delta":
            return normalize(x, dim=-1)
        case _:
            return x


def _grid(height: int, width: int, window: int, *, rows: int = 0, **more: int) -> Case:
    """A grid of keys and as many queries, or the last `rows` of them."""
    cells = height * width
    return Case("neighborhood2d", _extents(rows or cells, cells, **more), {"width": width, "window": window})


CASES: dict[str, tuple[Case, ...]] = {
    "dense": _cases("dense", SHAPES),
    "cross": _cases("cross", SHAPES),
    "causal": _cases("causal", SHAPES),
    "window": _cases("window", SHAPES, {"window": 16}, {"window": 1}, {"window": 33}, {}, {"window": 0}),
    "streaming": _cases(
        "streaming",
        SHAPES,
        {"window": 16, "sinks": 3},
        {"window": 1, "sinks": 1},
        {"window": 33, "sinks": 0},
        {},
    ),
    "alibi": _cases("alibi", SHAPES),
    "softcap": _cases("softcap", SHAPES, {"cap": 1.5}, {}),
    "sigmoid": _cases("sigmoid", SHAPES, {"bias": -4.0}, {"bias": 0.25}),
    "sink": _cases("sink", SHAPES),
    "s2": _cases(
        "s2",
        SHAPES,
        {"block": 8, "local": 2, "stride": 4},
        {"block": 16, "local": 1, "stride": 3},
        {"block": 4, "local": 3, "stride": 5},
        {"block": 7, "local": 0, "stride": 2},
        {},
        {"block": 4, "local": 2, "stride": 3, "offset": 1},
        {"block": 5, "local": 1, "stride": 6, "offset": 4, "alike": True},
    ),
    "landmark": _cases("landmark", SHAPES, {"block": 8}, {"block": 5}, {"block": 16}, {"block": 2}, {}),
    "moba": _cases(
        "moba", SHAPES, {"block": 8, "picks": 3}, {"block": 16, "picks": 2}, {"block": 5, "picks": 1}, {}
    ),
    "nsa": _cases(
        "nsa",
        SHAPES,
        {"block": 8, "picks": 4, "window": 12},
        {"block": 4, "picks": 6, "window": 1},
        {"block": 16, "picks": 3, "window": 33},
        {"block": 5, "picks": 2, "window": 8},
        {},
    ),
    "neighborhood2d": (
        _grid(1, 1, 1, b=2, h=3, g=1),
        _grid(3, 5, 3, h=6, g=2, d=16, e=12),
        _grid(9, 7, 3, b=2, e=12),
        _grid(9, 7, 7, h=3, g=1),
        _grid(7, 9, 4, h=3, g=1, e=5),
        _grid(5, 13, 5, d=7),
        _grid(13, 5, 2, rows=1, h=3, g=1),
        _grid(3, 43, 3, rows=65, h=3, g=1, e=5),
    ),
    "h2o": _cases(
        "h2o",
        SHAPES,
        {"heavy": 6, "recent": 5},
        {"heavy": 30, "recent": 7},
        {"heavy": 0, "recent": 2},
        {"heavy": 3, "recent": 0},
        {},
    ),
    "lightning": _cases("lightning", ALONE),
    "retnet": _cases("retnet", ALONE),
    "gla": _cases("gla", ALONE),
    "based": _cases("based", ALONE),
    "based_window": _cases("based_window", ALONE, {"window": 16}, {"window": 1}, {"window": 0}, {}),
    "gated_delta": _cases("gated_delta", ALONE),
    "prefix_lm": _cases("prefix_lm", SHAPES, {"prefix": 10}, {"prefix": 1}, {"prefix": 64}, {"prefix": 0}),
    "document": _cases("document", SHAPES),
    "packed": tuple(Case("packed", {**shape, "s": n}) for n, shape in enumerate(SHAPES)),
    "padded": _cases("padded", SHAPES),
    "left_padded": _cases("left_padded", SHAPES),
    "ragged": _cases("ragged", SHAPES),
    "shared_prefix": _cases("shared_prefix", SHAPES, {"prefix": 10}, {"prefix": 1}, {"prefix": 0}),
    "anchor": _cases("anchor", SHAPES),
    "chunked": _cases("chunked", SHAPES, {"chunk": 16}, {"chunk": 7}, {"chunk": 1}, {}),
    "gemma2": _cases(
        "gemma2", SHAPES, {"window": 16, "cap": 1.5, "scalar": 8.0}, {"window": 5, "scalar": 144.0}, {}
    ),
    "qk_norm": _cases("qk_norm", SHAPES, {}, {"eps": 0.5}),
    "longlora": _cases("longlora", SHAPES, {"group": 16}, {"group": 7}, {"group": 2}, {}),
    "neighborhood1d": tuple(
        Case("neighborhood1d", shape, {"window": window})
        for shape, window in zip(SHAPES[:-1], (1, 7, 4, 16, 63, 33, 2), strict=True)
    ),
    "neighborhood3d": tuple(
        Case(
            "neighborhood3d",
            _extents(rows or z * y * x, z * y * x, h=3, g=1, e=5),
            {"height": y, "width": x, "window": window},
        )
        for z, y, x, window, rows in (
            (1, 1, 1, 1, 0),
            (3, 4, 5, 3, 0),
            (4, 3, 6, 2, 0),
            (7, 5, 3, 3, 9),
            (2, 2, 2, 2, 0),
            (5, 5, 5, 5, 1),
            (4, 9, 2, 1, 40),
        )
    ),
    "natten2d": tuple(
        Case("natten2d", _extents(rows or y * x, y * x, h=3, g=1, d=7), {"width": x, **more})
        for y, x, rows, more in (
            (7, 9, 0, {"window_y": 3, "window_x": 5}),
            (9, 8, 0, {"window_y": 4, "window_x": 2, "dilation_y": 2, "dilation_x": 3}),
            (8, 8, 0, {"window_y": 4, "window_x": 4, "stride_y": 4, "stride_x": 4}),
            (9, 7, 0, {"window_y": 4, "window_x": 3, "stride_y": 3, "stride_x": 2, "causal_y": True}),
            (7, 11, 20, {"window_y": 3, "window_x": 3, "dilation_x": 3, "stride_x": 2, "causal_x": True}),
            (11, 7, 1, {"window_y": 5, "window_x": 2, "dilation_y": 2, "stride_y": 5, "causal_y": True}),
            (6, 6, 0, {"window_y": 6, "window_x": 1}),
        )
    ),
    "dilated": _cases(
        "dilated",
        SHAPES,
        {"dilation": 3, "window": 5},
        {"dilation": 1, "window": 7},
        {"dilation": 16, "window": 2},
        {"dilation": 5, "window": 1},
        {},
    ),
    "rope": _cases("rope", EVEN, {}, {"base": 500.0}),
    "differential": _cases("differential", SHAPES),
    "per_head_window": _cases("per_head_window", SHAPES),
    "lssa": _cases("lssa", SHAPES),
    "lssar": _cases("lssar", SHAPES, {}, {"p": 3}, {"p": 1, "eps": 0.5}),
    "selective_self": _cases("selective_self", SHAPES),
    "cosine": _cases("cosine", SHAPES),
    "softmax1": _cases("softmax1", SHAPES),
    "l2_softmax": _cases("l2_softmax", SHAPES),
    "entropy": _cases("entropy", SHAPES),
    "z_loss": _cases("z_loss", SHAPES),
    "max_logit": _cases("max_logit", SHAPES),
    "nap": _cases("nap", SHAPES, {}, {"eps": 0.5}),
    "palm": _cases("palm", SHAPES),
    "positional": _cases("positional", ALONE),
    "pointer": _cases("pointer", ALONE),
    "evoformer": _cases("evoformer", FOLDED),
    "music": _cases("music", TABLED),
    **masked.CASES,
    "clusters": _cases("clusters", SHAPES),
    "block_layout": _cases("block_layout", SQUARES, {"block": 8}, {"block": 5}, {"block": 16}, {}),
    "tree": _cases("tree", SQUARES),
    "transfusion": _cases("transfusion", SHAPES),
    "kronecker": _cases("kronecker", TRIPLES),
}
"""What every pattern is tried on."""
