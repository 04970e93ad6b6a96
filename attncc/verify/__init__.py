"""Pattern → whether its kernel is right: drawn calls against the dense reference in float64, row by row.

Every output is compared by `criterion`. What is not written is NaN. The first call that fails is shrunk by
Hypothesis to the smallest that does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attncc.attention import Attention
from attncc.calls import Number
from attncc.pipeline import meaning, planned
from attncc.source import Source
from attncc.verify.report import Report, Wrong
from attncc.verify.trial import Trial, poisoned

LONGEST = {"cpu": 333, "cuda": 1025}
"""Sequence extents are drawn up to here."""

SINGLE = 333
"""The same in float32: a sum of a thousand terms in a row is past the bound, as PyTorch splits its own."""


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
    given and not drawn. PatternError names the rule by which there is no kernel; Missing if Hypothesis is not
    there.
    """
    try:
        import hypothesis
    except ImportError as error:
        raise Missing(str(error)) from None
    from attncc.verify.drawn import Case, Space, cases

    cascade = meaning(source, outputs)
    planned(cascade, source)
    lengths = {kind: longest or LONGEST[device] for kind in dtypes}
    if longest is None and "float32" in lengths:
        lengths["float32"] = SINGLE
    space = Space(cascade, device, lengths, numbers or {})
    report = Report(cascade.name, device, seed, tuple(t.name for t in cascade.outputs))
    trial = Trial(Attention(source), Attention(source, "reference"), cascade, outputs, report, tell)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        report_multiple_bugs=False,
        print_blob=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(cases(space))
    def run(case: Case) -> None:
        hypothesis.assume(trial(case))

    with poisoned():
        try:
            run()
        except Wrong as wrong:
            report.failure = wrong
        except hypothesis.errors.Unsatisfiable:
            assert not report.tried
        except hypothesis.errors.Flaky:
            assert trial.first is not None
            said = f"{trial.first.said}; the same call was right at another time"
            report.failure = Wrong(trial.first.case, said)
    return report
