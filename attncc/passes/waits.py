"""An edge that forces another pass → why its reader waits, and what its author can do (theory §A.9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attncc.ir.brief import one_place
from attncc.ir.cascade import ZERO, Cascade, Choose, Equation, Expr, Reduce, Tensor, reads
from attncc.ir.logic import conjoin, conjuncts
from attncc.ir.rank import SAMPLES, Rank, moving_reads, separation_rank
from attncc.ir.show import show_expr
from attncc.passes.analyse import Edge, Passes
from attncc.passes.online import comoves, moving_parts, updater_of


@dataclass(frozen=True)
class Wait:
    """Why a reader cannot follow what it waits for, and what would help, if anything is known to."""

    reason: str
    advice: str = ""


def waits(cascade: Cascade, passes: Passes, edge: Edge) -> Wait:
    """The reason of one edge of a cascade after all passes."""
    equation, index = cascade.equation(edge.reader), passes.index
    e = equation.body
    if not isinstance(e, Reduce):
        return Wait(f"it has a value at every `{index.name}`, and needs the last one of `{edge.read}`")
    if any(index in r.tensor.indices for r in reads(e) if r.tensor.name == edge.read):
        return Wait(f"it reads `{edge.read}` at another `{index.name}` than its own")
    running = _running(cascade, passes, edge)
    advice = f"take what depends on `{edge.read}` out of the reduction"
    unlike = [t for t in _followed(e.body, running) if conjoin((e.where, running[t].where)) != e.where]
    chosen = any(r.tensor in running for r in reads(e.where))
    if unlike and not chosen and _would_follow(equation, e, running):
        reason = f"a term may come before `{edge.read}` has a value, which runs over other terms"
        return Wait(reason, f"reduce `{edge.read}` and `{edge.reader}` over the same terms")
    if e.op != "sum":
        why = f"no update of a `{e.op}` of {show_expr(one_place(e.body))} is known as that changes"
        return Wait(f"which terms count depends on `{edge.read}`" if chosen else why, advice)
    term = _term(e, running)
    moving = moving_reads(moving_parts(term, e.over, _followed(term, running), running))
    rank = separation_rank(term, frozenset(e.over), moving)
    return Wait(f"{show_expr(one_place(term))} does not separate in it{_said(rank)}", advice)


def _followed(e: Expr, running: Mapping[Tensor, Reduce]) -> tuple[Tensor, ...]:
    """The running reductions that an expression reads."""
    return tuple(dict.fromkeys(r.tensor for r in reads(e) if r.tensor in running))


def _would_follow(equation: Equation, e: Reduce, running: Mapping[Tensor, Reduce]) -> bool:
    """Whether only terms that may come too early keep a reduction from following what it reads."""
    follows = _followed(e.body, running)
    whole = replace(e, where=conjoin((e.where, *(running[t].where for t in follows))))
    if updater_of(replace(equation, body=whole), running) is not None:
        return True
    return e.op == "sum" and comoves(whole, follows, running) is not None


def _running(cascade: Cascade, passes: Passes, edge: Edge) -> dict[Tensor, Reduce]:
    """The reductions that the reader could follow at most: all but those of earlier passes."""
    of = dict(passes.of)
    least = of[edge.reader] - 1
    reductions = {x.tensor: x.body for x in cascade.equations if isinstance(x.body, Reduce)}
    return {t: r for t, r in reductions.items() if of.get(t.name, 0) >= least and t.name != edge.reader}


def _term(e: Reduce, running: Mapping[Tensor, Reduce]) -> Expr:
    """What a sum adds up, with the part of its predicate that waits, too."""
    waiting = [c for c in conjuncts(e.where) if any(r.tensor in running for r in reads(c))]
    return Choose(conjoin(waiting), e.body, ZERO) if waiting else e.body


def _said(rank: Rank | None) -> str:
    if rank is None:
        return ""
    if rank.grows:
        few, many = SAMPLES
        return f" (rank at least {rank.few} on {few} samples, {rank.many} on {many}: still growing)"
    return f" (rank {rank.many} on samples, but no basis is known that moves with it)"
