"""Cascade → the plans of its forward pass, which leaves what gradients need, and of the backward pass."""

from __future__ import annotations

from dataclasses import dataclass

from attncc.ir.cascade import Cascade, Tensor
from attncc.schedule.plan import Plan


@dataclass(frozen=True)
class Training:
    """Two cascades before the passes, and their kernels. `forward` gives the outputs and, after them, what
    is saved and is no output; `backward` takes the inputs, what is `saved`, and what reaches the outputs,
    `given`. `wrt` are the inputs whose gradients it gives, in order.
    """

    forward: Cascade
    forward_plan: Plan
    backward: Cascade
    backward_plan: Plan
    saved: tuple[Tensor, ...]
    given: tuple[Tensor, ...]
    wrt: tuple[Tensor, ...]
