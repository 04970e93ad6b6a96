"""Plan → a module of plain PyTorch, tile by tile: the `torch` backend, which runs anywhere."""

from __future__ import annotations

from collections.abc import Iterator

from attncc.codegen.functions import Function, functions
from attncc.codegen.host import boxes, checks, output_shape, statistic, tables, with_digits
from attncc.codegen.module import Said, assemble, element_types, leading, words_of
from attncc.codegen.signature import Signature
from attncc.codegen.torch import ACCUMULATOR, body_lines, numbers
from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade
from attncc.schedule.loops import Program
from attncc.schedule.lower import lower
from attncc.schedule.plan import Plan
from attncc.schedule.spec import Specialisation
from attncc.schedule.tiles import Tile, candidates
from attncc.schedule.training import Training


def generate(
    said: Said, cascade: Cascade, plan: Plan, spec: Specialisation, training: Training | None = None
) -> str:
    """The text of a module; `cascade` is the pattern before the passes. With `training`, its forward pass
    also leaves what gradients need, and the backward pass stands beside it.
    """
    passes = functions(cascade, plan, training)
    words = words_of(cascade, *(c for f in passes for c in f.cascades))
    tile = spec.tile or candidates("cpu", 8, 1)[0]
    helpers: dict[str, str] = {}
    sizes: dict[str, int] = {}
    texts = []
    for f in passes:
        own, blocks, text = _function(f, words, tile)
        helpers |= own
        sizes |= blocks
        texts.append(text)
    table = element_types(spec) + "# rows and columns of a tile\n"
    table += "".join(f"{name} = {size}\n" for name, size in sizes.items())
    common = "\n\n".join([ACCUMULATOR, *(helpers[name] for name in sorted(helpers))])
    imports = ["import math", "import weakref", "", "import torch"]
    return assemble(said, cascade, plan, words, imports, [table, common, *texts], '"cpu"', spec, training)


def _function(f: Function, words: Words, tile: Tile) -> tuple[dict[str, str], dict[str, int], str]:
    """The helpers of one host function, its tiles, and its text."""
    programs = [lower(kernel) for kernel in f.plan.kernels]
    pairs = zip(programs, f.plan.kernels, strict=True)
    signatures = [Signature(program, kernel.cascade, words) for program, kernel in pairs]
    first = words.tensor(leading(f.cascade, programs).name)
    helpers: dict[str, str] = {}
    body = [line for program in programs for line in _outputs(program, first, words)]
    body += numbers(signatures, first)
    for s in signatures:
        own, lines = body_lines(s.program, words, s)
        helpers |= own
        body += lines
    body += f.ending(words)
    rows = {words.block(s.program.rows): tile.rows for s in signatures}
    columns = {words.block(i): tile.columns for s in signatures for i in s.walked}
    sides = {name: size for s in signatures for name, size in boxes(s.program, tile, words).items()}
    positives = tuple(dict.fromkeys(e for s in signatures for e in s.positives))
    periods = tuple(dict.fromkeys(e for s in signatures for e in s.periods))
    known = with_digits(f.cascade, programs)
    before = [
        *checks(known, words, "KINDS", body, positives, periods, f.sums),
        *tables(f.cascade, words, "long()"),
    ]
    return helpers, rows | columns | sides, f.text(words, before, body, "any device")


def _outputs(program: Program, first: str, words: Words) -> Iterator[str]:
    for output in program.outputs:
        dtype = f", dtype=accumulator({first})" if statistic(output) else ""
        yield f"{words.tensor(output.name)} = {first}.new_empty({output_shape(output, words)}{dtype})"
