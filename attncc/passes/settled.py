"""What waits for a reduction over a sequence: it is settled once that is done, and saved, not made again."""

from __future__ import annotations

from dataclasses import replace

from attncc.ir.cascade import (
    Apply,
    Cascade,
    Equation,
    Expr,
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
from attncc.ir.logic import factors, quotient
from attncc.passes.logarithms import at_rows, ordered
from attncc.passes.share import fresh


def apart(cascade: Cascade, taken: set[str]) -> Cascade:
    """The factors that wait for reductions over a sequence, each product of them in an equation of its own:
    what is saved is then of a normal size, and stands for itself in a slope.

    O[q,e] = gate[q] * (y[q,e] * exp(-L[q]))   -->   X[q,e] = y[q,e] * exp(-L[q]),  O[q,e] = gate[q] * X[q,e]
    """
    whole: set[Tensor] = set()
    held: dict[Expr, Tensor] = {}
    made: list[Equation] = []

    def part(e: Expr, host: Equation) -> Expr:
        match e:
            case Apply("*" | "/"):
                up, down = factors(e)
                first, second = ([x for x in side if settled(x, whole) and at_rows(x)] for side in (up, down))
                if len(first) + len(second) > 1:
                    up = [x for x in up if x not in first]
                    down = [x for x in down if x not in second]
                    up.append(hold(quotient(first, second), host))
                return quotient([part(x, host) for x in up], [part(x, host) for x in down])
            case _:
                return rebuild(e, tuple(part(x, host) for x in children(e)))

    def hold(e: Expr, host: Equation) -> Expr:
        if e == host.body:
            return e
        if e not in held:
            name = fresh(f"{host.tensor.name}_part", taken)
            taken.add(name)
            held[e] = Tensor(name, ordered(e), "float", "equation")
            whole.add(held[e])
            made.append(Equation(held[e], e, host.span))
        return Read(held[e], held[e].indices)

    for equation in cascade.equations:
        own = equation.body
        plain = isinstance(own, Apply) and own.op in ("*", "/") and at_rows(own) and _all_settled(own, whole)
        body = own if plain else part(own, equation)
        if settled(own, whole):
            whole.add(equation.tensor)
        made.append(replace(equation, body=body))
    return replace(cascade, equations=tuple(made))


def _all_settled(e: Expr, whole: set[Tensor]) -> bool:
    return all(settled(x, whole) for side in factors(e) for x in side)


def settled(e: Expr, whole: set[Tensor]) -> bool:
    """Whether a value waits for a reduction over a sequence, but for a count in a table."""
    folds = any(
        isinstance(x, Reduce) and any(i.role == "sequence" for i in x.over) and not _counts(x)
        for x in walk(e)
    )
    return folds or any(r.tensor in whole for r in reads(e))


def _counts(e: Reduce) -> bool:
    """Whether a reduction counts in a table: it is searched there, not walked."""
    return kind(e) == "int" and any(
        r.tensor.origin == "table" and set(e.over) & free(r) for r in reads(e.where)
    )
