"""Cascade → what torch has to know of an operator: its schema, and what it gives without values."""

from __future__ import annotations

import operator as python
from collections.abc import Callable, Iterable, Mapping
from keyword import iskeyword
from threading import RLock
from typing import Any

import torch

from attncc.codegen.host import EXTENTS, KINDS, NUMBERS, statistic
from attncc.ir.cascade import Apply, Cascade, Expr, Index, Literal, Read, Tensor
from attncc.runtime.module import load
from attncc.runtime.target import backend_of
from attncc.schedule import spec

LIBRARY: Any = torch.library.Library("attncc", "FRAGMENT")  # type: ignore[no-untyped-call]
"""Operators are known as long as this lives."""

UNTRACED: Any = torch.compiler.disable
"""Keeps the compiler out of what runs behind an operator, also after a graph break."""

LOCK = RLock()

CHECKS = load("\n\n".join(["import torch\n", EXTENTS, KINDS, NUMBERS]), "checks")
"""The checks that every module carries."""

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": python.add,
    "-": python.sub,
    "*": python.mul,
    "//": python.floordiv,
    "%": python.mod,
    "min": torch.sym_min,
    "max": torch.sym_max,
}


def known(name: str) -> Any:
    """An operator by its name; None if there is none yet."""
    packet = getattr(torch.ops.attncc, name, None)
    return packet and packet.default


def define(name: str, schema: str, real: Callable[..., Any], imagined: Callable[..., Any]) -> Any:
    """A new operator: what it computes, and what that looks like without values. Neither sees gradients."""
    LIBRARY.define(f"{name}{schema}", tags=torch.Tag.pt2_compliant_tag)
    LIBRARY.impl(name, UNTRACED(torch.no_grad()(real)), "CompositeExplicitAutograd")
    torch.library.register_fake(f"attncc::{name}", torch.no_grad()(imagined), lib=LIBRARY)
    return known(name)


def schema(takes: Iterable[Tensor], gives: int) -> str:
    """`(Tensor Q, Tensor K, Tensor V, SymInt window) -> Tensor`"""
    takes = tuple(takes)
    numbers = {"int": "SymInt", "float": "float", "bool": "bool"}
    kinds = ("Tensor" if t.loaded else numbers[t.kind] for t in takes)
    said = ", ".join(f"{kind} {name}" for kind, name in zip(kinds, parameters(takes), strict=True))
    return f"({said}) -> {'Tensor' if gives == 1 else '(' + ', '.join(['Tensor'] * gives) + ')'}"


def parameters(inputs: Iterable[Tensor]) -> list[str]:
    """The inputs' names; those that are words of the schemas' language get a tail."""
    inputs = tuple(inputs)
    taken = {t.name for t in inputs}
    names = []
    for tensor in inputs:
        name = tensor.name
        while iskeyword(name) or name in ("Ellipsis", "NoneType") or (name in taken and name != tensor.name):
            name += "_"
        names.append(name)
    return names


def fake(cascade: Cascade, backend: str | None, arguments: Mapping[str, Any]) -> Any:
    """Outputs without values, as a module makes them; what does not fit is said in its words."""
    tensors = [t for t in cascade.inputs if t.origin in ("input", "table")]
    rows = [(t.name, " ".join(i.name for i in t.indices), arguments[t.name]) for t in tensors]
    sizes = CHECKS.extents(*rows)
    floats, integers, booleans = (
        [(t.name, arguments[t.name]) for t in tensors if t.kind == kind] for kind in ("float", "int", "bool")
    )
    chosen = backend or backend_of(rows[0][2].device)
    allowed = tuple(getattr(torch, kind) for kind in spec.KINDS[chosen])
    CHECKS.check_kinds(floats, integers, booleans, allowed)
    for index, length in cascade.lengths:
        sizes[index.name] = size(length, sizes, arguments)
    leading = floats[0][1]
    sums = torch.float64 if leading.dtype == torch.float64 else torch.float32
    made = []
    for output in cascade.outputs:
        shape = [sizes[i.name] for i in output.indices]
        made.append(leading.new_empty(shape, dtype=sums if statistic(output) else leading.dtype))
    return made[0] if len(made) == 1 else tuple(made)


def size(e: Expr, sizes: Mapping[str, Any], numbers: Mapping[str, Any]) -> Any:
    """An integer formula over extents and numbers, symbolic or not."""
    match e:
        case Literal(value):
            return value
        case Apply("extent", (Index() as i,)):
            return sizes[i.name]
        case Read(tensor, ()):
            return numbers[tensor.name]
        case Apply("neg", (a,)):
            return -size(a, sizes, numbers)
        case Apply(op, (a, b)):
            return ARITHMETIC[op](size(a, sizes, numbers), size(b, sizes, numbers))
        case _:
            raise AssertionError(f"an extent is no formula over numbers: {e}")
