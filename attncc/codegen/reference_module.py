"""Cascade → a module that holds the dense reference alone."""

from __future__ import annotations

from attncc.codegen.reference import reference
from attncc.ir.cascade import Cascade


def module_text(cascade: Cascade) -> str:
    """Plain PyTorch, differentiable, for every pattern that means something."""
    made = reference(cascade)
    parts = [
        f'"""{cascade.name}: the dense reference."""\n\nimport math\n\nimport torch',
        made.helpers,
        made.function,
    ]
    return "\n\n\n".join(p.strip("\n") for p in parts if p.strip()) + "\n"
