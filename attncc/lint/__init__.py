"""Cascade → warnings: masks that say what their author may not have meant."""

from __future__ import annotations

from dataclasses import replace

from attncc.diagnostics import Diagnostic, Label, place
from attncc.ir.cascade import Cascade
from attncc.lint.branches import unused, wheres
from attncc.lint.found import alike, empty_rows, leaks, unsafe, unseen
from attncc.lint.sampled import MANY, trials
from attncc.lint.seen import masks
from attncc.source import Source, Span
from attncc.syntax import ast
from attncc.syntax.definitions import expand
from attncc.syntax.parser import parse


def lints(cascade: Cascade, source: Source) -> tuple[Diagnostic, ...]:
    """What may not be meant, each proved or with the call in which it was seen, in the order of the text."""
    said = _said(source)
    found, some = masks(cascade), trials(cascade)
    many = trials(cascade, MANY) if any(m.heads for m in found) else ()
    warnings = [
        *empty_rows(found, some),
        *leaks(found, some),
        *unsafe(found, some),
        *alike(found, some, many),
        *unseen(found, many),
    ]
    predicates = wheres(said)
    at_predicates = [_moved(w, predicates) for w in warnings]
    return tuple(sorted(dict.fromkeys((*at_predicates, *unused(cascade, said))), key=place))


def _said(source: Source) -> dict[str, ast.Expr]:
    """What every equation says, as written, but for definitions."""
    file = parse(source)
    assert file.pattern is not None, "a cascade is made of a pattern"
    pattern = expand(file.pattern, file.definitions, source)
    return {s.tensor.name: s.body for s in pattern.statements if isinstance(s, ast.Equate)}


def _moved(warning: Diagnostic, predicates: dict[Span, Span]) -> Diagnostic:
    """A warning at the predicate of its reduction, where that has one."""
    labels = tuple(Label(predicates.get(label.span, label.span), label.text) for label in warning.labels)
    return replace(warning, labels=labels)
