"""attncc: the compiler for attention. Equations in, exact kernels out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attncc.diagnostics import PatternError

if TYPE_CHECKING:
    from attncc.attention import Attention, compile, load
    from attncc.decorator import jit

__version__ = "0.1.0"
__all__ = ["Attention", "PatternError", "compile", "jit", "load"]


def __getattr__(name: str) -> Any:
    if name in ("Attention", "compile", "load"):
        from attncc import attention

        return getattr(attention, name)
    if name == "jit":
        from attncc.decorator import jit

        return jit
    raise AttributeError(f"module 'attncc' has no attribute {name!r}")
