"""An operator and the formula of its gradients → a function that torch differentiates and maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from attncc.ir.cascade import Cascade
from attncc.runtime.library import LIBRARY
from attncc.runtime.slices import rule

Keep: TypeAlias = Callable[[Any, tuple[Any, ...], tuple[torch.Tensor, ...]], None]
"""Puts what the gradients need, of inputs and outputs, into torch's context."""

Formula: TypeAlias = Callable[..., tuple[Any, ...]]
"""Torch's context and what reaches the outputs, None where nothing does → a gradient for every input."""

internal: Any = torch._C

FORWARD_MODE = (
    "`{}` has no forward-mode derivative, only torch.func.grad, vjp and jacrev; the dense definition has: "
    'attncc.load(..., backend="reference")'
)


def differentiable(
    name: str, run: Callable[..., Any], cascade: Cascade, keep: Keep, gradients: Formula
) -> Any:
    """What runs, as a function of the cascade's inputs."""
    mapped = rule(cascade)

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(*given: Any) -> Any:
            return run(*given)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.set_materialize_grads(False)
            keep(ctx, inputs, output if isinstance(output, tuple) else (output,))

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            return gradients(ctx, *cotangents)

        @staticmethod
        def vmap(info: Any, axes: tuple[int | None, ...], *given: Any) -> tuple[Any, Any]:
            return mapped(function, info.batch_size, axes, given)

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            raise NotImplementedError(FORWARD_MODE.format(cascade.name))

    Differentiable.__name__ = name
    function: Any = Differentiable.apply
    return function


def below(op: Any) -> Callable[..., Any]:
    """What an operator computes, of which nothing is recorded."""

    def run(*given: Any) -> Any:
        with internal._AutoDispatchBelowAutograd():
            return op(*given)

    return run


def nothing(ctx: Any, inputs: tuple[Any, ...], made: tuple[torch.Tensor, ...]) -> None:
    """Keeps nothing."""


def register(op: Any, autograd: Callable[..., Any], functorch: Callable[..., Any]) -> None:
    """What an operator is where torch differentiates, and what it is inside torch.func."""
    LIBRARY.impl(op, autograd, "Autograd")
    LIBRARY.impl(op, functorch, "FuncTorchDynamicLayerFrontMode")
