"""Commands from texts to texts: check, fmt and new."""

from __future__ import annotations

import json
import os
import re

import click

from attncc.cli import options
from attncc.cli.files import BadFile, read, report_difference, status, write
from attncc.diagnostics import Diagnostic, PatternError, as_json, render
from attncc.source import Source

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--json", "form", flag_value="json", help="The same as `--format json`.")
@click.option("--strict", is_flag=True, help="Exit with 1 after warnings, too.")
@click.pass_context
def check(ctx: click.Context, files: tuple[str, ...], form: str, strict: bool) -> None:
    """Report every mistake in FILE..., and what may not be meant."""
    errors: list[PatternError] = []
    found: list[tuple[Source, tuple[Diagnostic, ...]]] = []
    for name in files:
        try:
            source = read(name)
            found.append((source, judged(source)))
        except PatternError as error:
            errors.append(error)
            found.append((error.source, error.diagnostics))
    said = [(source, diagnostics) for source, diagnostics in found if diagnostics]
    warnings = sum(d.severity == "warning" for _, diagnostics in said for d in diagnostics)
    if form == "json":
        entries = [entry for source, diagnostics in said for entry in as_json(source, diagnostics)]
        click.echo(json.dumps(entries, indent=2))
    elif said:
        click.echo("\n\n".join(render(*one) for one in said), err=True)
    if form != "json" and not errors:
        also = f", {warnings} warning{'s' * (warnings > 1)}" if warnings else ""
        click.echo(f"{len(files)} file{'s' * (len(files) > 1)}, no mistakes{also}")
    ctx.exit(max(status(errors), int(strict and warnings > 0)))


@click.command()
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


@click.command()
@click.argument("name")
@click.option("-o", "--output", metavar="FILE", help="By default NAME.attn; `-` for standard output.")
@options.data
def new(name: str, output: str | None, as_data: bool) -> None:
    """Write a first pattern called NAME, to be changed; a file that is there is left alone."""
    from attncc.starter import starter

    if not NAME.fullmatch(name):
        raise click.UsageError(
            f"`{name}` is no name of a pattern: letters, digits and `_`, as in `my_attention`"
        )
    text = starter(name)
    if refused := mistake(Source("<new>", text)):
        raise click.UsageError(
            f"`{name}` has a meaning of its own in the language: choose another name"
        ) from refused
    file = output or f"{name}.attn"
    if file == "-":
        click.echo(text.encode(), nl=False)
        return
    if os.path.lexists(file):
        raise BadFile(file, f"`{file}` is there already", "name another file with `-o`")
    write(file, text)
    said = f"{file} is written. Change it, then: attncc check {file}; attncc viz {file}; attncc verify {file}"
    click.echo(json.dumps({"pattern": name, "file": file}, indent=2) if as_data else said)


def mistake(source: Source) -> PatternError | None:
    """What is wrong with a text, None if nothing is."""
    try:
        judged(source)
    except PatternError as error:
        return error
    return None


def judged(source: Source) -> tuple[Diagnostic, ...]:
    """Warnings about a text; PatternError with every mistake in it."""
    from attncc.ir.check import check
    from attncc.lint import lints
    from attncc.pipeline import demanded
    from attncc.syntax.parser import parse

    file = parse(source)
    if file.pattern is None:
        return ()
    cascade = check(file, source)
    demanded(cascade, source)
    return lints(cascade, source)


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
