"""A command line → an exit status: what a shell can ask of files of patterns.

0: nothing wrong. 1: mistakes in a pattern, a kernel that is wrong, or no room: a standard stream that is
closed or full, too little memory. 2: a command or file that cannot be used. The compiler is imported where it
is called, so that `check`, `fmt`, `new`, `explain` and `viz` start without torch or triton.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOWrapper
from typing import Any

import click

from attncc.cli import meanings, pictures, texts, trials
from attncc.cli.files import status
from attncc.diagnostics import PatternError


class Commands(click.Group):
    """Commands whose PatternError becomes its text on stderr and an exit status, as does a standard output
    that cannot be written; click itself is silent about a reader that is gone.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if sys.stdout is None:  # closed: as full, once there is something to write
            sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
        if isinstance(sys.stdout, TextIOWrapper):  # a letter that its encoding lacks is spelled out
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            with suppress(OSError):
                sys.stdout.close()  # what it still holds is not tried again
            what = "standard output cannot be written" if error.filename is None else f"`{error.filename}`"
            click.echo(f"Error: {what}: {error.strerror or error}", err=True)
            sys.exit(1)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PatternError as error:
            click.echo(str(error), err=True)
            ctx.exit(status([error]))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are needed."""
        return list(self.commands)


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from attncc.doctor import version

        click.echo(f"attncc {version('attncc', '(a checkout that is not installed)')}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version)
def main() -> None:
    """Compile the mathematics of an attention mechanism. FILE is a text of patterns, `-` standard input."""


for command in (
    texts.new,
    texts.check,
    texts.fmt,
    meanings.explain,
    pictures.viz,
    meanings.compile_,
    trials.verify,
    trials.bench,
    trials.doctor,
):
    main.add_command(command)
