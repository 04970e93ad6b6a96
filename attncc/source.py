"""Where text comes from: a named source, and spans that point into it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path


@dataclass(frozen=True)
class Span:
    """Half-open range of character offsets in one source."""

    start: int
    end: int


NOWHERE = Span(0, 0)


@dataclass(frozen=True)
class Source:
    """A pattern's text and the name it is reported under."""

    name: str
    text: str

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Offset of the first character of every line."""
        return (0, *(i + 1 for i, c in enumerate(self.text) if c == "\n"))

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both counted from 1."""
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def line(self, number: int) -> str:
        """Text of one line, counted from 1, without its end."""
        start = self.starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else len(self.text)].rstrip("\r")

    @staticmethod
    def read(path: str | Path) -> Source:
        """A file as a source; a byte-order mark is dropped, line ends become `\\n`."""
        return Source.decode(str(path), Path(path).read_bytes())

    @staticmethod
    def decode(name: str, data: bytes) -> Source:
        """The bytes of a file as a source; raises UnicodeDecodeError where they are not UTF-8."""
        text = data.decode("utf-8-sig")
        return Source(name, text.replace("\r\n", "\n").replace("\r", "\n"))
