"""Pattern → an operator of torch's: opaque to compilers, which know the shapes and element types it gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.autograd import forward_ad

from attncc.ir.cascade import Cascade
from attncc.runtime.gradients import Runs, differentiable, needed
from attncc.runtime.library import CHECKS, LIBRARY, LOCK, define, fake, known, schema
from attncc.runtime.slices import sliced
from attncc.source import Source

PLAIN = (torch.Tensor, torch.nn.Parameter)

AUTOCAST = ("CPU", "CUDA", "XPU")
"""Devices whose automatic precision is followed."""


def traced(arguments: Iterable[Any]) -> bool:
    """Whether a call is being compiled or exported, or a tensor only stands for one."""
    return torch.compiler.is_compiling() or any(
        isinstance(x, torch.Tensor) and type(x) not in PLAIN for x in arguments
    )


def transformed(arguments: Iterable[Any]) -> bool:
    """Whether torch has a part in a call: gradients, torch.func, automatic precision."""
    if torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in arguments):
        return True
    internal: Any = torch._C
    mapped = internal._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return bool(mapped or internal._is_any_autocast_enabled())


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

    def pair(wrt: tuple[str, ...]) -> Any:
        return differentiable(name_of(source, cascade, backend, wrt), cascade, backend, wrt, runs)

    with LOCK:
        if known(name) is None:
            op = define(name, schema(cascade.inputs, len(cascade.outputs)), real, imagined)
            LIBRARY.impl(name, _chosen(op, cascade, pair), "Autograd", with_keyset=True)
            for device in AUTOCAST:
                LIBRARY.impl(name, _cast(op, device), f"Autocast{device}")
            sliced(name, op, cascade)
    return known(name)


def _chosen(op: Any, cascade: Cascade, pair: Callable[[tuple[str, ...]], Any]) -> Callable[..., Any]:
    """The operator where torch differentiates: itself, or the passes of the gradients that are asked for."""
    pairs: dict[tuple[str, ...], Any] = {}
    count = len(cascade.outputs)
    internal: Any = torch._C

    def choose(keys: Any, *given: Any) -> Any:
        if forward_ad._current_level >= 0 and any(_dual(x) for x in given):
            raise NotImplementedError(
                f"`{cascade.name}` has no forward-mode derivative: only torch.func.grad, vjp and jacrev. The "
                'dense definition has: attncc.load(..., backend="reference")'
            )
        wrt = needed(cascade, given)
        if not wrt:
            with internal._AutoDispatchBelowAutograd():
                return op.redispatch(keys & internal._after_autograd_keyset, *given)
        if wrt not in pairs:
            pairs[wrt] = pair(wrt)
        made = pairs[wrt](*given)
        return made[:count] if count > 1 else made[0] if isinstance(made, tuple) else made

    return choose


def _dual(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and forward_ad.unpack_dual(x).tangent is not None


def _cast(op: Any, device: str) -> Callable[..., Any]:
    """The operator under torch.autocast: real tensors in its element type, but for float64."""
    internal: Any = torch._C
    key = internal.DispatchKeySet(getattr(internal.DispatchKey, f"Autocast{device}"))

    def cast(*given: Any) -> Any:
        dtype = torch.get_autocast_dtype(device.lower())
        with internal._ExcludeDispatchKeyGuard(key):
            return op(*(x.to(dtype) if _casts(x) else x for x in given))

    return cast


def _casts(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point() and x.dtype != torch.float64
