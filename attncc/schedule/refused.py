"""The rule by which a cascade has no kernels, and where it applies."""

from __future__ import annotations

from attncc.diagnostics import Diagnostic, Label
from attncc.source import Span


class Refused(Exception):
    """No kernel can be planned for a cascade: the rule that says so, and the edge where it applies."""

    def __init__(self, diagnostic: Diagnostic):
        self.diagnostic = diagnostic
        super().__init__(diagnostic.message)


def refuse(code: str, message: str, span: Span, why: str, help: str) -> Refused:
    return Refused(Diagnostic(code, message, (Label(span, why),), help))


REFERENCE = 'it runs as a dense reference: `attncc.load(path, backend="reference")`'
