"""Tables of tokens and of sequences: the tiles of packed, padded and shared masks, on random tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attncc.ir.cascade import Cascade
from attncc.masks.hoisted import hoisted
from attncc.masks.integers import values
from attncc.masks.normal import total
from attncc.pipeline import meaning, streamed
from attncc.schedule.plan import Loop, partition
from attncc.source import Source
from tests.masks.test_bands import Tally, held, tally

FOLDER = Path(__file__).parents[2] / "patterns"
Tables = dict[str, Any]
Draw = Callable[[np.random.Generator, int], Tables]


def starts(source: np.random.Generator, keys: int) -> Tables:
    """Some ascending positions; they need not begin with 0, end with the last one, or differ."""
    count = int(source.integers(0, 9))
    cu = np.sort(source.integers(0, keys + 1, count))
    if source.random() < 0.7:
        cu = np.r_[0, cu, keys]
    return {"cu": cu, "|s|": len(cu)}


def documents(source: np.random.Generator, keys: int) -> Tables:
    doc = np.sort(source.integers(0, int(source.integers(1, 9)), keys))
    return {"doc": doc[None], "prefix": int(source.integers(0, keys + 3))}


def lengths(source: np.random.Generator, keys: int) -> Tables:
    return {name: source.integers(0, keys + 3, 1) for name in ("length", "pad", "start")}


def anchored(source: np.random.Generator, keys: int) -> Tables:
    """Document 0 holds the first position alone."""
    doc = np.sort(source.integers(1, 9, keys))
    doc[:1] = 0
    return {"doc": doc[None]}


MASKS: dict[str, tuple[Draw, float]] = {
    "packed": (starts, 1.0),
    "document": (documents, 1.0),
    "padded": (lengths, 1.0),
    "left_padded": (lengths, 1.0),
    "ragged": (lengths, 1.0),
    "shared_prefix": (documents, 0.99),
    "anchor": (anchored, 0.85),
}
"""How tables are drawn, and how many of the full tiles are recognised: two bands may fill one together."""


def only_loop(cascade: Cascade) -> Loop:
    """The one walk of a pattern."""
    (kernel,) = partition(streamed(cascade)).kernels
    (loop,) = kernel.loops
    return loop


def tried(loop: Loop, draw: Draw, rounds: int) -> Tally:
    """All tiles of random tables, none missed, none visited twice, none taken for full that is not."""
    source, result = np.random.default_rng(5), Tally()
    for _ in range(rounds):
        keys = int(source.integers(1, 60))
        rows = int(source.choice([keys, keys, 1, source.integers(1, keys + 4)]))
        env = {"|q|": rows, "|k|": keys, "b": 0, "h": 0, **draw(source, keys)}
        cells = {**env, "q": np.arange(rows)[:, None], "k": np.arange(keys)[None, :]}
        mask = np.broadcast_to(values(total(loop.reach), cells), (rows, keys))
        together = np.zeros(mask.shape, bool)
        for band in loop.bands:
            together |= held(band, env)
        assert (together == mask).all()
        tests = (hoisted(s.reduce.where, loop.index, frozenset({"cu", "doc"})) for s in loop.states)
        elements = (values(total(test), cells) for test in tests)
        assert (np.logical_or.reduce([np.broadcast_to(e, mask.shape) for e in elements]) == mask).all()
        size_q, size_k = (int(n) for n in source.choice([1, 2, 4, 8, 16], 2))
        result += tally(loop.bands, mask, env, size_q, size_k)
    return result


@pytest.mark.parametrize("name", MASKS)
def test_tiles(name: str) -> None:
    draw, recognised = MASKS[name]
    result = tried(only_loop(meaning(Source.read(FOLDER / f"{name}.attn"))), draw, 60)
    print(f"\n{name}: {result}")
    assert result.tiles > 5000
    assert result.visited == result.live
    assert result.found_full >= recognised * result.full > 0


TEXT = """pattern mask(Q[q,d], K[k,d], V[k,e], cu[s]: int) -> O[q,e]:
    along s
    align q to k
    assume sorted cu
    own[k] = sum(s where {counted}) 1
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    O[q,e] = sum(k) (softmax(k where {predicate}) S[q,k]) * V[k,e]
"""

PREDICATES = (
    "own[k] == own[q]",
    "own[k] == own[q] and q - k < 5",
    "own[k] == own[q] and abs(q - k) <= 3",
    "own[k] <= own[q]",
    "own[k] < own[q] or k == q",
    "own[k] >= own[q] - 1 and k <= q",
    "own[q] - own[k] <= 2 and own[k] < own[q] + 1",
    "own[k] + 1 == own[q]",
    "own[k] == 2",
    "not own[k] == own[q] and k <= q",
    "own[k] != own[q]",
    "own[q] == 1 or own[k] == own[q]",
    "k < 3 or (k <= q and own[k] == own[q])",
    "2 * own[k] <= own[q]",
    "own[k] // 2 == own[q] // 2",
    "own[k] % 2 == 0 and k <= q",
    "own[k] > 3 - own[q]",
)


@pytest.mark.parametrize("counted", ["cu[s] <= k", "k > cu[s]"])
def test_predicates_of_counts(counted: str) -> None:
    """Whatever is asked of a count: nothing is missed, and the element test is the predicate."""
    result = Tally()
    for predicate in PREDICATES:
        text = TEXT.format(counted=counted, predicate=predicate)
        result += tried(only_loop(meaning(Source("mask", text))), starts, 8)
    print(f"\n{counted}: {result}")
    assert result.visited - result.live <= 0.05 * result.tiles
