"""One call → how right it is: kernel and reference compared row by row, gradients of real inputs too."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import patch

import torch
from torch import Tensor

from attncc.attention import Attention
from attncc.diagnostics import PatternError
from attncc.ir.cascade import Cascade
from attncc.ir.cascade import Tensor as Named
from attncc.verify.compared import Compared, Given, Verdict, doubled, place
from attncc.verify.gradients import Trained, slopes
from attncc.verify.report import Report, Row, Wrong

if TYPE_CHECKING:
    from attncc.verify.drawn import Case

GRADED = {"cpu": None, "cuda": (64, 80)}
"""Feature extents at which gradients are compared; None: at any. On a GPU each is kernels to compile."""

MOST = 1 << 23
"""Cells of rows and columns, in all heads, whose gradients are compared: in small calls they are as wrong."""


@dataclass
class Trial:
    """A pattern's kernel and reference, and the report that calls are entered in until one is wrong.
    Gradients are those of `trained`, until it turns out that there are none.
    """

    kernel: Attention
    reference: Attention
    cascade: Cascade
    asked: tuple[str, ...]
    report: Report
    tell: Callable[[str], None]
    trained: Trained | None = None
    first: Wrong | None = None

    @torch.no_grad()
    def __call__(self, case: Case) -> bool:
        """Whether a call says anything. It does not where PyTorch's result is not finite, or where it is as
        far off at arguments nearby. Wrong if the kernel's result is not right.
        """
        given = case.arguments(self.cascade, self.report.device)
        try:
            exact = self._outputs(self.reference, case, doubled(given))
        except Wrong as wrong:
            self.report.meaningless += self.first is None
            self.report.said = wrong.said
            return False
        compared = Compared(
            self.cascade.outputs,
            lambda given: self._outputs(self.kernel, case, given),
            lambda given: self._outputs(self.reference, case, given),
            case.kind,
        )
        found = compared.verdict(given, exact)
        if found.unknown:
            self.report.unbounded += self.first is None
            return False
        worst = self._worst(case, compared.tensors, found)
        if found.nearby:
            self.report.sensitive += self.first is None
            return False
        graded = self._gradients(case, given, exact)
        if self.first is None:
            self.report.enter(case, max(worst, graded, key=lambda row: row.ratio), _rows(found))
            self.tell(f"{self.report.tried} calls tried")
        return True

    def _gradients(self, case: Case, given: Given, exact: Sequence[Tensor]) -> Row:
        """The worst row of all gradients; of those that say nothing, none."""
        none = Row("", {}, 0.0, case)
        if self.trained is None or not self._affordable(case):
            return none
        compared = slopes(
            self.trained,
            lambda given: self._outputs(self.reference, case, given),
            given,
            case.kind,
            case.seed,
            exact,
        )
        try:
            found = compared.verdict(given)
        except PatternError as refused:
            self.trained, self.report.ungraded = None, refused
            return none
        except Wrong:
            raise
        except Exception as error:
            self._fail(case, f"the gradients raised {type(error).__name__}: {error}", error)
        worst = none if found.unknown else self._worst(case, compared.tensors, found)
        if found.unknown or found.nearby or found.terms:
            self.report.unsteady += self.first is None
            return none
        if self.first is None:
            self.report.grade({t.name: w for t, w in zip(compared.tensors, found.worst, strict=True)})
        return worst

    def _affordable(self, case: Case) -> bool:
        """Whether gradients are compared: the call is small, and takes no more kernels to compile."""
        every = dict.fromkeys(i for t in self.cascade.inputs for i in t.indices)
        cells = math.prod(case.extents[i.name] for i in every if i.role != "feature")
        known = GRADED[self.report.device]
        features = {case.extents[i.name] for i in every if i.role == "feature"}
        return cells <= MOST and (known is None or features <= set(known))

    def _worst(self, case: Case, tensors: Sequence[Named], found: Verdict) -> Row:
        """The worst row of some tensors. Wrong if one is not right."""
        if found.strange:
            self._fail(case, found.strange)
        worst = Row("", {}, 0.0, case)
        for tensor, rows in zip(tensors, found.rows, strict=True):
            if rows.numel() and not float(rows.max()) <= worst.ratio:
                at = torch.unravel_index(rows.argmax(), rows.shape)
                places = (i.name for i in sorted(tensor.indices, key=place) if i.role != "feature")
                position = {name: int(n) for name, n in zip(places, at, strict=False)}
                worst = Row(tensor.name, position, float(rows.max()), case)
        if not found.right:
            self._fail(case, str(worst))
        return worst

    def _outputs(self, call: Attention, case: Case, given: Given) -> tuple[Tensor, ...]:
        parameters = zip(call.__signature__.parameters, call.cascade.inputs, strict=True)
        try:
            out = call(
                **{name: given[t.name] for name, t in parameters if t.name in given}, outputs=self.asked
            )
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if call is self.kernel:
                self._fail(case, f"the kernel raised {said}", error)
            raise Wrong(case, f"the reference raised {said}") from error
        return out if isinstance(out, tuple) else (out,)

    def _fail(self, case: Case, said: str, cause: Exception | None = None) -> NoReturn:
        wrong = Wrong(case, said)
        if self.first is None:
            self.first = wrong
            self.tell("a call is wrong: looking for the smallest one")
        raise wrong from cause


def _rows(found: Verdict) -> int:
    return sum(rows.numel() for rows in found.rows)


@contextmanager
def poisoned() -> Iterator[None]:
    """What a kernel leaves unwritten is NaN, or the largest integer, or true."""

    def filled(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def made(*args: Any, **kwargs: Any) -> Tensor:
            x = make(*args, **kwargs)
            if x.is_floating_point():
                return x.fill_(torch.nan)
            return x.fill_(True) if x.dtype == torch.bool else x.fill_(torch.iinfo(x.dtype).max)

        return made

    with (
        patch.object(Tensor, "new_empty", filled(Tensor.new_empty)),
        patch.object(torch, "empty", filled(torch.empty)),
        patch.object(torch, "empty_like", filled(torch.empty_like)),
    ):
        yield
