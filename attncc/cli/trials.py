"""Commands that run kernels: verify, bench and doctor."""

from __future__ import annotations

import json

import click

from attncc.cli import options
from attncc.cli.files import read
from attncc.schedule.spec import KINDS, SHORT


@click.command()
@click.argument("file", metavar="FILE")
@options.device
@click.option(
    "--dtype", type=click.Choice(list(SHORT)), help="By default any of bf16, fp16 and fp32, drawn too."
)
@click.option("--examples", type=options.SIZE, default=50, show_default=True, help="Calls to try.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--longest",
    type=options.SIZE,
    help="Length of a sequence; by default 333, on a GPU 1025 but for fp32.",
)
@click.option(
    "--output", "outputs", multiple=True, metavar="NAME", help="An equation, in place of the outputs."
)
@options.numbers
@options.data
@click.pass_context
def verify(
    ctx: click.Context,
    file: str,
    device: str | None,
    dtype: str | None,
    examples: int,
    seed: int,
    longest: int | None,
    outputs: tuple[str, ...],
    numbers: dict[str, str],
    as_data: bool,
) -> None:
    """Try the kernel of FILE on drawn calls, row by row, against the dense reference in float64."""
    source = read(file)
    from attncc.calls import given
    from attncc.pipeline import meaning

    cascade = meaning(source)
    where = options.chosen_device(device)
    from attncc.verify import Missing, verify

    dtypes = [_kind(dtype, where)] if dtype else [SHORT[short] for short in ("fp16", "bf16", "fp32")]
    with options.Asked(), options.Progress() as tell:
        fixed = given(cascade, numbers)
        try:
            report = verify(
                source, where, dtypes, examples, seed, longest, tuple(dict.fromkeys(outputs)), fixed, tell
            )
        except Missing:
            said = "`attncc verify` draws its calls with Hypothesis: `pip install 'attncc[verify]'`"
            raise options.Unusable(said) from None
    click.echo(json.dumps(report.data(), indent=2) if as_data else report.text())
    if report.refused is not None:
        raise report.refused
    ctx.exit(0 if report.right else 1)


@click.command()
@click.argument("file", metavar="FILE")
@options.shape
@options.extents("One index's, in place of the shape's, as `g=2`.")
@click.option("--dtype", type=click.Choice(list(SHORT)), help="bf16 on a GPU, fp32 on a CPU.")
@options.device
@options.numbers
@options.data
def bench(
    file: str,
    shape: tuple[int, ...],
    extents: dict[str, int],
    dtype: str | None,
    device: str | None,
    numbers: dict[str, str],
    as_data: bool,
) -> None:
    """Time the kernel of FILE, against PyTorch's own where they compute the same."""
    source = read(file)
    from attncc.calls import given
    from attncc.pipeline import meaning

    cascade = meaning(source)
    where = options.chosen_device(device)
    from attncc.bench import bench

    kind = _kind(dtype or ("bf16" if where == "cuda" else "fp32"), where)
    with options.Asked(), options.Progress() as tell:
        report = bench(source, where, kind, shape, extents, given(cascade, numbers), tell)
    click.echo(json.dumps(report.data(), indent=2) if as_data else report.text())


@click.command()
@options.data
@click.pass_context
def doctor(ctx: click.Context, as_data: bool) -> None:
    """Say what is installed, and whether a kernel compiles here and is right."""
    from attncc.doctor import examine

    with options.Progress() as tell:
        found = examine(tell)
    click.echo(json.dumps(found.data(), indent=2) if as_data else found.text())
    ctx.exit(0 if found.usable else 1)


def _kind(dtype: str, device: str) -> str:
    """The element type that is asked for. UsageError where a device has no kernels in it."""
    kinds = KINDS["triton" if device == "cuda" else "torch"]
    if SHORT[dtype] not in kinds:
        has = ", ".join(short for short, kind in SHORT.items() if kind in kinds)
        raise click.UsageError(f"no kernels in {dtype} on {device}: {has}")
    return SHORT[dtype]
