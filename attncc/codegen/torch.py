"""Loop tree → plain PyTorch as text: row tiles one after the other, matrix products over the whole batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import assert_never

from attncc.codegen.bounds import unproved
from attncc.codegen.code import AND, ATOM, PRODUCT, Code, spread
from attncc.codegen.lines import needed, said
from attncc.codegen.listed import lists
from attncc.codegen.ranges import scalar
from attncc.codegen.signature import Signature
from attncc.codegen.spell import TORCH_HELPERS
from attncc.codegen.torch_boxes import rows_of_boxes, walk_of_boxes
from attncc.codegen.torch_code import Body, code_of, real
from attncc.codegen.torch_listed import ends_lines, list_for, listing_lines
from attncc.codegen.torch_ranges import together, without_heads
from attncc.codegen.words import Words
from attncc.ir.cascade import Equation, Expr, Index, Read, Tensor, free, reads
from attncc.masks.ranges import OWN
from attncc.masks.ranges import union as union_of_bands
from attncc.passes.share import replace_reads
from attncc.schedule.loops import (
    Dot,
    Each,
    Edge,
    Fill,
    Fold,
    Let,
    Listing,
    Load,
    Note,
    Program,
    Statement,
    Store,
    Tally,
    Walk,
)

INDENT = "    "


def body_lines(program: Program, words: Words, signature: Signature) -> tuple[dict[str, str], list[str]]:
    """The helpers by name, and the lines that fill the outputs; extents, numbers, the device and tile sizes
    are named before them.
    """
    made = lists(program, words, inline=True)
    tiles = tuple(dict.fromkeys(x.listing.tile for x in made))
    k = Body(program, words, (program.rows, *signature.walked, *tiles, *signature.features))
    inner = list(_block(program.body, k))
    ends = [line for x in made for line in ends_lines(x, k, _block)]
    lines = [*_positions([*ends, *inner], k), *ends]
    rows, first, stop = program.rows, words.start(program.rows), words.stop(program.rows)
    block, end = words.block(rows), words.extent(rows)
    if rows in program.grids:
        lines += rows_of_boxes(program.grids[rows], inner, k)
        return {name: TORCH_HELPERS[name] for name in k.helpers if name in TORCH_HELPERS}, lines
    lines.append(f"for {first} in range(0, {end}, {block}):")
    start = [f"{stop} = min({first} + {block}, {end})"]
    if said(words.position(rows), inner):
        start.append(f"{words.position(rows)} = torch.arange({first}, {stop}, device=device)")
    lines += [f"{INDENT}{line}" for line in (*start, *inner)]
    return {name: TORCH_HELPERS[name] for name in k.helpers if name in TORCH_HELPERS}, lines


def numbers(signatures: Iterable[Signature], leading: str) -> Iterator[str]:
    """The device and the kind of sums. Real numbers become tensors: what Python makes an error, as 1 / 0, is
    then an infinity.
    """
    yield f"device, kind = {leading}.device, accumulator({leading})"
    real = (s.words.tensor(t.name) for s in signatures for t in s.scalars if t.kind == "float")
    for name in dict.fromkeys(real):
        yield f"{name} = torch.tensor({name}, device=device, dtype=kind)"


def _positions(inner: list[str], k: Body) -> Iterator[str]:
    """Positions in the batch and along features, if anything is computed from them."""
    w, batch = k.words, k.program.batch
    for n, index in enumerate(batch):
        if said(w.position(index), inner):
            marks = ", ".join(":" if m == n else "None" for m in range(len(batch)))
            place = f"[{marks}]" if len(batch) > 1 else ""
            yield f"{w.position(index)} = torch.arange({w.extent(index)}, device=device){place}"
    for index in k.axes:
        if index.role == "feature" and said(w.position(index), inner):
            yield f"{w.position(index)} = torch.arange({w.extent(index)}, device=device)"


ACCUMULATOR = '''def accumulator(tensor):
    """The kind that sums are held in: float64 for float64, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
'''


def _block(body: Iterable[Statement], k: Body) -> Iterator[str]:
    for statement in body:
        yield from _statement(statement, k)


def _statement(s: Statement, k: Body) -> Iterator[str]:
    w = k.words
    match s:
        case Note(text):
            yield f"# {text}"
        case Load(target, read):
            yield from _load(target, read, k)
        case Let(target, value):
            code = code_of(value, k)
            if target.indices and target.kind == "float":
                code = _along(real(value, code, k), target.indices, k)
            elif target.kind == "bool" and not all(said(w.position(i), [code.text]) for i in target.indices):
                # a test that does not name an index is one column wide along it
                shape = ", ".join(_width(i, k) for i in target.indices)
                every = f"torch.ones([{shape}], device=device, dtype=torch.bool)"
                code = Code(
                    f"({spread(code, target.indices).text}) & {every}", AND, target.indices, code.lead
                )
            yield f"{w.value(target)} = {code.text}"
        case Fill(target, value):
            shape = ", ".join(
                [*(w.extent(i) for i in k.program.batch), *(_width(i, k) for i in target.indices)]
            )
            number = code_of(value, k).text
            yield f"{w.value(target)} = torch.full([{shape}], {number}, device=device, dtype=kind)"
        case Dot(target, left, right, over, start):
            row, column = target.indices
            product = f"{_operand(left, (row, over), k)} @ {_operand(right, (over, column), k)}"
            before = "" if start is None else f"{code_of(start, k).within(PRODUCT)} + "
            yield f"{w.value(target)} = {before}{product}"
        case Fold(target, op, over, value):
            code = code_of(value, k)
            if op == "sum" and over.role == "sequence" and over not in code.axes:
                text = f"{code.within(PRODUCT)} * ({_width(over, k)})"
                many = _along(replace(code, text=text, binds=PRODUCT), target.indices, k)
                yield f"{w.value(target)} = {many.text}"
                return
            axes = tuple(i for i in k.axes if i in target.indices or i == over)
            code = _along(code, axes, k)
            word = {"sum": "sum", "max": "amax", "min": "amin"}[op]
            yield f"{w.value(target)} = {code.within(ATOM)}.{word}({axes.index(over) - len(axes)})"
        case Edge(body):
            yield "if not whole:"
            yield from (f"{INDENT}{line}" for line in _block(body, k))
        case Walk():
            yield from _walk(s, k)
        case Listing():
            yield from listing_lines(s, k, _block)
        case Tally():
            raise AssertionError("work is counted where programs run beside one another")
        case Each(at, _, body, begin, end, step):
            bounds = [code_of(begin, k).text, code_of(end, k).text, *([f"{step}"] if step > 1 else [])]
            yield f"for {w.position(at)} in range({', '.join(bounds)}):"
            yield from (f"{INDENT}{line}" for line in _block(body, k))
        case Store(output, value):
            yield _store(output, value, k)
        case _:
            assert_never(s)


def _width(index: Index, k: Body) -> str:
    """How many positions of an index are in the present tile."""
    w = k.words
    if index.role == "feature":
        return w.extent(index)
    if index in k.program.grids:
        return f"len({w.position(index)})"
    return f"{w.stop(index)} - {w.start(index)}"


def _slice(index: Index, k: Body) -> str:
    if index in k.program.grids:
        return k.words.position(index)
    return f"{k.words.start(index)}:{k.words.stop(index)}"


# ---- memory ------------------------------------------------------------------------------------


def _load(target: Tensor, read: Read, k: Body) -> Iterator[str]:
    """A slice where every subscript is a position of its own; a gather with a test otherwise."""
    name = k.words.value(target)
    tensor = read.tensor
    cast = ".to(kind)" if tensor.kind == "float" else ""
    source = _at_numbers(read, k)
    places = tuple(p for p in zip(tensor.indices, read.at, strict=True) if not _is_number(*p, k))
    if all(_is_simple(at, axis, k) for axis, at in places) and _apart(places, k):
        yield f"{name} = {_sliced(source, places, k)}{cast}"
        return
    yield f"{name} = gather({source}, {_gathered(target, places, k)}){cast}"
    k.helpers["gather"] = None


def _is_number(axis: Index, at: Expr, k: Body) -> bool:
    """Whether a subscript is one position of its axis after the other."""
    return isinstance(at, Index) and k.program.each.get(at) == axis


def _at_numbers(read: Read, k: Body) -> str:
    """A tensor at the subscripts that are numbers: `Q[:, :, :, d_at]`"""
    places = zip(read.tensor.indices, read.at, strict=True)
    marks = [code_of(at, k).text if _is_number(axis, at, k) else ":" for axis, at in places]
    while marks and marks[-1] == ":":
        marks.pop()
    return k.words.tensor(read.tensor.name) + (f"[{', '.join(marks)}]" if marks else "")


def _is_simple(at: Expr, axis: Index, k: Body) -> bool:
    if at == axis:
        return True
    loose = free(at) - k.program.turned
    return len(loose) == 1 and loose <= set(k.program.batch) and not unproved(at, axis)


def _apart(places: tuple[tuple[Index, Expr], ...], k: Body) -> bool:
    """Every subscript follows an index of its own, and one at most goes to scattered positions."""
    loose = [i for _, at in places for i in free(at) - k.program.turned]
    scattered = [i for i in loose if i in k.program.grids]
    return len(loose) == len(set(loose)) and len(scattered) < 2


def _sliced(text: str, places: tuple[tuple[Index, Expr], ...], k: Body) -> str:
    marks = [_slice(axis, k) if at == axis and axis.role == "sequence" else ":" for axis, at in places]
    while marks and marks[-1] == ":":
        marks.pop()
    text += f"[{', '.join(marks)}]" if marks else ""
    along = []
    for n, (axis, at) in enumerate(places):
        (index,) = free(at) - k.program.turned
        along.append(index)
        if at != axis:
            text += f".index_select({n}, ({code_of(at, k).text}).flatten())"
    wanted = [i for i in (*k.program.batch, *k.axes) if i in along]
    if wanted != along:
        text += f".permute({', '.join(str(along.index(i)) for i in wanted)})"
    batch = [i for i in k.program.batch if i in along]
    if batch != list(k.program.batch):
        marks = [":" if i in along else "None" for i in k.program.batch]
        text += f"[{', '.join([*marks, '...'])}]"
    return text


def _gathered(target: Tensor, places: tuple[tuple[Index, Expr], ...], k: Body) -> str:
    parts = []
    for _, at in places:
        code = code_of(at, k)
        parts.append(spread(code, target.indices).text if not code.scalar else code.text)
    return ", ".join(parts)


def _store(output: Tensor, value: Expr, k: Body) -> str:
    w = k.words
    axes = tuple(i for i in k.axes if i in output.indices)
    natural = (*(i for i in k.program.batch if i in output.indices), *axes)
    name = w.tensor(output.name)
    if natural != output.indices:
        name += f".permute({', '.join(str(output.indices.index(i)) for i in natural)})"
    marks = ["...", *(_slice(i, k) if i.role == "sequence" else ":" for i in axes)]
    code = _along(code_of(value, k), axes, k)
    if k.program.grids:  # scattered positions take elements of their own kind only
        code = Code(f"{code.within(ATOM)}.to({w.tensor(output.name)}.dtype)", ATOM, code.axes, code.lead)
    return f"{name}[{', '.join(marks)}] = {code.text}"


# ---- tiles -------------------------------------------------------------------------------------


def _along(code: Code, axes: tuple[Index, ...], k: Body) -> Code:
    """A value over exactly these axes, repeated where it lacks one."""
    if set(axes) <= set(code.axes):
        return code
    shape = ", ".join(_width(i, k) for i in axes)
    ones = f"torch.ones([{shape}], device=device, dtype=kind)"
    return Code(f"{spread(code, axes).within(PRODUCT)} * {ones}", PRODUCT, axes, code.lead)


def _operand(e: Expr, axes: tuple[Index, ...], k: Body) -> str:
    code = _along(real(e, code_of(e, k), k), tuple(sorted(axes, key=k.axes.index)), k)
    return code.within(ATOM) if code.axes == axes else f"{code.within(ATOM)}.mT"


# ---- loops -------------------------------------------------------------------------------------


def _walk(s: Walk, k: Body) -> Iterator[str]:
    w = k.words
    if not s.bands:
        return
    if s.listed is not None:
        yield from _block(list_for(s, k).program.body, k)
        yield from _tiles(s, k)
        return
    if s.grid is not None:
        body = list(_block(s.body, k))
        yield from walk_of_boxes(s, s.grid, lambda band: without_heads(band, k), body, k)
        return
    first, last = w.start(k.program.rows), w.free("last")
    top, bottom, width = (scalar(name) for name in (first, last, w.block(s.index)))
    ends, bands = together(s.bands, first, last, k)
    ranges = union_of_bands(bands, top, bottom, width)
    k.steps |= {step.tensor for step in ranges.steps}
    steps = [line for step in ranges.steps for line in _step(step, k)]
    tiles = ["tiles = ("]
    for r in ranges.segments:
        pieces = ((r.lo, r.full_lo, False), (r.full_lo, r.full_hi, True), (r.full_hi, r.hi, False))
        for lo, hi, whole in pieces if s.whole else ((r.lo, r.hi, False),):
            if lo != hi:
                every = f"range({code_of(lo, k).text}, {code_of(hi, k).text})"
                if r.stride:
                    place = code_of(r.stride.tile(scalar("rank")), k).text
                    every = f"[{place} for rank in {every}]"
                tiles.append(f"{INDENT}({every}, {whole}),")
    yield f"# tiles of {s.index.name} that these rows see, and which of them whole"
    yield from needed([f"{last} = {w.stop(k.program.rows)} - 1", *ends, *steps], tiles)
    yield from tiles
    yield ")"
    yield from _tiles(s, k)


def _tiles(s: Walk, k: Body) -> Iterator[str]:
    """What is done on every one of some tiles."""
    w = k.words
    start, stop = w.start(s.index), w.stop(s.index)
    yield f"for {start}, {stop}, whole in walk(tiles, {w.block(s.index)}, {w.extent(s.index)}):"
    k.helpers["walk"] = None
    body = list(_block(s.body, k))
    if said(w.position(s.index), body):
        yield f"{INDENT}{w.position(s.index)} = torch.arange({start}, {stop}, device=device)"
    yield from (f"{INDENT}{line}" for line in body)


def _step(step: Equation, k: Body) -> Iterator[str]:
    """One number of the ranges, after what it reads of tables at the rows."""
    held: dict[Read, Read] = {}
    for read in reads(step.body):
        if read.tensor.loaded and read not in held:
            rows = tuple(i for i in (k.program.rows,) if any(i in free(at) for at in read.at))
            name = f"{step.tensor.name.removesuffix(OWN)}_{read.tensor.name}{len(held) or ''}{OWN}"
            target = Tensor(name, rows, read.tensor.kind, "equation")
            yield from _load(target, read, k)
            held[read] = Read(target, rows)
    yield f"{k.words.value(step.tensor)} = {code_of(replace_reads(step.body, held.get), k).text}"
