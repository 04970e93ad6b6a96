"""Cascade → Cascade: every reduction stands in an equation of its own, equal ones in one.

    P[q,k] = exp(S[q,k] - max(k) S[q,k]) / sum(k) exp(S[q,k] - max(k) S[q,k])
      -->
    P_max[q] = max(k) S[q,k]
    P_sum[q] = sum(k) exp(S[q,k] - P_max[q])
    P[q,k]   = exp(S[q,k] - P_max[q]) / P_sum[q]

Recurrent groups are left as they stand: their reductions read what the same equations have made so far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from attncc.ir.cascade import (
    Cascade,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    Tensor,
    children,
    free,
    kind,
    reads,
    rebuild,
    substitute,
    walk,
)
from attncc.ir.graph import live, recurrent
from attncc.source import NOWHERE

LARGEST = 2000
"""Nodes an equation may have before nothing more is inlined into it."""


@dataclass
class _Named:
    """The equations made so far, and the tensor that holds each reduction."""

    taken: set[str]
    equations: list[Equation] = field(default_factory=list)
    holders: dict[Expr, Tensor] = field(default_factory=dict)
    renamed: dict[Tensor, Tensor] = field(default_factory=dict)


def share(cascade: Cascade) -> Cascade:
    """Reductions named, and named once."""
    groups = {name for group in recurrent(cascade) for name in group}
    named = _Named({t.name for t in cascade.inputs} | {e.tensor.name for e in cascade.equations})
    wanted = {t.name for t in cascade.outputs} | {
        r.tensor.name for d in cascade.demands for r in reads(d.value)
    }
    for equation in cascade.equations:
        body = _renamed(equation.body, named.renamed)
        if equation.tensor.name in groups:
            named.equations.append(replace(equation, body=body))
            continue
        root = isinstance(body, Reduce)
        body = rebuild(body, _extracted(body, equation, named)) if root else _extract(body, equation, named)
        holder = named.holders.get(body) if root else None
        if holder and holder.indices == equation.tensor.indices:
            named.renamed[equation.tensor] = holder
            if equation.tensor.name in wanted:
                named.equations.append(replace(equation, body=Read(holder, holder.indices)))
            continue
        if root and set(equation.tensor.indices) == free(body):
            named.holders.setdefault(body, equation.tensor)
        named.equations.append(replace(equation, body=body))
    return replace(cascade, equations=tuple(named.equations))


def _extracted(e: Expr, host: Equation, named: _Named) -> tuple[Expr, ...]:
    return tuple(_extract(part, host, named) for part in children(e))


def _extract(e: Expr, host: Equation, named: _Named) -> Expr:
    """The expression with every reduction in it replaced by a read of the equation that holds it."""
    e = rebuild(e, _extracted(e, host, named))
    if not isinstance(e, Reduce):
        return e
    tensor = named.holders.get(e)
    if tensor is None:
        tensor = Tensor(
            fresh(f"{host.tensor.name}_{e.op}", named.taken), _order(e, host), kind(e), "equation"
        )
        named.taken.add(tensor.name)
        named.holders[e] = tensor
        named.equations.append(Equation(tensor, e, host.span if e.span == NOWHERE else e.span))
    return Read(tensor, tensor.indices)


def fresh(name: str, taken: set[str]) -> str:
    """The name itself, or with the first number that is free."""
    candidates = (name if n == 1 else f"{name}{n}" for n in range(1, len(taken) + 2))
    return next(c for c in candidates if c not in taken)


def _order(e: Reduce, host: Equation) -> tuple[Index, ...]:
    """The free indices of a reduction: as its host has them, then the others by name."""
    loose = free(e)
    known = [i for i in host.tensor.indices if i in loose]
    return (*known, *sorted(loose - set(known), key=lambda i: i.name))


def _renamed(e: Expr, renamed: dict[Tensor, Tensor]) -> Expr:
    return replace_reads(e, lambda r: Read(renamed[r.tensor], r.at) if r.tensor in renamed else None)


def replace_reads(e: Expr, new: Callable[[Read], Expr | None]) -> Expr:
    """An expression with reads replaced, innermost first; `new` gives None for a read that stays."""
    e = rebuild(e, tuple(replace_reads(part, new) for part in children(e)))
    if isinstance(e, Read):
        other = new(e)
        return e if other is None else other
    return e


def inline(cascade: Cascade) -> Cascade:
    """Equations without a reduction are written out where they are read; what nobody reads is dropped.

    Y[k] = exp(X[k]);  Z = sum(k) Y[k] * V[k]   -->   Z = sum(k) exp(X[k]) * V[k]
    """
    groups = {name for group in recurrent(cascade) for name in group}
    formulas: dict[Tensor, Expr] = {}
    equations = []
    for equation in cascade.equations:
        body = _written_out(equation.body, formulas)
        equations.append(replace(equation, body=body))
        plain = not any(isinstance(x, Reduce) for x in walk(body))
        if plain and equation.tensor.name not in groups:
            formulas[equation.tensor] = body
    return pruned(replace(cascade, equations=tuple(equations)))


def pruned(cascade: Cascade) -> Cascade:
    """The cascade without equations that no output needs."""
    needed = set(live(cascade))
    return replace(cascade, equations=tuple(e for e in cascade.equations if e.tensor.name in needed))


def _written_out(e: Expr, formulas: dict[Tensor, Expr]) -> Expr:
    def formula(read: Read) -> Expr | None:
        body = formulas.get(read.tensor)
        if body is None:
            return None
        return substitute(body, dict(zip(read.tensor.indices, read.at, strict=True)))

    result = replace_reads(e, formula)
    return result if _size(result) <= LARGEST else e


def _size(e: Expr) -> int:
    return sum(1 for _ in walk(e))
