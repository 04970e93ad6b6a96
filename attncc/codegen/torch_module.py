"""Plan → a module of plain PyTorch, tile by tile: the `torch` backend, which runs anywhere."""

from __future__ import annotations

from collections.abc import Iterator

from attncc.codegen.host import checks, output_shape, statistic, tables
from attncc.codegen.module import Said, assemble, element_types, host, words_of
from attncc.codegen.signature import Signature
from attncc.codegen.torch import body_lines
from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade, Tensor
from attncc.schedule.lower import lower
from attncc.schedule.plan import Plan
from attncc.schedule.spec import Specialisation
from attncc.schedule.tiles import candidates


def generate(said: Said, cascade: Cascade, plan: Plan, spec: Specialisation) -> str:
    """The text of a module; `cascade` is the pattern before the passes."""
    (kernel,) = plan.kernels
    program = lower(kernel, plan.cascade)
    words = words_of(cascade, plan.cascade)
    s = Signature(program, plan.cascade, words)
    helpers, lines = body_lines(program, words, s)
    tile = spec.tile or candidates("cpu", 8, 1)[0]
    table = element_types(spec)
    table += f"# rows and columns of a tile\n{words.block(program.rows)} = {tile.rows}\n"
    table += "".join(f"{words.block(i)} = {tile.columns}\n" for i in s.walked)
    body = [
        *_outputs(cascade, program.leading, words),
        *lines,
        f"return {', '.join(words.tensor(t.name) for t in cascade.outputs)}",
    ]
    before = [*checks(cascade, words, "KINDS", body, s.positives), *tables(cascade, words, "long()")]
    parts = [table, helpers, host(cascade, words, before, body, "any device")]
    return assemble(said, cascade, plan, words, ["import math", "", "import torch"], parts, '"cpu"', spec)


def _outputs(cascade: Cascade, leading: Tensor, words: Words) -> Iterator[str]:
    first = words.tensor(leading.name)
    for output in cascade.outputs:
        dtype = f", dtype=accumulator({first})" if statistic(output) else ""
        yield f"{words.tensor(output.name)} = {first}.new_empty({output_shape(output, words)}{dtype})"
