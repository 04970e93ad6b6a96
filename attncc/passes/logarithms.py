"""Cascade → Cascade: what divides, and is a sum of exponentials, is an exponential of its logarithm.

    O[q,e] = total[q,e] / sum[q]           -->   L[q] = log(sum[q]),  O[q,e] = total[q,e] * exp(-L[q])
    W[q]   = x[q] / sqrt(sum[q])           -->   W[q] = x[q] * exp(-L[q] / 2)

The logarithm is of a normal size where the sum is not, and one number in place of a maximum and a sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from attncc.ir.cascade import (
    Apply,
    Cascade,
    Equation,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    Tensor,
    children,
    free,
    number,
    reads,
    rebuild,
    walk,
)
from attncc.ir.logic import quotient, times, total
from attncc.ir.sign import nonnegative
from attncc.passes.share import fresh

Powers = dict[Tensor, float]
"""A product of sums, by the tensor that holds the logarithm of each, and how often."""


def with_logarithms(cascade: Cascade, taken: set[str]) -> tuple[Cascade, dict[Expr, Tensor]]:
    """Sums that divide, or of which there are logarithms, said by these; and which holds which. Names that
    are `taken` are not used again.
    """
    bodies = {e.tensor: e.body for e in cascade.equations}
    found = dict.fromkeys(x for e in cascade.equations for x in _divisors(e.body, bodies))
    held: dict[Expr, Tensor] = {}
    for e in found:
        name = fresh(f"{first_name(e)}_log", taken)
        taken.add(name)
        held[e] = Tensor(name, ordered(e), "float", "equation")
    stands = {e.tensor: n for n, e in enumerate(cascade.equations)}
    last = {e: max(stands[r.tensor] for r in reads(e) if r.tensor in stands) for e in held}
    said = _Said(held)
    made = []
    for place, equation in enumerate(cascade.equations):
        made.append(replace(equation, body=said.of(equation.body)))
        for e, tensor in held.items():
            if last[e] == place:
                made.append(Equation(tensor, Apply("log", (e,)), equation.span))
    return replace(cascade, equations=tuple(made)), held


def first_name(e: Expr) -> str:
    """What a value is called after: the first tensor it reads."""
    found = [r.tensor for r in reads(e) if r.tensor.origin == "equation"] or [r.tensor for r in reads(e)]
    return found[0].name.removesuffix("_total").removesuffix("_sum")


def ordered(e: Expr) -> tuple[Index, ...]:
    """The indices of a value: batched ones first, features last, else as what it reads has them."""
    found = dict.fromkeys(i for r in reads(e) for i in r.tensor.indices if i in free(e))
    rest = dict.fromkeys(sorted(free(e) - found.keys(), key=lambda i: i.name))
    order = ("batch", "sequence", "feature")
    return tuple(sorted({**found, **rest}, key=lambda i: order.index(i.role)))


def at_rows(e: Expr) -> bool:
    """Whether a value stands at positions of one sequence at most, and reads equations only there."""
    own = (r for r in reads(e) if r.tensor.origin == "equation")
    plain = all(r.at == r.tensor.indices for r in own)
    folds = any(isinstance(x, Reduce) for x in walk(e))
    return plain and not folds and sum(i.role == "sequence" for i in free(e)) <= 1


def _divisors(e: Expr, bodies: Mapping[Tensor, Expr]) -> Iterator[Expr]:
    """The sums of exponentials by which an expression divides, or of which it has the logarithm."""
    match e:
        case Apply("/", (_, below)) | Apply("log", (below,)):
            yield from _elements(below, bodies)
    for part in children(e):
        yield from _divisors(part, bodies)


def _elements(e: Expr, bodies: Mapping[Tensor, Expr]) -> Iterator[Expr]:
    """The sums that a product is made of."""
    match e:
        case Apply("*" | "/", (a, b)):
            yield from _elements(a, bodies)
            yield from _elements(b, bodies)
        case Apply("sqrt", (a,)) | Apply("**", (a, Literal())):
            yield from _elements(a, bodies)
        case _ if at_rows(e) and _of_exponentials(e, bodies) and nonnegative(e, bodies):
            yield e


def _of_exponentials(e: Expr, bodies: Mapping[Tensor, Expr]) -> bool:
    """Whether a value is a sum over a sequence of exponentials, or has one among its parts."""
    return any(_grows(bodies[r.tensor], bodies) for r in reads(e) if r.tensor in bodies)


def _grows(e: Expr, bodies: Mapping[Tensor, Expr]) -> bool:
    if isinstance(e, Reduce):
        return any(i.role == "sequence" for i in e.over) and any(map(_is_power, walk(e.body)))
    return _of_exponentials(e, bodies)


def _is_power(e: Expr) -> bool:
    match e:
        case Apply("exp"):
            return True
        case Apply("**", (_, power)):
            return not isinstance(power, Literal)
        case _:
            return False


@dataclass
class _Product:
    """Factors, divisors, and sums that are said by their logarithms."""

    up: list[Expr] = field(default_factory=list)
    down: list[Expr] = field(default_factory=list)
    powers: Powers = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether it is made of such sums alone."""
        return not self.up and not self.down


@dataclass(frozen=True)
class _Said:
    held: Mapping[Expr, Tensor]

    def of(self, e: Expr) -> Expr:
        """An expression in which products and logarithms of the sums are said by their logarithms."""
        match e:
            case Apply("*" | "/" | "sqrt" | "**"):
                found = _Product()
                self._gather(e, 1.0, found)
                if not found.powers:
                    return quotient(found.up, found.down) if e.op in ("*", "/") else self._inside(e)
                return quotient([*found.up, Apply("exp", (_sum(found.powers, finite=True),))], found.down)
            case Apply("log", (x,)):
                found = _Product()
                self._gather(x, 1.0, found)
                return _sum(found.powers, finite=False) if found.plain else self._inside(e)
            case _:
                return self._inside(e)

    def _inside(self, e: Expr) -> Expr:
        return rebuild(e, tuple(map(self.of, children(e))))

    def _gather(self, e: Expr, power: float, into: _Product) -> None:
        """The factors of `e ** power`, where power is 1 or -1, or all of them are sums."""
        match e:
            case _ if e in self.held:
                tensor = self.held[e]
                into.powers[tensor] = into.powers.get(tensor, 0.0) + power
            case Apply("*", (a, b)):
                self._gather(a, power, into)
                self._gather(b, power, into)
            case Apply("/", (a, b)):
                self._gather(a, power, into)
                self._gather(b, -power, into)
            case Apply("sqrt", (a,)) if (inner := self._alone(a)) is not None:
                for tensor, n in inner.items():
                    into.powers[tensor] = into.powers.get(tensor, 0.0) + 0.5 * n * power
            case Apply("**", (a, Literal(n))) if (inner := self._alone(a)) is not None:
                for tensor, m in inner.items():
                    into.powers[tensor] = into.powers.get(tensor, 0.0) + n * m * power
            case Literal(1):
                pass
            case _:
                (into.up if power > 0 else into.down).append(self._inside(e))

    def _alone(self, e: Expr) -> Powers | None:
        found = _Product()
        self._gather(e, 1.0, found)
        return found.powers if found.plain else None


def _sum(powers: Powers, finite: bool) -> Expr:
    """The logarithm of a product; where it scales, that of nothing scales by 0."""
    signed: list[tuple[int, Expr]] = []
    for tensor, n in powers.items():
        logarithm: Expr = Read(tensor, tensor.indices)
        if finite and n < 0:
            logarithm = Apply("finite", (logarithm,))
        size = abs(n)
        parts = [logarithm] * int(size) if size in (1, 2) else [times(logarithm, number(size))] * (size > 0)
        signed += [(1 if n > 0 else -1, part) for part in parts]
    return total(signed)
