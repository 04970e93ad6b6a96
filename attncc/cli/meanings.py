"""Commands that ask what a pattern means and costs: compile, explain and viz."""

from __future__ import annotations

import json
import os
import re

import click

from attncc.cli import options
from attncc.cli.files import deliver, keep, read
from attncc.schedule.spec import KINDS, SHORT
from attncc.schedule.tiles import PEAKS
from attncc.source import Source

HEAD = re.compile(r"[0-9]{1,9}")


@click.command("compile")
@click.argument("file", metavar="FILE")
@click.option("-o", "--output", required=True, metavar="OUT", help="A Python file, `-` for standard output.")
@options.target
@options.extents("As `d=128`.")
@click.option(
    "--dtype",
    type=click.Choice(list(SHORT)),
    default=None,
    help="One element type; all that the backend takes by default.",
)
def compile_(file: str, output: str, target: str, extents: dict[str, int], dtype: str | None) -> None:
    """Write the pattern of FILE as one module that stands alone."""
    source = read(file)
    keep(output, file)
    deliver(output, compiled(source, target, extents, dtype))


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--length", type=options.SIZE, default=8192, show_default=True, help="Of a sequence.")
@click.option("--gpu", type=click.Choice(list(PEAKS)), default="H100", show_default=True, help="Whose floor.")
@click.option("--html", "output", metavar="OUT", help="One page that stands alone, `-` for standard output.")
@options.numbers
@options.data
def explain(
    file: str, length: int, gpu: str, output: str | None, numbers: dict[str, str], as_data: bool
) -> None:
    """Say what the pattern of FILE becomes and costs: passes and what saves one, the running state and its
    merge, kernels, tiles visited, work, traffic and the least time.
    """
    from attncc.calls import given
    from attncc.explain import explain
    from attncc.pipeline import meaning

    source = read(file)
    if output is not None:
        keep(output, file)
    cascade = meaning(source)
    with options.Asked():
        said = explain(cascade, length, given(cascade, numbers), gpu)
        if output is not None:
            from attncc.explain.page import page

            deliver(output, page(said))
    if as_data and output != "-":
        click.echo(json.dumps(said.data(), indent=2))
    elif output is None:
        click.echo(said.text())
    elif output != "-":
        click.echo(f"explained in {output}")


def _heads(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None or value == "all":
        return None
    if not HEAD.fullmatch(value):
        raise click.BadParameter(f"`{value}` is neither a head nor `all`")
    return int(value)


SUFFIXES = {".svg": "svg", ".png": "png", ".html": "html", ".htm": "html"}


def _form(output: str, form: str | None) -> str:
    """What is written to a file: as asked for, or by how its name ends; SVG where it has no ending."""
    suffix = os.path.splitext(output)[1].lower()
    if form is None and suffix and suffix not in SUFFIXES:
        raise click.UsageError(
            f"`{output}` ends in none of {', '.join(SUFFIXES)}: name it so, or say `--format svg`"
        )
    return form or SUFFIXES.get(suffix, "svg")


@click.command()
@click.argument("file", metavar="FILE")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="A picture, OUT.svg or OUT.png, or a page, OUT.html; `-` for standard output.",
)
@click.option(
    "--format", "form", type=click.Choice(["svg", "png", "html"]), help="By default as the name ends."
)
@click.option("--html", "page", metavar="OUT", help="The same as `-o OUT --format html`.")
@click.option(
    "--length",
    type=options.SIZE,
    help="Of a sequence: 96 for a picture and 8192 for a page by default, 1048576 is fine.",
)
@click.option(
    "--tile",
    type=options.SIZE,
    help="Side of a tile; by default what can be seen, and for a page's numbers the kernel's own.",
)
@click.option(
    "--head",
    "--heads",
    "head",
    callback=_heads,
    metavar="N|all",
    help="One head; by default all, where the mask differs between them.",
)
@options.extents("Heads, as `h=8`; 4 by default.")
@options.numbers
@options.data
def viz(
    file: str,
    output: str | None,
    form: str | None,
    page: str | None,
    length: int | None,
    tile: int | None,
    head: int | None,
    extents: dict[str, int],
    numbers: dict[str, str],
    as_data: bool,
) -> None:
    """Draw the mask of FILE: who sees whom, and which tiles are visited."""
    from attncc.calls import given
    from attncc.pipeline import meaning, planned
    from attncc.viz import LEGEND, Unseen, draw
    from attncc.viz.report import report

    if (output is None) == (page is None):
        raise click.UsageError("say where to draw, once: `-o mask.svg`, `-o mask.png` or `--html mask.html`")
    out = output or page or ""
    form = _form(out, "html" if page else form)
    source = read(file)
    keep(out, file)
    cascade = meaning(source)
    plan = planned(cascade, source)
    length = length or (8192 if form == "html" else 96)
    with options.Asked(), options.Progress() as tell:
        asked = (tile, given(cascade, numbers), head, extents, tell)
        try:
            drawn = draw(cascade, plan, length, *asked)
            made: str | bytes = drawn.png if form == "png" else drawn.svg
            if form == "html":
                made = report(drawn, cascade, plan, *asked)
        except Unseen as unseen:
            raise click.ClickException(str(unseen)) from None
    deliver(out, made)
    if as_data and out != "-":
        click.echo(json.dumps(drawn.data(), indent=2))
    elif out != "-":
        said = (LEGEND,) if form == "png" else ()
        click.echo("\n".join((*drawn.caption, *said, f"drawn in {out}")))


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
