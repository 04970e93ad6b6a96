"""Texts → what a page is made of: sections, equations, tables, and numbers that a glance should find."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attncc.explain.markup import Markup, element, joined
from attncc.explain.style import STYLE
from attncc.ir.cascade import Cascade
from attncc.ops import REDUCTIONS

WORD = re.compile(r"([A-Za-z_]\w*)")
KEYWORDS = {*REDUCTIONS, "where", "if", "then", "else", "and", "or", "not", "in", "tile"}


def document(title: str, parts: Iterable[Markup]) -> str:
    """A whole page."""
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        element("title", title),
        element("style", Markup(STYLE)),
    )
    body = element("body", element("main", *parts))
    return f'<!DOCTYPE html>\n<html lang="en">{head}\n{body}</html>\n'


def opening(cascade: Cascade) -> Markup:
    """The pattern's name, and its author's words."""
    paragraphs = re.split(r"\n\s*\n", cascade.doc.strip())
    return element("header", element("h1", cascade.name), *(element("p", p) for p in paragraphs if p))


def section(title: str, *inside: Markup) -> Markup:
    """A heading and what stands under it."""
    return element("section", element("h2", title), *inside)


def equations(lines: Iterable[str]) -> Markup:
    """One below the other."""
    return element("ol", *(element("li", element("code", _spoken(line))) for line in lines), class_="maths")


def _spoken(line: str) -> Markup:
    """An equation, its reductions and conditions set apart."""
    parts = WORD.split(line)
    return joined(element("i", part) if part in KEYWORDS else part for part in parts)


def figures(shown: Iterable[tuple[str, str]]) -> Markup:
    """Numbers in large letters, each with what it is."""
    items = (element("li", element("b", n), element("span", what)) for n, what in shown)
    return element("ul", *items, class_="figures")


def table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> Markup:
    """Rows under their titles."""
    head = element("tr", *(element("th", title) for title in titles))
    return element("table", head, *(element("tr", *(element("td", x) for x in row)) for row in rows))
