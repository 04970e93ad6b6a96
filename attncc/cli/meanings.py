"""Commands that ask what a pattern means and costs: compile and explain."""

from __future__ import annotations

import json

import click

from attncc.cli import options
from attncc.cli.files import deliver, keep, read
from attncc.schedule.spec import KINDS, SHORT
from attncc.schedule.tiles import PEAKS
from attncc.source import Source


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
@click.option(
    "--gradients/--no-gradients", default=True, show_default=True, help="With a backward pass, or without."
)
def compile_(
    file: str, output: str, target: str, extents: dict[str, int], dtype: str | None, gradients: bool
) -> None:
    """Write the pattern of FILE as one module that stands alone."""
    source = read(file)
    keep(output, file)
    deliver(output, compiled(source, target, extents, dtype, gradients))


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


def compiled(source: Source, target: str, extents: dict[str, int], dtype: str | None, gradients: bool) -> str:
    """The module that a pattern becomes."""
    from attncc import pipeline
    from attncc.schedule.spec import Specialisation

    backend = "torch" if target == "cpu" else "triton"
    dtypes = KINDS[backend] if dtype is None else (SHORT[dtype],)
    chosen = (tuple(sorted(extents.items())),) if extents else ()
    try:
        spec = Specialisation(backend, target, dtypes, chosen)
        return pipeline.compile(source, spec, wrt=None if gradients else ())
    except pipeline.Unfit as error:
        raise click.UsageError(str(error)) from None
