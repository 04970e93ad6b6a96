"""Cascade → what its kernels leave at rows, and the sums over rows for outputs that have none.

dslope[h] = sum(b, q) x[b,h,q]   -->   x[b,h,q] is an output, and is added up at the end
"""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import Apply, Cascade, Equation, Expr, Read, Reduce, Tensor, free, reads
from attncc.ir.logic import factors
from attncc.passes.logarithms import first_name, ordered
from attncc.passes.share import fresh, pruned


def by_rows(cascade: Cascade) -> tuple[Cascade, tuple[Equation, ...]]:
    """The cascade whose outputs all have rows, and the equations that follow its kernels."""
    late = _late(cascade)
    if not late:
        return cascade, ()
    taken = {t.name for t in cascade.inputs} | {e.tensor.name for e in cascade.equations}
    equations: list[Equation] = []
    totals: list[Equation] = []
    wanted: dict[Tensor, None] = {}
    for equation in cascade.equations:
        if equation.tensor not in late:
            equations.append(equation)
            continue
        match equation.body:
            case Reduce("sum", over, _, body) if any(i.role == "sequence" for i in over):
                if not (_outer(body) or (isinstance(body, Read) and body.tensor.origin == "equation")):
                    name = fresh(f"{first_name(body)}_rows", taken)
                    taken.add(name)
                    rows = Tensor(name, ordered(body), "float", "equation")
                    equations.append(Equation(rows, body, equation.span))
                    body = Read(rows, rows.indices)
                wanted |= dict.fromkeys(r.tensor for r in reads(body) if r.tensor.origin == "equation")
                totals.append(replace(equation, body=replace(equation.body, body=body)))
            case _:
                totals.append(equation)
    outputs = (*(t for t in cascade.outputs if t.name not in {t.name for t in late}), *wanted)
    return pruned(replace(cascade, equations=tuple(equations), outputs=outputs)), tuple(totals)


def _outer(e: Expr) -> bool:
    """Whether a product has more features than any of its factors: it is nowhere in memory."""
    up, down = factors(_unsigned(e))
    features = {i for i in free(e) if i.role == "feature"}
    return len(features) > 1 and not any(features <= free(f) for f in (*up, *down))


def _unsigned(e: Expr) -> Expr:
    return e.args[0] if isinstance(e, Apply) and e.op == "neg" else e


def _late(cascade: Cascade) -> set[Tensor]:
    """Outputs without a row, and what they are made of that has none."""
    reduced = {
        e.tensor
        for e in cascade.equations
        if isinstance(e.body, Reduce) and any(i.role == "sequence" for i in e.body.over)
    }
    found: set[Tensor] = set()
    wanted = {t.name for t in cascade.outputs}
    for e in reversed(cascade.equations):
        if e.tensor.name in wanted and not any(i.role == "sequence" for i in e.tensor.indices):
            found.add(e.tensor)
            if e.tensor not in reduced:
                wanted |= {r.tensor.name for r in reads(e.body) if r.tensor.origin == "equation"}
    return found
