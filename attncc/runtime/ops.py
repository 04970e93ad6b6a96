"""Pattern → an operator of torch's: opaque to compilers, which know the shapes and element types it gives."""

from __future__ import annotations

import hashlib
import operator as python
from collections.abc import Callable, Iterable, Mapping
from keyword import iskeyword
from threading import RLock
from typing import Any, TypeAlias

import torch

from attncc.codegen.host import EXTENTS, KINDS, NUMBERS, statistic
from attncc.ir.cascade import Apply, Cascade, Expr, Index, Literal, Read
from attncc.runtime.module import load
from attncc.runtime.target import backend_of
from attncc.schedule import spec
from attncc.source import Source

Run: TypeAlias = Callable[[dict[str, Any]], Any]
"""Arguments, by what they are called in the pattern, → outputs."""

LIBRARY: Any = torch.library.Library("attncc", "FRAGMENT")  # type: ignore[no-untyped-call]
"""Operators are known as long as this lives."""

UNTRACED: Any = torch.compiler.disable
"""Keeps the compiler out of what runs behind an operator, also after a graph break."""

LOCK = RLock()

CHECKS = load("\n\n".join(["import torch\n", EXTENTS, KINDS, NUMBERS]), "checks")
"""The checks that every module carries."""

PLAIN = (torch.Tensor, torch.nn.Parameter)

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": python.add,
    "-": python.sub,
    "*": python.mul,
    "//": python.floordiv,
    "%": python.mod,
    "min": torch.sym_min,
    "max": torch.sym_max,
}


def traced(arguments: Iterable[Any]) -> bool:
    """Whether a call is being compiled or exported, or a tensor only stands for one."""
    return torch.compiler.is_compiling() or any(
        isinstance(x, torch.Tensor) and type(x) not in PLAIN for x in arguments
    )


def check_numbers(numbers: Iterable[tuple[str, str]], arguments: Mapping[str, Any]) -> None:
    """TypeError and ValueError as a module gives them; torch's schemas take True for 1."""
    for name, kind in numbers:
        value = arguments[name]
        if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            CHECKS.check_number(name, value, {"int": int, "float": float, "bool": bool}[kind])


def name_of(source: Source, cascade: Cascade, backend: str | None) -> str:
    """A pattern's name, and a digest of its text, its backend and the outputs that are wanted."""
    said = (source.text, backend, [t.name for t in cascade.outputs])
    return f"{cascade.name}_{hashlib.sha256(repr(said).encode()).hexdigest()[:16]}"


def operator(source: Source, cascade: Cascade, backend: str | None, run: Run) -> Any:
    """`torch.ops.attncc.<name>`: the cascade's inputs in order → its outputs.

    Patterns of one text, backend and outputs share it, and run what the first of them has generated.
    """
    name = name_of(source, cascade, backend)
    inputs = [t.name for t in cascade.inputs]

    def real(*given: Any) -> Any:
        return run(dict(zip(inputs, given, strict=True)))

    def imagined(*given: Any) -> Any:
        return fake(cascade, backend, dict(zip(inputs, given, strict=True)))

    with LOCK:
        if not hasattr(torch.ops.attncc, name):
            LIBRARY.define(f"{name}{schema(cascade)}", tags=torch.Tag.pt2_compliant_tag)
            LIBRARY.impl(name, UNTRACED(real), "CompositeExplicitAutograd")
            torch.library.register_fake(f"attncc::{name}", imagined, lib=LIBRARY)
    return getattr(torch.ops.attncc, name).default


def schema(cascade: Cascade) -> str:
    """`(Tensor Q, Tensor K, Tensor V, SymInt window) -> Tensor`"""
    numbers = {"int": "SymInt", "float": "float", "bool": "bool"}
    kinds = (numbers[t.kind] if t.origin in ("scalar", "static") else "Tensor" for t in cascade.inputs)
    takes = ", ".join(f"{kind} {name}" for kind, name in zip(kinds, parameters(cascade), strict=True))
    gives = ", ".join(["Tensor"] * len(cascade.outputs))
    return f"({takes}) -> {gives if len(cascade.outputs) == 1 else f'({gives})'}"


def parameters(cascade: Cascade) -> list[str]:
    """The inputs' names; those that are words of the schemas' language get a tail."""
    taken = {t.name for t in cascade.inputs}
    names = []
    for tensor in cascade.inputs:
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
