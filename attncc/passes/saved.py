"""A cascade and the equations of its gradients → two cascades: what the first leaves, and the second reads.

What waits for a reduction over a sequence is saved, where a gradient reads it; the rest is computed again. A
sum of which the logarithm is saved is read as its exponential, and the logarithm is known to be at least
every exponent in it, so that no exponential of a difference from it is large (theory §0.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from attncc.ir.cascade import (
    Apply,
    Cascade,
    Choose,
    Demand,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    Tensor,
    children,
    reads,
    rebuild,
    walk,
)
from attncc.ir.logic import disjoin, terms
from attncc.passes.settled import settled
from attncc.passes.share import fresh, pruned, replace_reads, share

Logarithms = Mapping[Expr, Tensor]
"""Sums, each with the tensor that holds its logarithm."""


@dataclass(frozen=True)
class Adjoint:
    """`forward` gives the outputs and, after them, what is `saved` besides; `backward` takes what is saved
    and what reaches the real outputs, `given`, and gives the gradients of `wrt`.
    """

    forward: Cascade
    backward: Cascade
    saved: tuple[Tensor, ...]
    given: tuple[Tensor, ...]
    wrt: tuple[Tensor, ...]


def adjoined(cascade: Cascade, backward: Cascade, logarithms: Logarithms, wrt: Sequence[Tensor]) -> Adjoint:
    """The two cascades; `backward` has the equations of the first besides its own, and what reaches the
    outputs as inputs besides those of the first.
    """
    # what was found to be one of the cascade's own sums is read, and not summed again
    own = {e.tensor for e in cascade.equations}
    backward = share(backward)
    equations = tuple(
        e if e.tensor in own else replace(e, body=_measured(e.body, logarithms)) for e in backward.equations
    )
    whole: set[Tensor] = set()
    for e in cascade.equations:
        if settled(e.body, whole):
            whole.add(e.tensor)
    made = tuple(e for e in equations if e.tensor not in own)
    needed = pruned(replace(backward, equations=equations)).equations
    found = (r.tensor for e in needed if e.tensor not in whole for r in reads(e.body))
    forward, held = _saving(cascade, tuple(dict.fromkeys(t for t in found if t in whole)))

    read = _Reading(held, frozenset(_infinite(cascade)))
    facts = _facts(cascade, held)
    again = (e for e in (*cascade.equations, *(least for least, _ in facts), *made) if e.tensor not in whole)
    given = tuple(t for t in backward.inputs if t not in cascade.inputs)
    saved = tuple(held.values())
    backward = replace(
        backward,
        equations=tuple(replace(e, body=read.of(e.body)) for e in again),
        inputs=(*cascade.inputs, *saved, *given),
        demands=(*backward.demands, *(demand for _, demand in facts)),
    )
    backward = pruned(backward)
    return Adjoint(
        pruned(forward), replace(backward, lengths=used_lengths(backward)), saved, given, tuple(wrt)
    )


def _held(r: Read, held: Mapping[Tensor, Tensor]) -> Read:
    """A read of what is saved, as it lies in memory."""
    if r.tensor not in held:
        return r
    at = dict(zip(r.tensor.indices, r.at, strict=True))
    return Read(held[r.tensor], tuple(at[i] for i in held[r.tensor].indices))


@dataclass(frozen=True)
class _Reading:
    """How the gradients read what is saved, of which some is infinite where it is made of nothing."""

    held: Mapping[Tensor, Tensor]
    infinite: frozenset[Tensor]

    def of(self, e: Expr) -> Expr:
        match e:
            case Apply("exp" | "finite" as op, (Read() as r,)):
                return Apply(op, (_held(r, self.held),))
            case Apply("sigmoid" | "tanh" | "softplus" as op, (x,)) if found := self._infinite(e):
                # bounded also there, unless two infinities leave no number
                if len(found) == 1:
                    return self._as_held(e)
                known = (self._as_held(r) for r in found)
                one = disjoin(Apply("==", (r, Apply("finite", (r,)))) for r in known)
                return Choose(one, self._as_held(e), Apply(op, (self.of(x),)))
            case Apply("<" | "<=" | ">" | ">=") if self._infinite(e):
                return self._as_held(e)
            case Apply("max" | "min") if self._infinite(e):
                return Apply("finite", (self._as_held(e),))
            case Read() if self._is_infinite(e):
                # of nothing, it passes nothing on
                return Apply("finite", (_held(e, self.held),))
            case Read():
                return _held(e, self.held)
            case _:
                return rebuild(e, tuple(map(self.of, children(e))))

    def _as_held(self, e: Expr) -> Expr:
        return replace_reads(e, lambda r: _held(r, self.held))

    def _is_infinite(self, e: Expr) -> bool:
        return isinstance(e, Read) and e.tensor in self.held and e.tensor in self.infinite

    def _infinite(self, e: Expr) -> tuple[Read, ...]:
        return tuple(dict.fromkeys(r for r in reads(e) if self._is_infinite(r)))


def _infinite(cascade: Cascade) -> set[Tensor]:
    """The tensors that are infinite where they are made of nothing: logarithms, extremes, their sums."""
    found: set[Tensor] = set()
    for e in cascade.equations:
        body = e.body
        extreme = isinstance(body, Reduce) and body.op in ("max", "min")
        logarithm = any(isinstance(x, Apply) and x.op == "log" for x in walk(body))
        joined = not isinstance(body, Reduce) and any(r.tensor in found for r in _bare(body))
        if e.tensor.kind == "float" and (extreme or (logarithm and not isinstance(body, Reduce)) or joined):
            found.add(e.tensor)
    return found


def _bare(e: Expr) -> list[Read]:
    """The reads in an expression, but for those that an exponential or a scale is taken of."""
    match e:
        case Apply("exp" | "finite"):
            return []
        case Read():
            return [e]
        case _:
            return [r for part in children(e) for r in _bare(part)]


def _measured(e: Expr, logarithms: Logarithms) -> Expr:
    """An expression in which sums of which there are logarithms are said by these."""

    def said(r: Read) -> Expr | None:
        own = Read(r.tensor, r.tensor.indices)
        if own not in logarithms:
            return None
        place = dict(zip(r.tensor.indices, r.at, strict=True))
        held = logarithms[own]
        return Apply("exp", (Read(held, tuple(place[i] for i in held.indices)),))

    return replace_reads(e, said)


def _saving(cascade: Cascade, tensors: Sequence[Tensor]) -> tuple[Cascade, dict[Tensor, Tensor]]:
    """The cascade that leaves some of its tensors, too, and each of them as the gradients read it: an output
    as it is declared, unless that repeats it along an index.
    """
    declared = {t.name: t for t in cascade.outputs}
    taken = {t.name for t in cascade.inputs} | {e.tensor.name for e in cascade.equations}
    held: dict[Tensor, Tensor] = {}
    more: list[Tensor] = []
    added: list[Equation] = []
    for t in tensors:
        output = declared.get(t.name)
        if output is not None and set(output.indices) == set(t.indices):
            held[t] = replace(output, origin="kept")
            continue
        if output is not None:
            own = replace(t, name=fresh(f"{t.name}_saved", taken))
            taken.add(own.name)
            added.append(Equation(own, Read(t, t.indices), cascade.equation(t.name).span))
        else:
            own = t
        more.append(own)
        held[t] = replace(own, origin="kept", kind="float")
    equations = (*cascade.equations, *added)
    return replace(cascade, equations=equations, outputs=(*cascade.outputs, *more)), held


def _facts(cascade: Cascade, held: Mapping[Tensor, Tensor]) -> list[tuple[Equation, Demand]]:
    """That a logarithm is at least every exponent whose exponential is in it: the maximum, and the demand."""
    bodies = {e.tensor: e.body for e in cascade.equations}
    taken = {t.name for t in cascade.inputs} | {t.name for t in bodies}
    facts: list[tuple[Equation, Demand]] = []
    for tensor, kept in held.items():
        match bodies[tensor]:
            case Apply("log", (inside,)):
                sums = [bodies.get(x.tensor) for sign, x in terms(inside) if sign > 0 and isinstance(x, Read)]
            case _:
                continue
        for e in sums:
            match e:
                case Reduce("sum", body=Apply("exp", (exponent,))):
                    least = replace(tensor, name=fresh(f"{tensor.name}_least", taken))
                    taken.add(least.name)
                    demand = Demand("above", subject=kept.name, value=Read(least, least.indices))
                    facts.append((Equation(least, replace(e, op="max", body=exponent)), demand))
    return facts


def used_lengths(cascade: Cascade) -> tuple[tuple[Index, Expr], ...]:
    """The extents of a cascade that it still needs."""
    bodies = [x for e in cascade.equations for x in walk(e.body)]
    tensors = (*cascade.inputs, *cascade.outputs, *(e.tensor for e in cascade.equations))
    seen = {i for t in tensors for i in t.indices}
    for x in bodies:
        seen |= {x} if isinstance(x, Index) else set(x.over) if isinstance(x, Reduce) else set()
    kept = []
    for index, length in reversed(cascade.lengths):
        if index in seen:
            kept.append((index, length))
            seen |= {x for x in walk(length) if isinstance(x, Index)}
    return tuple(reversed(kept))
