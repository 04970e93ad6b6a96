"""Pattern → two more operators of torch's: its forward pass where gradients follow, and its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from attncc.ir.cascade import Cascade
from attncc.runtime.library import LIBRARY, LOCK, define, fake, is_number, known, schema
from attncc.runtime.slices import sliced
from attncc.schedule.training import Training

TWICE = (
    "`{}` has no second derivative: its gradients are kernels, which are not differentiated again. "
    'The dense definition is: attncc.load(..., backend="reference")'
)


@dataclass(frozen=True)
class Runs:
    """What stands behind the operators of a pattern. Arguments are said by what they are called in the
    pattern, and inputs in whose gradients a pass is, likewise.

    `plain` gives the outputs, `forward` also what is saved, and `backward`, which takes what it needs after
    the arguments, the gradients. `training` plans the two, PatternError where they have no kernels.
    """

    plain: Callable[[dict[str, Any]], Any]
    training: Callable[[tuple[str, ...]], Training]
    forward: Callable[[tuple[str, ...], dict[str, Any]], Any]
    backward: Callable[[tuple[str, ...], dict[str, Any], tuple[torch.Tensor, ...]], Any]


def needed(cascade: Cascade, given: tuple[Any, ...]) -> tuple[str, ...]:
    """The inputs whose gradients a call asks for."""
    if not torch.is_grad_enabled() or all(t.kind != "float" for t in cascade.outputs):
        return ()
    pairs = zip(cascade.inputs, given, strict=True)
    return tuple(t.name for t, x in pairs if not is_number(t) and x.requires_grad)


def differentiable(name: str, cascade: Cascade, backend: str | None, wrt: tuple[str, ...], runs: Runs) -> Any:
    """`torch.ops.attncc.<name>_forward`: the inputs → the outputs, and after them what is saved. Its
    gradients are `<name>_backward`: the inputs, what is saved, what reaches the outputs → gradients.
    """
    training = runs.training(wrt)
    with LOCK:
        found = known(f"{name}_forward")
        return found or _connected(name, cascade, backend, training, runs)


def _connected(name: str, cascade: Cascade, backend: str | None, training: Training, runs: Runs) -> Any:
    wrt = tuple(t.name for t in training.wrt)
    inputs = [t.name for t in cascade.inputs]
    back = _backward(f"{name}_backward", cascade, training, wrt, runs)

    def real(*given: Any) -> Any:
        return runs.forward(wrt, dict(zip(inputs, given, strict=True)))

    def imagined(*given: Any) -> Any:
        return fake(training.forward, backend, dict(zip(inputs, given, strict=True)))

    takes = schema(cascade.inputs, len(training.forward.outputs))
    forward = define(f"{name}_forward", takes, real, imagined)
    sliced(f"{name}_forward", forward, training.forward)
    keep, gradients = _formulas(cascade, training, back)
    torch.library.register_autograd(f"attncc::{name}_forward", gradients, setup_context=keep, lib=LIBRARY)
    return forward


def _formulas(
    cascade: Cascade, training: Training, back: Any
) -> tuple[Callable[..., None], Callable[..., tuple[Any, ...]]]:
    """What is kept for the gradients, and the gradients from it."""
    names = [t.name for t in training.forward.outputs]
    saved = [names.index(t.name) for t in training.saved]
    reached = [n for n, t in enumerate(cascade.outputs) if t.kind == "float"]
    wrt = [t.name for t in training.wrt]

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        made = output if isinstance(output, tuple) else (output,)
        tensors = [x for t, x in zip(cascade.inputs, inputs, strict=True) if not is_number(t)]
        ctx.numbers = [x for t, x in zip(cascade.inputs, inputs, strict=True) if is_number(t)]
        ctx.save_for_backward(*tensors, *(made[n] for n in saved))
        ctx.mark_non_differentiable(*(x for n, x in enumerate(made) if n not in reached))
        ctx.shapes = [(made[n].shape, made[n].dtype) for n in reached]
        ctx.set_materialize_grads(False)

    def gradients(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        tensors = iter(ctx.saved_tensors)
        numbers = iter(ctx.numbers)
        inputs = [next(numbers) if is_number(t) else next(tensors) for t in cascade.inputs]
        kept = list(tensors)
        device = next(x for x in inputs if torch.is_tensor(x)).device
        given = [
            torch.zeros(shape, dtype=dtype, device=device) if (x := cotangents[n]) is None else x
            for n, (shape, dtype) in zip(reached, ctx.shapes, strict=True)
        ]
        made = back(*inputs, *kept, *given)
        found = dict(zip(wrt, made if isinstance(made, tuple) else (made,), strict=True))
        return tuple(found.get(t.name) for t in cascade.inputs)

    return keep, gradients


def _backward(name: str, cascade: Cascade, training: Training, wrt: tuple[str, ...], runs: Runs) -> Any:
    """`torch.ops.attncc.<name>`, the gradients; to differentiate them is an error."""
    takes = (*cascade.inputs, *training.saved, *training.given)
    places = [n for n, t in enumerate(cascade.inputs) if t.name in wrt]
    count = len(cascade.inputs)

    def real(*given: Any) -> Any:
        arguments = dict(zip((t.name for t in cascade.inputs), given[:count], strict=True))
        made = runs.backward(wrt, arguments, given[count:])
        found = made if isinstance(made, tuple) else (made,)
        return _one_or_all([x.contiguous() for x in found])

    def imagined(*given: Any) -> Any:
        return _one_or_all([given[n].new_empty(given[n].shape) for n in places])

    def twice(ctx: Any, *cotangents: torch.Tensor | None) -> None:
        raise NotImplementedError(TWICE.format(cascade.name))

    back = define(name, schema(takes, len(places)), real, imagined)
    torch.library.register_autograd(f"attncc::{name}", twice, lib=LIBRARY)
    sliced(name, back, training.backward)
    return back


def _one_or_all(made: list[torch.Tensor]) -> Any:
    return made[0] if len(made) == 1 else tuple(made)
