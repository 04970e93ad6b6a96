"""One call → how right it is: kernel and reference on the same arguments, compared row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from torch import Tensor

from attncc.attention import Attention
from attncc.ir.cascade import Cascade, Index
from attncc.ir.cascade import Tensor as Named
from attncc.verify.criterion import EPSILON, ratios
from attncc.verify.report import Report, Row, Wrong

if TYPE_CHECKING:
    from attncc.verify.drawn import Case

NEARBY = 8
"""How many arguments a little off are tried before a kernel counts as wrong."""

ROUNDING = 2.0**-24
"""Of float32, in which kernels compute."""


@dataclass
class Trial:
    """A pattern's kernel and reference, and the report that calls are entered in until one is wrong."""

    kernel: Attention
    reference: Attention
    cascade: Cascade
    asked: tuple[str, ...]
    report: Report
    tell: Callable[[str], None]
    first: Wrong | None = None

    def __call__(self, case: Case) -> bool:
        """Whether a call says anything. It does not where PyTorch's result is not finite, or where it is as
        far off at arguments nearby. Wrong if the kernel's result is not right.
        """
        given = case.arguments(self.cascade, self.report.device)
        double = _doubled(given)
        try:
            exact = self._outputs(self.reference, case, double)
        except Wrong as wrong:
            self.report.meaningless += self.first is None
            self.report.said = wrong.said
            return False
        plain = self._outputs(self.reference, case, given)
        if any(_unknown(near, far) for near, far in zip(plain, exact, strict=True)):
            self.report.unbounded += self.first is None
            return False
        made = self._outputs(self.kernel, case, given)
        for tensor, x, far in zip(self.cascade.outputs, made, exact, strict=True):
            if x.shape != far.shape:
                self._fail(case, f"{tensor.name} is {tuple(x.shape)}, not {tuple(far.shape)}")
        found = self._ratios(case, made, plain, exact)
        worst = self._worst(case, found)
        if not worst.ratio <= 1:
            for near in (self._rounded(case, double), *(self._near(case, double, n) for n in range(NEARBY))):
                again = self._ratios(case, made, near, exact)
                found = [torch.minimum(a, b) for a, b in zip(found, again, strict=True)]
            if not self._worst(case, found).ratio <= 1:
                self._fail(case, str(worst))
            self.report.sensitive += self.first is None
            return False
        if self.first is None:
            self.report.enter(case, worst, sum(ratios.numel() for ratios in found))
            self.tell(f"{self.report.tried} calls tried")
        return True

    def _rounded(self, case: Case, double: dict[str, Any]) -> Sequence[Tensor]:
        """The exact result for arguments that are rounded once more, as a kernel may round what it makes of
        them.
        """
        more = {n: x * (1 + ROUNDING) if _real(x) else x for n, x in double.items()}
        return self._outputs(self.reference, case, more)

    def _near(self, case: Case, double: dict[str, Any], seed: int) -> list[Tensor]:
        """The exact result, and what PyTorch gets wrong at arguments a little off: in a row that has few
        around it, PyTorch may be right by luck.
        """
        source = torch.Generator(self.report.device).manual_seed(seed)
        kind = case.kind
        little = EPSILON[kind] ** 0.5
        near = {
            n: (x * (1 + little * torch.randn(x.shape, generator=source, device=x.device))).to(kind)
            if _real(x)
            else x
            for n, x in double.items()
        }
        far = self._outputs(self.reference, case, _doubled(near))
        wrong = zip(self._outputs(self.reference, case, near), far, strict=True)
        exact = self._outputs(self.reference, case, double)
        return [
            x + torch.where(b.isfinite(), a - b, 0.0) if x.is_floating_point() else x
            for x, (a, b) in zip(exact, wrong, strict=True)
        ]

    def _ratios(
        self, case: Case, made: Sequence[Tensor], plain: Sequence[Tensor], exact: Sequence[Tensor]
    ) -> list[Tensor]:
        """For every output, the error of every row over its bound."""
        outputs = zip(self.cascade.outputs, made, plain, exact, strict=True)
        return [rows_of(tensor, x, near, far, case.kind) for tensor, x, near, far in outputs]

    def _worst(self, case: Case, found: list[Tensor]) -> Row:
        """The worst row of all outputs."""
        worst = Row("", {}, 0.0, case)
        for tensor, rows in zip(self.cascade.outputs, found, strict=True):
            if rows.numel() and not float(rows.max()) <= worst.ratio:
                at = torch.unravel_index(rows.argmax(), rows.shape)
                places = (i.name for i in sorted(tensor.indices, key=_place) if i.role != "feature")
                position = {name: int(n) for name, n in zip(places, at, strict=False)}
                worst = Row(tensor.name, position, float(rows.max()), case)
        return worst

    def _outputs(self, call: Attention, case: Case, given: dict[str, Any]) -> tuple[Tensor, ...]:
        parameters = zip(call.__signature__.parameters, call.cascade.inputs, strict=True)
        try:
            with torch.no_grad():
                out = call(
                    **{name: given[t.name] for name, t in parameters if t.name in given}, outputs=self.asked
                )
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if call is self.kernel:
                self._fail(case, f"the kernel raised {said}", error)
            raise Wrong(case, f"the reference raised {said}") from error
        return out if isinstance(out, tuple) else (out,)

    def _fail(self, case: Case, said: str, cause: Exception | None = None) -> None:
        wrong = Wrong(case, said)
        if self.first is None:
            self.first = wrong
            self.tell("a call is wrong: looking for the smallest one")
        raise wrong from cause


def _real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def _doubled(given: dict[str, Any]) -> dict[str, Any]:
    return {n: x.double() if _real(x) else x for n, x in given.items()}


def _unknown(plain: Tensor, exact: Tensor) -> bool:
    """Whether the exact result has no value somewhere, or is finite where PyTorch's own is not."""
    if not exact.is_floating_point():
        return False
    return bool(exact.isnan().any()) or not torch.equal(exact.isfinite(), plain.isfinite())


def _place(index: Index) -> int:
    return ("batch", "sequence", "feature").index(index.role)


def rows_of(named: Named, x: Tensor, plain: Tensor, exact: Tensor, kind: torch.dtype) -> Tensor:
    """The error of every row of one output over its bound, over batched and sequence indices in order; of an
    output over rows and columns, its columns are the row. Integers and truth values are equal or wrong.
    """
    order = sorted(range(x.dim()), key=lambda n: _place(named.indices[n]))
    places = sum(i.role != "feature" for i in named.indices)
    if x.dim() == places and sum(i.role == "sequence" for i in named.indices) > 1:
        places -= 1
    features = x.dim() > places
    x, plain, exact = (t.permute(order) for t in (x, plain, exact))
    if features:
        x, plain, exact = (t.flatten(places) for t in (x, plain, exact))
    if not places:  # one row
        x, plain, exact = x[None], plain[None], exact[None]
    if exact.is_floating_point():
        return ratios(x, plain, exact, kind, features)
    wrong = (x != exact).any(dim=-1) if features else x != exact
    return torch.where(wrong, torch.inf, 0.0)


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
