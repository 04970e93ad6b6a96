"""No exponential in a loop is taken of more than 0: proved of every pattern, and of nothing that may be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from attncc.ir.cascade import Apply, Cascade, Equation, Reduce, Tensor, free, walk
from attncc.ir.evaluate import evaluate
from attncc.ir.show import show_expr
from attncc.passes.exponents import Exponent, exponents
from attncc.passes.online import updaters
from attncc.pipeline import meaning, streamed
from attncc.source import Source
from attncc.verify.certificate import LENGTHS, VALUES
from attncc.verify.drawn import Case, Space, cases
from tests.passes.meanings import meant, passed
from tests.shapes import KERNELS, MORE, UNBOUNDED

PATTERNS = Path(__file__).parents[2] / "patterns"

SCALES = {
    # weights over their length: sums of `exp(s)` and of its square, each with a maximum of its own
    "l2_softmax": {"O": "P_max[b,h,q] - finite(W_sum_max[b,h,q] * 0.5)"},
    # no normaliser divides the sum of a row, which is as large as its largest decay
    "lightning": {"O": "O_max[h,q]"},
    # a maximum of what is at most 1, which is not proved as a row's scale stands between
    "h2o": {"mass": "mass_max[b,h,k]"},
    # two maxima under predicates that say the same in other words, found out when kernels are planned
    "block_layout": {"O": "S_max[b,h,q] - finite(P_max[b,h,q])"},
}
"""Scales of whole rows: outside every loop, as large as the pattern says that they are."""


def run(name: str) -> Cascade:
    return streamed(meaning(Source.read(PATTERNS / f"{name}.attn")))


def in_a_loop(x: Exponent, cascade: Cascade) -> bool:
    """Whether an exponent stands in a reduction, or in what corrects one."""
    body = cascade.equation(x.equation).body
    return isinstance(body, Reduce)


@pytest.mark.parametrize("name", [*KERNELS, *MORE, *UNBOUNDED])
def test_every_exponent_of_a_kernel_is_at_most_0(name: str) -> None:
    cascade = run(name)
    found = exponents(cascade)
    assert not [x for x in found if in_a_loop(x, cascade) and not x.bounded]
    assert {x.equation: show_expr(x.value) for x in found if not x.bounded} == SCALES.get(name, {})


@pytest.mark.parametrize("name", [*KERNELS, *MORE, *UNBOUNDED])
def test_every_exponential_is_listed(name: str) -> None:
    cascade = run(name)
    bodies = [e.body for e in cascade.equations]
    for updater in updaters(cascade).values():
        bodies += [updater.correction, *(w for _, w in updater.companions)]
    raised = {x.args[0] for body in bodies for x in walk(body) if isinstance(x, Apply) and x.op == "exp"}
    assert {x.value for x in exponents(cascade)} == raised


@pytest.mark.parametrize("name", ["streaming", "entropy", "l2_softmax", "differential", "alibi", "kronecker"])
def test_what_is_proved_holds(name: str) -> None:
    """Where it is computed, whatever the arguments: the greatest exponent of each term is at most 0."""
    cascade = meaning(Source.read(PATTERNS / f"{name}.attn"))
    streaming = streamed(cascade)
    proved = {x.value for x in exponents(streaming) if x.bounded}
    tops = tuple(
        Equation(Tensor(f"top {n}", tuple(free(top)), "float", "equation"), top)
        for n, top in enumerate(
            replace(e.body, op="max", body=x.args[0])
            for e in streaming.equations
            if isinstance(e.body, Reduce)
            for x in walk(e.body.body)
            if isinstance(x, Apply) and x.op == "exp" and x.args[0] in proved
        )
    )
    assert tops
    checked = replace(streaming, equations=(*streaming.equations, *tops))

    @settings(max_examples=5)
    @given(cases(Space(cascade, "cpu", {"float64": 24}, {}, LENGTHS, VALUES, ("contiguous",))))
    def check(case: Case) -> None:
        made = case.arguments(cascade, "cpu")
        found = evaluate(checked, {n: x.numpy() if hasattr(x, "numpy") else x for n, x in made.items()})
        assert all(np.max(found[t.tensor.name], initial=-np.inf) <= 0 for t in tops)

    check()


ROW = """
pattern row(s[q,k], t[q,k], c[q,k]: bool) -> O[q]:
    along q, k
    m[q] = max(k{where}) s[q,k]
    O[q] = sum(k where c[q,k]) exp({exponent})
"""


@pytest.mark.parametrize(
    ("where", "exponent", "bounded"),
    [
        ("", "s[q,k] - m[q]", True),
        (" where c[q,k]", "s[q,k] - m[q]", True),
        (" where s[q,k] < t[q,k]", "s[q,k] - m[q]", False),
        ("", "m[q] - s[q,k]", False),
        ("", "t[q,k] - m[q]", False),
        ("", "s[q,k] - max(m[q], t[q,k])", True),
        ("", "s[q,k] - min(m[q], t[q,k])", False),
        ("", "if c[q,k] then s[q,k] - m[q] else -1", True),
        ("", "if c[q,k] then s[q,k] - m[q] else 1", False),
    ],
)
def test_what_is_proved(where: str, exponent: str, bounded: bool) -> None:
    cascade = meant(ROW.format(where=where, exponent=exponent))
    found = exponents(cascade)[0]  # then those of corrections
    assert (found.equation, found.bounded) == ("O", bounded)


def test_what_runs_is_measured_from_a_maximum() -> None:
    """Whatever the dense meaning takes an exponential of."""
    cascade = meant(ROW.format(where="", exponent="t[q,k]"))
    assert [x.bounded for x in exponents(cascade)] == [False]
    inside = [x for x in exponents(passed(cascade)) if x.equation != "O"]
    assert inside and all(x.bounded for x in inside)
