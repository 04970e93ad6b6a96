"""Cascade → warnings: masks that say what their author may not have meant."""

from __future__ import annotations

from attncc.diagnostics import Diagnostic, place
from attncc.ir.cascade import Cascade
from attncc.lint.found import alike, empty_rows, leaks, unsafe, unseen
from attncc.lint.sampled import MANY, trials
from attncc.lint.seen import masks


def lints(cascade: Cascade) -> tuple[Diagnostic, ...]:
    """What may not be meant, each proved or with the call in which it was seen, in the order of the text."""
    found, some = masks(cascade), trials(cascade)
    many = trials(cascade, MANY) if any(m.heads for m in found) else ()
    warnings = [
        *empty_rows(found, some),
        *leaks(found, some),
        *unsafe(found, some),
        *alike(found, some, many),
        *unseen(found, many),
    ]
    return tuple(sorted(dict.fromkeys(warnings), key=place))
