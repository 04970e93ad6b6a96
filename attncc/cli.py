"""A command line → an exit status: check, fmt, compile and explain, over files of patterns.

0: nothing wrong. 1: mistakes in a pattern, on stderr. 2: a command or file that cannot be used. The compiler
is imported where it is called, so that `check`, `fmt` and `explain` start without torch or triton.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from attncc.diagnostics import Diagnostic, PatternError, as_json
from attncc.schedule.spec import KINDS, SHORT
from attncc.source import Source

if TYPE_CHECKING:
    from attncc.explain import Explanation
    from attncc.ir.cascade import Cascade

EXTENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([1-9][0-9]*)")
TARGET = re.compile(r"cpu|cuda:[0-9]+|hip:gfx[0-9a-f]+")


class BadFile(PatternError):
    """A file that cannot be read as text, or not be written, said in the form of every other mistake."""

    def __init__(self, name: str, message: str, help: str = ""):
        super().__init__(Source(name, ""), [Diagnostic("bad-file", message, (), help)])


def status(errors: Iterable[PatternError]) -> int:
    """The exit status that some errors ask for."""
    return max((2 if isinstance(error, BadFile) else 1 for error in errors), default=0)


class Commands(click.Group):
    """Commands whose PatternError becomes its text on stderr and an exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PatternError as error:
            click.echo(str(error), err=True)
            ctx.exit(status([error]))


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib import metadata

        try:
            click.echo(f"attncc {metadata.version('attncc')}")
        except metadata.PackageNotFoundError:
            click.echo("attncc (a checkout that is not installed)")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version)
def main() -> None:
    """Compile the mathematics of an attention mechanism. FILE is a text of patterns, `-` standard input."""


# ---- commands ----------------------------------------------------------------------------------


@main.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def check(ctx: click.Context, files: tuple[str, ...], form: str) -> None:
    """Report every mistake in FILE..."""
    errors = [error for name in files if (error := refusal(name)) is not None]
    if form == "json":
        found = [entry for error in errors for entry in as_json(error.source, error.diagnostics)]
        click.echo(json.dumps(found, indent=2))
    elif errors:
        click.echo("\n\n".join(map(str, errors)), err=True)
    else:
        click.echo(f"{len(files)} file{'s' * (len(files) > 1)}, no mistakes")
    ctx.exit(status(errors))


@main.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--check", "only_check", is_flag=True, help="Change nothing; exit with 1 if a file would change."
)
@click.option("--diff", is_flag=True, help="Change nothing; print what would change.")
@click.pass_context
def fmt(ctx: click.Context, files: tuple[str, ...], only_check: bool, diff: bool) -> None:
    """Rewrite FILE... in the one canonical form; standard input goes to standard output."""
    errors: list[PatternError] = []
    differs = False
    for name in files:
        try:
            source = read(name)
            text = canonical(source)
            if diff or only_check:
                differs |= text != source.text
                report_difference(source, text, diff)
            elif name == "-":
                click.echo(text.encode(), nl=False)
            elif text != source.text:
                write(name, text)
                click.echo(f"formatted {name}", err=True)
        except PatternError as error:
            errors.append(error)
            click.echo(str(error), err=True)
    ctx.exit(max(status(errors), int(differs)))


def _target(_: click.Context, __: click.Parameter, value: str) -> str:
    if not TARGET.fullmatch(value):
        raise click.BadParameter(f"`{value}` is none of cpu, cuda:90 and the like, hip:gfx942 and the like")
    return value


def _extents(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    extents: dict[str, int] = {}
    for value in values:
        match = EXTENT.fullmatch(value)
        if match is None:
            raise click.BadParameter(f"`{value}` is not an index and its extent, as in `d=128`")
        if match[1] in extents:
            raise click.BadParameter(f"`{match[1]}` is given twice")
        extents[match[1]] = int(match[2])
    return extents


@main.command("compile")
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", required=True, metavar="OUT", help="A Python file, `-` for standard output.")
@click.option("--target", default="cuda:90", show_default=True, callback=_target, metavar="DEVICE")
@click.option("--extent", "extents", multiple=True, callback=_extents, metavar="INDEX=N", help="As `d=128`.")
@click.option(
    "--dtype",
    type=click.Choice(list(SHORT)),
    default=None,
    help="One element type; all that the backend takes by default.",
)
def compile_(file: str, output: str, target: str, extents: dict[str, int], dtype: str | None) -> None:
    """Write the pattern of FILE as one module that stands alone."""
    source = read(file)
    if output != "-" and file != "-" and os.path.realpath(output) == os.path.realpath(file):
        raise click.UsageError(f"`{output}` is the pattern itself; name another file to write to")
    text = compiled(source, target, extents, dtype)
    if output == "-":
        click.echo(text.encode(), nl=False)
    else:
        write(output, text)


@main.command()
@click.argument("file", metavar="FILE")
@click.option("--length", type=click.IntRange(min=1), default=8192, show_default=True, help="Of a sequence.")
@click.option("--json", "as_data", is_flag=True, help="Plain data in place of text.")
def explain(file: str, length: int, as_data: bool) -> None:
    """Say what the pattern of FILE costs, and why: passes, state, tiles visited, work and traffic."""
    said = explained(meant(read(file)), length)
    click.echo(json.dumps(said.data(), indent=2) if as_data else said.text())


# ---- files -------------------------------------------------------------------------------------


def read(name: str) -> Source:
    """A file, or standard input for `-`, as a source. Raises BadFile."""
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except FileNotFoundError:
        raise BadFile(name, f"there is no file `{name}`") from None
    except IsADirectoryError:
        raise BadFile(name, f"`{name}` is a directory", f"name its files: `{name}/*.attn`") from None
    except OSError as error:
        raise BadFile(name, f"`{name}` cannot be read: {error.strerror}") from None
    shown = "<stdin>" if name == "-" else name
    if b"\0" in data:
        raise BadFile(shown, f"`{shown}` is not text: it holds a zero byte", "save it as UTF-8")
    try:
        return Source.decode(shown, data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadFile(shown, f"`{shown}` is not UTF-8, in line {line}", "save it as UTF-8") from None


def write(name: str, text: str) -> None:
    """Puts a text in a file, whole or not at all: a full disk leaves what was there. Raises BadFile."""
    try:
        path = Path(name).resolve()  # a link stays a link
        if path.exists() and not path.is_file():
            path.write_bytes(text.encode())  # a device is written to, not replaced
            return
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with fresh.open("xb") as out:
                out.write(text.encode())
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


# ---- the compiler, as the commands call it -----------------------------------------------------


def refusal(name: str) -> PatternError | None:
    """What is wrong with a file, None if nothing is."""
    from attncc.ir.check import check
    from attncc.syntax.parser import parse

    try:
        source = read(name)
        file = parse(source)
        if file.pattern is not None:
            check(file, source)
    except PatternError as error:
        return error
    return None


def canonical(source: Source) -> str:
    """A text as `fmt` writes it; never one that says anything else."""
    from attncc.syntax.parser import parse
    from attncc.syntax.printer import show

    file = parse(source)
    text = show(file)
    try:
        kept = parse(Source(source.name, text)) == file
    except PatternError:
        kept = False
    assert kept, f"the canonical form of {source.name} would say something else, so it is left alone:\n{text}"
    return text


def meant(source: Source) -> Cascade:
    """What a pattern means."""
    from attncc.ir.check import check
    from attncc.syntax.parser import parse

    return check(parse(source), source)


def compiled(source: Source, target: str, extents: dict[str, int], dtype: str | None) -> str:
    """The module that a pattern becomes."""
    from attncc import pipeline
    from attncc.schedule.spec import Specialisation

    backend = "torch" if target == "cpu" else "triton"
    dtypes = KINDS[backend] if dtype is None else (SHORT[dtype],)
    chosen = (tuple(sorted(extents.items())),) if extents else ()
    try:
        return pipeline.compile(source, Specialisation(backend, target, dtypes, chosen))
    except pipeline.Unfit as error:
        raise click.UsageError(str(error)) from None


def explained(cascade: Cascade, length: int) -> Explanation:
    """What a cascade costs at a length."""
    from attncc.explain import explain

    return explain(cascade, length)
