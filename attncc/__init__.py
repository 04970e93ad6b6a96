"""attncc: the compiler for attention. Equations in, exact kernels out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attncc.diagnostics import PatternError

if TYPE_CHECKING:
    from attncc.jit import Attention, compile, load

__version__ = "0.1.0"
__all__ = ["Attention", "PatternError", "compile", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Attention", "compile", "load"):
        from attncc import jit

        return getattr(jit, name)
    raise AttributeError(f"module 'attncc' has no attribute {name!r}")
