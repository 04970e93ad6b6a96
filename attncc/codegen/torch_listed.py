"""Lists of tiles as plain PyTorch: what tables hold of every tile of columns, and which of them rows see."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from attncc.codegen.lines import said
from attncc.codegen.listed import Lists, list_of, lists
from attncc.codegen.torch_code import Body, code_of
from attncc.ir.cascade import Tensor
from attncc.schedule.loops import Listing, Statement, Store, Walk

INDENT = "    "

Lines = Callable[[Iterable[Statement], Body], Iterator[str]]


def ends_lines(made: Lists, k: Body, lines: Lines) -> Iterator[str]:
    """The numbers of all tiles, and the least and greatest of what tables hold of each; once for all rows."""
    w, index, tile = k.words, made.listing.index, made.listing.tile
    start, stop, size = w.start(index), w.stop(index), w.block(index)
    yield f"{w.extent(tile)} = -(-{w.extent(index)} // {size})"
    yield f"{w.position(tile)} = torch.arange({w.extent(tile)}, device=device)"
    if made.ends is None:
        return
    stores = {s.output: s.value for s in made.ends.body if isinstance(s, Store)}
    shape = ", ".join([*(w.extent(i) for i in k.program.batch), w.extent(tile)])
    for output in stores:
        yield f"{_name(output, k)} = torch.zeros([{shape}], device=device, dtype=torch.long)"
    yield f"for {start} in range(0, {w.extent(index)}, {size}):"
    yield f"{INDENT}{stop} = min({start} + {size}, {w.extent(index)})"
    body = list(lines([s for s in made.ends.body if not isinstance(s, Store)], k))
    if said(w.position(index), body):
        yield f"{INDENT}{w.position(index)} = torch.arange({start}, {stop}, device=device)"
    yield from (f"{INDENT}{line}" for line in body)
    for output, value in stores.items():
        yield f"{INDENT}{_name(output, k)}[..., {start} // {size}] = {code_of(value, k).text}"


def listing_lines(s: Listing, k: Body, lines: Lines) -> Iterator[str]:
    """The tiles that a tile of rows sees, those seen whole first."""
    yield f"# tiles of {s.index.name} that these rows see, and which of them whole"
    yield from lines(s.body, k)
    must, may = code_of(s.must, k).text, code_of(s.may, k).text
    yield f"tiles = listed({must}, {may}, {k.words.position(s.tile)})"
    k.helpers["listed"] = None


def list_for(walk: Walk, k: Body) -> Lists:
    """The list of a walk."""
    wanted = list_of(walk, k.program, k.words)
    return next(x for x in lists(k.program, k.words, inline=True) if x.listing.output == wanted)


def _name(output: Tensor, k: Body) -> str:
    """Over tiles, as the list reads it; the batch stands before."""
    return k.words.value(replace(output, name=output.name.removesuffix("_each"), indices=output.indices[-1:]))
