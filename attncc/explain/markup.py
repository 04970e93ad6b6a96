"""Names, attributes and texts → HTML elements; what is not markup already is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Markup(str):
    """Text that is HTML."""


def element(name: str, *inside: str, **attributes: str) -> Markup:
    """`<name attribute="...">inside</name>`; an underscore after an attribute's name, as in `class_`, is
    dropped.
    """
    given = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{given}>{joined(inside)}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """Texts and elements one after the other."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))
