"""What is published of masks beside their formulas: tables, counts of keys, limits in which they meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from attncc.ir.evaluate import evaluate
from tests.patterns import definitions, masks
from tests.patterns.cases import TENSORS, Arguments, Case, inputs
from tests.patterns.test_definitions import cascade

Mask = NDArray[np.bool_]


def probe(name: str, keys: int, *, heads: int = 1, groups: int = 1, **given: Any) -> Mask:
    """`[h, q, k]`: where the pattern itself puts weight, of equal scores over one-hot values."""
    zeros, one_hot = np.zeros((1, heads, keys, 4)), np.eye(keys)
    K, V = zeros[:, :groups], np.broadcast_to(one_hot, (1, groups, keys, keys))
    return np.asarray(evaluate(cascade(name), {"Q": zeros, "K": K, "V": V, **given})["O"][0] > 0)


def table(*rows: str) -> Mask:
    return np.array([[cell == "1" for cell in row] for row in rows])


CAUSAL = table(
    "10000000",
    "11000000",
    "11100000",
    "10110000",
    "10011000",
    "10011100",
    "10010110",
    "10010011",
)
RELATIVE = table(
    "11001001",
    "11100100",
    "01110010",
    "00111001",
    "10011100",
    "01001110",
    "00100111",
    "10010011",
)
"""dkernel's own tables: blocks of 2, of which 2 are local, every third beyond."""


@pytest.mark.parametrize("groups", [1, 2])
def test_tables_of_s2(groups: int) -> None:
    """Of its tests, whose heads are alike; a query sees its own block up to itself."""
    numbers = {"block": 2, "stride": 3}
    got = probe("s2", 16, heads=2, groups=groups, local=2, alike=True, **numbers)
    wanted = CAUSAL.repeat(2, 0).repeat(2, 1) & np.tri(16, dtype=bool)
    assert (got == wanted).all()
    got = probe("s2_relative", 16, heads=2, groups=groups, left=2, right=2, **numbers)
    assert (got == RELATIVE.repeat(2, 0).repeat(2, 1)).all()


@pytest.mark.parametrize(("groups", "stride"), [(1, 3), (2, 3), (4, 3), (3, 7), (4, 8), (8, 4), (2, 5)])
@pytest.mark.parametrize("offset", [0, 1])
def test_shards_of_s2_cover_the_past(groups: int, stride: int, offset: int) -> None:
    """If, and only if, every column has a head; with an offset the first head may miss the first block."""
    numbers = {"block": 1, "local": 1, "stride": stride, "offset": offset}
    seen = probe("s2", 24, heads=groups, groups=groups, **numbers)
    covered = bool((seen.any(0) == np.tri(24, dtype=bool)).all())
    assert covered == (groups >= stride)
    assert bool(seen[0, 23, 0]) == (offset % stride == 0)
    assert (probe("s2", 24, heads=groups, groups=groups, alike=True, **numbers) == seen[0]).all()


NATTEN = [(7, 7, 1, 1), (23, 5, 3, 2), (24, 6, 2, 6), (30, 4, 5, 3), (19, 8, 2, 4), (12, 1, 1, 1)]
"""Keys, window, dilation and stride."""


@pytest.mark.parametrize(("keys", "window", "dilation", "stride"), NATTEN)
def test_dilated_neighborhoods(keys: int, window: int, dilation: int, stride: int) -> None:
    """Every row sees `window` keys of its residue; a causal one up to itself, and itself."""
    numbers = {"window": window, "dilation": dilation, "stride": stride}
    seen, causal = probe("natten1d", keys, **numbers)[0], probe("natten1d", keys, causal=True, **numbers)[0]
    assert (seen.sum(-1) == window).all()
    rest = np.arange(keys) % dilation
    for mask in (seen, causal):
        assert mask.diagonal().all() and not (mask & (rest[:, None] != rest)).any()
    assert not np.triu(causal, 1).any() and (causal.sum(-1) <= window).all()


def test_neighborhoods_in_their_limits() -> None:
    """As wide as they are far apart: blocks. As wide as the line: everything. By default: the plain rule."""
    blocks = np.arange(24) // 6
    assert (probe("natten1d", 24, window=6, stride=6)[0] == (blocks[:, None] == blocks)).all()
    assert probe("natten1d", 9, window=9).all()
    assert (probe("natten1d", 9, window=9, causal=True)[0] == np.tri(9)).all()
    for window in (1, 4, 7, 20):
        assert (probe("natten1d", 20, window=window) == probe("neighborhood1d", 20, window=window)).all()


def test_spans_are_as_long_as_their_last_block() -> None:
    """MoA's rows see from `(span - 1) * block + 1` to `span * block` keys, beside the sinks."""
    seen = probe("moa", 96, heads=2, spans=np.array([2, 5]), block=8, sinks=0)
    for span, rows in zip((2, 5), seen, strict=True):
        counts = rows[48:].sum(-1)
        assert counts.min() == (span - 1) * 8 + 1 and counts.max() == span * 8


def test_windows_of_an_image_are_cut_off() -> None:
    """16 to 49 keys of 24 by 24; text is causal."""
    seen = probe("yopo", 600, keep=np.ones(1), first=10)[0]
    inside = seen[10:586, 10:586]
    assert inside.sum(-1).min() == 16 and inside.sum(-1).max() == 49 and (inside == inside.T).all()
    inside[:] = np.tri(576)
    assert (seen == np.tri(600)).all()


def test_noisy_blocks_see_what_sampling_sees() -> None:
    """Clean blocks before, as in the cache, and their own; nothing reads the noise of another block."""
    seen, cached = probe("block_diffusion", 48, block=5)[0], probe("block_causal", 24, block=5)[0]
    noisy = seen[:24, :24] | seen[:24, 24:]
    assert (noisy == cached).all() and (seen[24:, 24:] == cached).all()
    own = np.arange(24) // 5
    assert (seen[:24, :24] == (own[:, None] == own)).all() and not seen[24:, :24].any()


LONG = {"b": 1, "h": 6, "g": 2, "q": 37, "k": 41, "d": 8, "e": 5}


def arguments(name: str, **given: Any) -> Arguments:
    return {**inputs(Case(name, LONG)), **given}


def meant(name: str, x: Arguments) -> torch.Tensor:
    """The pattern's output, of the arguments it takes."""
    taken = {n: v.numpy() if isinstance(v, torch.Tensor) else v for n, v in x.items()}
    return torch.from_numpy(np.asarray(evaluate(cascade(name), taken)["O"]))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("duo", {"full": torch.zeros(2, dtype=torch.bool), "window": 7, "sinks": 3}),
        ("duo_train", {"alpha": torch.zeros(2, dtype=torch.float64), "window": 7, "sinks": 3}),
        ("longgen", {"layer": 1, "layers": 6, "window": 7, "sinks": 3}),
        ("a_shape", {"shaped": torch.ones(6, dtype=torch.bool), "local": 7, "first": 3}),
        ("moa", {"spans": torch.full((6,), 7), "block": 1, "sinks": 3}),
        ("lserve", {"streaming": torch.ones(2, dtype=torch.bool), "block": 1, "local": 7, "sinks": 3}),
    ],
)
def test_sinks_and_a_window_are_streaming(name: str, given: Arguments) -> None:
    x = arguments(name, **given)
    wanted = definitions.streaming(x["Q"], x["K"], x["V"], window=7, sinks=3)["O"]
    torch.testing.assert_close(meant(name, x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("duo", {"full": torch.ones(2, dtype=torch.bool), "window": 1, "sinks": 0}),
        ("duo_train", {"alpha": torch.ones(2, dtype=torch.float64), "window": 1, "sinks": 0}),
        ("longgen", {"layer": 2, "layers": 6, "window": 1}),
        ("a_shape", {"shaped": torch.zeros(6, dtype=torch.bool), "local": 1, "first": 0}),
        ("lserve", {"streaming": torch.zeros(2, dtype=torch.bool), "local": 1}),
        ("masformer", {"full": True, "block": 1}),
        ("masformer", {"block": 21}),
        ("razor", {"retrieval": torch.ones(6, dtype=torch.bool), "recent": 0}),
        ("razor", {"recent": 41}),
        ("sparse_strided", {"stride": 1}),
        ("sparse_fixed", {"block": 4, "summary": 4}),
        ("sinklora", {"sinks": 41, "group": 2}),
        ("block_causal", {"block": 1}),
    ],
)
def test_all_of_the_past_is_causal(name: str, given: Arguments) -> None:
    x = arguments(name, **given)
    wanted = definitions.causal(x["Q"], x["K"], x["V"])["O"]
    torch.testing.assert_close(meant(name, x), wanted, rtol=0, atol=1e-12)


def test_a_key_for_those_dropped_keeps_means() -> None:
    """Of equal keys and values the compensation key is as many of them, so that nothing is lost."""
    x = arguments("razor", recent=5, sinks=2)
    for n in "KV":
        x[n][:, :, 2:30] = x[n][:, :, 2:3]
    wanted = definitions.causal(x["Q"], x["K"], x["V"])["O"]
    got = meant("razor", x)
    torch.testing.assert_close(got[:, :, :26], wanted[:, :, :26], rtol=0, atol=1e-12)
    assert (got[:, :, 36] - wanted[:, :, 36]).abs().max() > 1e-3


def test_a_border_without_a_halo_is_none() -> None:
    """Padding matters at the borders alone: not where blocks fill the grid, nor for blocks inside it."""
    extents = {**LONG, "q": 144, "k": 144}
    x = inputs(Case("halonet", {**extents, "r": 7})) | {"width": 12, "block": 4, "around": 0}
    torch.testing.assert_close(meant("halonet", x), meant("halonet_padded", x), rtol=0, atol=1e-12)
    x = inputs(Case("halonet", {**extents, "r": 15})) | {"width": 12, "block": 4, "around": 2}
    one, other = (meant(name, x).unflatten(2, (12, 12)) for name in ("halonet", "halonet_padded"))
    torch.testing.assert_close(one[:, :, 4:8, 4:8], other[:, :, 4:8, 4:8], rtol=0, atol=1e-12)
    assert (one[:, :, :4] - other[:, :, :4]).abs().amax((0, 1, 4)).min() > 1e-6


def test_one_agent_a_key_is_two_softmaxes() -> None:
    """Without biases and features, every query gets the mean of the values."""
    extents = {"b": 2, "h": 3, "q": 9, "k": 11, "a": 4, "d": 5, "e": 6}
    x = inputs(Case("agent", extents))
    for n in set(TENSORS["agent"]) - {"V"}:
        x[n] = 0 * x[n]
    got = masks.agent(**x)["O"]
    torch.testing.assert_close(got, x["V"].mean(2, keepdim=True).expand_as(got), rtol=0, atol=1e-12)
