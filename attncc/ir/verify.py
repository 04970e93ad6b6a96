"""Cascade → the same cascade: the executable specification of what every stage hands to the next.

A broken rule is a mistake of the compiler, never of a pattern's author: an AssertionError with the cascade.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import assert_never

from attncc.ir.cascade import (
    Apply,
    Cascade,
    Choose,
    Equation,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    Tensor,
    free,
    kind,
    reads,
    walk,
)
from attncc.ir.graph import order, recurrent
from attncc.ir.show import show, show_equation, show_expr, show_tensor
from attncc.ops import FUNCTIONS, REDUCTIONS, Kind


def verified(cascade: Cascade) -> Cascade:
    """The cascade itself. Raises AssertionError, with every rule it breaks and the cascade as text."""
    # later rules take the names of earlier ones for granted
    for rules in (_names, _expressions, _equations, _extents, _ends):
        broken = list(dict.fromkeys(rules(cascade)))
        assert not broken, "\n".join(["broken cascade:", *(f"  {b}" for b in broken), show(cascade)])
    return cascade


def _names(cascade: Cascade) -> Iterator[str]:
    """Every name stands for one tensor, every index name for one index."""
    tensors: dict[str, Tensor] = {}
    for t in (*cascade.inputs, *(e.tensor for e in cascade.equations)):
        if t.name in tensors:
            yield f"`{t.name}` is defined twice"
        tensors[t.name] = t
        if len(set(t.indices)) < len(t.indices):
            yield f"`{show_tensor(t)}` has an index twice"
    for t in cascade.inputs:
        if t.origin == "equation" or (t.origin in ("scalar", "static") and t.indices):
            yield f"input `{show_tensor(t)}` cannot come from {t.origin}"
    for e in cascade.equations:
        if e.tensor.origin != "equation":
            yield f"`{e.tensor.name}` is written by an equation, but comes from {e.tensor.origin}"
    indices: dict[str, Index] = {}
    for index in _indices(cascade):
        known = indices.setdefault(index.name, index)
        if known != index:
            yield f"`{index.name}` is two indices: {known} and {index}"
    for r in (r for e in _bodies(cascade) for r in reads(e)):
        if tensors.get(r.tensor.name) != r.tensor:
            yield f"`{show_expr(r)}` reads {r.tensor}, not {tensors.get(r.tensor.name)}"


def _indices(cascade: Cascade) -> Iterator[Index]:
    """Every index, wherever it stands."""
    for t in (*cascade.inputs, *(e.tensor for e in cascade.equations), *cascade.outputs):
        yield from t.indices
    yield from (index for index, _ in cascade.lengths)
    for x in (x for e in _bodies(cascade) for x in walk(e)):
        match x:
            case Index():
                yield x
            case Read():
                yield from x.tensor.indices
            case Reduce():
                yield from x.over
            case _:
                pass


def _bodies(cascade: Cascade) -> Iterator[Expr]:
    yield from (length for _, length in cascade.lengths)
    yield from (e.body for e in cascade.equations)


def _expressions(cascade: Cascade) -> Iterator[str]:
    """Every part of every expression fits its place."""
    for body in _bodies(cascade):
        for e in walk(body):
            yield from (f"`{show_expr(e)}`: {wrong}" for wrong in _misfits(e))


def _misfits(e: Expr) -> Iterator[str]:
    match e:
        case Index():
            return
        case Literal():
            if type(e.value) is not {"bool": bool, "int": int, "float": float}[e.kind]:
                yield f"{e.value!r} is not of kind {e.kind}"
        case Read():
            if len(e.at) != len(e.tensor.indices):
                yield f"{len(e.at)} subscripts for {len(e.tensor.indices)} indices"
            yield from (f"subscript `{show_expr(s)}` is {kind(s)}" for s in e.at if kind(s) != "int")
        case Apply():
            yield from _misfits_of_function(e)
        case Reduce():
            yield from _misfits_of_reduction(e)
        case Choose():
            if kind(e.condition) != "bool":
                yield f"the condition is {kind(e.condition)}"
            if (kind(e.then) == "bool") != (kind(e.other) == "bool"):
                yield f"the branches are {kind(e.then)} and {kind(e.other)}"
        case _:
            assert_never(e)


def _misfits_of_function(e: Apply) -> Iterator[str]:
    if e.op not in FUNCTIONS:
        yield f"no function is called `{e.op}`"
        return
    row = FUNCTIONS[e.op]
    if len(e.args) != row.arity:
        yield f"{len(e.args)} arguments for {row.arity}"
    if e.op == "extent":
        yield from (f"`{show_expr(a)}` is not an index" for a in e.args if not isinstance(a, Index))
        return
    kinds = [kind(a) for a in e.args]
    if not _takes(row.takes, kinds):
        yield f"takes {row.takes}, is given {', '.join(kinds)}"
    if e.op in ("==", "!=") and len({k == "bool" for k in kinds}) > 1:
        yield f"compares {' with '.join(kinds)}"


def _misfits_of_reduction(e: Reduce) -> Iterator[str]:
    if e.op not in REDUCTIONS:
        yield f"no reduction is called `{e.op}`"
        return
    row = REDUCTIONS[e.op]
    if not e.over or len(set(e.over)) < len(e.over):
        yield "needs indices, each once"
    if len(e.over) > 1 and (row.keeps or row.combine in ("argmax", "argmin")):
        yield "a place is one along one index"
    if kind(e.where) != "bool":
        yield f"the predicate is {kind(e.where)}"
    if not _takes(row.takes, [kind(e.body)]):
        yield f"takes {row.takes}, is given {kind(e.body)}"


def _takes(wanted: str, kinds: list[Kind]) -> bool:
    match wanted:
        case "bool" | "int":
            return all(k == wanted for k in kinds)
        case "number":
            return "bool" not in kinds
        case _:
            return True


def _equations(cascade: Cascade) -> Iterator[str]:
    """Each equation has the indices and the kind of its body, and reads what is known where it stands."""
    groups = recurrent(cascade)
    place = {name: n for n, name in enumerate(order(cascade))}
    for e in cascade.equations:
        yield from (f"`{show_equation(e)}`: {wrong}" for wrong in _misfits_of_equation(e))
        own = next((g for g in groups if e.tensor.name in g), ())
        for name in (r.tensor.name for r in reads(e.body)):
            if place.get(name, -1) >= place[e.tensor.name] and name not in own:
                yield f"`{e.tensor.name}` reads `{name}`, which stands after it"
    for group in groups:
        yield from _misfits_of_group(tuple(cascade.equation(name) for name in group))
        if place[group[-1]] - place[group[0]] >= len(group):
            yield f"{_listed(group)} read each other, but do not stand together"


def _misfits_of_equation(e: Equation) -> Iterator[str]:
    indices, inside = set(e.tensor.indices), free(e.body)
    if inside - indices:
        yield f"{_listed(i.name for i in inside - indices)} on the right side only"
    reduced = {i for x in walk(e.body) if isinstance(x, Reduce) for i in x.over}
    if idle := (reduced & indices) - inside:
        yield f"reduces over {_listed(i.name for i in idle)} of its own left side, and needs it nowhere else"
    found, wanted = kind(e.body), e.tensor.kind
    if found != wanted and (found, wanted) != ("int", "float"):
        yield f"`{e.tensor.name}` is {wanted}, its body {found}"


def _misfits_of_group(group: tuple[Equation, ...]) -> Iterator[str]:
    """A recurrent group is walked along an index on every left side that not all reads merely repeat."""
    names = [e.tensor.name for e in group]
    inside = [r for e in group for r in reads(e.body) if r.tensor.name in names]
    shared = set.intersection(*(set(e.tensor.indices) for e in group))
    if not any(
        index.role == "sequence" and r.at[r.tensor.indices.index(index)] != index
        for index in shared
        for r in inside
    ):
        yield f"{_listed(names)} read each other at no other position of a sequence"


def _extents(cascade: Cascade) -> Iterator[str]:
    """Every extent is shown by an input, or follows from integers and from extents that come before it."""
    known = {i for t in cascade.inputs for i in t.indices}
    for index, length in cascade.lengths:
        needed = {x for x in walk(length) if isinstance(x, Index)}
        if waiting := needed - known:
            yield f"`|{index.name}|` needs the extents of {_listed(i.name for i in waiting)} before it"
        if kind(length) != "int" or free(length):
            yield f"`|{index.name}| = {show_expr(length)}` is not one integer"
        if late := [r.tensor.name for r in reads(length) if r.tensor not in cascade.inputs]:
            yield f"`|{index.name}|` reads {_listed(late)}, which only an equation knows"
        known.add(index)
    if unknown := {i.name for i in _indices(cascade)} - {i.name for i in known}:
        yield f"no extent is known of {_listed(unknown)}"
    if len({i for i, _ in cascade.lengths}) < len(cascade.lengths):
        yield "a length is given twice"


def _ends(cascade: Cascade) -> Iterator[str]:
    """Outputs, defaults and demands speak of what is there."""
    written = {e.tensor.name: e.tensor for e in cascade.equations}
    for output in cascade.outputs:
        own = written.get(output.name)
        if own is None:
            yield f"output `{output.name}` has no equation"
        elif own.kind != output.kind or not set(own.indices) <= set(output.indices):
            yield f"output `{show_tensor(output)}: {output.kind}` is not `{show_tensor(own)}: {own.kind}`"
        if len(set(output.indices)) < len(output.indices):
            yield f"output `{show_tensor(output)}` has an index twice"
    if not cascade.outputs or len({t.name for t in cascade.outputs}) < len(cascade.outputs):
        yield "outputs are needed, each once"
    inputs = {t.name: t for t in cascade.inputs}
    for name, _ in cascade.defaults:
        if name not in inputs or inputs[name].origin not in ("scalar", "static"):
            yield f"the default of `{name}` is of no scalar"
    names = {*inputs, *written, *(i.name for i in _indices(cascade))}
    for demand in cascade.demands:
        read = [r.tensor.name for r in reads(demand.value)]
        for subject in (demand.subject, *read) if demand.subject else read:
            if subject not in names:
                yield f"`{subject}` is demanded something, but is not there"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
