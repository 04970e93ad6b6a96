"""Plan → a module of Triton kernels: the `triton` backend."""

from __future__ import annotations

from collections.abc import Iterator

from attncc.codegen.descriptors import DESCRIBE, by_descriptor, described
from attncc.codegen.host import checks, output_shape, statistic, tables
from attncc.codegen.module import INDENT, Said, assemble, element_types, host, words_of
from attncc.codegen.signature import Signature
from attncc.codegen.spell import FAST_LOG2
from attncc.codegen.triton import kernel_text
from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade
from attncc.ops import BITS
from attncc.schedule.cost import tiles_for
from attncc.schedule.lower import lower
from attncc.schedule.plan import Plan
from attncc.schedule.spec import WIDTHS, Specialisation
from attncc.schedule.tiles import padded

DEVICE = 'torch.device("cuda" if torch.cuda.is_available() else "cpu")'

FAR = "1 << 23"
"""Offsets inside a tile, of 256 elements at most, are 32 bits wide up to here."""


def generate(said: Said, cascade: Cascade, plan: Plan, spec: Specialisation) -> str:
    """The text of a module; `cascade` is the pattern before the passes."""
    (kernel,) = plan.kernels
    program = lower(kernel, plan.cascade)
    words = words_of(cascade, plan.cascade)
    blocks = described(program) if by_descriptor(spec) else frozenset()
    s = Signature(program, plan.cascade, words, blocks)
    ragged = frozenset(
        i
        for i in s.features
        if any(padded(dict(point)[i.name]) != dict(point)[i.name] for point in spec.extents)
    )
    short = spec.target.startswith("cuda") and all(WIDTHS[d] == 2 for d in spec.dtypes)
    helpers, text = kernel_text(program, words, s, ragged, short)
    launch = list(_launch(cascade, s, words))
    first = words.tensor(program.leading.name)
    lines = [
        *checks(cascade, words, "KINDS", launch, s.positives),
        *tables(cascade, words, "to(torch.promote_types({name}.dtype, torch.int32))"),
        f"if max(sizes.values()) >= 1 << {BITS}:",
        f'    raise ValueError(f"extents {{sizes}}: those of a kernel stay below 2**{BITS}")',
        f"if not ({first}.is_cuda or triton.knobs.runtime.interpret):",
        "    raise ValueError("
        f'f"this kernel runs on a GPU, and `{program.leading.name}` is on {{{first}.device}}")',
    ]
    table = element_types(spec)
    table += "# tiles, warps and pipeline stages by the extents of features and the bytes of an element\n"
    table += "\n".join(tile_table(s, spec, kernel.narrow))
    logs = "fast_log2(" in helpers + text
    helpers = "\n\n".join(p for p in (FAST_LOG2 if logs else "", DESCRIBE if blocks else "", helpers) if p)
    parts = [table, helpers, text, host(cascade, words, lines, launch, spec.target)]
    imports = [
        "import contextlib",
        "import math",
        "",
        "import torch",
        "import triton",
        "import triton.language as tl",
        *(["from triton.language.extra.cuda import libdevice"] if logs else []),
        *(["from triton.tools.tensor_descriptor import TensorDescriptor"] if blocks else []),
    ]
    return assemble(said, cascade, plan, words, imports, parts, DEVICE, spec)


def tile_table(s: Signature, spec: Specialisation, narrow: bool) -> Iterator[str]:
    """`TILES = {(64, 64, 2): {...}}`"""
    w = s.words
    yield "TILES = {"
    for point in spec.extents:
        known = dict(point)
        for width in sorted({WIDTHS[d] for d in spec.dtypes}):
            found = (spec.tile,) if spec.tile else tiles_for(s.program, spec.target, width, known, narrow)
            if not found:
                continue
            tile = found[0]
            key = ", ".join(str(x) for x in (*(known[i.name] for i in s.fixed_extents), width))
            blocks = {w.block(s.program.rows): tile.rows}
            blocks |= {w.block(i): tile.columns for i in s.walked}
            blocks |= {w.block(i): padded(known[i.name]) for i in s.features}
            row = ", ".join(f'"{name}": {value}' for name, value in blocks.items())
            yield f"{INDENT}({key}{'' if ',' in key else ','}): {{"
            yield f"{INDENT * 2}{row},"
            yield f'{INDENT * 2}"num_warps": {tile.warps}, "num_stages": {tile.stages},'
            yield f"{INDENT}}},"
    yield "}"


def _launch(cascade: Cascade, s: Signature, words: Words) -> Iterator[str]:
    first = words.tensor(s.program.leading.name)
    key = ", ".join([*(words.extent(i) for i in s.fixed_extents), f"{first}.element_size()"])
    yield f"tile = TILES.get(({key}{'' if ',' in key else ','}))"
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
    for output in cascade.outputs:
        dtype = ", dtype=torch.float32" if statistic(output) else ""
        yield f"{words.tensor(output.name)} = {first}.new_empty({output_shape(output, words)}{dtype})"
    rows = s.program.rows
    grid = " * ".join([words.extent(i) for i in s.program.batch])
    tiles = f'triton.cdiv({words.extent(rows)}, tile["{words.block(rows)}"])'
    yield f"grid = {tiles}{' * ' + grid if grid else ''}"
    yield "if grid:"
    yield f"    with torch.cuda.device({first}.device) if {first}.is_cuda else contextlib.nullcontext():"
    yield f"        {s.program.name}_kernel[(grid,)]("
    yield from (f"            {line}" for line in s.argument_lines())
    yield "            **tile,"
    yield "        )"
    yield f"return {', '.join(words.tensor(t.name) for t in cascade.outputs)}"
