"""What a kernel and its reference make of one call → the error of every row over its bound.

In a row that has few around it, or where PyTorch adds up in a lucky order, PyTorch may be right by chance.
What is past the bound is therefore held to what PyTorch gets wrong at arguments a little off, too. And a sum
whose terms cancel is no better than they are, in a kernel that adds them up in another order than PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from attncc.ir.cascade import Index
from attncc.ir.cascade import Tensor as Named
from attncc.verify.criterion import EPSILON, NOTHING, ratios

NEARBY = 8
"""How many arguments a little off are tried before a kernel counts as wrong."""

ROUNDING = 2.0**-24
"""Of float32, in which kernels compute."""

Given: TypeAlias = Mapping[str, Any]
"""The arguments of a call by what they are called in the pattern; numbers that are left out have defaults."""

Function: TypeAlias = Callable[[Given], Sequence[Tensor]]
"""What a call gives, one tensor or many."""


@dataclass(frozen=True)
class Verdict:
    """The error of every row of every tensor over its bound; or what is `strange` about the call, that the
    kernel gave another shape, or that its exact result is `unknown`. Rows may be right only next to what
    PyTorch gets wrong `nearby`, or only next to the `terms` that they are sums of.
    """

    rows: tuple[Tensor, ...] = ()
    nearby: bool = False
    terms: bool = False
    unknown: bool = False
    strange: str = ""

    @property
    def right(self) -> bool:
        """Whether every row is within its bound."""
        return not self.strange and all(bool((rows <= 1).all()) for rows in self.rows)

    @property
    def worst(self) -> tuple[float, ...]:
        """The largest error over its bound of every tensor."""
        return tuple(float(rows.max()) if rows.numel() else 0.0 for rows in self.rows)


@dataclass(frozen=True)
class Compared:
    """What a kernel and the dense reference give for the same arguments, over the same indices, for elements
    of one `kind`; `terms` are the magnitudes of what is added up, asked for where rows are past their bound.
    """

    tensors: tuple[Named, ...]
    kernel: Function
    reference: Function
    kind: torch.dtype
    terms: Callable[[], Sequence[Tensor]] | None = None

    def verdict(self, given: Given, exact: Sequence[Tensor] | None = None) -> Verdict:
        """How right the kernel is; `exact` is what the reference gives in float64, if that is known."""
        exact = self.reference(doubled(given)) if exact is None else exact
        plain = self.reference(given)
        if any(_unknown(near, far) for near, far in zip(plain, exact, strict=True)):
            return Verdict(unknown=True)
        made = self.kernel(given)
        for tensor, x, far in zip(self.tensors, made, exact, strict=True):
            if x.shape != far.shape:
                return Verdict(strange=f"{tensor.name} is {tuple(x.shape)}, not {tuple(far.shape)}")
        found = Verdict(self._rows(made, plain, exact))
        return found if found.right else self._again(given, found, made, plain, exact)

    def _again(
        self,
        given: Given,
        found: Verdict,
        made: Sequence[Tensor],
        plain: Sequence[Tensor],
        exact: Sequence[Tensor],
    ) -> Verdict:
        """The verdict on rows past their bound: next to terms of which nothing is left; for arguments nearby,
        and for exact ones that are rounded once more, as a kernel may round what it makes of them; and next
        to terms whatever is left of them, where a kernel's arithmetic is no better than its elements.
        """
        terms = self.terms() if self.terms is not None else None
        if terms is not None:
            found = Verdict(self._rows(made, plain, exact, terms))
        rows = found.rows
        if found.right:
            return found
        more = {n: x * (1 + ROUNDING) if _real(x) else x for n, x in doubled(given).items()}
        for near in (self.reference(more), *(self._near(given, exact, n) for n in range(NEARBY))):
            rows = _least(rows, self._rows(made, near, exact))
        found = Verdict(rows, nearby=True)
        if not found.right and terms is not None and EPSILON[self.kind] <= EPSILON[torch.float32]:
            rows = _least(rows, self._rows(made, plain, exact, terms, math.inf))
            found = Verdict(rows, terms=True)
        return found

    def _near(self, given: Given, exact: Sequence[Tensor], seed: int) -> list[Tensor]:
        """The exact result, and what PyTorch gets wrong at arguments a little off."""
        little = EPSILON[self.kind] ** 0.5
        near = dict(given)
        source: dict[torch.device, torch.Generator] = {}
        for n, x in doubled(given).items():
            if _real(x):
                drawn = source.setdefault(x.device, torch.Generator(x.device).manual_seed(seed))
                step = torch.randn(x.shape, generator=drawn, device=x.device)
                near[n] = (x * (1 + little * step)).to(self.kind)
        wrong = zip(self.reference(near), self.reference(doubled(near)), strict=True)
        return [
            x + torch.where(b.isfinite(), a - b, 0.0) if x.is_floating_point() else x
            for x, (a, b) in zip(exact, wrong, strict=True)
        ]

    def _rows(
        self,
        made: Sequence[Tensor],
        plain: Sequence[Tensor],
        exact: Sequence[Tensor],
        terms: Sequence[Tensor] | None = None,
        left: float = NOTHING,
    ) -> tuple[Tensor, ...]:
        """For every tensor, the error of every row over its bound."""
        sizes = [None] * len(self.tensors) if terms is None else terms
        every = zip(self.tensors, made, plain, exact, sizes, strict=True)
        return tuple(rows_of(t, x, near, far, self.kind, size, left) for t, x, near, far, size in every)


def _least(some: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(torch.minimum(a, b) for a, b in zip(some, others, strict=True))


def _real(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


def doubled(given: Given) -> dict[str, Any]:
    """The same arguments in float64; tables and numbers as they are."""
    return {n: x.double() if _real(x) else x for n, x in given.items()}


def _unknown(plain: Tensor, exact: Tensor) -> bool:
    """Whether the exact result has no value somewhere, or is finite where PyTorch's own is not."""
    if not exact.is_floating_point():
        return False
    return bool(exact.isnan().any()) or not torch.equal(exact.isfinite(), plain.isfinite())


def place(index: Index) -> int:
    """Where rows have an index: batched ones first, features last."""
    return ("batch", "sequence", "feature").index(index.role)


def rows_of(
    named: Named,
    x: Tensor,
    plain: Tensor,
    exact: Tensor,
    kind: torch.dtype,
    terms: Tensor | None = None,
    left: float = NOTHING,
) -> Tensor:
    """The error of every row of one tensor over its bound, over batched and sequence indices in order; of a
    tensor over rows and columns, its columns are the row. Integers and truth values are equal or wrong.
    """
    order = sorted(range(x.dim()), key=lambda n: place(named.indices[n]))
    places = sum(i.role != "feature" for i in named.indices)
    if x.dim() == places and sum(i.role == "sequence" for i in named.indices) > 1:
        places -= 1
    features = x.dim() > places

    def turned(t: Tensor) -> Tensor:
        t = t.permute(order)
        t = t.flatten(places) if features else t
        return t if places else t[None]  # one row

    x, plain, exact = map(turned, (x, plain, exact))
    if exact.is_floating_point():
        return ratios(x, plain, exact, kind, features, None if terms is None else turned(terms), left)
    wrong = (x != exact).any(dim=-1) if features else x != exact
    return torch.where(wrong, torch.inf, 0.0)
