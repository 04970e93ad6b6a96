"""Names of the files that travel with attncc → their text, in a checkout and installed alike."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from attncc.source import Source


@cache
def folder(name: str) -> Path:
    """`grammar` or `patterns`: beside the package in a checkout, under `attncc/_data` once installed."""
    package = Path(__file__).resolve().parent
    return next(
        (p for p in (package / "_data" / name, package.parent / name) if p.is_dir()), package / "_data" / name
    )


@cache
def grammar() -> str:
    """The grammar of the language, for lark."""
    return (folder("grammar") / "attn.lark").read_text(encoding="utf-8")


@cache
def standard() -> Source:
    """The standard definitions."""
    return Source("std.attn", Source.read(folder("patterns") / "std.attn").text)
