"""Equations over heads that a kernel's grid does not have → the same at the heads where they are read."""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import (
    Cascade,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    Tensor,
    free,
    reads,
    substitute,
)
from attncc.passes.inverted import whole
from attncc.passes.share import replace_reads
from attncc.schedule.refused import REFERENCE, refuse


def at_grid(cascade: Cascade, batch: tuple[Index, ...]) -> Cascade:
    """Equations over a batched index that the grid does not have, computed where they are read.

    n[g,k] = ...; S[h,q,k] = ... n[h // r, k]   -->   n[h,k] = ... at g = h // r; S[h,q,k] = ... n[h,k]
    """
    for name in [e.tensor.name for e in reversed(cascade.equations)]:
        equation = cascade.equation(name)
        away = [i for i in equation.tensor.indices if i.role == "batch" and i not in batch]
        if not away:
            continue
        tensor = equation.tensor
        places = {r.at for e in cascade.equations for r in reads(e.body) if r.tensor == tensor}
        subscripts = {at[: len(tensor.indices)] for at in places}
        at = {i: {s[tensor.indices.index(i)] for s in subscripts} for i in away}
        if any(len(values) != 1 for values in at.values()):
            message = f"no kernel plan: `{tensor.name}` is read at several heads"
            raise refuse("plan-heads", message, equation.span, "defined here", REFERENCE)
        value = {i: next(iter(values)) for i, values in at.items()}
        heads = tuple(i for i in batch if any(i in free(v) for v in value.values()))
        kept = tuple(i for i in tensor.indices if i not in away)
        moved = replace(tensor, indices=(*heads, *(i for i in kept if i not in heads)))
        cascade = _moved(cascade, equation, moved, value)
    return cascade


def beside_walks(cascade: Cascade) -> tuple[Index, ...]:
    """The batched indices that a reduction over a sequence is over, too: it turns to one after the other."""
    over = (e.body.over for e in cascade.equations if isinstance(e.body, Reduce))
    both = (o for o in over if any(i.role == "sequence" for i in o))
    return tuple(dict.fromkeys(i for o in both for i in o if i.role == "batch"))


def _moved(cascade: Cascade, equation: Equation, moved: Tensor, value: dict[Index, Expr]) -> Cascade:
    old = equation.tensor

    def new(read: Read) -> Read | None:
        if read.tensor != old:
            return None
        at = dict(zip(old.indices, read.at, strict=True))
        return Read(moved, tuple(at.get(i, i) for i in moved.indices))

    body = whole(substitute(equation.body, value), dict(cascade.lengths))
    equations = [
        replace(e, tensor=moved, body=body) if e is equation else replace(e, body=replace_reads(e.body, new))
        for e in cascade.equations
    ]
    return replace(cascade, equations=tuple(equations))
