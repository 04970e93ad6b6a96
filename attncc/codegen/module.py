"""The frame of a generated file: the pattern, helpers, kernel, host function, reference, and its own test."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from attncc.codegen.ascending import SORTED
from attncc.codegen.differentiable import differentiable
from attncc.codegen.host import EXTENTS, KINDS, NUMBERS, signature, spelled, statistic
from attncc.codegen.lines import folded, hanging
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
        f'{INDENT}"""{takes} -> {returns}, on {target}.',
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
        *([] if training is None else [differentiable(cascade, training, words)]),
        *([dense.helpers] if dense.helpers else []),
        dense.function,
        folded(main(cascade, words, device, spec, training)),
    ]
    text = "\n\n\n".join(piece.strip("\n") for piece in pieces if piece.strip()) + "\n"
    unused = [m for m in ("math", "weakref") if not re.search(rf"(?<!\.)\b{m}\.", text)]
    wanted = [line for line in imports if line.removeprefix("import ") not in unused]
    head = "\n".join(wanted).strip("\n")
    return f"{docstring(said, plan, training)}\n{head}\n\n\n{text}"


def main(
    cascade: Cascade, words: Words, device: str, spec: Specialisation, training: Training | None = None
) -> str:
    """`__main__`: the kernels against the reference on random inputs, gradients too where it has them."""
    kind = "float32" if "float32" in spec.dtypes else spec.dtypes[0]
    sizes = _sizes(cascade, dict(spec.extents[0]) if spec.extents else {})
    placed = {i for t in cascade.inputs if t.kind == "float" for i in t.indices}
    samples = {
        words.tensor(t.name): _sample(t, sizes, kind, dict(cascade.defaults), placed) for t in cascade.inputs
    }
    lines = ['if __name__ == "__main__":', f"{INDENT}torch.manual_seed(0)", f"{INDENT}device = {device}"]
    lines += [
        f"{INDENT}given = {{",
        *(f'{INDENT * 2}"{name}": {value},' for name, value in samples.items()),
        f"{INDENT}}}",
        f"{INDENT}floats = {{",
        f"{INDENT * 2}name: x.double()",
        f"{INDENT * 2}for name, x in given.items()",
        f"{INDENT * 2}if torch.is_tensor(x) and x.is_floating_point()",
        f"{INDENT}}}",
        *([] if training is None else [f"{INDENT}for x in (*given.values(), *floats.values()):",
            f"{INDENT * 2}if torch.is_tensor(x) and x.is_floating_point():",
            f"{INDENT * 3}x.requires_grad_()"]),
        f"{INDENT}made = {words.function(cascade.name)}(**given)",
        f"{INDENT}meant = reference(**{{**given, **floats}})",
        *(f"{INDENT}{line}" for line in ([] if training is None else gradients(cascade, training))),
        f"{INDENT}for name, x, y in (",
        *(f"{INDENT * 2}{line}," for line in _compared(cascade)),
        *([] if training is None else [f"{INDENT * 2}*rows,"]),
        f"{INDENT}):",
        f"{INDENT * 2}row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()",
        f"{INDENT * 2}error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row",
        f'{INDENT * 2}print(f"{{name}}: the worst row is {{error:.1e}} of a mean row off")',
        f'{INDENT * 2}assert error < {ALLOWED[kind]}, f"{{name}} is wrong"',
    ]
    return "\n".join(lines) + "\n"


def gradients(cascade: Cascade, training: Training) -> Iterator[str]:
    """`rows`: the gradients by both, of outputs that weigh their elements at random."""
    many = len(cascade.outputs) > 1
    real = [n for n, t in enumerate(cascade.outputs) if t.kind == "float"]
    which = [f"[{n}]" if many else "" for n in real]
    names = ", ".join(f'"{t.name}"' for t in training.wrt)
    yield f"names = [{names}]"
    yield f"weights = [torch.randn_like(x) for x in ({', '.join(f'made{w}' for w in which)},)]"
    for word, outputs, inputs in (("made", "found", "given"), ("meant", "wanted", "floats")):
        given = ", ".join(f"{word}{w}" for w in which)
        yield f"{outputs} = torch.autograd.grad("
        finite = "torch.where(x.isfinite(), w, 0).to(x.dtype)"
        yield f"    ({given},),"
        yield f"    [{inputs}[name] for name in names],"
        yield f"    [{finite} for w, x in zip(weights, ({given},))],"
        yield ")"
    yield "rows = ["
    yield '    (f"d{name}", x.reshape(-1, x.shape[-1] if x.dim() > 1 else 1), y.reshape(-1, x.shape[-1] if x.dim() > 1 else 1))'
    yield "    for name, x, y in zip(names, found, wanted)"
    yield "]"


ALLOWED = {"float64": "1e-10", "float32": "1e-5", "float16": "5e-3", "bfloat16": "4e-2"}
"""How far a row may be off in a module's own check, in the length of a mean row."""


def _compared(cascade: Cascade) -> Iterator[str]:
    """`("O", made, meant)`; a statistic of rows gets an axis, so that every row is judged for itself."""
    for n, output in enumerate(cascade.outputs):
        which = f"[{n}]" if len(cascade.outputs) > 1 else ""
        axis = "[..., None]" if statistic(output) else ""
        yield f'("{output.name}", made{which}{axis}, meant{which}{axis})'


def _sizes(cascade: Cascade, features: dict[str, int]) -> dict[Index, int]:
    """Small extents that fit together: lengths off the tiles and unlike one another, a head group of 2,
    features that have tiles.
    """
    indices = dict.fromkeys(i for t in cascade.inputs for i in t.indices)
    batched = [i for i in indices if i.role == "batch"]
    sizes = {i: {"sequence": 203, "feature": 64, "batch": 2}[i.role] for i in indices}
    sizes |= {i: 150 for i in cascade.inputs[0].indices if i.role == "sequence"}
    sizes |= {i: features[i.name] for i in sizes if i.role == "feature" and i.name in features}
    for index in batched[1:2]:
        sizes[index if index in cascade.inputs[0].indices else batched[0]] = 4
    return sizes


def _sample(
    tensor: Tensor,
    sizes: dict[Index, int],
    kind: str,
    defaults: dict[str, int | float | bool],
    placed: set[Index],
) -> str:
    """Random numbers for a tensor, small and positive for one without features, a slope or a gate; for a
    number a quarter of its default, 16 at most, so that at these lengths its edges are met. A table gives
    parts of 40 positions, or where they begin, if its places are none of a tensor's, or lengths.
    """
    shape = ", ".join(str(sizes[i]) for i in tensor.indices)
    if tensor.origin in ("scalar", "static"):
        default = defaults.get(tensor.name, {"int": 64, "float": 0.5, "bool": True}[tensor.kind])
        return spelled(min(int(default) // 4, 16) if tensor.kind == "int" and default > 4 else default)
    if tensor.kind == "float" and not any(i.role == "feature" for i in tensor.indices):
        return f"torch.rand({shape or '()'}, device=device, dtype=torch.{kind}) / 8"
    if tensor.kind == "float":
        return f"torch.randn({shape}, device=device, dtype=torch.{kind})"
    last = tensor.indices[-1] if tensor.indices else None
    if tensor.kind == "int" and last is not None:
        parts = "// 40" if last in placed else "* 40"
        number = parts if last.role == "sequence" else "* 62 + 62"
        return f"(torch.arange({sizes[last]}, device=device) {number}).expand({shape}).contiguous()"
    return f"torch.rand({shape or '()'}, device=device) < 0.7"
