"""What is said of a tile as expressions is true of it, for random masks, tables and tiles."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attncc.ir.cascade import Index, Read, Tensor
from attncc.masks.integers import at, values
from attncc.masks.summary import Summary, deciding, summary
from tests.masks.pairs import K, Pair, Q, aligned, cells, choose, const, k, q, scalar, table
from tests.masks.strategies import Drawn, Pick, Seeded, case

NAMES = ("q first", "q last", "k first", "k last")
BOX = {
    index: (Read(Tensor(first, (), "int", "scalar"), ()), Read(Tensor(last, (), "int", "scalar"), ()))
    for index, first, last in ((Q, *NAMES[:2]), (K, *NAMES[2:]))
}
A, B = Index("a", "sequence", "position"), Index("b", "sequence", "position")
Box = tuple[int, int, int, int]


def square(name: str, kind: Any, row: Pair, column: Pair) -> Pair:
    """An element of a table over two indices of its own."""

    def meaning(env: Any) -> tuple[Any, Any]:
        (y, left), (x, right) = row.meaning(env), column.meaning(env)
        elements = np.asarray(env[name])
        rows, columns = elements.shape
        inside = np.logical_and(np.logical_and(y >= 0, y < rows), np.logical_and(x >= 0, x < columns))
        found = elements[np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)]
        return found, np.logical_and(np.logical_and(left, right), inside)

    return Pair(Read(Tensor(name, (A, B), kind, "table"), (row.e, column.e)), meaning)


def verdict(found: Summary, env: dict[str, Any], box: Box) -> str:
    """What a summary says of a box, its ends found by looking at every position."""
    here = {**env, **dict(zip(NAMES, box, strict=True))}
    for end in found.ends:
        first, last = box[:2] if end.index == Q else box[2:]
        seen = values(end.number, {**env, end.index.name: np.arange(first, last + 1)})
        here |= {end.least.name: int(np.min(seen)), end.greatest.name: int(np.max(seen))}
    must, may = bool(at(found.must, here)), bool(at(found.may, here))
    assert may or not must
    return "full" if must else "partial" if may else "empty"


def drawn(pick: Pick) -> tuple[Pair, dict[str, Any], int, int]:
    """A random mask that reads tables in no order, joined to what bands are made of."""
    base = case(pick, largest=90)
    env = base.env
    random = np.random.default_rng(pick.integer(0, 2**32))
    for name in ("doc", "limit", "start"):
        env[name] = random.permutation(env[name])
    env["image"] = random.integers(-1, 3, env["|k|"])
    env["block"], env["prompt"] = pick.integer(1, 30), pick.integer(0, 60)
    env["|a|"], env["|b|"] = pick.integer(1, 9), pick.integer(1, 9)
    env["layout"] = random.random((env["|a|"], env["|b|"])) < pick.one((0.1, 0.5, 0.9))
    env["kinds"] = random.integers(0, 3, (env["|a|"], env["|b|"]))
    image_k, image_q = table("image", K, k), table("image", K, aligned)
    block, prompt = scalar("block", static=True), scalar("prompt")
    mask = pick.one(
        (
            image_k.equals(image_q) & (image_k >= 0),
            (k <= aligned) & ~image_k.equals(image_q),
            image_k + table("doc", K, k) < table("limit", K, aligned),
            square("layout", "bool", aligned // block, k // block),
            (k < prompt) | square("layout", "bool", aligned - prompt, k - prompt),
            square("kinds", "int", q // block, k // block).equals(image_k),
            choose(image_k >= 1, k <= q, (k // block).equals(image_q)),
            (image_k * image_q >= const(1)) | (image_k % 2).equals(k // block % 2),
            square("kinds", "int", image_k, image_q) < 1,
        )
    )
    mask = pick.one((mask, mask, mask & base.mask, mask | base.mask, ~(mask & base.mask)))
    return mask, env, base.block_q, base.block_k


def tiles(env: dict[str, Any], block_q: int, block_k: int) -> list[Box]:
    """All tiles of a mask, clipped to it."""
    rows, columns = env["|q|"], env["|k|"]
    return [
        (top, min(top + block_q, rows) - 1, left, min(left + block_k, columns) - 1)
        for top in range(0, rows, block_q)
        for left in range(0, columns, block_k)
    ]


def opinions(pick: Pick) -> list[tuple[str, bool]]:
    """What is said of every tile, which must be true, and whether all its cells are the same."""
    mask, env, block_q, block_k = drawn(pick)
    found, truth = summary(mask.e, BOX), cells(mask, env)
    said = []
    for box in tiles(env, block_q, block_k):
        inside = truth[box[0] : box[1] + 1, box[2] : box[3] + 1]
        opinion = verdict(found, env, box)
        assert opinion != "empty" or not inside.any()
        assert opinion != "full" or inside.all()
        said.append((opinion, bool(inside.all() or not inside.any())))
    return said


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_random_tiles_are_sound(data: st.DataObject) -> None:
    opinions(Drawn(data.draw))


@pytest.mark.parametrize("seed", range(3))
def test_many_tiles_are_sound_and_most_are_known(seed: int) -> None:
    pick = Seeded(Random(seed))
    said = [one for _ in range(150) for one in opinions(pick)]
    uniform = [opinion for opinion, same in said if same]
    known = sum(opinion != "partial" for opinion in uniform)
    print(f"{known} of {len(uniform)} tiles whose cells are the same are known, of {len(said)}")
    assert known >= 0.8 * len(uniform), "sound, but it knows too little"


def test_tables_in_runs_are_exact() -> None:
    """Of documents that stand together in any order, every tile is known."""
    doc = np.repeat([3, 0, 2, 1], 32)
    env = {"|q|": 128, "|k|": 128, "doc": doc}
    found = summary(table("doc", K, k).equals(table("doc", K, aligned)).e, BOX)
    for box in tiles(env, 16, 32):
        same = doc[box[0]] == doc[box[2]]
        assert verdict(found, env, box) == ("full" if same else "empty")


def test_layouts_are_exact() -> None:
    """Blocks of a layout that tiles divide are known."""
    layout = np.random.default_rng(0).random((8, 8)) < 0.4
    env = {"|q|": 128, "|k|": 128, "|a|": 8, "|b|": 8, "block": 16, "layout": layout}
    block = scalar("block", static=True)
    found = summary(square("layout", "bool", q // block, k // block).e, BOX)
    for box in tiles(env, 16, 8):
        assert verdict(found, env, box) == ("full" if layout[box[0] // 16, box[2] // 16] else "empty")


def test_only_tables_along_the_columns_decide() -> None:
    doc = Tensor("doc", (K,), "int", "table")
    assert deciding((table("doc", K, k) <= 3).e, K) == (doc,)
    assert not deciding((k <= table("doc", K, q)).e, K)
    assert not deciding((k % 3).equals(q % 3).e, K)
