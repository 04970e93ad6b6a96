"""The command that draws what a pattern's rows see: viz."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import click

from attncc.cli import options
from attncc.cli.files import deliver, keep, read

HEAD = re.compile(r"[0-9]{1,9}")

FORMS = {".svg": "svg", ".png": "png", ".html": "html", ".htm": "html"}
"""What is written, by how a name ends."""

LENGTHS = {"svg": 96, "png": 96, "html": 8192}
"""Positions where none are asked for."""


def _heads(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    if value is None or value == "all":
        return None
    if not HEAD.fullmatch(value):
        raise click.BadParameter(f"`{value}` is neither a head nor `all`")
    return int(value)


def _asked(output: str | None, page: str | None, form: str | None) -> tuple[str, str]:
    """Where to write, and what: as asked for, or by how the name ends; SVG where it has no ending."""
    match output, page:
        case None, str() if form in (None, "html"):
            return page, "html"
        case str(), None:
            suffix = os.path.splitext(output)[1].lower()
            if form is None and suffix and suffix not in FORMS:
                raise click.UsageError(
                    f"`{output}` ends in none of {', '.join(FORMS)}: name it so, or say `--format svg`"
                )
            return output, form or FORMS.get(suffix, "svg")
        case _:
            raise click.UsageError(
                "say once where to draw: `-o mask.svg`, `-o mask.png` or `--html mask.html`"
            )


@click.command()
@click.argument("file", metavar="FILE")
@click.option(
    "-o", "--output", metavar="OUT", help="A picture, OUT.svg or OUT.png, or a page, OUT.html; or `-`."
)
@click.option("--format", "form", type=click.Choice(list(LENGTHS)), help="By default as the name ends.")
@click.option("--html", "page", metavar="OUT", help="One page that stands alone, `-` for standard output.")
@click.option("--length", type=options.SIZE, help="Of a sequence: 96, of a page 8192; 1048576 is fine.")
@click.option("--tile", type=options.SIZE, help="Side of a tile; by default what can be seen.")
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
    """Draw the mask of FILE: who sees whom, and which tiles are visited. A page also counts the tiles of the
    kernel, the cells and the work.
    """
    out, form = _asked(output, page, form)
    shown = {"length": length or LENGTHS[form], "tile": tile, "head": head, "extents": extents}
    drawn, made = _drawn(file, out, form, numbers, shown)
    deliver(out, made)
    if as_data and out != "-":
        click.echo(json.dumps(drawn.data(), indent=2))
    elif out != "-":
        from attncc.viz import LEGEND

        click.echo("\n".join((*drawn.caption, *([LEGEND] if form == "png" else []), f"drawn in {out}")))


def _drawn(
    file: str, out: str, form: str, numbers: dict[str, str], shown: dict[str, Any]
) -> tuple[Any, str | bytes]:
    """The picture, and what is written of it."""
    from attncc.calls import given
    from attncc.pipeline import meaning, planned
    from attncc.viz import Unseen, draw
    from attncc.viz.report import report

    source = read(file)
    keep(out, file)
    cascade = meaning(source)
    plan = planned(cascade, source)
    with options.Asked(), options.Progress() as tell:
        shown = {**shown, "numbers": given(cascade, numbers), "tell": tell}
        try:
            drawn = draw(cascade, plan, **shown)
        except Unseen as unseen:
            raise click.ClickException(str(unseen)) from None
        if form == "html":
            del shown["length"]
            return drawn, report(drawn, cascade, plan, **shown)
        return drawn, drawn.png if form == "png" else drawn.svg
