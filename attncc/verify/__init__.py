"""Pattern → whether its kernel is right: drawn calls against the dense reference in float64, row by row.

Before the kernel, `certificate` tries the operators that it is made of. Every output is compared by
`criterion`, and so is the gradient of every real input. What is not written is NaN. The first call that fails
is shrunk by Hypothesis to the smallest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attncc.attention import Attention
from attncc.calls import Number
from attncc.diagnostics import PatternError
from attncc.pipeline import meaning, planned
from attncc.source import Source
from attncc.verify.gradients import Trained
from attncc.verify.report import Report, Wrong
from attncc.verify.trial import Trial, poisoned

LONGEST = {"cpu": 333, "cuda": 1025}
"""Sequence extents are drawn up to here."""

SINGLE = 333
"""The same in float32: a sum of a thousand terms in a row is past the bound, as PyTorch splits its own."""

PAIRS = 100
"""The same where a walk over one index stands at every position of another: its sums are longer."""


CERTIFIED = 20
"""Calls that the operators of a pattern are tried on, at most."""


class Missing(ImportError):
    """Hypothesis is not installed."""


def verify(
    source: Source,
    device: str,
    dtypes: Sequence[str],
    examples: int = 50,
    seed: int = 0,
    longest: int | None = None,
    outputs: tuple[str, ...] = (),
    numbers: Mapping[str, Number] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Tries `examples` calls of a pattern's kernel on a device; `outputs` as for `Attention`, `numbers` are
    given and not drawn. Where there is no kernel, the report is of the operators alone, and names the rule.
    Missing if Hypothesis is not there.
    """
    try:
        import hypothesis  # noqa: F401
    except ImportError as error:
        raise Missing(str(error)) from None
    from attncc.verify.certificate import certify

    cascade = meaning(source, outputs)
    numbers = numbers or {}
    report = Report(cascade.name, device, seed, tuple(t.name for t in cascade.outputs))
    try:
        report.certificates = certify(cascade, min(examples, CERTIFIED), seed, numbers, tell)
    except Wrong as wrong:
        report.failure = wrong
    paired = False
    try:
        kernels = planned(cascade, source).kernels
        paired = any(bool(loop.outers) for kernel in kernels for loop in kernel.loops)
    except PatternError as refused:
        report.refused = refused
    if report.failure is None and report.refused is None:
        lengths = {kind: longest or LONGEST[device] for kind in dtypes}
        if longest is None and "float32" in lengths:
            lengths["float32"] = PAIRS if paired else SINGLE
        pair = Attention(source), Attention(source, "reference")
        trial = Trial(*pair, cascade, outputs, report, tell, Trained(source, outputs))
        _try(trial, lengths, numbers, examples)
    return report


def _try(trial: Trial, lengths: Mapping[str, int], numbers: Mapping[str, Number], examples: int) -> None:
    """Enters calls in the report until one is wrong; as many of every element type, as Hypothesis, which
    draws anew what it has drawn before, may leave one out.
    """
    for n, kind in enumerate(lengths):
        share = examples // len(lengths) + (n < examples % len(lengths))
        if share and trial.report.failure is None:
            _try_one(trial, {kind: lengths[kind]}, numbers, share, trial.report.seed * len(lengths) + n)


def _try_one(
    trial: Trial, lengths: Mapping[str, int], numbers: Mapping[str, Number], examples: int, seed: int
) -> None:
    import hypothesis

    from attncc.verify.drawn import Case, Space, cases, tries

    report, before = trial.report, trial.report.tried

    @hypothesis.seed(seed)
    @tries(examples)
    @hypothesis.given(cases(Space(trial.cascade, report.device, lengths, numbers)))
    def run(case: Case) -> None:
        hypothesis.assume(trial(case))

    with poisoned():
        try:
            run()
        except Wrong as wrong:
            report.failure = wrong
        except hypothesis.errors.Unsatisfiable:
            assert report.tried == before
        except hypothesis.errors.Flaky:
            assert trial.first is not None
            said = f"{trial.first.said}; the same call was right at another time"
            report.failure = Wrong(trial.first.case, said)
