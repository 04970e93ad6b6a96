"""Pattern → an operator of torch's: opaque to compilers, which know the shapes and element types it gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.autograd import forward_ad

from attncc.ir.cascade import Cascade
from attncc.runtime.differentiable import below, differentiable, nothing, register
from attncc.runtime.gradients import Runs, needed, outputs_of, passes, reaching
from attncc.runtime.library import CHECKS, LIBRARY, LOCK, define, fake, known, schema
from attncc.source import Source

PLAIN = (torch.Tensor, torch.nn.Parameter)

internal: Any = torch._C

AUTOCAST = ("CPU", "CUDA", "XPU")
"""Devices whose automatic precision is followed."""


def traced(arguments: Iterable[Any]) -> bool:
    """Whether a call is being compiled or exported, or a tensor only stands for one."""
    return torch.compiler.is_compiling() or any(
        isinstance(x, torch.Tensor) and type(x) not in PLAIN for x in arguments
    )


def transformed(differentiated: bool) -> bool:
    """Whether torch has a part in a call by torch.func, automatic precision or, where there are gradients, a
    mode that watches operators.
    """
    mapped = internal._are_functorch_transforms_active() or forward_ad._current_level >= 0
    watched = differentiated and internal._len_torch_dispatch_stack() > 0
    return bool(mapped or watched or internal._is_any_autocast_enabled())


def check_numbers(numbers: Iterable[tuple[str, str]], arguments: Mapping[str, Any]) -> None:
    """TypeError and ValueError as a module gives them; torch's schemas take True for 1."""
    for name, kind in numbers:
        value = arguments[name]
        if not isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            CHECKS.check_number(name, value, {"int": int, "float": float, "bool": bool}[kind])


def name_of(source: Source, cascade: Cascade, backend: str | None, wrt: tuple[str, ...] = ()) -> str:
    """A pattern's name, and a digest of its text, its backend, the outputs that are wanted and the inputs in
    which they are differentiated.
    """
    said = (source.text, backend, [t.name for t in cascade.outputs], wrt)
    return f"{cascade.name}_{hashlib.sha256(repr(said).encode()).hexdigest()[:16]}"


def operator(source: Source, cascade: Cascade, backend: str | None, runs: Runs) -> Any:
    """`torch.ops.attncc.<name>`: the cascade's inputs in order → its outputs.

    Patterns of one text, backend and outputs share it, and run what the first of them has generated. Where
    gradients are asked for it becomes the operators of `gradients`, of exactly those.
    """
    name = name_of(source, cascade, backend)
    inputs = [t.name for t in cascade.inputs]

    def real(*given: Any) -> Any:
        return runs.plain(dict(zip(inputs, given, strict=True)))

    def imagined(*given: Any) -> Any:
        return fake(cascade, backend, dict(zip(inputs, given, strict=True)))

    def passing(wrt: tuple[str, ...]) -> Any:
        return passes(name_of(source, cascade, backend, wrt), cascade, backend, wrt, runs)

    with LOCK:
        if known(name) is None:
            op = define(name, schema(cascade.inputs, len(cascade.outputs)), real, imagined)
            register(op, *_chosen(op, cascade, passing))
            for device in AUTOCAST:
                LIBRARY.impl(op, _cast(op, device), f"Autocast{device}")
    return known(name)


def _chosen(
    op: Any, cascade: Cascade, passing: Callable[[tuple[str, ...]], Any]
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The operator where torch differentiates, and inside torch.func: itself, or the forward pass for exactly
    the gradients that are asked for.
    """
    forwards: dict[tuple[str, ...], Any] = {}
    inputs = [t.name for t in cascade.inputs]
    live = reaching(cascade)

    def never(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        raise AssertionError(f"{op} is differentiated, and no input of it requires grad")

    itself = differentiable(cascade.name, below(op), cascade, nothing, never)

    def inside(*given: Any) -> Any:
        wrt = needed(live, dict(zip(inputs, given, strict=True)))
        if not wrt:
            return itself(*given)
        if wrt not in forwards:
            forwards[wrt] = passing(wrt)
        return outputs_of(cascade, forwards[wrt](*given))

    def choose(*given: Any) -> Any:
        if forward_ad._current_level >= 0 or needed(live, dict(zip(inputs, given, strict=True))):
            return inside(*given)
        return below(op)(*given)

    return choose, inside


def _cast(op: Any, device: str) -> Callable[..., Any]:
    """The operator under torch.autocast: real tensors in its element type, but for float64."""
    key = internal.DispatchKeySet(getattr(internal.DispatchKey, f"Autocast{device}"))

    def cast(*given: Any) -> Any:
        dtype = torch.get_autocast_dtype(device.lower())
        with internal._ExcludeDispatchKeyGuard(key):
            return op(*(x.to(dtype) if _casts(x) else x for x in given))

    return cast


def _casts(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype != torch.float64
