"""The frame of a generated file: the pattern, helpers, kernel, host function, reference, and its own test."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from attncc.codegen.ascending import SORTED
from attncc.codegen.differentiable import differentiable
from attncc.codegen.host import EXTENTS, KINDS, NUMBERS, signature
from attncc.codegen.lines import folded, hanging
from attncc.codegen.own_test import own_test
from attncc.codegen.reference import reference
from attncc.codegen.words import Words
from attncc.ir.brief import briefly
from attncc.ir.cascade import Cascade, Index, Reduce, Tensor, walk
from attncc.schedule.loops import Program
from attncc.schedule.plan import Kernel, Plan
from attncc.schedule.spec import Specialisation
from attncc.schedule.training import Training

INDENT = "    "


@dataclass(frozen=True)
class Said:
    """The pattern in its author's words: name, docstring, and its equations as `fmt` prints them."""

    name: str
    doc: str
    equations: tuple[str, ...]


def words_of(*cascades: Cascade) -> Words:
    """Names for every index of some cascades, kept apart from the pattern's own."""
    taken = {t.name for c in cascades for t in (*c.inputs, *c.outputs)}
    indices: set[Index] = set()
    for cascade in cascades:
        indices |= {i for i, _ in cascade.lengths}
        indices |= {i for t in (*cascade.inputs, *cascade.outputs) for i in t.indices}
        for equation in cascade.equations:
            indices |= {*equation.tensor.indices}
            for e in walk(equation.body):
                indices |= {e} if isinstance(e, Index) else set(e.over) if isinstance(e, Reduce) else set()
    return Words(frozenset(taken), tuple(sorted(indices, key=lambda i: i.name)))


def leading(cascade: Cascade, programs: Iterable[Program]) -> Tensor:
    """The argument whose device, precision and width the kernels of a module follow."""
    used = {t.name for program in programs for t in program.inputs}
    return next(t for t in cascade.inputs if t.name in used and t.kind == "float" and t.origin == "input")


def element_types(spec: Specialisation) -> str:
    """`KINDS = (torch.bfloat16, torch.float32)`"""
    names = [f"torch.{name}" for name in spec.dtypes]
    return f"KINDS = ({', '.join(names)}{',' if len(names) == 1 else ''})\n\n"


def docstring(said: Said, plan: Plan, training: Training | None) -> str:
    """The pattern, numbered; then what was made of it, and of its gradients."""
    lines = [said.doc.strip() or said.name, ""]
    for n, equation in enumerate(said.equations, 1):
        first, *rest = equation.split("\n")
        lines += [*hanging(f"({n}) {first}"), *(f"{INDENT}{line}" for line in rest)]
    lines += ["", "As it runs:", "", *_planned(plan if training is None else training.forward_plan)]
    if training is not None:
        lines += ["", "Its gradients:", "", *_planned(training.backward_plan)]
    lines += ["", "Edit the pattern, not this file."]
    text = "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''")
    return f'"""{text}\n"""\n'


def _planned(plan: Plan) -> list[str]:
    """What kernels compute, and how each of them runs."""
    lines = [line for equation in briefly(plan.cascade) for line in hanging(equation, INDENT)]
    lines.append("")
    for kernel in plan.kernels:
        if len(plan.kernels) > 1:
            lines += hanging(f"Kernel {kernel.name} writes {', '.join(map(_shown, kernel.writes))}.")
        lines += _in_words(kernel)
        state = [s.equation.tensor for loop in kernel.loops for s in loop.states]
        held = ", ".join(
            f"{t.name}[{','.join(i.name for i in t.indices if i.role != 'batch')}]" for t in state
        )
        lines += hanging(f"State of a row: {held}.") if held else []
    return lines


def _in_words(kernel: Kernel) -> list[str]:
    lines = []
    ordinals = ("First", "Second", "Third")
    names = [loop.index.name for loop in kernel.loops]
    for n, loop in enumerate(kernel.loops):
        passes, nth = names.count(names[n]), names[:n].count(names[n])
        said = "One pass" if passes == 1 else f"{ordinals[nth]} pass" if nth < 3 else f"Pass {nth + 1}"
        ranges = "one range" if len(loop.bands) == 1 else f"{len(loop.bands)} ranges"
        each = f" at every {', '.join(i.name for i in loop.outers)}" if loop.outers else ""
        lines.append(f"{said} over {names[n]}{each} for every tile of rows {kernel.rows.name},")
        if loop.stored:
            lines.append(f"over all tiles, of which it stores {', '.join(t.name for t in loop.stored)}.")
        elif loop.listed:
            tables = ", ".join(t.name for t in loop.listed)
            lines.append(f"over the tiles of a list, which is made before from {tables}.")
        elif loop.grid is not None:
            own = ", ".join(axis.columns.name for axis in loop.grid.axes)
            lines.append(f"over the boxes of {own} that are live along each; tiles of rows are boxes too.")
        else:
            lines.append(f"over {ranges} of tiles that its predicate leaves live.")
    return lines


def _shown(tensor: Tensor) -> str:
    return f"{tensor.name}[{','.join(i.name for i in tensor.indices)}]"


def host(
    cascade: Cascade,
    words: Words,
    check_lines: Iterable[str],
    body: Iterable[str],
    target: str,
    name: str,
) -> str:
    """A function that launches kernels: a cascade's signature, checked."""
    returns = ", ".join(map(_shown, cascade.outputs))
    takes = ", ".join(_shown(t) for t in cascade.inputs if t.origin in ("input", "table", "kept"))
    lines = [
        f"def {words.function(name)}({signature(cascade, words)}):",
        *(f"{INDENT}{line}" for line in hanging(f'"""{takes} -> {returns}, on {target}.')),
        "",
        f"{INDENT}Tensors may have any strides. ValueError and TypeError name what does not fit.",
        f'{INDENT}"""',
        *(f"{INDENT}{line}" for line in chain(check_lines, body)),
    ]
    return "\n".join(lines) + "\n"


def assemble(
    said: Said,
    cascade: Cascade,
    plan: Plan,
    words: Words,
    imports: Iterable[str],
    parts: Iterable[str],
    device: str,
    spec: Specialisation,
    training: Training | None = None,
) -> str:
    """A whole module, two blank lines between its parts."""
    dense = reference(cascade)
    numbers = any(t.origin in ("scalar", "static") for t in cascade.inputs)
    pieces = [
        EXTENTS,
        KINDS,
        *([NUMBERS] if numbers else []),
        *([SORTED] if cascade.sorted_tables else []),
        *map(folded, parts),
        *([] if training is None else [folded(differentiable(cascade, training, words))]),
        *([dense.helpers] if dense.helpers else []),
        dense.function,
        folded(own_test(cascade, words, device, spec, training)),
    ]
    text = "\n\n\n".join(piece.strip("\n") for piece in pieces if piece.strip()) + "\n"
    unused = [m for m in ("math", "weakref") if not re.search(rf"(?<!\.)\b{m}\.", text)]
    wanted = [line for line in imports if line.removeprefix("import ") not in unused]
    head = "\n".join(wanted).strip("\n")
    return f"{docstring(said, plan, training)}\n{head}\n\n\n{text}"
