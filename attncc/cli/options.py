"""What is written after an option → its value, or a usage error that says what to write."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

EXTENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([0-9]+)")
NUMBER = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.+)")
TARGET = re.compile(r"cpu|cuda:[0-9]{1,4}|hip:gfx[0-9a-f]+")

SIZE = click.IntRange(1, 1 << 24)
"""A length, an extent or how many of something: what is counted or drawn row by row fits into memory."""

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Unusable(click.ClickException):
    """Something that is missing, with what to do about it."""

    exit_code = 2


def _target(_: click.Context, __: click.Parameter, value: str) -> str:
    if not TARGET.fullmatch(value):
        raise click.BadParameter(f"`{value}` is none of cpu, cuda:90 and the like, hip:gfx942 and the like")
    return value


def _pairs(pattern: re.Pattern[str], values: tuple[str, ...], what: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        match = pattern.fullmatch(value)
        if match is None:
            raise click.BadParameter(f"`{value}` is not {what}")
        if match[1] in found:
            raise click.BadParameter(f"`{match[1]}` is given twice")
        found[match[1]] = match[2]
    return found


def _size(text: Any, option: click.Parameter, ctx: click.Context) -> int:
    return SIZE.convert(text, option, ctx)


def _extents(ctx: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    found = _pairs(EXTENT, values, "an index and its extent, as in `d=128`")
    return {name: _size(text, option, ctx) for name, text in found.items()}


def _numbers(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    return _pairs(NUMBER, values, "a number of the pattern and its value, as in `window=64`")


def _shape(ctx: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    parts = value.split(",")
    if len(parts) != 4:
        raise click.BadParameter(f"`{value}` is not batch, heads, length and features, as in `1,8,4096,64`")
    return tuple(_size(part, option, ctx) for part in parts)


def target(command: Decorated) -> Decorated:
    """`--target cuda:90`"""
    return click.option(
        "--target",
        default="cuda:90",
        show_default=True,
        callback=_target,
        metavar="DEVICE",
        help="`cpu`, or a GPU as `cuda:80` (A100), `cuda:100` (B200), `hip:gfx942` (MI300).",
    )(command)


def extents(help: str) -> Callable[[Decorated], Decorated]:
    """`--extent d=128`, any number of times."""
    return click.option("--extent", "extents", multiple=True, callback=_extents, metavar="INDEX=N", help=help)


def numbers(command: Decorated) -> Decorated:
    """`--set window=64`, any number of times."""
    return click.option(
        "--set",
        "numbers",
        multiple=True,
        callback=_numbers,
        metavar="NAME=VALUE",
        help="A number of the pattern, as `window=64`.",
    )(command)


def shape(command: Decorated) -> Decorated:
    """`--shape 1,8,4096,64`"""
    return click.option(
        "--shape",
        callback=_shape,
        default="1,8,4096,64",
        show_default=True,
        metavar="B,H,N,D",
        help="Batch, heads, length, features.",
    )(command)


def data(command: Decorated) -> Decorated:
    """`--json`"""
    return click.option("--json", "as_data", is_flag=True, help="Plain data in place of text.")(command)


def device(command: Decorated) -> Decorated:
    """`--device cpu`; by default a GPU where there is one."""
    return click.option(
        "--device",
        type=click.Choice(["cpu", "cuda"]),
        default=None,
        help="By default a GPU where there is one.",
    )(command)


def chosen_device(wanted: str | None) -> str:
    """The device that is asked for, or that there is. Unusable where it is not there."""
    from attncc.doctor import gpu

    try:
        there = gpu()
    except ImportError:
        raise Unusable("this needs torch: `pip install torch`") from None
    if wanted == "cuda" and not there:
        raise Unusable("torch sees no GPU here: say `--device cpu`, or ask `attncc doctor`")
    return wanted or ("cuda" if there else "cpu")


class Asked:
    """`with Asked():` what does not fit the pattern becomes a usage error, what does not fit the machine a
    line that says so.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        from attncc.calls import BadNumber

        if isinstance(error, BadNumber):
            raise click.UsageError(str(error)) from None
        if isinstance(error, MemoryError):
            raise click.ClickException(f"not enough memory: {error}") from None


class Progress:
    """One line on a terminal's stderr, from the second second on, gone at the end."""

    def __init__(self) -> None:
        self.begun = self.said = time.monotonic()
        self.shown = False

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if sys.stderr.isatty() and now - self.begun > 1 and now - self.said > 0.1:
            self.said, self.shown = now, True
            click.echo(f"\r\033[K{text}", err=True, nl=False)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.shown:
            click.echo("\r\033[K", err=True, nl=False)
