"""What is wrong with a pattern, said to the person who wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from typing import Literal as OneOf

from attncc.source import Source, Span


@dataclass(frozen=True)
class Label:
    """A place in the source and what is to be seen there."""

    span: Span
    text: str = ""


@dataclass(frozen=True)
class Diagnostic:
    """One mistake: `code` names its kind, `message` is one lower-case phrase, `help` says what to do.

    A warning is no mistake, but what its author may not have meant.
    """

    code: str
    message: str
    labels: tuple[Label, ...]
    help: str = ""
    severity: OneOf["error", "warning"] = "error"


class PatternError(Exception):
    """A pattern that cannot be used: every mistake found in it, and the source they point into."""

    def __init__(self, source: Source, diagnostics: Sequence[Diagnostic]):
        self.source = source
        self.diagnostics = tuple(sorted(diagnostics, key=place))
        super().__init__(render(source, self.diagnostics))


def place(diagnostic: Diagnostic) -> int:
    """Where in the source a diagnostic begins."""
    return diagnostic.labels[0].span.start if diagnostic.labels else 0


def render(source: Source, diagnostics: Sequence[Diagnostic]) -> str:
    """All diagnostics as text, each with its line of the source."""
    return "\n\n".join(_render_one(source, d) for d in diagnostics)


def _render_one(source: Source, diagnostic: Diagnostic) -> str:
    lines = [f"{diagnostic.severity}[{diagnostic.code}]: {diagnostic.message}"]
    places = [(source.position(label.span.start), label) for label in diagnostic.labels]
    width = max((len(str(line)) for (line, _), _ in places), default=1)
    for rank, ((line, column), label) in enumerate(places):
        if rank == 0:
            lines.append(f"{' ' * width}--> {source.name}:{line}:{column}")
        if rank == 0 or places[rank - 1][0][0] != line:
            lines.append(f"{' ' * width} |")
            lines.append(f"{line:>{width}} | {source.line(line)}".rstrip())
        text = source.line(line)
        reach = max(1, min(label.span.end, label.span.start + len(text) - column + 1) - label.span.start)
        indent = "".join("\t" if c == "\t" else " " for c in text[: column - 1])
        lines.append(f"{' ' * width} | {indent}{'^' * reach} {label.text}".rstrip())
    if diagnostic.help:
        lines.append(f"{' ' * width} = help: {diagnostic.help}")
    return "\n".join(lines)


def as_json(source: Source, diagnostics: Sequence[Diagnostic]) -> list[dict[str, Any]]:
    """All diagnostics as plain data with stable keys."""
    return [
        {
            "severity": d.severity,
            "code": d.code,
            "message": d.message,
            "file": source.name,
            "labels": [_label_json(source, label) for label in d.labels],
            "help": d.help,
        }
        for d in diagnostics
    ]


def _label_json(source: Source, label: Label) -> dict[str, Any]:
    line, column = source.position(label.span.start)
    end_line, end_column = source.position(label.span.end)
    return {
        "line": line,
        "column": column,
        "end_line": end_line,
        "end_column": end_column,
        "text": label.text,
    }
