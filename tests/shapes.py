"""Shapes and numbers that kernels are tried at, and the arguments they are called with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

MASKS = (
    "s2_relative",
    "longgen",
    "sinklora",
    "duo",
    "moa",
    "masformer",
    "lserve",
    "a_shape",
    "uni_encoder",
    "yopo",
    "natten1d",
    "bigbird",
    "longformer",
    "block_causal",
    "block_diffusion",
    "sparse_strided",
    "sparse_fixed",
)
"""Softmax attention, each with a mask of its own."""

KERNELS = (
    "dense",
    "causal",
    "cross",
    "window",
    "streaming",
    "alibi",
    "softcap",
    "sigmoid",
    "sink",
    "prefix_lm",
    "document",
    "chunked",
    "gemma2",
    "qk_norm",
    "longlora",
    "neighborhood1d",
    "rope",
    "differential",
    "per_head_window",
    "lssa",
    "cosine",
    "softmax1",
    "selective_self",
    "entropy",
    "z_loss",
    "max_logit",
    "l2_softmax",
    "nap",
    "palm",
    "positional",
    "evoformer",
    "music",
    "pointer",
    "kronecker",
    "padded",
    "left_padded",
    "ragged",
    "shared_prefix",
    "anchor",
    "duo_train",
    "razor",
    "halonet",
    "agent",
    *MASKS,
    "clusters",
    "block_layout",
    "tree",
    "transfusion",
    "dilated",
    "neighborhood2d",
    "neighborhood3d",
    "natten2d",
)
"""Patterns that must have kernels."""

MANY = KERNELS.index("lssa")
"""So many of them are interpreted at every length, the others at a few."""

MORE = ("s2", "lightning", "retnet", "based", "based_window", "h2o")
"""References that have a kernel too, as their quadratic form is one."""

PACKED = ("packed",)
"""Those without a batch, whose heads stand behind positions."""

FOLDED = ("music", "pointer", "kronecker", "halonet")
"""Those that go through features, or through keys of a second kind, one after the other."""

PLAIN = ("pointer",)
"""Those that multiply no matrices."""

UNBOUNDED = ("lssar",)
"""Kernels whose weights, powers here, pass what float16 holds: in other precisions only."""

AHEAD = ("dense", "cross", "sigmoid", "neighborhood1d", "prefix_lm", "palm", "positional", "evoformer")
AHEAD = (*AHEAD, "pointer", "kronecker", "ragged", "halonet", "agent", "transfusion", "uni_encoder", "yopo")
AHEAD = (
    *AHEAD,
    "natten1d",
    "natten2d",
    "neighborhood2d",
    "neighborhood3d",
    "bigbird",
    "longformer",
    "block_causal",
    "block_diffusion",
    "s2_relative",
    "yopo",
)
"""Those whose queries see later keys, or whose last one does not stand at the last key."""

PAIRING = ("rope",)
"""Those that pair features: `|d|` is even."""

LENGTHS = (1, 15, 63, 65, 127, 129, 250, 296, 333, 1023, 1025)


@dataclass(frozen=True)
class Shape:
    """Batch, heads, key heads, queries, keys, and the two feature extents; numbers not at their defaults; how
    many sequences an alignment has, rows a table of distances, keys of a second kind, starts of sequences,
    blocks of a layout, agents, rows and columns a table of blocks or nodes.
    """

    b: int
    h: int
    g: int
    q: int
    k: int
    d: int
    e: int
    numbers: dict[str, int | float] = field(default_factory=dict, hash=False)
    m: int = 2
    r: int = 21
    j: int = 5
    s: int = 7
    n: int = 70
    c: int = 70
    a: int = 19
    y: int = 9
    x: int = 11

    def __str__(self) -> str:
        return f"b{self.b}h{self.h}g{self.g}q{self.q}k{self.k}d{self.d}e{self.e}"


def arguments(cascade: Any, shape: Shape, dtype: torch.dtype, device: str, seed: int = 0) -> dict[str, Any]:
    """Random tensors for every input of a pattern, in its own layout; numbers where they have no default."""
    source = torch.Generator().manual_seed(seed)
    sizes = vars(shape)
    paired = not any(i.name == "g" for t in cascade.inputs for i in t.indices)
    made: dict[str, Any] = {}
    for tensor in cascade.inputs:
        if tensor.origin in ("scalar", "static"):
            if tensor.name in shape.numbers:
                made[tensor.name] = shape.numbers[tensor.name]
            elif tensor.name not in dict(cascade.defaults):
                made[tensor.name] = numbers(cascade.name)[tensor.name]
            continue
        extents = [sizes["h"] if paired and i.name == "g" else sizes[i.name] for i in tensor.indices]
        x = torch.randn(extents, generator=source, dtype=torch.float64)
        if tensor.kind == "int":
            made[tensor.name] = _table(tensor.name, x).to(torch.int32).to(device)
            continue
        if tensor.kind == "bool":
            made[tensor.name] = (x < 0.5).to(device)
            continue
        if tensor.name == "slope":
            x = 2.0 ** -(8.0 * torch.arange(1, extents[-1] + 1, dtype=torch.float64) / extents[-1])
        if tensor.name in ("Wq", "Wk"):
            x = 1 + 0.25 * x  # weights of a norm
        if tensor.name in ("lam", "alpha"):
            x = torch.sigmoid(x)  # a share: where it is 1, a difference of equals is left
        made[tensor.name] = x.to(dtype).to(device)
    return made


def _table(name: str, x: torch.Tensor) -> torch.Tensor:
    """Standard normal draws turned into whole numbers: a dozen documents in order, lengths up to some 60."""
    match name:
        case "doc":
            return (3 * x).floor().sort(-1).values
        case "cluster" | "image":
            return (2 * x).round()
        case "segment":
            return (3 * x.abs()).floor().sort(-1).values
        case "spans":
            return (3 * x.abs()).floor()
        case "span" | "source" | "length" | "pad" | "start":
            return (20 * x.abs()).floor()
        case "cu":
            return (40 * x.abs()).floor().sort(-1).values
        case _:
            raise AssertionError(f"no table {name}")


def doubled(given: dict[str, Any]) -> dict[str, Any]:
    """The same arguments in float64; tables and numbers as they are."""
    real = {n: x for n, x in given.items() if torch.is_tensor(x) and x.is_floating_point()}
    return {**given, **{n: x.double() for n, x in real.items()}}


def output(name: str) -> str:
    """The output of a pattern that is compared."""
    return {"pointer": "P"}.get(name, "O")


def numbers(name: str) -> dict[str, int | float]:
    """Numbers small enough that odd lengths have edges inside."""
    return {
        "window": {"window": 37},
        "streaming": {"window": 37, "sinks": 4},
        "s2": {"block": 16, "local": 2, "stride": 3},
        "based_window": {"window": 37},
        "prefix_lm": {"prefix": 21},
        "shared_prefix": {"prefix": 21},
        "chunked": {"chunk": 37},
        "gemma2": {"window": 37, "scalar": 24.0},
        "qk_norm": {"eps": 1e-3},
        "longlora": {"group": 38},
        "neighborhood1d": {"window": 37},
        "rope": {"base": 500.0},
        "s2_relative": {"block": 16, "left": 2, "right": 1, "stride": 3},
        "longgen": {"layer": 1, "window": 37, "sinks": 5},
        "sinklora": {"group": 38},
        "duo": {"window": 37, "sinks": 5},
        "duo_train": {"window": 37, "sinks": 5},
        "razor": {"recent": 37, "sinks": 5},
        "moa": {"block": 16},
        "masformer": {"block": 37},
        "lserve": {"block": 16, "local": 3},
        "a_shape": {"first": 21, "local": 37},
        "yopo": {"first": 21, "height": 5, "width": 11},
        "natten1d": {"window": 5, "dilation": 3, "stride": 2},
        "bigbird": {"block": 16},
        "longformer": {"window": 37},
        "block_causal": {"block": 37},
        "block_diffusion": {"block": 19},
        "sparse_strided": {"stride": 37},
        "sparse_fixed": {"block": 37, "summary": 5},
        "halonet": {"width": 9, "block": 4, "around": 2},
        "block_layout": {"block": 19},
        "dilated": {"dilation": 3, "window": 9},
        "neighborhood2d": {"width": 9, "window": 3},
        "neighborhood3d": {"height": 4, "width": 7, "window": 3},
        "natten2d": {
            "width": 11,
            "window_y": 3,
            "window_x": 2,
            "dilation_y": 2,
            "dilation_x": 3,
            "stride_y": 2,
            "causal_x": True,
        },
    }.get(name, {})
