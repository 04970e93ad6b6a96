"""Files by name → sources, and texts → files, whole or not at all."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from attncc.diagnostics import Diagnostic, PatternError
from attncc.source import Source


class BadFile(PatternError):
    """A file that cannot be read as text, or not be written, said in the form of every other mistake."""

    def __init__(self, name: str, message: str, help: str = ""):
        super().__init__(Source(name, ""), [Diagnostic("bad-file", message, (), help)])


def status(errors: Iterable[PatternError]) -> int:
    """The exit status that some errors ask for."""
    return max((2 if isinstance(error, BadFile) else 1 for error in errors), default=0)


def read(name: str) -> Source:
    """A file, or standard input for `-`, as a source. Raises BadFile."""
    shown = "<stdin>" if name == "-" else name
    try:
        data = _standard_input() if name == "-" else Path(name).read_bytes()
    except FileNotFoundError:
        raise BadFile(name, f"there is no file `{name}`") from None
    except IsADirectoryError:
        raise BadFile(name, f"`{name}` is a directory", f"name its files: `{name}/*.attn`") from None
    except OSError as error:
        raise BadFile(name, f"`{name}` cannot be read: {error.strerror}") from None
    if b"\0" in data:
        raise BadFile(shown, f"`{shown}` is not text: it holds a zero byte", "save it as UTF-8")
    try:
        return Source.decode(shown, data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadFile(shown, f"`{shown}` is not UTF-8, in line {line}", "save it as UTF-8") from None


def _standard_input() -> bytes:
    """All of it. ClickException where it is closed, or cannot be read."""
    if sys.stdin is None:
        raise click.ClickException("standard input is closed")
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise click.ClickException(f"standard input cannot be read: {error.strerror or error}") from None


def write(name: str, text: str | bytes) -> None:
    """Writes a file, whole or not at all: a full disk leaves what was there. Raises BadFile."""
    data = text if isinstance(text, bytes) else text.encode()
    try:
        path = Path(os.path.realpath(name))  # a link stays a link
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # a device is written to, not replaced
            return
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with fresh.open("xb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            if path.exists():
                fresh.chmod(path.stat().st_mode & 0o7777)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise BadFile(name, f"`{name}` cannot be written: {error.strerror}") from None


def report_difference(source: Source, text: str, diff: bool) -> None:
    """Says that a text is not in canonical form, or how it differs from it; nothing where it is."""
    if diff:
        lines = difflib.unified_diff(
            source.text.split("\n"),
            text.split("\n"),
            source.name,
            f"{source.name} (formatted)",
            lineterm="",
        )
        click.echo("".join(f"{line}\n" for line in lines).encode(), nl=False)
    elif text != source.text:
        click.echo(f"would reformat {source.name}", err=True)


def keep(output: str, file: str) -> None:
    """UsageError where an output would replace the pattern it is made of."""
    if output != "-" and file != "-" and os.path.realpath(output) == os.path.realpath(file):
        raise click.UsageError(f"`{output}` is the pattern itself; name another file to write to")


def deliver(output: str, text: str | bytes) -> None:
    """Puts a text or bytes in a file, or on standard output for `-`. Raises BadFile."""
    if output == "-":
        click.echo(text if isinstance(text, bytes) else text.encode(), nl=False)
    else:
        write(output, text)
