"""Plan → a module of plain PyTorch, tile by tile: the `torch` backend, which runs anywhere."""

from __future__ import annotations

from collections.abc import Iterator

from attncc.codegen.host import boxes, checks, output_shape, statistic, tables, with_digits
from attncc.codegen.module import Said, assemble, element_types, host, leading, words_of
from attncc.codegen.signature import Signature
from attncc.codegen.torch import ACCUMULATOR, body_lines, numbers
from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade
from attncc.schedule.loops import Program
from attncc.schedule.lower import lower
from attncc.schedule.plan import Plan
from attncc.schedule.spec import Specialisation
from attncc.schedule.tiles import candidates


def generate(said: Said, cascade: Cascade, plan: Plan, spec: Specialisation) -> str:
    """The text of a module; `cascade` is the pattern before the passes."""
    words = words_of(cascade, plan.cascade, *(kernel.cascade for kernel in plan.kernels))
    programs = [lower(kernel) for kernel in plan.kernels]
    pairs = zip(programs, plan.kernels, strict=True)
    signatures = [Signature(program, kernel.cascade, words) for program, kernel in pairs]
    first = words.tensor(leading(cascade, programs).name)
    helpers: dict[str, str] = {}
    body = [line for program in programs for line in _outputs(program, first, words)]
    body += numbers(signatures, first)
    for s in signatures:
        own, lines = body_lines(s.program, words, s)
        helpers |= own
        body += lines
    body.append(f"return {', '.join(words.tensor(t.name) for t in cascade.outputs)}")
    tile = spec.tile or candidates("cpu", 8, 1)[0]
    rows = {words.block(s.program.rows): tile.rows for s in signatures}
    columns = {words.block(i): tile.columns for s in signatures for i in s.walked}
    table = element_types(spec) + "# rows and columns of a tile\n"
    sides = {name: size for s in signatures for name, size in boxes(s.program, tile, words).items()}
    table += "".join(f"{name} = {size}\n" for name, size in (rows | columns | sides).items())
    positives = tuple(dict.fromkeys(e for s in signatures for e in s.positives))
    periods = tuple(dict.fromkeys(e for s in signatures for e in s.periods))
    known = with_digits(cascade, programs)
    before = [*checks(known, words, "KINDS", body, positives, periods), *tables(cascade, words, "long()")]
    common = "\n\n".join([ACCUMULATOR, *(helpers[name] for name in sorted(helpers))])
    parts = [table, common, host(cascade, words, before, body, "any device")]
    imports = ["import math", "import weakref", "", "import torch"]
    return assemble(said, cascade, plan, words, imports, parts, '"cpu"', spec)


def _outputs(program: Program, first: str, words: Words) -> Iterator[str]:
    for output in program.outputs:
        dtype = f", dtype=accumulator({first})" if statistic(output) else ""
        yield f"{words.tensor(output.name)} = {first}.new_empty({output_shape(output, words)}{dtype})"
