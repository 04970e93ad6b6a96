"""What reductions leave at rows that others walk: a cascade of its own, and the meaning stays."""

from __future__ import annotations

import numpy as np

from attncc.ir.cascade import Cascade, reads
from attncc.ir.verify import verified
from attncc.passes.distribute import distribute
from attncc.pipeline import before
from attncc.schedule.apart import apart
from tests.passes.meanings import meant, results, same

TEXT = """pattern both(Q[b,h,q,d], K[b,h,k,d]) -> X[b,h,q,d], Y[b,h,k,d]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    c[q] = sum(k where k <= q) softplus(S[q,k])
    X[q,d] = sum(k where k <= q) ({x}) * K[k,d]
    Y[k,d] = sum(q where k <= q) ({y}) * Q[q,d]
"""


def cascades(x: str, y: str) -> tuple[Cascade, ...]:
    cascade = before(distribute, meant(TEXT.format(x=x, y=y)))
    return tuple(verified(c) for c in apart(cascade))


def read_by(cascade: Cascade, output: str) -> set[str]:
    return {r.tensor.name for r in reads(cascade.equation(output).body)}


def test_in_turn_they_mean_the_same() -> None:
    found = cascades("S[q,k] - c[q]", "S[q,k] - c[q]")
    assert [[t.name for t in c.outputs] for c in found] == [["c"], ["X", "Y"]]
    rng = np.random.default_rng(1)
    values = {"Q": rng.standard_normal((2, 3, 6, 4)), "K": rng.standard_normal((2, 3, 8, 4))}
    wanted = results(meant(TEXT.format(x="S[q,k] - c[q]", y="S[q,k] - c[q]")), values)
    kept = results(found[0], values)
    same(results(found[1], {**values, **kept}), wanted)


def test_what_is_said_again_is_read() -> None:
    """Y's walk needs a number made of `c`; where X says the same number, it reads it."""
    first, rest = cascades("S[q,k] - sqrt(1 + c[q])", "S[q,k] - sqrt(1 + c[q])")
    (left,) = (t.name for t in first.outputs)
    assert left in read_by(rest, "X") and left in read_by(rest, "Y")
    assert not any(e.tensor.name == "c" for e in rest.equations)


def test_nothing_to_take_apart() -> None:
    assert len(cascades("S[q,k] - c[q]", "S[q,k]")) == 1
