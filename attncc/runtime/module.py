"""Text → module: a generated file, loaded without being written to disk."""

from __future__ import annotations

import hashlib
import linecache
import sys
from types import ModuleType


def load(text: str, name: str) -> ModuleType:
    """The module that a text is. Its lines stay readable for tracebacks, and for Triton, which compiles from
    source.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    path = f"<attncc {name} {digest}>"
    module = ModuleType(f"attncc_{name}_{digest}")
    module.__file__ = path
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    module.__attncc_text__ = text  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    exec(compile(text, path, "exec"), module.__dict__)
    return module
