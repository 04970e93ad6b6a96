"""Kernel → loop tree: what is computed before a loop, what in it, and under which names."""

from __future__ import annotations

from pathlib import Path

from attncc.ir.cascade import Read, free, reads
from attncc.pipeline import meaning, planned
from attncc.schedule.loops import Dot, Let, Note, Program, Walk
from attncc.schedule.lower import lower
from attncc.source import Source

PATTERNS = Path(__file__).parents[2] / "patterns"


def lowered(name: str) -> tuple[Program, Walk]:
    """The loop tree of a pattern's kernel, and its one loop."""
    source = Source.read(PATTERNS / f"{name}.attn")
    plan = planned(meaning(source), source)
    program = lower(plan.kernels[-1])
    (walk,) = (s for s in program.body if isinstance(s, Walk))
    return program, walk


def lets(body: tuple[object, ...]) -> dict[str, Let]:
    return {s.target.name: s for s in body if isinstance(s, Let)}


def test_what_a_product_takes_of_its_rows_is_computed_before_the_loop() -> None:
    program, walk = lowered("rope")
    before, inside = lets(program.body), lets(walk.body)
    assert "S_row" in before and "S_column" in inside
    assert not [name for name, s in inside.items() if {i.name for i in s.target.indices} == {"q", "d"}]
    (product,) = (s for s in walk.body if isinstance(s, Dot) and s.target.name == "S")
    assert [x.tensor.name for x in (product.left, product.right) if isinstance(x, Read)] == [
        "S_row",
        "S_column",
    ]
    assert Note("S[q,k] = sum(d) S_row[q,d] * S_column[k,d] / sqrt(|d|)") in walk.body


def test_a_norm_leaves_its_product() -> None:
    """Keys are multiplied as they were loaded; the norms of rows and columns scale the result."""
    program, walk = lowered("qk_norm")
    (product,) = (s for s in walk.body if isinstance(s, Dot) and s.target.name == "S_total")
    assert isinstance(product.right, Read) and product.right.tensor.name == "K"
    weights = lets(program.body)["S_total_row"]
    assert [r.tensor.name for r in reads(weights.value)] == ["Q", "Wq", "Wk"]
    assert walk.index not in free(weights.value)


def test_two_softmaxes_share_one_walk() -> None:
    _, walk = lowered("differential")
    products = [s.target.name for s in walk.body if isinstance(s, Dot)]
    assert products == ["S1", "S2", "O_total", "O_sum2_total"]
