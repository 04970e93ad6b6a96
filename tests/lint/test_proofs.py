"""What is proved of masks, and what is seen of them, against brute force over every cell."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np

from attncc.ir.cascade import TRUE, Expr, extent, free, number, reads
from attncc.lint.branches import void
from attncc.lint.found import empty_rows, leaks, unsafe
from attncc.lint.heads import together
from attncc.lint.kept import kept_at_most
from attncc.lint.sampled import Trial
from attncc.lint.seen import Mask
from attncc.masks.integers import values
from attncc.source import NOWHERE
from tests.masks.pairs import H, K, Pair, Q, aligned, h, k, q
from tests.masks.strategies import Case, Seeded, case

CASES = 150


def drawn(seed: int, square: bool = False) -> Case:
    """A random mask of a size that is looked at cell by cell."""
    random = Random(seed)
    while True:
        found = case(Seeded(random), largest=40)
        if not square or found.env["|q|"] == found.env["|k|"]:
            return found


def cells(mask: Pair, env: dict[str, Any]) -> Any:
    """Which cells hold, by the mask's own meaning."""
    rows, columns = np.arange(env["|q|"])[:, None], np.arange(env["|k|"])[None, :]
    value, present = mask.meaning({**env, "q": rows, "k": columns})
    return np.broadcast_to(np.logical_and(value, present), (rows.size, columns.size))


def one(e: Expr) -> Mask:
    return Mask("O", "sum", Q, (K,), e, NOWHERE)


def test_void_is_empty() -> None:
    proved = 0
    for seed in range(CASES):
        found, other = drawn(seed), drawn(seed + 10_000)
        env = {**found.env, **{n: v for n, v in other.env.items() if n not in found.env}}
        for mask in (found.mask, found.mask & ~found.mask):
            if void(mask.e, Q, K):
                proved += 1
                assert not cells(mask, env).any(), mask.e
    assert proved > CASES // 4


def test_no_more_is_kept_than_is_proved() -> None:
    proved = 0
    for seed in range(3 * CASES):
        found = drawn(seed, square=True)
        mask = found.mask & (k <= aligned)
        seen = cells(mask, found.env)
        later = np.logical_or.accumulate(seen[::-1], axis=0)[::-1][1:]
        count = max((int(later[n, : n + 1].sum()) for n in range(len(later))), default=0)
        for bound in (0, 5, 12, 40):
            if kept_at_most(number(bound), (one(mask.e),)):
                proved += 1
                assert count <= bound, (mask.e, count, bound)
    assert proved > 20


def test_some_head_sees_what_the_heads_see_together() -> None:
    kept = 0
    for seed in range(CASES):
        random = Random(seed)
        found = drawn(seed)
        step, size = random.choice((1, 1, 2, 3)), random.randint(1, 6)
        shard = ((k // random.randint(1, 5) + h * step + random.randint(0, 9)) % size).equals(0)
        mask = random.choice((shard, shard & found.mask, shard | found.mask, found.mask))
        heads = random.randint(1, 6)
        env = {**found.env, "|h|": heads, "span": np.resize(found.env["span"], heads)}
        enough = (Pair(extent(H), lambda e: (e["|h|"], True)) >= size).e
        given = enough if random.random() < 0.7 else TRUE
        if not values(given, env):
            continue
        rows, columns = np.arange(env["|q|"])[:, None], np.arange(env["|k|"])[None, :]
        claimed = together(mask.e, (H,), given)
        assert H not in free(claimed)
        try:
            claim = np.broadcast_to(
                values(claimed, {**env, "q": rows, "k": columns}), (rows.size, columns.size)
            )
        except IndexError:  # a table read out of range, which `total` would say
            continue
        some = np.logical_or.reduce([cells(mask, {**env, "h": n}) for n in range(heads)])
        assert not (claim & ~some).any(), mask.e
        kept += bool(claim.any())
    assert kept > CASES // 3


def test_the_heads_of_s2_cover() -> None:
    shard = ((k // 4 + h) % 8).equals(0)
    given = (Pair(extent(H), lambda e: (e["|h|"], True)) >= 8).e
    assert together(shard.e, (H,), given) == TRUE
    assert together(shard.e, (H,), TRUE) != TRUE
    double = ((k // 4 + h * 2) % 8).equals(0)
    assert together(double.e, (H,), given) != TRUE


def test_warnings_say_what_is_so() -> None:
    """A witness is one: by the mask's own meaning, not by what found it."""
    said = 0
    for seed in range(CASES):
        found = drawn(seed, square=True)
        if any(r.tensor.indices for r in reads(found.mask.e)):
            continue
        env = found.env
        for mask in (found.mask, found.mask & (k <= q)):
            seen = cells(mask, env)
            length = env["|q|"]
            trial = Trial(length, np.arange(length), {**env, "|h|": env["h"] + 1}, ())
            masks = (one(mask.e),)
            if any(i.name == "h" for i in masks[0].heads):
                continue
            blind, back = bool((~seen.any(axis=1)).any()), _returns(seen)
            future = bool(np.triu(seen, 1).any())
            assert bool(list(empty_rows(masks, (trial,)))) == blind
            assert bool(list(unsafe(masks, (trial,)))) == (back and not future)
            assert future or not list(leaks(masks, (trial,)))
            said += blind or back
    assert said > 20


def _returns(seen: Any) -> bool:
    """Whether a column is seen, then not, then again."""
    for column in seen.T:
        rows = np.flatnonzero(column)
        if rows.size and not column[rows[0] : rows[-1] + 1].all():
            return True
    return False
