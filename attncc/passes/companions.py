"""Cascade → Cascade: what sums need beside them to follow a value that is still changing.

    mu[q] = sum(k) s[q,k] / |k|                  count[q] = sum(k) 1
    y[q] = sum(k) (s[q,k] - mu[q]) ** 2   -->    z[q] = sum(k) (sum(k) s[q,k] / count[q] - s[q,k])
                                                 y[q] = sum(k) (s[q,k] - sum(k) s[q,k] / count[q]) ** 2

As the mean moves by `t`, `y` becomes `y + 2 * t * z + t * t * count` (`passes.online`, theory §A.5, step 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from attncc.ir.cascade import (
    ONE,
    TRUE,
    Apply,
    Cascade,
    Equation,
    Expr,
    Read,
    Reduce,
    Tensor,
    children,
    extent,
    free,
    kind,
    rebuild,
    walk,
)
from attncc.passes.online import comoves, followed, moving_parts, passes_over
from attncc.passes.share import fresh


@dataclass
class _Company:
    """The equations so far, every reduction of the cascade, and those that the present one would run with,
    which are all but those of earlier passes.
    """

    taken: set[str]
    every: dict[Tensor, Reduce]
    reductions: dict[Tensor, Reduce] = field(default_factory=dict)
    equations: list[Equation] = field(default_factory=list)

    def running(self, cascade: Cascade) -> dict[Tensor, Reduce]:
        """What a sum, the last equation of a cascade, would run with; nothing where it need not wait."""
        last = cascade.equations[-1]
        if not isinstance(last.body, Reduce) or last.body.op != "sum":
            return {}
        for index in last.body.over:
            passes, _ = passes_over(cascade, index)
            of = dict(passes.of)
            own = of[last.tensor.name]
            if any(edge.reader == last.tensor.name for edge in passes.blocking):
                return {t: r for t, r in self.every.items() if of.get(t.name, own) >= own - 1}
        return {}

    def join(self, host: Equation, e: Reduce) -> Tensor:
        """A tensor that holds a reduction, by an equation of its own if there is none."""
        indices = tuple(i for i in host.tensor.indices if i.role != "feature" or i in free(e))
        near = (t for t, r in self.reductions.items() if r == e and set(t.indices) <= set(indices))
        held = next(near, None)
        if held is not None:
            return held
        name = fresh(f"{host.tensor.name}_companion", self.taken)
        self.taken.add(name)
        tensor = Tensor(name, indices, kind(e), "equation")
        self.equations.append(Equation(tensor, e, host.span))
        self.reductions[tensor] = self.every[tensor] = e
        return tensor


def accompany(cascade: Cascade) -> Cascade:
    """The companions that sums need to follow what is still changing, each an equation before it.

    A mean over all there is, `x / |k|`, is followed as one over what there is so far, `x / sum(k) 1`.
    """
    taken = {t.name for t in cascade.inputs} | {e.tensor.name for e in cascade.equations}
    every = {e.tensor: e.body for e in cascade.equations if isinstance(e.body, Reduce)}
    company = _Company(taken, every)
    for equation in cascade.equations:
        e = equation.body
        company.reductions = company.running(replace(cascade, equations=(*company.equations, equation)))
        if isinstance(e, Reduce) and company.reductions:
            follows = followed(equation, e, company.reductions)
            if follows and comoves(e, follows, company.reductions) is not None:
                e = _so_far(equation, e, follows, company)
                equation = replace(equation, body=e)
                company.every[equation.tensor] = e
                found = comoves(e, followed(equation, e, company.reductions), company.reductions)
                for body in found.basis if found else ():
                    company.join(equation, replace(e, body=body))
        company.equations.append(equation)
    return replace(cascade, equations=tuple(company.equations))


def _so_far(host: Equation, e: Reduce, follows: tuple[Tensor, ...], company: _Company) -> Reduce:
    """A sum over all of an index, with the extent counted where it is part of what is followed."""
    length = extent(e.over[0])
    parts = [x for x in moving_parts(e.body, e.over, follows, company.reductions) if length in walk(x)]
    if e.where != TRUE or len(e.over) > 1 or not parts:
        return e
    count = company.join(host, replace(e, body=ONE))
    table = {x: _put(x, {length: Read(count, count.indices)}) for x in parts}
    return replace(e, body=_put(e.body, table))


def _put(e: Expr, table: Mapping[Expr, Expr]) -> Expr:
    """An expression with some of its parts replaced."""
    if e in table:
        return table[e]
    if isinstance(e, Apply) and e.op == "extent":
        return e
    return rebuild(e, tuple(_put(x, table) for x in children(e)))
