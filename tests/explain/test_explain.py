"""What a pattern is said to cost: passes, state, work and traffic, and tiles as they are counted by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from attncc import cli
from attncc.schedule.tiles import GPUS, PEAKS, TARGETS
from tests.test_pipeline import NAMES, REFUSED

PATTERNS = Path(__file__).parents[2] / "patterns"
KEYS = [
    "pattern", "length", "features", "equations", "streamed", "passes", "written", "blocking",
    "blocking_written", "corrections", "exponents", "rewrites", "operators", "state", "kernel", "kernels",
    "refused", "tiles", "depends", "gpu", "flops", "bytes", "intensity", "floor_ms",
]  # fmt: skip


def explained(name: str, length: int = 8192, text: str | None = None, gpu: str = "H100") -> dict[str, Any]:
    """`attncc explain --json`, of a pattern's file or of a text."""
    file = str(PATTERNS / f"{name}.attn") if text is None else "-"
    arguments = ["explain", file, "--length", str(length), "--gpu", gpu, "--json"]
    result = CliRunner().invoke(cli.main, arguments, input=text)
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def words(name: str, text: str | None = None) -> str:
    file = str(PATTERNS / f"{name}.attn") if text is None else "-"
    result = CliRunner().invoke(cli.main, ["explain", file], input=text)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_what_two_passes_do() -> None:
    """Norms of keys, the first pass and the second have kernels: each reads what those before have left."""
    said = explained("lssar")
    norms, first, second = said["kernels"]
    assert (norms["rows"], norms["walks"], norms["reads"]) == ("k", [], ["K"])
    assert (first["rows"], second["rows"]) == ("q", "q")
    (one,), (other,) = first["walks"], second["walks"]
    assert (one["index"], one["state"]) == ("k", ["P_sum[q]"])
    assert (other["index"], other["state"]) == ("k", ["O_sum2[q]", "O_sum[q,e]"])
    assert first["reads"] == ["Q", "K", *norms["writes"]]
    assert second["reads"] == ["Q", "K", *norms["writes"], *first["writes"], "V"]
    assert second["writes"] == ["O"]
    assert said["passes"] == {"k": 2}
    # two products of scores and one with values, 128 features, at the cells of a triangle
    assert said["flops"] == 3 * 2 * 128 * (8192 * 8193 // 2)
    assert said["floor_ms"] == pytest.approx(said["flops"] / 989e12 * 1e3)


def test_which_rewrite_saves_a_pass() -> None:
    saved = [r for r in explained("entropy")["rewrites"] if r["passes"]["k"] < r["before"]["k"]]
    assert [(r["name"], r["before"], r["passes"]) for r in saved] == [
        ("online", {"k": 3}, {"k": 2}),
        ("stream", {"k": 2}, {"k": 1}),
    ]
    assert "  `online` makes 2 of 3 passes\n  `stream` makes 1 of 2 passes\n" in words("entropy")


@pytest.mark.parametrize("name", NAMES)
def test_keys(name: str) -> None:
    said = explained(name, 1000)
    assert list(said) == KEYS
    assert said["pattern"] == name
    assert said["kernel"] == (name not in REFUSED)
    assert bool(said["refused"]) == (name in REFUSED)
    unknown = name in REFUSED or bool(said["depends"])
    assert (said["tiles"] is None) == (said["flops"] is None) == unknown
    assert said["bytes"] > 0
    assert (said["intensity"] is None) == (said["floor_ms"] is None) == unknown
    # rewrites lead from the passes of the equations as they stand to those of the kernels, and add none
    steps = [said["written"], *(r["passes"] for r in said["rewrites"])]
    assert [r["before"] for r in said["rewrites"]] == steps[:-1]
    assert steps[-1] == said["passes"]
    assert all(few[index] <= many[index] for many, few in pairwise(steps) for index in many)
    walks = [walk for kernel in said["kernels"] for walk in kernel["walks"] if walk["state"]]
    for operator, walk in zip(said["operators"], walks, strict=True):
        assert list(operator) == ["index", "unordered", "states"] and operator["index"] == walk["index"]
        assert [f"{rule['state']}[" for rule in operator["states"]] == [
            s.split("[")[0] + "[" for s in walk["state"]
        ]
        assert all(list(rule) == ["state", "init", "update", "merge"] for rule in operator["states"])
    assert all(list(x) == ["equation", "value", "bounded"] for x in said["exponents"])
    for kernel in said["kernels"]:
        assert list(kernel) == ["name", "rows", "walks", "reads", "writes", "uneven"]


@pytest.mark.parametrize(
    ("gpu", "tflops", "tbytes"), [("A100", 312, 2), ("H100", 989, 3.35), ("H200", 989, 4.8)]
)
def test_the_floor_is_that_of_the_gpu(gpu: str, tflops: float, tbytes: float) -> None:
    """By its matrix units where there is work enough, by its memory where there is little."""
    much, little = explained("dense", 8192, gpu=gpu), explained("dense", 8, gpu=gpu)
    assert much["gpu"] == gpu and much["intensity"] == much["flops"] / much["bytes"]
    assert much["floor_ms"] == pytest.approx(much["flops"] / tflops / 1e9)
    assert little["floor_ms"] == pytest.approx(little["bytes"] / tbytes / 1e9)
    run = ["explain", str(PATTERNS / "dense.attn"), "--gpu", gpu, "--length"]
    for length, bound in (("8192", "matrix units"), ("8", "memory")):
        assert f"an {gpu} takes " in (said := CliRunner().invoke(cli.main, [*run, length]).stdout)
        assert f" ms at least, by its {bound}." in said


def test_every_gpu_with_a_data_sheet_has_tiles() -> None:
    assert GPUS.keys() == PEAKS.keys() and set(GPUS.values()) <= TARGETS.keys()


def test_passes() -> None:
    said = explained("streaming")
    assert (said["written"], said["passes"]) == ({"k": 3}, {"k": 1})
    assert said["blocking"] == {"k": []}
    assert said["blocking_written"] == {"k": ["P_max -> P_sum", "P_sum -> P"]}
    assert said["state"] == ["P_max[q]", "P_total[q]", "O_total[q,e]"]
    assert list(said["corrections"]) == ["P_total", "O_total"]
    plain = explained("sigmoid")
    assert (plain["written"], plain["passes"]) == ({"k": 1}, {"k": 1})
    assert (plain["state"], plain["corrections"]) == (["O[q,e]"], {})


MASKS: dict[str, Callable[[Any, Any], Any]] = {
    "dense": lambda q, k: (q >= 0) & (k >= 0),
    "causal": lambda q, k: k <= q,
    "window": lambda q, k: (k <= q) & (q - k < 4096),
    "streaming": lambda q, k: (k <= q) & ((q - k < 1024) | (k < 4)),
}


def counted(mask: Any, rows: int, columns: int) -> dict[str, int]:
    """A tile is live if any cell of it is seen, and whole if all of them are and it does not overrun."""
    found = {"live": 0, "full": 0, "partial": 0, "skipped": 0}
    for top in range(0, len(mask), rows):
        for left in range(0, len(mask), columns):
            tile = mask[top : top + rows, left : left + columns]
            full = bool(tile.all()) and left + columns <= len(mask)
            found["live"] += bool(tile.any())
            found["full"] += full
            found["partial"] += bool(tile.any()) and not full
            found["skipped"] += not tile.any()
    return found


@pytest.mark.parametrize("length", [1, 63, 64, 130, 1000, 1500])
@pytest.mark.parametrize("name", MASKS)
def test_tiles(name: str, length: int) -> None:
    said = explained(name, length)["tiles"]
    mask = MASKS[name](np.arange(length)[:, None], np.arange(length))
    assert said["cells"] == mask.sum()
    assert {n: said[n] for n in ("live", "full", "partial", "skipped")} == counted(
        mask, said["rows"], said["columns"]
    )


@pytest.mark.parametrize("length", [130, 1500])
def test_tiles_between_stripes(length: int) -> None:
    """A remainder is tested cell by cell: tiles between its blocks are visited, and never called whole."""
    said = explained("s2", length)["tiles"]
    q, k = np.arange(length)[:, None], np.arange(length)
    mask = (k <= q) & ((q // 64 - k // 64 < 16) | (k // 64 % 8 == 0))
    exact = counted(mask, said["rows"], said["columns"])
    assert said["cells"] == mask.sum()
    assert said["live"] >= exact["live"] and said["full"] <= exact["full"]
    assert said["live"] + said["skipped"] == exact["live"] + exact["skipped"]


NARROW = """
pattern narrow(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]{more}) -> O[b,h,q,e]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    O[q,e] = sum(k where {where}) S[q,k] * V[k,e]
"""


def test_work_and_traffic() -> None:
    """Two products of 128 features a cell; every tensor moved once, at two bytes an element."""
    said = explained("causal", 1000)
    assert said["flops"] == 2 * 2 * 128 * (1000 * 1001 // 2)
    assert said["bytes"] == 2 * 4 * 1000 * 128
    few = explained("", 8192, NARROW.format(more="", where="k <= q and q - k < 16"))
    assert few["tiles"]["cells"] == 8192 * 16 - 120
    assert few["tiles"]["live"] <= 3 * -(-8192 // few["tiles"]["rows"])


def test_sums_over_different_keys() -> None:
    """Where no tile is whole for all of them, every tile is tested."""
    tiles = explained("based_window", 1000)["tiles"]
    assert (tiles["full"], tiles["partial"]) == (0, tiles["live"])


@pytest.mark.parametrize(
    ("more", "where", "what"),
    [
        (", reach: int", "q - k < reach", "`reach`"),
        (", doc[b,k]: int", "doc[q] == doc[k] and k <= q", "`doc`"),
        (", reach: int, doc[b,k]: int", "doc[q] == doc[k] and q - k < reach", "`doc`, `reach`"),
        ("", "S[q,k] > 0", "`S`"),
    ],
)
def test_tiles_that_depend_on_data_or_on_a_number(more: str, where: str, what: str) -> None:
    text = NARROW.format(more=more, where=where)
    said = explained("", text=text)
    assert (said["kernel"], said["tiles"], said["flops"], said["depends"]) == (True, None, None, what)
    assert f"the tiles visited depend on {what}." in words("", text)


def test_extents_that_depend_on_a_number() -> None:
    text = NARROW.format(more=", block: int", where="k <= q").replace(
        "    S[q,k]", "    split k into n, i by block\n    S[q,k]", 1
    )
    assert explained("", text=text)["depends"] == "`block`"


@pytest.mark.parametrize("name", REFUSED)
def test_patterns_without_kernels(name: str) -> None:
    said = explained(name)
    assert said["refused"].startswith("no kernel plan")
    assert (said["tiles"], said["depends"], said["state"]) == (None, "", [])
    text = words(name)
    assert f"No kernel: {said['refused']}" in text
    assert all(f"    {follower}: * " in text for follower in said["corrections"])


def test_in_words() -> None:
    text = words("causal")
    assert "Passes over k: 3 as written, 1 as it runs." in text
    assert "State of a row: P_max[q], P_total[q], O_total[q,e]." in text
    assert "Online, P_total and O_total follow P_max.\n" in text
    assert "every tile of rows q walks k,\n  it reads Q[q,d], K[k,d], V[k,e]\n  and writes O[q,e].\n" in text
    assert "Two parts a and b of it, merged in any order:\n\n    P_max = max(P_max_a, P_max_b)\n" in text
    tiles = explained("causal")["tiles"]
    live, every = tiles["live"], tiles["live"] + tiles["skipped"]
    size = f"{tiles['rows']} x {tiles['columns']}"
    assert f"One head at length 8,192, tiles of {size}: {live:,} of {every:,} visited," in text


def test_exponents() -> None:
    said = explained("l2_softmax")["exponents"]
    assert [(x["equation"], x["value"]) for x in said if not x["bounded"]] == [
        ("O", "P_max[b,h,q] - finite(W_sum_max[b,h,q] * 0.5)")
    ]
    assert {x["equation"] for x in said if x["bounded"]} == {"P_total", "W_total", "O_total"}
    assert (
        "\nEvery exponent is proved to be at most 0,"
        " but for P_max[q] - finite(W_sum_max[q] * 0.5) in O.\n" in words("l2_softmax")
    )
    assert "\nEvery exponent is proved to be at most 0.\n" in words("causal")
    assert "but for c[k] - c[j] in U and O_max[q] in O.\n" in words("gated_delta")
    assert explained("sigmoid")["exponents"] == [] and "xponent" not in words("sigmoid")


def test_what_a_kernel_cannot_multiply_is_said_as_any_other_rule() -> None:
    """A rule that is found only where a kernel is written down."""
    text = (PATTERNS / "causal.attn").read_text("utf-8").replace("* V[k,e]", "/ (1 + V[k,e] * V[k,e])")
    assert "/ (1 + V[k,e] * V[k,e])" in text
    said = explained("", 1000, text)
    assert not said["kernel"] and said["tiles"] is None
    assert said["refused"].startswith("no kernel plan for `O_total`: ")
