"""The adjoint of a cascade: its equations, that they are gradients, what it saves, how often it walks.

`<example>.attn` is the pattern, `<example>.txt` the equations of its gradients, before the passes.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import event, given, settings

import attncc
from attncc.codegen.host import statistic
from attncc.ir.brief import briefly
from attncc.ir.cascade import Cascade
from attncc.ir.evaluate import evaluate, outputs
from attncc.ir.graph import recurrent
from attncc.ir.verify import verified
from attncc.passes.adjoint import Adjoint, adjoint
from attncc.passes.stream import deferred, stream
from attncc.pipeline import before, meaning, streamed
from attncc.pipeline import trained as training_of
from attncc.schedule.training import Training
from attncc.verify.gradients import called, gradients, weights
from tests.gradients.test_torch import QUICK
from tests.gradients.trained import PATTERNS, TRAINED, dense, source
from tests.passes.meanings import meant
from tests.patterns.cases import CASES, inputs
from tests.patterns.sizes import Case
from tests.strategies import Drawn, patterns

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).parent
EXAMPLES = sorted(path.stem for path in HERE.glob("*.attn"))


def made(cascade: Cascade) -> Adjoint:
    """The adjoint of a cascade."""
    return adjoint(verified(deferred(before(stream, cascade))))


@pytest.mark.parametrize("name", EXAMPLES)
def test_equations(name: str) -> None:
    found = made(meant((HERE / f"{name}.attn").read_text("utf-8")))
    said = [f"saved: {', '.join(t.name for t in found.saved)}", *briefly(verified(found.backward))]
    assert "\n".join(said) + "\n" == (HERE / f"{name}.txt").read_text("utf-8")


def off(found: Adjoint, cascade: Cascade, given: dict[str, Any], reference: Any) -> dict[str, float]:
    """How far every gradient is off, next to the largest of its elements: as it stands, and streamed."""
    with torch.no_grad():
        exact = reference(given)
    reach = weights(exact, torch.float64, 1)
    wanted = gradients(reference, given, [t.name for t in found.wrt], reach)
    values = {n: x.numpy() if torch.is_tensor(x) else x for n, x in given.items()}
    values = {**dict(cascade.defaults), **values}
    forward = outputs(found.forward, evaluate(verified(found.forward), values))
    results = {t.name: x for t, x in zip(found.forward.outputs, forward, strict=True)}
    values |= {t.name: results[t.name] for t in found.saved}
    values |= {t.name: w.numpy() for t, w in zip(found.given, reach, strict=True)}
    known = {t.name for t in found.backward.inputs}
    values = {n: x for n, x in values.items() if n in known}
    errors = {}
    for label, backward in (("plain", found.backward), ("streamed", streamed(found.backward))):
        slopes = outputs(backward, evaluate(verified(backward), values))
        for t, x, y in zip(found.wrt, slopes, wanted, strict=True):
            far = (torch.from_numpy(x) - y).abs().max() if y.numel() else torch.zeros(())
            large = y.abs().max().clamp_min(1e-3) if y.numel() else torch.ones(())
            errors[f"d{t.name} {label}"] = float(far / large)
    return errors


FOLLOWED = "of a query before the first key, 0 times what has no value; kernels take such sums apart first"


def cases() -> list[Any]:
    """A case of some patterns by default, and all of all of them."""
    found = []
    for name in TRAINED:
        for n, case in enumerate(CASES[name]):
            few = name in QUICK and n == min(2, len(CASES[name]) - 1)
            marks = () if few else (pytest.mark.slow,)
            if name == "lssar" and case.extents["q"] > case.extents["k"] > 1:
                marks += (pytest.mark.xfail(strict=True, reason=FOLLOWED),)
            found.append(pytest.param(name, case, marks=marks, id=str(case)))
    return found


@pytest.mark.parametrize(("name", "case"), cases())
def test_means_the_gradients(name: str, case: Case) -> None:
    cascade = meaning(source(name))
    errors = off(made(cascade), cascade, inputs(case), dense(name))
    wrong = {which: error for which, error in errors.items() if not error <= 1e-9}
    assert not wrong


@pytest.mark.slow
@settings(max_examples=60)
@given(patterns())
def test_random_patterns(drawn: Drawn) -> None:
    cascade = meant(drawn.text)
    if not any(t.kind == "float" for t in cascade.outputs):
        event("no real output")
        return
    if recurrent(cascade):
        event("a recurrence, which is refused")
        return
    reference = attncc.compile(drawn.text, "reference")
    given = {n: torch.as_tensor(x) if hasattr(x, "shape") else x for n, x in drawn.values.items()}
    errors = off(made(cascade), cascade, given, lambda given: called(reference, cascade, given))
    event("compared")
    wrong = {which: error for which, error in errors.items() if not error <= 1e-9}
    assert not wrong, drawn.text


@cache
def training_named(name: str) -> Training:
    """The forward and backward pass of a pattern."""
    return training_of(meaning(source(name)))


WEIGHTS = ("lightning", "retnet", "sigmoid")
"""Sums without a divisor: nothing of them is saved."""

MORE = {
    "differential": "two softmaxes",
    "duo_train": "two softmaxes",
    "razor": "two softmaxes, and what stands for keys that are dropped",
    "agent": "a softmax of a softmax",
    "nap": "a mean and a variance of scores",
    "lssar": "a sum of powers of weights",
    "based_window": "two sums",
    "entropy": "its own statistic",
    "max_logit": "its own statistic",
}
"""Patterns of more than one reduction."""


@pytest.mark.parametrize("name", [n for n in TRAINED if n not in MORE])
def test_one_statistic_of_rows_and_the_output_are_saved(name: str) -> None:
    training = training_named(name)
    rows = [t for t in training.saved if statistic(t)]
    whole = [t for t in training.saved if not statistic(t)]
    assert (len(rows), len(whole)) == ((0, 0) if name in WEIGHTS else (1, 1))
    own = {t.name for t in training.forward.outputs[: len(meaning(source(name)).outputs)]}
    assert name in (*WEIGHTS, "evoformer", "yopo") or whole[0].name in own, "more than an output is kept"


AGAIN = {
    "entropy": "a sum of the scores waits for another",
    "max_logit": "how many keys attain the maximum is counted first",
    "nap": "a mean of scores waits for the softmax",
    "lssar": "a sum of powers waits for another",
    "duo_train": "the weight of a head is a sum of its own",
    "positional": "weights without a batch",
    "evoformer": "a bias of every pair",
    "agent": "two attentions, one after the other",
    "kronecker": "keys of two kinds",
    "pointer": "what reaches weights is weighed by them first",
    "h2o": "what reaches the weight of a key reaches its rows first",
}
"""Patterns whose gradients take another pass, and why."""


@pytest.mark.parametrize("name", [n for n in TRAINED if n not in AGAIN])
def test_one_pass_over_keys_and_one_over_queries(name: str) -> None:
    """The sum of dP * P over keys is found to be one over features, which no walk waits for."""
    plan = training_named(name).backward_plan
    walks = [(kernel.rows.name, loop.index.name) for kernel in plan.kernels for loop in kernel.loops]
    assert sorted(walks) == [("k", "q"), ("q", "k")]


def test_every_pattern_is_listed_once() -> None:
    assert {*MORE, *AGAIN, *WEIGHTS} <= set(TRAINED)
    assert all((PATTERNS / f"{name}.attn").exists() for name in TRAINED)
