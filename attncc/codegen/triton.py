"""Loop tree → a Triton kernel as text: one program per row tile and head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import assert_never

from attncc.codegen.code import ATOM, PRODUCT, Code
from attncc.codegen.lines import needed
from attncc.codegen.ranges import WalkRanges, scalar, walk_ranges
from attncc.codegen.signature import Signature, places_first
from attncc.codegen.spell import SHORT_HELPERS, TRITON_HELPERS
from attncc.codegen.triton_boxes import box_counts, loop_lines, opening, positions
from attncc.codegen.triton_code import Body, along, called, code_of, guard, placed, pointer
from attncc.codegen.triton_listed import listed_ranges, listing_lines
from attncc.codegen.triton_order import ordered_lines, places, tally_lines
from attncc.codegen.words import Words
from attncc.ir.cascade import Expr, Index, Read, Tensor, free
from attncc.masks.grid import Grid
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
    around,
    expressions,
    statements,
)

INDENT = "    "


def kernel_text(
    program: Program,
    words: Words,
    signature: Signature,
    padded: frozenset[Index] = frozenset(),
    short: bool = False,
    more: tuple[str, ...] = (),
) -> tuple[dict[str, str], str]:
    """The helpers by name, and the kernel; `padded` are features whose extent is not a power of two, `short`
    says that elements have 16 bits, `more` are lines that the text may need.
    """
    tiles = (program.rows, *signature.walked, *signature.features)
    held = _held(program.body) if signature.described else frozenset()
    k = Body(program, words, signature, tiles, padded, short, _raw(program.body), held, _positive(signature))
    rest = list(_block(program.body, k))
    rest = [*(f"{name} = {text}" for name, text in k.bases.items()), *rest]
    rest = [*needed((*more, *_positions(k)), rest), *rest]
    note, *found = _opening(k)
    body = [note, *needed(found, rest), *rest]
    names = ", ".join(f'"{name}"' for name in signature.unspecialised)
    lines = [
        f"@triton.jit(do_not_specialize=[{names}])",
        f"def {program.name}_kernel(",
        *(f"{INDENT}{line}" for line in signature.kernel_lines()),
        "):",
        *(f"{INDENT}{line}" for line in body),
    ]
    texts = TRITON_HELPERS | (SHORT_HELPERS if short else {})
    return {name: texts[name] for name in k.helpers if name in texts}, "\n".join(lines) + "\n"


def _positive(signature: Signature) -> frozenset[Expr]:
    """What divisions may rely on: tiles are not empty, and the host has checked the divisors of the
    predicate.
    """
    cut = (*signature.walked, *signature.program.digits)
    blocks: set[Expr] = {scalar(signature.words.block(i)) for i in cut}
    lists = (s for s in statements(signature.program.body) if isinstance(s, Listing))
    blocks |= {e for s in lists for e in s.positive}
    found = blocks.union(signature.periods, *(b.plane.positive for w in signature.walks for b in w.bands))
    return frozenset(found)


def _raw(body: Iterable[Statement]) -> frozenset[str]:
    """Loaded tiles that a matrix product takes as they are."""
    flat = tuple(statements(body))
    loaded = {s.target.name for s in flat if isinstance(s, Load)}
    operands = [e for s in flat if isinstance(s, Dot) for e in (s.left, s.right)]
    return frozenset(e.tensor.name for e in operands if isinstance(e, Read) and e.tensor.name in loaded)


def _held(body: tuple[Statement, ...]) -> frozenset[str]:
    """Tiles computed before a walk of which it takes matrix products."""
    whole = tuple(around(body))
    before = {s.target.name for s in whole if isinstance(s, Let) and len(s.target.indices) == 2}
    dots = (d for s in whole if isinstance(s, Walk) for d in statements(s.body) if isinstance(d, Dot))
    operands = (e for d in dots for e in (d.left, d.right))
    return frozenset(e.tensor.name for e in operands if isinstance(e, Read) and e.tensor.name in before)


def _opening(k: Body) -> Iterator[str]:
    """Which row tile and which head this program works on; the last rows, which see most, come first, unless
    an order says what does.
    """
    w, rows, ordered = k.words, k.program.rows, k.program.ordered
    most = "early rows see most, and come first" if k.program.early else "late rows see most, and come first"
    first = most if ordered is None else "most work comes first"
    yield f"# one program: a tile of rows at one place of the batch; {first}"
    yield "pid = tl.program_id(0)"
    grid = k.program.grids.get(rows)
    if grid is not None:
        yield from box_counts(grid, k)
    else:
        yield f"tiles = tl.cdiv({w.extent(rows)}, {w.block(rows)})"
    if ordered is not None:
        yield from ordered_lines(k)
    if grid is not None:
        yield from opening(grid, k)
    else:
        turn = "pid % tiles" if k.program.early else "tiles - 1 - pid % tiles"
        yield f"{w.start(rows)} = ({turn}) * {w.block(rows)}"
    yield from places(k.program.batch if ordered is None else ordered, "pid // tiles", k)


def _positions(k: Body) -> Iterator[str]:
    """Where the elements of a tile are."""
    w, rows = k.words, k.program.rows
    yield f"{w.inside(rows)} = tl.arange(0, {w.block(rows)})"
    if rows in k.program.grids:
        yield from positions(rows, 0, k.program.grids[rows], k)
    else:
        yield f"{w.position(rows)} = {w.start(rows)} + {w.inside(rows)}"
    for index in k.signature.features:
        yield f"{w.position(index)} = tl.arange(0, {w.block(index)})"
    for index in k.signature.walked:
        yield f"{w.inside(index)} = tl.arange(0, {w.block(index)})"


def _block(body: Iterable[Statement], k: Body) -> Iterator[str]:
    for statement in body:
        yield from _statement(statement, k)


def _statement(s: Statement, k: Body) -> Iterator[str]:
    w = k.words
    match s:
        case Note(text):
            yield f"# {text}"
        case Load(target, read):
            yield f"{w.value(target)} = {_load(target, read, k)}"
        case Let(target, value):
            code = along(code_of(value, k), target.indices, k)
            k.widths.name(target.name, value)
            if target.name in k.held:
                code = called("held", [code], target.indices, k)
            yield f"{w.value(target)} = {code.text}"
        case Fill(target, value):
            shape = ", ".join(w.block(i) for i in target.indices)
            yield f"{w.value(target)} = tl.full([{shape}], {code_of(value, k).text}, tl.float32)"
        case Dot():
            yield _dot(s, k)
        case Fold(target, op, over, value):
            yield _fold(target, op, over, value, k)
        case Edge():
            raise AssertionError("an edge stands in a walk only")
        case Walk():
            yield from _walk(s, k)
        case Listing():
            yield from listing_lines(s, k, _block)
        case Tally():
            yield from tally_lines(s, k, lambda e, counted: _scalar(e, counted, k))
        case Each():
            yield from _each(s, k)
        case Store(output, value):
            yield from _store(output, value, k)
        case _:
            assert_never(s)


# ---- memory ------------------------------------------------------------------------------------


def _load(target: Tensor, read: Read, k: Body) -> str:
    """Pointers are 64 bits wide up to the start of the tile, 32 inside it."""
    tensor = read.tensor
    places = tuple(zip(tensor.indices, read.at, strict=True))
    if tensor in k.signature.described:
        text = _block_load(tensor, places, target.indices, k)
    else:
        place, tests = pointer(tensor, places, target.indices, k)
        text = f"tl.load({place}{guard(tests)})"
    if tensor.kind == "float" and target.name not in k.raw:
        text += ".to(tl.float32)"
    if tensor.kind == "bool":
        text += " != 0"
    return text


def _block_load(
    tensor: Tensor, places: tuple[tuple[Index, Expr], ...], axes: tuple[Index, ...], k: Body
) -> str:
    """A tile by the tensor's descriptor: `Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])`."""
    w = k.words
    corner = [
        ("0" if i.role == "feature" else w.start(i)) if i in axes else code_of(at, k).text
        for i, at in (places[n] for n in places_first(tensor))
    ]
    shape = ", ".join(w.block(i) for i in axes)
    return f"{w.tensor(tensor.name)}.load([{', '.join(corner)}]).reshape([{shape}])"


def _store(output: Tensor, value: Expr, k: Body) -> Iterator[str]:
    axes = tuple(i for i in k.axes if i in output.indices)
    place, tests = pointer(output, tuple((i, i) for i in output.indices), axes, k)
    code = along(code_of(value, k), axes, k)
    name = k.words.tensor(output.name)
    yield f"tl.store({place}, {code.within(ATOM)}.to({name}.dtype.element_ty), mask={' & '.join(tests)})"


# ---- tiles -------------------------------------------------------------------------------------


def _dot(s: Dot, k: Body) -> str:
    w = k.words
    row, column = s.target.indices
    source = next((e for e in (s.left, s.right) if isinstance(e, Read) and e.tensor.name in k.raw), None)
    leading = k.program.leading
    element = "dtype" if leading in k.signature.described else "dtype.element_ty"
    dtype = f"{w.value(source.tensor)}.dtype" if source else f"{w.tensor(leading.name)}.{element}"
    left = _operand(s.left, (row, s.over), dtype, k)
    right = _operand(s.right, (s.over, column), dtype, k)
    start = f", {along(code_of(s.start, k), s.target.indices, k).text}" if s.start is not None else ""
    return f'{w.value(s.target)} = tl.dot({left}, {right}{start}, input_precision="ieee")'


def _operand(e: Expr, axes: tuple[Index, ...], dtype: str, k: Body) -> str:
    """An operand over (its own axis, the contracted one) or the reverse, in the inputs' precision."""
    if isinstance(e, Read) and e.tensor.name in k.raw:
        code = Code(k.words.value(e.tensor), ATOM, e.tensor.indices)
    else:
        value = along(code_of(e, k), tuple(sorted(axes, key=k.axes.index)), k)
        for i in value.axes:
            if i in k.padded:
                test = placed(k.words.position(i), i, value.axes).text
                value = Code(f"tl.where({test} < {k.words.extent(i)}, {value.text}, 0.0)", ATOM, value.axes)
        code = Code(f"{value.within(ATOM)}.to({dtype})", ATOM, value.axes)
    return code.text if code.axes == axes else f"tl.trans({code.text})"


def _fold(target: Tensor, op: str, over: Index, value: Expr, k: Body) -> str:
    code = code_of(value, k)
    if op == "sum" and over.role == "sequence" and over not in code.axes:
        many = Code(f"{code.within(PRODUCT)} * {k.words.block(over)}", PRODUCT, code.axes)
        return f"{k.words.value(target)} = {along(many, target.indices, k).text}"
    axes = tuple(i for i in k.axes if i in target.indices or i == over)
    code = along(code, axes, k)
    if over in k.padded:
        test = placed(k.words.position(over), over, axes).text
        identity = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")'}[op]
        code = Code(f"tl.where({test} < {k.words.extent(over)}, {code.text}, {identity})", ATOM, axes)
    return f"{k.words.value(target)} = tl.{op}({code.text}, {axes.index(over)})"


# ---- loops -------------------------------------------------------------------------------------


def _each(s: Each, k: Body) -> Iterator[str]:
    w = k.words
    at = w.position(s.at)
    bounds = [code_of(s.begin, k).text, code_of(s.end, k).text, *([f"{s.step}"] if s.step > 1 else [])]
    yield f"for {at} in tl.range({', '.join(bounds)}):"
    if s.step == 1 and any(_computed(e, s.at) for e in expressions(s.body)):
        yield f"{INDENT}{at} = tl.cast({at}, tl.int32)"
    yield from (f"{INDENT}{line}" for line in _block(s.body, k))


def _computed(e: Expr, at: Index) -> bool:
    """Whether anything but a place in memory is computed of a position, which Triton interpreted has as a
    number of Python.
    """
    if isinstance(e, Read) and e.tensor.loaded:
        return any(at in free(place) for place in e.at if place != at)
    return at in free(e)


def _walk(s: Walk, k: Body) -> Iterator[str]:
    w = k.words
    rows = k.program.rows
    first, last = w.start(rows), w.free("last")
    if s.listed is not None:
        ranges = listed_ranges(s, k)
        yield from ranges.lines
        yield from _loop(s, ranges, k)
    elif s.grid is not None:
        yield from _walk_boxes(s, s.grid, k)
    elif s.bands:
        end = f"{last} = tl.minimum({first} + {w.block(rows)}, {w.extent(rows)}) - 1"
        k.elements.clear()
        ranges = walk_ranges(s, first, last, w, k.widths, lambda e, counted: _scalar(e, counted, k))
        loop = list(_loop(s, ranges, k))
        yield from needed(
            [end, *(f"{name} = {text}" for text, name in k.elements.items()), *ranges.lines], loop
        )
        yield from loop


def _walk_boxes(s: Walk, grid: Grid, k: Body) -> Iterator[str]:
    """A loop over the boxes that are live along every axis."""
    k.elements.clear()
    before, opened, steps, whole = loop_lines(s, grid, k, lambda e, counted: _scalar(e, counted, k))
    body: list[str] = []
    for statement in s.body:
        if not isinstance(statement, Edge):
            body += _statement(statement, k)
        elif whole == "False":
            body += _block(statement.body, k)
        elif whole != "True":
            body += [f"if not ({whole}):", *(f"{INDENT}{line}" for line in _block(statement.body, k))]
    yes = "all are tested" if whole == "False" else "those on an edge of any axis are tested"
    loop = [f"# boxes that are live along every axis: {yes}", f"for step in tl.range(0, {steps}):"]
    loop += [f"{INDENT}{line}" for line in (*needed(opened, body), *body)]
    yield from needed([*(f"{name} = {text}" for text, name in k.elements.items()), *before], loop)
    yield from loop


def _scalar(e: Expr, counted: frozenset[Expr], k: Body) -> str:
    """A number of the ranges, given those that are never negative."""
    k.counted |= counted
    return code_of(e, k).text


def _loop(s: Walk, ranges: WalkRanges, k: Body) -> Iterator[str]:
    w = k.words
    yield f"# live tiles; {'those on an edge' if s.whole else 'all'} are tested"
    yield f"for step in tl.range(0, {ranges.count}):"
    yield from (f"{INDENT}{line}" for line in ranges.inside)
    where = ranges.tile if ranges.tile.startswith("tl.") or ranges.tile == "step" else f"({ranges.tile})"
    yield f"{INDENT}{w.start(s.index)} = {where} * {w.block(s.index)}"
    yield f"{INDENT}{w.position(s.index)} = {w.start(s.index)} + {w.inside(s.index)}"
    for statement in s.body:
        if isinstance(statement, Edge):
            yield f"{INDENT}if {ranges.edge}:"
            yield from (f"{INDENT * 2}{line}" for line in _block(statement.body, k))
        else:
            yield from (f"{INDENT}{line}" for line in _statement(statement, k))
