"""Plan → a module of Triton kernels: the `triton` backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from attncc.codegen.descriptors import DESCRIBE, by_descriptor, described
from attncc.codegen.functions import Function, functions
from attncc.codegen.host import boxes, checks, output_shape, statistic, tables, with_digits
from attncc.codegen.listed import Lists, lists
from attncc.codegen.listed_module import list_kernels, list_launches
from attncc.codegen.module import INDENT, Said, assemble, element_types, leading, words_of
from attncc.codegen.order import CONSTANTS, PLACING, order_lines, work_of
from attncc.codegen.signature import Signature
from attncc.codegen.spell import FAST_LOG2
from attncc.codegen.triton import kernel_text
from attncc.codegen.words import Words
from attncc.diagnostics import Diagnostic, Label
from attncc.ir.cascade import Cascade, Index, Reduce, Tensor, walk
from attncc.ops import BITS
from attncc.schedule.cost import tiles_for
from attncc.schedule.loops import Program
from attncc.schedule.lower import lower
from attncc.schedule.plan import Kernel, Plan
from attncc.schedule.refused import REFERENCE, Refused
from attncc.schedule.spec import WIDTHS, Specialisation
from attncc.schedule.tiles import padded
from attncc.schedule.training import Training

DEVICE = 'torch.device("cuda" if torch.cuda.is_available() else "cpu")'

FAR = "1 << 23"
"""Offsets inside a tile, of 256 elements at most, are 32 bits wide up to here."""


@dataclass(frozen=True)
class Part:
    """One kernel of a module: its loop tree, its arguments, and under which name its tiles stand."""

    kernel: Kernel
    program: Program
    signature: Signature
    tiles: str
    lists: tuple[Lists, ...] = ()
    work: Program | None = None


def generate(
    said: Said, cascade: Cascade, plan: Plan, spec: Specialisation, training: Training | None = None
) -> str:
    """The text of a module; `cascade` is the pattern before the passes. With `training`, its forward pass
    also leaves what gradients need, and the backward pass stands beside it.
    """
    passes = functions(cascade, plan, training)
    words = words_of(cascade, *(c for f in passes for c in f.cascades))
    made = [_function(f, words, spec) for f in passes]
    table = element_types(spec)
    if any(part.work is not None for m in made for part in m.parts):
        table += f"{CONSTANTS}\n"
    table += "# tiles, warps and pipeline stages by the extents of features and the bytes of an element\n"
    table += "\n".join(line for m in made for part in m.parts for line in tile_table(part, spec))
    helpers = {name: text for m in made for name, text in m.helpers.items()}
    own_texts = [helpers[name] for name in sorted(helpers)]
    texts = [text for m in made for text in m.texts]
    logs = any("fast_log2(" in text for text in (*own_texts, *texts))
    blocks = any(part.signature.described for m in made for part in m.parts)
    common = [*([FAST_LOG2] if logs else []), *([DESCRIBE] if blocks else []), *own_texts]
    pieces = [table, "\n\n".join(common), *texts, *(m.host for m in made)]
    imports = [
        "import contextlib",
        "import math",
        "import weakref",
        "",
        "import torch",
        "import triton",
        "import triton.language as tl",
        *(["from triton.language.extra.cuda import libdevice"] if logs else []),
        *(["from triton.tools.tensor_descriptor import TensorDescriptor"] if blocks else []),
    ]
    return assemble(said, cascade, plan, words, imports, pieces, DEVICE, spec, training)


@dataclass(frozen=True)
class Made:
    """The text of one host function and of its kernels."""

    parts: tuple[Part, ...]
    helpers: dict[str, str]
    texts: tuple[str, ...]
    host: str


def _function(f: Function, words: Words, spec: Specialisation) -> Made:
    last = f.plan.kernels[-1]
    own = [f.plain and kernel is last for kernel in f.plan.kernels]
    names = [
        "TILES" if first else words.free(f"TILES_{kernel.name}")
        for kernel, first in zip(f.plan.kernels, own, strict=True)
    ]
    parts = [_part(kernel, words, spec, name) for kernel, name in zip(f.plan.kernels, names, strict=True)]
    short = spec.target.startswith("cuda") and all(WIDTHS[d] == 2 for d in spec.dtypes)
    helpers: dict[str, str] = {}
    texts = []
    for part in parts:
        found, text = kernel_text(part.program, words, part.signature, _ragged(part, spec), short)
        before = [*list_kernels(part.lists, part.kernel.cascade, words)]
        if part.work is not None:
            before.append(kernel_text(part.work, words, Signature(part.work, part.kernel.cascade, words)))
            helpers["_order_kernel"] = PLACING
        for helper, more in [*before, (found, text)]:
            helpers |= helper
            texts.append(more)
    follows = leading(f.cascade, (part.program for part in parts))
    first = words.tensor(follows.name)
    launch = [line for part in parts for line in _launch(part, f.plan.kept, words, first)]
    launch += f.ending(words)
    positives = dict.fromkeys(e for part in parts for e in part.signature.positives)
    periods = dict.fromkeys(e for part in parts for e in part.signature.periods)
    digits = with_digits(f.cascade, (part.program for part in parts))
    lines = [
        *checks(digits, words, "KINDS", launch, tuple(positives), tuple(periods), f.sums),
        *tables(f.cascade, words, "to(torch.promote_types({name}.dtype, torch.int32))"),
        f"if max(sizes.values()) >= 1 << {BITS}:",
        f'    raise ValueError(f"extents {{sizes}}: those of a kernel stay below 2**{BITS}")',
        f"if not ({first}.is_cuda or triton.knobs.runtime.interpret):",
        f'    raise ValueError(f"this kernel runs on a GPU, and `{follows.name}` is on {{{first}.device}}")',
    ]
    return Made(tuple(parts), helpers, tuple(texts), f.text(words, lines, launch, spec.target))


def _part(kernel: Kernel, words: Words, spec: Specialisation, tiles: str) -> Part:
    program = lower(kernel)
    _check_features(program, kernel, spec)
    blocks = described(program) if by_descriptor(spec) else frozenset()
    made = lists(program, words)
    program = replace(program, inputs=(*program.inputs, *(x.listing.output for x in made)))
    work = work_of(program, words) if kernel.uneven else None
    program = program if work is None else replace(program, ordered=work.batch)
    return Part(kernel, program, Signature(program, kernel.cascade, words, blocks), tiles, made, work)


def _check_features(program: Program, kernel: Kernel, spec: Specialisation) -> None:
    """Refused where a feature has an extent of its own making, of which no row of tiles is known."""
    known = {name for point in spec.extents for name, _ in point}
    strange = next((i for i in program.features if i.name not in known), None)
    if strange is not None:
        folded = [
            e
            for e in kernel.cascade.equations
            if any(isinstance(x, Reduce) and strange in x.over for x in walk(e.body))
        ]
        message = (
            f"no kernel plan for `{strange.name}` on a GPU: no tensor says its extent, which tiles follow"
        )
        label = Label(folded[0].span, f"`{strange.name}` is folded here")
        raise Refused(Diagnostic("plan-extent", message, (label,), REFERENCE))


def _ragged(part: Part, spec: Specialisation) -> frozenset[Index]:
    """Features whose extent is not that of their tiles."""
    points = [dict(point) for point in spec.extents]
    features = part.signature.features
    return frozenset(i for i in features if any(padded(p[i.name]) != p[i.name] for p in points))


def tile_table(part: Part, spec: Specialisation) -> Iterator[str]:
    """`TILES = {(64, 64, 2): {...}}`; a tile that is asked for is the last kernel's."""
    s, narrow = part.signature, part.kernel.narrow
    w = s.words
    asked = (spec.tile,) if spec.tile and part.tiles == "TILES" else ()
    yield f"{part.tiles} = {{"
    for point in spec.extents:
        known = dict(point)
        for width in sorted({WIDTHS[d] for d in spec.dtypes}):
            found = asked or tiles_for(s.program, spec.target, width, known, narrow)
            if not found:
                continue
            tile = found[0]
            key = ", ".join(str(x) for x in (*(known[i.name] for i in s.fixed_extents), width))
            blocks = {w.block(s.program.rows): tile.rows}
            blocks |= {w.block(i): tile.columns for i in s.walked}
            blocks |= boxes(s.program, tile, w)
            blocks |= {w.block(i): padded(known[i.name]) for i in s.features}
            row = ", ".join(f'"{name}": {value}' for name, value in blocks.items())
            yield f"{INDENT}({key}{'' if ',' in key else ','}): {{"
            yield f"{INDENT * 2}{row},"
            yield f'{INDENT * 2}"num_warps": {tile.warps}, "num_stages": {tile.stages},'
            yield f"{INDENT}}},"
    yield "}"


def _empty(output: Tensor, kept: bool, words: Words, first: str) -> str:
    """Memory for what a kernel writes; rows of what stays between kernels begin at multiples of 16 bytes."""
    dtype = ", dtype=torch.float32" if statistic(output) else ""
    shape = [words.extent(i) for i in output.indices]
    if not kept:
        return f"{first}.new_empty({output_shape(output, words)}{dtype})"
    wide = f"({', '.join([*shape[:-1], f'-(-{shape[-1]} // 4) * 4'])}{',' if len(shape) == 1 else ''})"
    return f"{first}.new_empty({wide}{dtype})[..., :{shape[-1]}]"


def _launch(part: Part, kept: tuple[Tensor, ...], words: Words, first: str) -> Iterator[str]:
    s = part.signature
    key = ", ".join([*(words.extent(i) for i in s.fixed_extents), f"{first}.element_size()"])
    yield f"tile = {part.tiles}.get(({key}{'' if ',' in key else ','}))"
    yield "if tile is None:"
    names = ", ".join(f"{i.name}={{{words.extent(i)}}}" for i in s.fixed_extents)
    text = f"no tiles for {names} and {{{first}.element_size()}} bytes an element: "
    yield "    raise ValueError("
    yield f'        f"{text}"'
    yield '        "compile the pattern with --extent"'
    yield "    )"
    inside = [
        f"{words.tensor(t.name)}.stride({n})"
        for t in s.program.inputs
        for n, i in enumerate(t.indices)
        if i.role != "batch" and t not in s.described
    ]
    if inside:
        yield f"far = max({', '.join(inside)}, 0)"
        yield f"if far >= {FAR}:"
        text = "neighbours in a tensor are {far} elements apart: call .contiguous() on it"
        yield f'    raise ValueError(f"{text}")'
    for output in s.program.outputs:
        yield f"{words.tensor(output.name)} = {_empty(output, output in kept, words, first)}"
    rows = s.program.rows
    grid = " * ".join([words.extent(i) for i in s.program.batch])
    sides = [axis.rows for axis in s.program.grids[rows].axes] if rows in s.program.grids else [rows]
    tiles = " * ".join(f'triton.cdiv({words.extent(i)}, tile["{words.block(i)}"])' for i in sides)
    yield f"grid = {tiles}{' * ' + grid if grid else ''}"
    yield "if grid:"
    yield f"    with torch.cuda.device({first}.device) if {first}.is_cuda else contextlib.nullcontext():"
    for line in list_launches(part.lists, part.kernel.cascade, words, first):
        yield f"        {line}"
    if part.work is not None:
        for line in order_lines(s.program, part.work, tiles, part.kernel.cascade, words, first):
            yield f"        {line}"
    yield f"        {s.program.name}_kernel[(grid,)]("
    yield from (f"            {line}" for line in s.argument_lines())
    yield "            **tile,"
    yield "        )"
