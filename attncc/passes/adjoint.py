"""Cascade → two cascades: the one that also leaves what gradients need, and the one of the gradients.

    O[q,e] = sum(k) P[q,k] * V[k,e]      -->   dP[q,k] = sum(e) dO[q,e] * V[k,e]
                                               dV[k,e] = sum(q) P[q,k] * dO[q,e]

Reverse mode over the equations, last to first (theory §A.6). What a reduction over a sequence made is read
from memory, and so is saved; all else is computed again. Differentiated is the cascade whose divisions are
deferred and in which no exponential is measured from a maximum (`passes.stream.deferred`): a maximum that was
there for stability has cancelled, and one that is left has a gradient. A divisor that is a sum of
exponentials is written as an exponential itself, of the logarithm that is saved:

    O[q,e] = total[q,e] / sum[q]         -->   L[q] = log(sum[q]),  O[q,e] = total[q,e] * exp(-L[q])

for then `exp(S[q,k]) * exp(-L[q])` is `exp(S[q,k] - L[q])`, which needs no other maximum.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from attncc.ir.cascade import (
    TRUE,
    Apply,
    Cascade,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    Tensor,
    free,
    reads,
    walk,
)
from attncc.ir.graph import recurrent
from attncc.ir.logic import conjoin, factors, quotient, terms
from attncc.passes.gathered import folded, real, summed, unsigned
from attncc.passes.inverted import Names, readers
from attncc.passes.logarithms import with_logarithms
from attncc.passes.placed import place_of
from attncc.passes.saved import Adjoint, adjoined
from attncc.passes.settled import apart
from attncc.passes.share import fresh
from attncc.passes.slopes import Part, Slopes
from attncc.source import NOWHERE, Span


def adjoint(cascade: Cascade, wrt: Iterable[str] | None = None) -> Adjoint:
    """The gradients of a cascade whose divisions are deferred, in the inputs named by `wrt`, or in all; it
    has no recurrences.
    """
    assert not recurrent(cascade), "the adjoint of a recurrence walks backward, which is not derived here"
    chosen = differentiable(cascade) if wrt is None else tuple(wrt)
    inputs = tuple(t for t in cascade.inputs if t.name in chosen)
    cascade, logarithms = with_logarithms(cascade, _taken(cascade))
    return _Reverse(apart(cascade, _taken(cascade)), inputs, logarithms).adjoint()


def differentiable(cascade: Cascade) -> tuple[str, ...]:
    """The inputs that have a gradient."""
    return tuple(t.name for t in cascade.inputs if t.origin == "input" and t.kind == "float")


def _taken(cascade: Cascade) -> set[str]:
    names = {t.name for t in (*cascade.inputs, *cascade.outputs)} | {e.tensor.name for e in cascade.equations}
    return names | {i.name for t in cascade.inputs for i in t.indices} | {i.name for i, _ in cascade.lengths}


@dataclass
class _Reverse:
    """What has reached each tensor so far, and `rows` of it before they are added up; the equations made."""

    cascade: Cascade
    wrt: tuple[Tensor, ...]
    logarithms: dict[Expr, Tensor]
    reached: dict[Tensor, list[Expr]] = field(default_factory=dict)
    rows: dict[Read, dict[tuple[Index, ...], list[Expr]]] = field(default_factory=dict)
    made: list[Equation] = field(default_factory=list)

    def __post_init__(self) -> None:
        bodies = (x for e in self.cascade.equations for x in walk(e.body))
        self.names = Names(_taken(self.cascade) | {x.name for x in bodies if isinstance(x, Index)})
        self.bodies = {e.tensor: e.body for e in self.cascade.equations}
        self.live = set(self.wrt)
        for e in self.cascade.equations:
            if e.tensor.kind == "float" and any(r.tensor in self.live for r in reads(e.body)):
                self.live.add(e.tensor)
        self.slopes = Slopes(lambda r: r.tensor in self.live, self.bodies)

    def adjoint(self) -> Adjoint:
        given = [self._given(t) for t in self.cascade.outputs if t.kind == "float"]
        gradients = []
        for equation in reversed(self.cascade.equations):
            weight = self._reaching(equation.tensor)
            if weight is not None and equation.tensor in self.live:
                for part in self.slopes.parts(equation, weight):
                    self._reach(part)
        for tensor in self.wrt:
            self._collect(tensor)
            body = summed(self.reached.get(tensor, []))
            gradients.append(self._made(tensor, tensor.indices, real(body)).tensor)
        backward = replace(
            self.cascade,
            name=f"{self.cascade.name}_backward",
            equations=(*self.cascade.equations, *self.made),
            inputs=(*self.cascade.inputs, *given),
            lengths=(*self.cascade.lengths, *self.names.lengths),
            defaults=(),
            outputs=tuple(gradients),
            demands=tuple(d for d in self.cascade.demands if d.name in ("sorted", "range")),
        )
        return adjoined(self.cascade, backward, self.logarithms, self.wrt)

    def _span(self, tensor: Tensor) -> Span:
        """Where a tensor is said, or first read."""
        own = (e.span for e in self.cascade.equations if e.tensor == tensor)
        first = (e.span for e in self.cascade.equations if any(r.tensor == tensor for r in reads(e.body)))
        return next(own, next(first, NOWHERE))

    def _name(self, tensor: Tensor, more: str = "") -> str:
        name = fresh(f"d{tensor.name}{more}", self.names.taken)
        self.names.taken.add(name)
        return name

    def _made(self, tensor: Tensor, place: tuple[Index, ...], body: Expr, more: str = "") -> Read:
        """What reaches a tensor, under a name: a read of the equation that is made of it."""
        made = Tensor(self._name(tensor, more), place, "float", "equation")
        self.made.append(Equation(made, body, self._span(tensor)))
        return Read(made, place)

    def _given(self, output: Tensor) -> Tensor:
        """What reaches an output, an input of the gradients; summed over indices its equation lacks."""
        own = self.cascade.equation(output.name).tensor
        cotangent = Tensor(self._name(output), output.indices, "float", "input")
        more = tuple(i for i in output.indices if i not in own.indices)
        body: Expr = Read(cotangent, cotangent.indices)
        self.reached.setdefault(own, []).append(Reduce("sum", more, TRUE, body) if more else body)
        return cotangent

    def _reaching(self, tensor: Tensor) -> Expr | None:
        """What reaches a tensor in all, under a name if it is a sum."""
        self._collect(tensor)
        if tensor not in self.reached:
            return None
        body = summed(self.reached[tensor])
        if isinstance(body, Read):
            return body
        return self._made(tensor, tensor.indices, body)

    def _reach(self, part: Part) -> None:
        """What reaches a read reaches the element it reads; of an element without a position, row by row."""
        sequences = [i for i in part.over if i.role == "sequence"]
        if sequences and not any(i.role == "sequence" for i in part.read.tensor.indices):
            found_place = place_of(part.read)
            if found_place is not None:
                where = conjoin((part.where, found_place.here))
                part = Part(found_place.read, part.weight, where, (*part.over, *found_place.axes))
            rows = (*(i for i in part.over if i.role == "batch"), _row_of(part, sequences))
            features = tuple(i for i in part.over if i.role == "feature" and i in free(part.read))
            others = tuple(i for i in part.over if i not in (*rows, *features))
            weight = folded(part.weight, part.where, others)
            self.rows.setdefault(part.read, {}).setdefault((*rows, *features), []).append(weight)
            return
        found = readers(part.read, part.over, self.names)
        where = conjoin((*found.where, found.said(part.where)))
        weight = folded(found.said(part.weight), where, found.others)
        self.reached.setdefault(part.read.tensor, []).append(weight)

    def _collect(self, tensor: Tensor) -> None:
        """What reaches a tensor row by row, as sums over the rows."""
        for read in [r for r in self.rows if r.tensor == tensor]:
            for place, parts in self.rows.pop(read).items():
                found = readers(read, place, self.names)
                apart = [x for e in parts for x in _parts_apart(e)]
                if not all(_whole(x, place) for x in apart):
                    named = (found.said(self._with_sums(x, tensor, place)) for x in apart)
                    wholes = [_over(found.others, conjoin(found.where), x) for x in named]
                    self.reached.setdefault(tensor, []).extend(wholes)
                    continue
                body = found.said(self._made(tensor, place, real(summed(parts)), "_rows"))
                self.reached.setdefault(tensor, []).append(_over(found.others, conjoin(found.where), body))

    def _with_sums(self, e: Expr, tensor: Tensor, place: tuple[Index, ...]) -> Expr:
        """A product whose factors that are sums have a name."""
        sign, e = unsigned(e)
        up, down = factors(e)
        for n, f in enumerate(up):
            if isinstance(f, Reduce):
                up[n] = self._made(tensor, tuple(i for i in place if i in free(f)), real(f), "_rows")
        whole = quotient(up, down)
        return whole if sign > 0 else Apply("neg", (whole,))


def _row_of(part: Part, sequences: list[Index]) -> Index:
    """The sequence along which an element without a position is reached: that of the place it is read at, and
    of all that has features of the element.
    """
    features = {i for i in free(part.read) if i.role == "feature"}
    for row in sequences:
        away = set(sequences) - {row}
        own = [f for f in factors(part.weight)[0] if free(f) & features]
        if not any(free(f) & away for f in (part.read, *own)):
            return row
    return sequences[0]


def _parts_apart(e: Expr) -> list[Expr]:
    """The terms of a sum, each with its sign."""
    return [x if sign > 0 else Apply("neg", (x,)) for sign, x in terms(e)]


def _whole(e: Expr, place: tuple[Index, ...]) -> bool:
    """Whether a factor of a product has all the features of a place, or one of them is there alone."""
    features = {i for i in place if i.role == "feature"}
    up, down = factors(unsigned(e)[1])
    return len(features) < 2 or any(features <= free(f) for f in (*up, *down))


def _over(over: tuple[Index, ...], where: Expr, body: Expr) -> Expr:
    return Reduce("sum", over, where, body) if over else body
