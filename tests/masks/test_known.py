"""Masks of published patterns: their bands, their tiles and their transposes, by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce, Tensor
from attncc.masks.band import MOST
from attncc.masks.bands import Band, bands
from attncc.masks.ranges import Visited, ordered, union, visit
from tests.masks.pairs import (
    FALSE,
    TRUE,
    H,
    K,
    Pair,
    Q,
    aligned,
    choose,
    const,
    h,
    k,
    least,
    most,
    q,
    scalar,
    size,
    table,
)
from tests.masks.tiles import tiles_of

w, s, block = scalar("w"), scalar("s"), scalar("block", static=True)
causal = k <= aligned
window = causal & (aligned - k < w)
streaming = causal & ((aligned - k < w) | (k < s))
prefix = causal | (k < s)
chunk = (k // block).equals(aligned // block)


def show(e: Expr) -> str:
    """An expression as text with every bracket."""
    match e:
        case Index():
            return e.name
        case Literal():
            return str(e.value).lower()
        case Read():
            return e.tensor.name + (f"[{', '.join(map(show, e.at))}]" if e.at else "")
        case Apply(op="extent", args=(i,)):
            return f"|{show(i)}|"
        case Apply(op="min" | "max" | "neg", args=args):
            return f"{e.op}({', '.join(map(show, args))})"
        case Apply(op=op, args=(a, b)):
            return f"({show(a)} {op} {show(b)})"
        case Reduce(over=(i,), where=where, body=body):
            return f"sum({show(i)} where {show(where)}) {show(body)}"
        case Choose():
            return f"(if {show(e.condition)} then {show(e.then)} else {show(e.other)})"
        case _:
            raise ValueError(e)


def said(band: Band) -> str:
    """A band as its conditions, `^` a bound that rises with the row, `v` one that falls."""
    marks = {"up": "^", "down": "v", "flat": "", "free": "~"}
    lows = [f"{show(b.value)}{marks[b.direction]} <= {band.columns.name}" for b in band.lows]
    highs = [f"{band.columns.name} <= {show(b.value)}{marks[b.direction]}" for b in band.highs]
    residue = [f"of {show(band.residue.test)}"] if band.residue else []
    once, tests = (f"once {show(e)}" for e in band.guards), (f"test {show(e)}" for e in band.rest)
    return "; ".join([*lows, *highs, *residue, *once, *tests])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (TRUE, [""]),
        (FALSE, []),
        (causal, ["k <= ((q + |k|) - |q|)^"]),
        (~(k > q), ["k <= q^"]),
        (window, ["((((q + |k|) - |q|) - w) + 1)^ <= k; k <= ((q + |k|) - |q|)^"]),
        (
            streaming,
            [
                "((((q + |k|) - |q|) - w) + 1)^ <= k; k <= ((q + |k|) - |q|)^",
                "k <= ((q + |k|) - |q|)^; k <= (s - 1)",
            ],
        ),
        (prefix, ["k <= max(((q + |k|) - |q|), (s - 1))^"]),
        ((k // 16).equals(q // 16), ["((q // 16) * 16)^ <= k; k <= (((q // 16) * 16) + 15)^"]),
        # this chunk and the one before are one band
        (
            (k // 16).equals(q // 16) | (k // 16 + 1).equals(q // 16),
            ["(((q // 16) * 16) - 16)^ <= k; k <= (((q // 16) * 16) + 15)^"],
        ),
        (size(q - k) <= w, ["(q - w)^ <= k; k <= (q + w)^"]),
        (k.differs(q), ["k <= (q - 1)^", "(q + 1)^ <= k"]),
        (k + q < w, ["k <= ((w - q) - 1)v"]),
        (k * 3 <= q, ["k <= (q // 3)^"]),
        (k * 3 >= q, ["((q + 2) // 3)^ <= k"]),
        (k * block + block - 1 <= q, ["k <= (((q + 1) // block) - 1)^"]),
        ((q < s) & causal, ["k <= (if (q < s) then (|k| - 1) else -1)v; k <= ((q + |k|) - |q|)^"]),
        (most(k, 5) <= q, ["k <= q^; k <= (if (5 <= q) then (|k| - 1) else -1)^"]),
        (least(k, s) <= q, ["k <= max(q, (if (s <= q) then (|k| - 1) else -1))^"]),
        (
            choose(h < 2, causal, window),
            [
                "k <= ((q + |k|) - |q|)^; once (h < 2)",
                "((((q + |k|) - |q|) - w) + 1)^ <= k; k <= ((q + |k|) - |q|)^; once (h >= 2)",
            ],
        ),
        (q - k < table("span", H, h), ["((q - span[h]) + 1)^ <= k"]),
        ((k <= q) & ((q - k) % 3).equals(0), ["k <= q^; test (((q - k) % 3) == 0)"]),
        ((k % 4).equals(0), ["of ((k % 4) == 0)"]),
        ((k % 4).equals(w), ["of ((k % 4) == w); once (0 <= w); once (w < 4)"]),
        (
            ((k + 3) // 8 % 4 + h).equals(2),
            ["of (((((k + 3) // 8) % 4) + h) == 2); once (0 <= (2 - h))"],
        ),
        ((k % 4).equals(1) & (k % 6).equals(3), ["of ((k % 4) == 1); test ((k % 6) == 3)"]),
        ((k % w >= 3), ["of ((k % w) >= 3); once (3 < w)"]),
        ((k % 4 < w), ["of ((k % 4) < w); once (0 <= (w - 1))"]),
        ((k // 8 % 4).differs(0), ["of (((k // 8) % 4) != 0)"]),
        (
            (k % 4).differs(w),
            ["of ((k % 4) < w); once (0 <= (w - 1))", "of ((k % 4) > w); once ((w + 1) < 4)"],
        ),
        (((q % 4).equals(1)), ["k <= (if ((q % 4) == 1) then (|k| - 1) else -1)~"]),
        (k < table("start", Q, q), ["k <= (start[q] - 1)^"]),
        (table("doc", K, k).equals(table("doc", Q, q)), ["test (doc[k] == doc[q])"]),
        (k < table("other", Q, q), ["k <= (other[q] - 1)~"]),
        (k <= least(w, 0) * q + 9, ["k <= ((q * min(w, 0)) + 9)v"]),
        (k <= w * q, ["k <= (q * w)~"]),
        # ends that work against each other make no one band
        ((k <= q) | (k <= w - q), ["k <= q^", "k <= (w - q)v"]),
        ((k <= q) & (k <= w - q), ["k <= q^; k <= (w - q)v"]),
        (k <= most(q, w - q), ["k <= q^", "k <= (w - q)v"]),
        # parts of masks that no other part can reach
        ((k < 0) | (k <= q), ["k <= q^"]),
        ((k <= q) & (k <= q + 5), ["k <= q^"]),
        ((k <= q) & (k > q), []),
        ((k < s) & (k < s), ["k <= (s - 1)"]),
    ],
)
def test_bands(mask: Pair, expected: list[str]) -> None:
    found = bands(mask.e, Q, K, frozenset({"start"}))
    assert [said(b) for b in found] == expected


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (TRUE, ""),
        (q - k < 8, "q <= (k + 7)^"),
        (causal, "((k + |q|) - |k|)^ <= q"),
        ((k <= q) & (q - k < w), "k^ <= q; q <= ((k + w) - 1)^"),
        ((k // 16).equals(q // 16), "((k // 16) * 16)^ <= q; q <= (((k // 16) * 16) + 15)^"),
        (
            (k // block).equals(q // block),
            "((k // block) * block)^ <= q; q <= ((((k // block) * block) + block) - 1)^",
        ),
        (k // block < q // block, "(((k // block) * block) + block)^ <= q"),
        (k < s, "q <= (if (k < s) then (|q| - 1) else -1)v"),
        ((k <= q) | (k < s), "min((if (k < s) then 0 else |q|), k)^ <= q"),
        ((q < s) & (k <= q), "k^ <= q; q <= (s - 1)"),
        ((k <= q) & (k % 4).equals(0), "k^ <= q; q <= (if ((k % 4) == 0) then (|q| - 1) else -1)~"),
        (k < table("start", Q, q), "sum(q where (start[q] <= k)) 1^ <= q"),
        (k <= least(w, 0) * q + 9, "test (k <= ((min(w, 0) * q) + 9))"),
    ],
)
def test_transposed(mask: Pair, expected: str) -> None:
    """Rows that a tile of columns sees, by the same predicate."""
    assert [said(b) for b in bands(mask.e, K, Q, frozenset({"start"}))] == [expected]


def test_sorted_tables_are_searched() -> None:
    """A document begins after all elements below its number; a query's own ends no sooner than the query."""
    doc = table("doc", K, k)
    (band,) = bands((doc.equals(table("doc", K, aligned)) & (k <= aligned)).e, Q, K, frozenset({"doc"}))
    low, *highs = said(band).split("; ")
    assert low == "sum(k where (doc[k] <= (doc[max(((q + |k|) - |q|), 0)] - 1))) 1^ <= k"
    assert "k <= ((q + |k|) - |q|)^" in highs and not any("sum" in high for high in highs)
    (band,) = bands((doc * 2 > q).e, Q, K, frozenset({"doc"}))
    assert said(band) == "sum(k where (doc[k] <= (q // 2))) 1^ <= k"


def test_what_is_taken_for_positive() -> None:
    (band,) = bands(((k // scalar("size")) * 3 <= q // block + 1).e, Q, K)
    assert band.plane.positive == {scalar("size").e, block.e}


def test_a_read_out_of_range_fails_alone() -> None:
    """`doc[k + 1] == 0 or k <= q`: in the last column only the second half can hold."""
    mask = table("doc", K, k + 1).equals(0) | (k <= q)
    env: dict[str, Any] = {"|q|": 4, "|k|": 4, "doc": np.zeros(4, int)}
    found = bands(mask.e, Q, K)
    assert max(v.live[-1] for v in tiles_of(found, 0, 3, 1, env)) == 3


def test_a_condition_out_of_range_is_false() -> None:
    """`if doc[k + 1] == 0 then false else true`: only the last column holds."""
    mask = choose(table("doc", K, k + 1).equals(0), FALSE, TRUE)
    number = choose(table("doc", K, k + 1).equals(0), const(0), const(1)) > 0
    env: dict[str, Any] = {"|q|": 4, "|k|": 4, "doc": np.zeros(4, int)}
    for found in (bands(mask.e, Q, K), bands(number.e, Q, K)):
        assert any(3 in v.live for v in tiles_of(found, 0, 3, 1, env))


def test_too_many_bands_become_a_test() -> None:
    mask = FALSE
    for n in range(MOST + 1):
        mask = mask | ((k >= q * 0 + 10 * n + w) & (k < 10 * n + 3))
    assert [said(b).startswith("test") for b in bands(mask.e, Q, K)] == [True]
    both = bands((causal & mask).e, Q, K)
    assert [len(b.highs) for b in both] == [1], "the other side still bounds the loop"


def test_results_are_no_bounds() -> None:
    """What an equation or a reduction gives is known inside the loop at the earliest."""
    result = Read(Tensor("C", (Q,), "int", "equation"), (Q,))
    total = Reduce("sum", (K,), Literal(True, "bool"), Literal(1, "int"))
    for e in (Apply("<", (K, result)), Apply("<", (K, total))):
        (band,) = bands(e, Q, K)
        assert band.rest == (e,) and not band.lows and not band.highs


def tiles(
    mask: Pair, q0: int, q1: int, size_k: int, rows: int, columns: int, **env: Any
) -> list[tuple[int, ...]]:
    found = bands(mask.e, Q, K)
    visited = tiles_of(found, q0, q1, size_k, {"|q|": rows, "|k|": columns, **env})
    return [(v.lo, v.hi, v.full_lo, v.full_hi) for v in visited]


def test_tiles_of_causal() -> None:
    assert tiles(causal, 0, 31, 16, 100, 100) == [(0, 2, 0, 0)]
    assert tiles(causal, 64, 95, 16, 100, 100) == [(0, 6, 0, 4)]
    # the last row of a ragged tile is the last row there is, the last tile of columns is ragged
    assert tiles(causal, 96, 127, 16, 100, 100) == [(0, 7, 0, 6)]
    # the last query is the last key
    assert tiles(causal, 0, 0, 16, 1, 100) == [(0, 7, 0, 6)]
    assert tiles(causal, 0, 15, 16, 100, 30) == []
    assert tiles(causal, 0, 3, 16, 4, 0) == []


def test_tiles_of_a_window() -> None:
    assert tiles(window, 64, 95, 16, 200, 200, w=32) == [(2, 6, 4, 4)]
    assert tiles(window, 64, 95, 16, 200, 200, w=100) == [(0, 6, 0, 4)]
    assert tiles(window, 128, 159, 16, 200, 200, w=100) == [(1, 10, 4, 8)]


def test_tiles_of_a_window_and_sinks() -> None:
    assert tiles(streaming, 128, 159, 16, 200, 200, w=32, s=4) == [(0, 1, 0, 0), (6, 10, 8, 8)]
    assert tiles(streaming, 128, 159, 16, 200, 200, w=32, s=40) == [(0, 3, 0, 2), (6, 10, 8, 8)]
    # the window reaches the sinks: the tile they share is its
    assert tiles(streaming, 32, 63, 16, 200, 200, w=64, s=4) == [(0, 4, 0, 2)]


def test_tiles_of_a_prefix() -> None:
    assert tiles(prefix, 0, 31, 16, 100, 100, s=50) == [(0, 4, 0, 3)]
    assert tiles(prefix, 64, 95, 16, 100, 100, s=50) == [(0, 6, 0, 4)]


def test_tiles_of_a_chunk() -> None:
    assert tiles(chunk, 64, 95, 16, 200, 200, block=64) == [(4, 8, 4, 8)]
    assert tiles(chunk, 64, 95, 16, 200, 200, block=40) == [(2, 8, 5, 5)]
    assert tiles(chunk, 40, 79, 16, 200, 200, block=40) == [(2, 5, 3, 5)]


def test_order_is_proved_where_it_can_be() -> None:
    first, second = bands(streaming.e, Q, K)
    assert ordered((first, second)) == (second, first)
    assert ordered(bands(((k <= q) & (q - k < w) | (k >= s) & (k < s + 9)).e, Q, K)) is None


def test_scalar_code_of_a_window() -> None:
    """What a kernel computes once for a tile of rows."""
    block_k = scalar("BLOCK_K").e
    ranges = union(bands(((k <= q) & (q - k < w)).e, Q, K), scalar("first").e, scalar("last").e, block_k)
    assert [f"{step.tensor.name} = {show(step.body)}" for step in ranges.steps] == [
        "begin' = max(0, ((first - w) + 1))",
        "end' = min(|k|, (last + 1))",
        "lo' = (begin' // BLOCK_K)",
        "hi' = (if (begin' < end') then (((BLOCK_K + end') - 1) // BLOCK_K) else lo')",
        "inner_begin' = max(0, ((last - w) + 1))",
        "inner_end' = min(|k|, (first + 1))",
        "full_lo' = min((((BLOCK_K + inner_begin') - 1) // BLOCK_K), hi')",
        "full_hi' = max(full_lo', (inner_end' // BLOCK_K))",
    ]
    assert [*map(show, ranges.segments[0].ends)] == ["lo'", "hi'", "full_lo'", "full_hi'"]


def test_a_false_guard_leaves_nothing() -> None:
    found = bands(((h < 2) & causal).e, Q, K)
    ranges = union(found, scalar("first").e, scalar("last").e, scalar("size").e)
    env = {"|q|": 64, "|k|": 64, "first": 0, "last": 63, "size": 16}
    assert visit(ranges, {**env, "h": 1}) == [Visited(0, 4, 0, 0)]
    assert visit(ranges, {**env, "h": 2}) == []
