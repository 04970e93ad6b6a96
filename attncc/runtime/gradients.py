"""Pattern → two more operators of torch's: its forward pass where gradients follow, and its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from attncc.ir.cascade import Cascade, Tensor, reads
from attncc.runtime.differentiable import Formula, Keep, below, differentiable, nothing, register
from attncc.runtime.library import LOCK, define, fake, known, schema
from attncc.schedule.training import Training

TWICE = (
    "`{}` has no second derivative: its gradients are kernels, which are not differentiated again. The dense "
    'definition has all: attncc.load(..., backend="reference")'
)


@dataclass(frozen=True)
class Runs:
    """What stands behind the operators of a pattern. Arguments, and the inputs whose gradients are asked for,
    are by what they are called in the pattern.

    `plain` gives the outputs, `forward` also what is saved, and `backward`, which takes what it needs after
    the arguments, the gradients. `training` plans the two, PatternError where they have no kernels.
    """

    plain: Callable[[dict[str, Any]], Any]
    training: Callable[[tuple[str, ...]], Training]
    forward: Callable[[tuple[str, ...], dict[str, Any]], Any]
    backward: Callable[[tuple[str, ...], dict[str, Any], tuple[torch.Tensor, ...]], Any]


def reaching(cascade: Cascade) -> tuple[str, ...]:
    """The inputs on which a real output depends through real values, in the pattern's order."""
    bodies = {e.tensor: e.body for e in cascade.equations}
    waiting = [e.tensor for e in cascade.equations if e.tensor.name in {t.name for t in cascade.outputs}]
    found: set[Tensor] = set()
    while waiting:
        tensor = waiting.pop()
        if tensor.kind == "float" and tensor not in found:
            found.add(tensor)
            waiting += [r.tensor for r in reads(bodies[tensor])] if tensor in bodies else []
    return tuple(t.name for t in cascade.inputs if t.loaded and t in found)


def needed(inputs: tuple[str, ...], arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of the inputs whose gradients a call asks for."""
    if not torch.is_grad_enabled():
        return ()
    return tuple(name for name in inputs if _requires_grad(arguments[name]))


def apart(arguments: Mapping[str, Any]) -> AbstractContextManager[Any]:
    """Around a call whose outputs depend on nothing that requires grad, whatever it is given besides."""
    given = any(isinstance(x, torch.Tensor) and x.requires_grad for x in arguments.values())
    return torch.no_grad() if given and torch.is_grad_enabled() else nullcontext()


def _requires_grad(x: Any) -> bool:
    """Also where torch.func has wrapped it; what is no tensor is said by others."""
    if not isinstance(x, torch.Tensor):
        return False
    wrapped: Any = torch._C._functorch
    while not x.requires_grad:
        if not wrapped.is_functorch_wrapped_tensor(x):
            return False
        x = wrapped.get_unwrapped(x)
    return True


def direct(cascade: Cascade, wrt: tuple[str, ...], runs: Runs) -> Any:
    """A function from the inputs in order to the outputs, with gradients."""
    training = runs.training(wrt)
    forward, backward = _forward(cascade, wrt, runs), _backward(cascade, wrt, runs)
    name = f"{cascade.name}_backward"
    watched = differentiable(name, backward, training.backward, nothing, _twice(cascade))

    def back(*given: Any) -> Any:
        # what reaches the outputs may be mapped, or differentiated
        plain = not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
        return (backward if plain else watched)(*given)

    formulas = _formulas(cascade, training, back)
    function = differentiable(f"{cascade.name}_forward", forward, training.forward, *formulas)
    return lambda *given: outputs_of(cascade, function(*given))


def outputs_of(cascade: Cascade, made: Any) -> Any:
    """What a forward pass gives, without what it saves."""
    count = len(cascade.outputs)
    return made[:count] if count > 1 else made[0] if isinstance(made, tuple) else made


def passes(name: str, cascade: Cascade, backend: str | None, wrt: tuple[str, ...], runs: Runs) -> Any:
    """`torch.ops.attncc.<name>_forward`: the inputs → the outputs, and after them what is saved. Its
    gradients are `<name>_backward`: the inputs, what is saved, what reaches the outputs → gradients.
    """
    training = runs.training(wrt)
    with LOCK:
        if known(f"{name}_forward") is None:
            back = _backward_op(f"{name}_backward", cascade, training, wrt, runs)
            _forward_op(f"{name}_forward", cascade, backend, training, wrt, back, runs)
        return known(f"{name}_forward")


def _forward(cascade: Cascade, wrt: tuple[str, ...], runs: Runs) -> Callable[..., Any]:
    inputs = [t.name for t in cascade.inputs]
    return lambda *given: runs.forward(wrt, dict(zip(inputs, given, strict=True)))


def _backward(cascade: Cascade, wrt: tuple[str, ...], runs: Runs) -> Callable[..., Any]:
    inputs = [t.name for t in cascade.inputs]

    def run(*given: Any) -> Any:
        arguments = dict(zip(inputs, given[: len(inputs)], strict=True))
        made = runs.backward(wrt, arguments, given[len(inputs) :])
        return _one_or_all([x.contiguous() for x in (made if isinstance(made, tuple) else (made,))])

    return run


def _forward_op(
    name: str,
    cascade: Cascade,
    backend: str | None,
    training: Training,
    wrt: tuple[str, ...],
    back: Any,
    runs: Runs,
) -> None:
    inputs = [t.name for t in cascade.inputs]

    def imagined(*given: Any) -> Any:
        return fake(training.forward, backend, dict(zip(inputs, given, strict=True)))

    said = schema(cascade.inputs, len(training.forward.outputs))
    op = define(name, said, _forward(cascade, wrt, runs), imagined)
    function = differentiable(name, below(op), training.forward, *_formulas(cascade, training, back))
    register(op, function, function)


def _formulas(cascade: Cascade, training: Training, back: Any) -> tuple[Keep, Formula]:
    """What is kept for the gradients, and the gradients from it."""
    names = [t.name for t in training.forward.outputs]
    saved = [names.index(t.name) for t in training.saved]
    reached = [n for n, t in enumerate(cascade.outputs) if t.kind == "float"]
    wrt = [t.name for t in training.wrt]
    loaded = [t.loaded for t in cascade.inputs]

    def keep(ctx: Any, inputs: tuple[Any, ...], made: tuple[torch.Tensor, ...]) -> None:
        pairs = list(zip(cascade.inputs, inputs, strict=True))
        ctx.numbers = [x for t, x in pairs if not t.loaded]
        ctx.save_for_backward(*(x for t, x in pairs if t.loaded), *(made[n] for n in saved))
        ctx.mark_non_differentiable(*(x for n, x in enumerate(made) if n not in reached))
        ctx.zeros = [(made[n].shape, made[n].dtype, made[n].device) for n in reached]

    def gradients(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        tensors, numbers = iter(ctx.saved_tensors), iter(ctx.numbers)
        inputs = [next(tensors) if held else next(numbers) for held in loaded]
        kept = tuple(tensors)
        given = [
            torch.zeros(shape, dtype=dtype, device=device) if x is None else x
            for (shape, dtype, device), x in zip(ctx.zeros, (cotangents[n] for n in reached), strict=True)
        ]
        made = back(*inputs, *kept, *given)
        found = dict(zip(wrt, made if isinstance(made, tuple) else (made,), strict=True))
        return tuple(found.get(t.name) for t in cascade.inputs)

    return keep, gradients


def _backward_op(name: str, cascade: Cascade, training: Training, wrt: tuple[str, ...], runs: Runs) -> Any:
    places = [n for n, t in enumerate(cascade.inputs) if t.name in wrt]

    def imagined(*given: Any) -> Any:
        return _one_or_all([given[n].new_empty(given[n].shape) for n in places])

    said = schema((*cascade.inputs, *training.saved, *training.given), len(wrt))
    op = define(name, said, _backward(cascade, wrt, runs), imagined)
    function = differentiable(name, below(op), training.backward, nothing, _twice(cascade))
    register(op, lambda *given: (function if torch.is_grad_enabled() else below(op))(*given), function)
    return op


def _twice(cascade: Cascade) -> Formula:
    def twice(ctx: Any, *cotangents: Any) -> tuple[Any, ...]:
        raise NotImplementedError(TWICE.format(cascade.name))

    return twice


def _one_or_all(made: list[torch.Tensor]) -> Any:
    return made[0] if len(made) == 1 else tuple(made)
