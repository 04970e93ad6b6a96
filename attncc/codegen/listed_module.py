"""Lists of tiles → the kernels that make them, and the lines of the host function that launch these."""

from __future__ import annotations

from collections.abc import Iterator

from attncc.codegen.listed import Lists
from attncc.codegen.signature import Signature
from attncc.codegen.triton import kernel_text
from attncc.codegen.triton_listed import LANES
from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade, Index
from attncc.schedule.loops import Program


def list_kernels(
    lists: tuple[Lists, ...], cascade: Cascade, words: Words
) -> Iterator[tuple[dict[str, str], str]]:
    """The helpers and the text of every kernel that a kernel's lists need."""
    for one in lists:
        listing = one.listing
        if one.ends is not None:
            tile, size = one.listing.tile, words.block(listing.index)
            more = (
                f"{words.extent(tile)} = tl.cdiv({words.extent(listing.index)}, {size})",
                f"{words.position(tile)} = {words.start(listing.index)} // {size}",
            )
            yield kernel_text(one.ends, words, Signature(one.ends, cascade, words), more=more)
        yield kernel_text(one.program, words, Signature(one.program, cascade, words))


def list_launches(lists: tuple[Lists, ...], cascade: Cascade, words: Words, first: str) -> Iterator[str]:
    """What makes the lists before the kernel that reads them; the sizes of tiles are the kernel's."""
    w = words
    for one in lists:
        index, tile, rows = one.listing.index, one.listing.tile, one.program.rows
        yield f"# tiles of {index.name} that tiles of rows {rows.name} see, by the tables of this call"
        yield f'{w.extent(tile)} = triton.cdiv({w.extent(index)}, tile["{w.block(index)}"])'
        if one.ends is not None:
            for end in one.ends.outputs:
                shape = ", ".join(w.extent(i) for i in end.indices)
                yield f"{w.tensor(end.name)} = {first}.new_empty(({shape},), dtype=torch.int64)"
            places = " * ".join([w.extent(tile), *(w.extent(i) for i in one.ends.batch)])
            yield f"if {w.extent(tile)}:"
            yield from (f"    {line}" for line in launch(one.ends, places, cascade, w, tile))
        tiles = f'triton.cdiv({w.extent(rows)}, tile["{w.block(rows)}"])'
        places = " * ".join([tiles, *(w.extent(i) for i in one.program.batch)])
        name = w.tensor(one.listing.output.name)
        yield f"{name} = {first}.new_empty(({places} * ({w.extent(tile)} + 2),), dtype=torch.int32)"
        yield from launch(one.program, places, cascade, w, tile)


def launch(
    program: Program, grid: str, cascade: Cascade, words: Words, many: Index | None = None, warps: int = 4
) -> Iterator[str]:
    """One launch; `many` is what the kernel looks at so many of in every step."""
    signature = Signature(program, cascade, words)
    yield f"{program.name}_kernel[({grid},)]("
    yield from (f"    {line}" for line in signature.argument_lines())
    names = [words.block(i) for i in signature.blocks if i != many]
    lanes = [f"{words.block(many)}={LANES}"] if many is not None and many in signature.blocks else []
    yield f"    {', '.join([*(f'{name}=tile[{name!r}]' for name in names), *lanes])},".replace("'", '"')
    yield f"    num_warps={warps}, num_stages=1,"
    yield ")"
