"""A line that the grammar refuses, and the place where it does: what the rules about mistakes ask of both."""

from __future__ import annotations

from dataclasses import dataclass

from attncc.diagnostics import Diagnostic, Label
from attncc.source import Span
from attncc.syntax.lines import CLOSING, OPENING, RESERVED, Line, Word

COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
OPERATORS = (*COMPARISONS, "+", "-", "*", "/", "//", "%", "**", "and", "or", "not")

HEADER = "`pattern name(Q[b,h,q,d], window: int = 1024) -> O[b,h,q,e]:`"

FORMS = {
    "pattern": HEADER,
    "def": "`def softcap(x, cap) = cap * tanh(x / cap)` or `def total(i where c) x = sum(i where c) x`",
    "over": "`over b, h` or `over b, h with g = h // (|h| // |g|)`",
    "along": "`along q, k`",
    "align": "`align q to k` or `align q to k at start[b]`",
    "split": "`split k into n, i by block`",
    "index": "`index c: (|k| - l) // stride + 1`",
    "require": "`require causal`, `require covers`, `require cache <= 128` or `require passes(k) <= 1`",
    "assume": "`assume g in [-5, 0]` or `assume sorted doc`",
}
"""The words that begin a line, and what such a line looks like."""


def at(span: Span, code: str, message: str, help: str = "") -> Diagnostic:
    """A mistake with one place."""
    return Diagnostic(code, message, (Label(span),), help)


@dataclass(frozen=True)
class Refused:
    """A line, and the rank in it of the first word that fits nothing, its length if it ends too early."""

    text: str
    line: Line
    rank: int

    @property
    def here(self) -> str:
        """The word that fits nothing, or nothing."""
        return self.line[self.rank].text if self.rank < len(self.line) else ""

    @property
    def before(self) -> str:
        """The word in front of it, or nothing."""
        return self.line[self.rank - 1].text if self.rank else ""

    @property
    def span(self) -> Span:
        """The place of the word that fits nothing, or that of the last one."""
        return self.line[min(self.rank, len(self.line) - 1)].span

    @property
    def span_before(self) -> Span:
        """The place of the word in front of it."""
        return self.line[self.rank - 1].span

    def wrong(self, code: str, message: str, help: str = "") -> Diagnostic:
        """A mistake at the word that fits nothing."""
        return at(self.span, code, message, help)

    def rest(self) -> tuple[str, ...]:
        """That word and all behind it."""
        return tuple(word.text for word in self.line[self.rank :])

    def level(self) -> list[Word]:
        """The words in front of the place that stand in the same brackets, and in none of their own."""
        found: list[Word] = []
        depth = 0
        for word in reversed(self.line[: self.rank]):
            depth += (word.text in CLOSING) - (word.text in OPENING)
            if depth < 0:
                break
            if depth == 0 and word.text not in OPENING:
                found.append(word)
        return found[::-1]

    def opened(self) -> str:
        """The innermost bracket that is open at the place, or nothing."""
        depth = 0
        for word in reversed(self.line[: self.rank]):
            depth += (word.text in CLOSING) - (word.text in OPENING)
            if depth < 0:
                return word.text
        return ""

    def ends_operand(self) -> bool:
        """Whether an expression may end in front of the place."""
        if self.rank == 0:
            return False
        word = self.line[self.rank - 1]
        return _is_value(word) or word.text in (*CLOSING, "|")

    def starts_operand(self) -> bool:
        """Whether an expression may begin at the place."""
        if self.rank == len(self.line):
            return False
        word = self.line[self.rank]
        return _is_value(word) or word.text in (*OPENING, "|")


def _is_value(word: Word) -> bool:
    if word.kind == "name":
        return word.text not in RESERVED or word.text in ("true", "false", "inf")
    return word.kind == "number"
