"""Cascade → the cascades of its kernels, in the order they run; what one leaves, the next ones read.

Three things have a kernel of their own; the first two where what they leave is a number for every row:

* a pass over an index before another one: the sums that it completes. Each pass then has tiles of its own,
  where in one kernel the first would hold the registers of the second.
* reductions over features at a walked index alone, as the norms of keys: made once for every position, where
  in one kernel every tile of rows would make them again. What they divide is multiplied by their inverse.
* reductions over a sequence at every position of a walked index, which ask for no row: they have rows of
  their own.

    S[q,k] = D[q,k] / sqrt(y[k])   -->   r[k] = inverse(sqrt(y[k])),   S[q,k] = D[q,k] * r[k]
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING

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
    kind,
    reads,
    rebuild,
    walk,
)
from attncc.ir.logic import factors, over, quotient, times
from attncc.passes.share import fresh, pruned, replace_reads

if TYPE_CHECKING:
    from attncc.schedule.plan import Kernel


def cut(cascade: Cascade, tensors: Iterable[Tensor]) -> tuple[Cascade, Cascade]:
    """The cascade that computes some tensors, and the rest, to which they are given. Outputs among them are
    outputs of the first, and lie in memory as they are declared.
    """
    declared = {t.name: t for t in cascade.outputs}
    kept = {t.name: t for t in tensors}
    outputs = tuple(declared.get(name, t) for name, t in kept.items())
    first = pruned(replace(cascade, name=f"{cascade.name}_{next(iter(kept))}", outputs=outputs))
    given = {t: replace(o, origin="kept") for t, o in zip(kept.values(), outputs, strict=True)}

    def read(r: Read) -> Read | None:
        if r.tensor not in given:
            return None
        at = dict(zip(r.tensor.indices, r.at, strict=True))
        return Read(given[r.tensor], tuple(at[i] for i in given[r.tensor].indices))

    rest = replace(
        cascade,
        inputs=(*cascade.inputs, *given.values()),
        equations=tuple(
            replace(e, body=replace_reads(e.body, read)) for e in cascade.equations if e.tensor not in given
        ),
        outputs=tuple(t for t in cascade.outputs if t.name not in kept),
    )
    return first, pruned(rest)


def joined(cascade: Cascade, part: Cascade) -> Cascade:
    """A cascade in which the equations of a part stand as the part has them, and those it has added."""
    said = {e.tensor: e for e in part.equations}
    own = {e.tensor for e in cascade.equations}
    waiting = [e for e in part.equations if e.tensor not in own]
    waiting += [said.get(e.tensor, e) for e in cascade.equations]
    unknown = {e.tensor for e in waiting}
    equations: list[Equation] = []
    while waiting:
        e = next(e for e in waiting if not any(r.tensor in unknown for r in reads(e.body)))
        waiting.remove(e)
        unknown.remove(e.tensor)
        equations.append(e)
    return replace(cascade, equations=tuple(equations))


# ---- sums at positions --------------------------------------------------------------------------


@dataclass
class _Inverses:
    """What divides by sums at positions, by the tensor that holds its inverse."""

    sums: dict[Tensor, Equation]
    taken: set[str]
    held: dict[Expr, Tensor] = field(default_factory=dict)

    def put(self, e: Expr) -> Expr:
        """The expression with products by inverses for divisions."""
        e = rebuild(e, tuple(self.put(part) for part in children(e)))
        match e:
            case Apply("/", (above, below)):
                up, down = factors(below)
                own = [(f, self._inverse(f)) for f in up]
                rest = quotient([f for f, inverse in own if inverse is None], down)
                held = [inverse for _, inverse in own if inverse is not None]
                # one after the other: 0 times the product of two inverses of 0 is no number
                return over(reduce(times, held, above), rest) if held else e
            case _:
                return e

    def _inverse(self, divisor: Expr) -> Read | None:
        """The inverse of a divisor that is made of sums, all of them at one place."""
        found = list(reads(divisor))
        places = {(r.tensor.indices, r.at) for r in found}
        if len(places) != 1 or not all(r.tensor in self.sums for r in found):
            return None
        host = found[0].tensor
        here = replace_reads(divisor, lambda r: Read(r.tensor, r.tensor.indices))
        if here not in self.held:
            name = fresh(f"{host.name}_inverse", self.taken)
            self.taken.add(name)
            self.held[here] = replace(host, name=name, kind="float")
        return Read(self.held[here], found[0].at)


def with_inverses(cascade: Cascade, rows: Index) -> tuple[Cascade, tuple[tuple[Tensor, ...], ...]]:
    """The cascade with the inverses of sums at positions, and which sums and inverses have a kernel: those
    over the same indices together.
    """
    walked = {i for e in cascade.equations if isinstance(e.body, Reduce) for i in e.body.over} - {rows}
    sums = {e.tensor: e for e in cascade.equations if _at_positions(e, walked)}
    taken = {t.name for t in cascade.inputs} | {e.tensor.name for e in cascade.equations}
    inverses = _Inverses(sums, taken)
    rest = [replace(e, body=inverses.put(e.body)) for e in cascade.equations if e.tensor not in sums]
    made = [
        Equation(tensor, Apply("inverse", (divisor,)), sums[next(iter(reads(divisor))).tensor].span)
        for divisor, tensor in inverses.held.items()
    ]
    read = {r.tensor for e in rest for r in reads(e.body)}
    groups: dict[frozenset[Index], list[Tensor]] = {}
    for tensor in (*(t for t in sums if t in read), *inverses.held.values()):
        groups.setdefault(frozenset(tensor.indices), []).append(tensor)
    return replace(cascade, equations=(*sums.values(), *made, *rest)), tuple(map(tuple, groups.values()))


def _at_positions(equation: Equation, walked: set[Index]) -> bool:
    """Whether an equation reduces features of inputs to a real number at every position of a walked index."""
    e, tensor = equation.body, equation.tensor
    positions = [i for i in tensor.indices if i.role == "sequence"]
    return (
        isinstance(e, Reduce)
        and tensor.kind == "float"
        and len(positions) == 1
        and positions[0] in walked
        and all(i.role == "feature" for i in e.over)
        and not any(i.role == "feature" for i in tensor.indices)
        and free(e) <= set(tensor.indices)
        and any(r.tensor.origin == "input" for r in reads(e))
        and all(r.tensor.origin != "equation" for r in reads(e))
    )


# ---- passes -------------------------------------------------------------------------------------


def of_first_pass(kernel: Kernel) -> tuple[Cascade, tuple[Tensor, ...]] | None:
    """What the first walk leaves at the rows, each in an equation of its own; None if its index is not walked
    again, or if that is more than real numbers.
    """
    loops, cascade = kernel.loops, kernel.cascade
    if len(loops) < 2 or loops[0].stored or loops[0].index not in {loop.index for loop in loops[1:]}:
        return None
    done = {s.tensor for s in loops[0].states} | {e.tensor for e in loops[1].rows}
    place = (*kernel.batch, kernel.rows)
    taken = {t.name for t in cascade.inputs} | {e.tensor.name for e in cascade.equations}
    held: dict[Expr, Tensor] = {}
    whole: dict[Tensor, None] = {}

    def left(e: Expr) -> Expr:
        """An expression with its widest parts that the first walk completes read from memory."""
        found = list(reads(e))
        if found and all(r.tensor in done for r in found) and kind(e) == "float" and _is_row(e, place):
            if e == Read(found[0].tensor, place):
                whole[found[0].tensor] = None
                return e
            if e not in held:
                name = fresh(f"{found[0].tensor.name}_row", taken)
                taken.add(name)
                held[e] = Tensor(name, place, kind(e), "equation")
            return Read(held[e], place)
        return rebuild(e, tuple(map(left, children(e))))

    rest = [e if e.tensor in done else replace(e, body=left(e.body)) for e in cascade.equations]
    outputs = {t.name for t in cascade.outputs}
    whole |= dict.fromkeys(e.tensor for e in rest if e.tensor in done and e.tensor.name in outputs)
    kept = (*whole, *held.values())
    still = {r.tensor for e in rest if e.tensor not in done for r in reads(e.body)}
    if any(t.kind != "float" for t in kept) or (done & still) - whole.keys() or not kept:
        return None
    spans = {e.tensor: e.span for e in cascade.equations}
    made = {t: Equation(t, e, spans[next(iter(reads(e))).tensor]) for e, t in held.items()}
    equations: list[Equation] = []
    for e in rest:
        equations += [made.pop(t) for t in dict.fromkeys(r.tensor for r in reads(e.body)) if t in made]
        equations.append(e)
    return replace(cascade, equations=tuple(equations)), kept


def _is_row(e: Expr, place: tuple[Index, ...]) -> bool:
    """Whether an expression is a number at every row."""
    if isinstance(e, Reduce) or not free(e) <= set(place):
        return False
    return all(_is_row(part, place) for part in children(e))


# ---- rows of their own --------------------------------------------------------------------------


def of_other_rows(cascade: Cascade, rows: Index) -> tuple[Cascade, tuple[Tensor, ...]] | None:
    """What reductions over a sequence leave at positions of another index than `rows`, and for all rows
    alike, each in an equation of its own; None if there is nothing like it.

    O[q,e] = sum(a) P[q,a] * W[a,e] / l[a]   -->   r[a,e] = W[a,e] / l[a],   O[q,e] = sum(a) P[q,a] * r[a,e]
    """
    done = _at_other_rows(cascade, rows)
    taken = {t.name for t in cascade.inputs} | {e.tensor.name for e in cascade.equations}
    held: dict[Expr, Tensor] = {}

    def left(e: Expr) -> Expr:
        """An expression with its widest parts that are complete at other rows read from memory."""
        place = None if isinstance(e, Read) else _one_place(e, done)
        if place is None:
            return rebuild(e, tuple(map(left, children(e))))
        here = replace_reads(e, lambda r: Read(r.tensor, r.tensor.indices))
        if here not in held:
            name = fresh(f"{next(iter(reads(e))).tensor.name}_row", taken)
            taken.add(name)
            order = sorted(place, key=lambda i: ("batch", "sequence", "feature").index(i.role))
            held[here] = Tensor(name, tuple(order), "float", "equation")
        return Read(held[here], tuple(place[i] for i in held[here].indices))

    rest = [e if e.tensor in done else replace(e, body=left(e.body)) for e in cascade.equations]
    still = {r.tensor: None for e in rest if e.tensor not in done for r in reads(e.body) if r.tensor in done}
    kept = (*held.values(), *still)
    if not kept or any(t.kind != "float" for t in kept):
        return None
    spans = {e.tensor: e.span for e in cascade.equations}
    made = [Equation(t, e, spans[next(iter(reads(e))).tensor]) for e, t in held.items()]
    own = frozenset(i for i in kept[0].indices if i.role != "feature")
    alike = tuple(t for t in kept if frozenset(i for i in t.indices if i.role != "feature") == own)
    last = max(n for n, e in enumerate(rest, 1) if e.tensor in done)
    return replace(cascade, equations=(*rest[:last], *made, *rest[last:])), alike


def _one_place(e: Expr, done: set[Tensor]) -> dict[Index, Expr] | None:
    """Where an expression reads tensors that are done, if it is a real number of theirs at one place."""
    found = list(reads(e))
    if not found or kind(e) != "float" or not all(r.tensor in done for r in found):
        return None
    at = [pair for r in found for pair in zip(r.tensor.indices, r.at, strict=True)]
    place = dict(at)
    bare = free(replace_reads(e, lambda r: Literal(1.0, "float")))
    one = all(place[i] == subscript for i, subscript in at) and all(place.get(i) == i for i in bare)
    folds = any(isinstance(part, Reduce) for part in walk(e))
    return place if one and not folds and sum(i.role == "sequence" for i in place) == 1 else None


def _at_other_rows(cascade: Cascade, rows: Index) -> set[Tensor]:
    """The tensors over one sequence index other than `rows` that a reduction over a sequence goes into, and
    no row does.
    """
    reduced: set[Tensor] = set()
    bound: set[Tensor] = set()
    for e in cascade.equations:
        read = {r.tensor for r in reads(e.body)}
        folds = isinstance(e.body, Reduce) and any(i.role == "sequence" for i in e.body.over)
        if folds or read & reduced:
            reduced.add(e.tensor)
        # what is reduced over the rows is there for all of them
        over = isinstance(e.body, Reduce) and rows in e.body.over and rows not in e.tensor.indices
        if rows in free(e.body) or rows in e.tensor.indices or (read & bound and not over):
            bound.add(e.tensor)
    places = {t: [i for i in t.indices if i.role == "sequence"] for t in reduced - bound}
    return {t for t, own in places.items() if len(own) == 1}
