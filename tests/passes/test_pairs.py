"""Every pass by examples: a pattern, what the pass makes of it, and both mean the same.

`<pass>/<example>.attn` is the pattern, `<pass>/<example>.txt` the equations after that pass alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attncc.ir.brief import briefly
from attncc.ir.cascade import Cascade, Tensor
from attncc.ir.verify import verified
from attncc.passes import Pass
from attncc.passes.distribute import distribute
from attncc.passes.expand import expand
from attncc.passes.share import inline, share
from attncc.passes.simplify import simplify
from attncc.passes.stream import stream
from attncc.passes.unsplit import unsplit
from tests.passes.meanings import meant, results, same

HERE = Path(__file__).parent
TESTED: dict[str, Pass] = {
    "expand": expand,
    "simplify": simplify,
    "share": share,
    "inline": inline,
    "distribute": distribute,
    "stream": stream,
    "unsplit": unsplit,
}
EXAMPLES = [f"{name}/{path.stem}" for name in TESTED for path in sorted((HERE / name).glob("*.attn"))]
SIZES = ({"q": 3, "k": 5}, {"q": 4, "k": 2}, {"q": 1, "k": 9})
"""More keys than rows, fewer, and a ragged last block."""


def example(name: str) -> tuple[Cascade, Cascade]:
    """The cascade before and after its pass."""
    before = meant((HERE / f"{name}.attn").read_text("utf-8"))
    return before, verified(TESTED[name.split("/")[0]](before))


def inputs(cascade: Cascade, sizes: dict[str, int], seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    extents = {"n": -(-sizes["k"] // 4), "d": 2, "e": 3} | sizes

    def drawn(tensor: Tensor) -> Any:
        shape = [extents[i.name] for i in tensor.indices]
        return rng.random(shape) < 0.6 if tensor.kind == "bool" else rng.uniform(-2, 2, shape)

    return {t.name: drawn(t) for t in cascade.inputs if t.origin in ("input", "table")}


@pytest.mark.parametrize("name", EXAMPLES)
def test_equations(name: str) -> None:
    _, after = example(name)
    assert "\n".join(briefly(after)) + "\n" == (HERE / f"{name}.txt").read_text("utf-8")


@pytest.mark.parametrize("name", EXAMPLES)
def test_meaning(name: str) -> None:
    before, after = example(name)
    for seed, sizes in enumerate(SIZES):
        values = inputs(before, sizes, seed)
        same(results(after, values), results(before, values))


def test_a_maximum_more_or_less() -> None:
    """Authors who subtract the maximum and those who do not are given the same equations."""
    plain, careful = ((HERE / f"stream/{name}.txt").read_text("utf-8") for name in ("exponential", "maximum"))
    assert sorted(plain.splitlines()) == sorted(careful.splitlines())
