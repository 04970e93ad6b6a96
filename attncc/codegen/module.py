"""The frame of a generated file: the pattern, helpers, kernel, host function, reference, and its own test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from attncc.codegen.host import EXTENTS, KINDS, NUMBERS, signature
from attncc.codegen.reference import reference
from attncc.codegen.words import Words
from attncc.ir.brief import briefly
from attncc.ir.cascade import Cascade, Index, Reduce, Tensor, walk
from attncc.schedule.plan import Plan
from attncc.schedule.spec import Points

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


def docstring(said: Said, plan: Plan) -> str:
    """The pattern, numbered; then what was made of it."""
    lines = [said.doc.strip() or said.name, ""]
    lines += [f"({n}) {line}" for n, line in enumerate(said.equations, 1)]
    lines += ["", "As it runs:", "", *(f"{INDENT}{line}" for line in briefly(plan.cascade)), ""]
    for kernel in plan.kernels:
        lines += _in_words(kernel.rows, [(loop.index.name, len(loop.bands)) for loop in kernel.loops])
        state = [s.equation.tensor for loop in kernel.loops for s in loop.states]
        held = ", ".join(
            f"{t.name}[{','.join(i.name for i in t.indices if i.role != 'batch')}]" for t in state
        )
        lines += [f"State of a row: {held}."]
    lines += ["", "Edit the pattern, not this file."]
    text = "\n".join(lines).replace("\\", "\\\\").replace('"""', "'''")
    return f'"""{text}\n"""\n'


def _in_words(rows: Index, loops: list[tuple[str, int]]) -> list[str]:
    lines = []
    for name, bands in loops:
        ranges = "one range" if bands == 1 else f"{bands} ranges"
        lines.append(f"One pass over {name} for every tile of rows {rows.name},")
        lines.append(f"over {ranges} of tiles that its predicate leaves live.")
    return lines


def _shown(tensor: Tensor) -> str:
    return f"{tensor.name}[{','.join(i.name for i in tensor.indices)}]"


def host(cascade: Cascade, words: Words, check_lines: Iterable[str], body: Iterable[str], target: str) -> str:
    """The function a person calls: the pattern's signature, checked."""
    returns = ", ".join(map(_shown, cascade.outputs))
    takes = ", ".join(_shown(t) for t in cascade.inputs if t.origin in ("input", "table"))
    lines = [
        f"def {cascade.name}({signature(cascade, words)}):",
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
    points: Points,
) -> str:
    """A whole module, two blank lines between its parts."""
    dense = reference(cascade)
    numbers = any(t.origin in ("scalar", "static") and t.kind != "bool" for t in cascade.inputs)
    pieces = [
        docstring(said, plan) + "\n" + "\n".join(imports),
        EXTENTS,
        KINDS,
        *([NUMBERS] if numbers else []),
        *parts,
        *([dense.helpers] if dense.helpers else []),
        dense.function,
        main(cascade, words, device, dict(points[0]) if points else {}),
    ]
    return "\n\n\n".join(piece.strip("\n") for piece in pieces if piece.strip()) + "\n"


def main(cascade: Cascade, words: Words, device: str, features: dict[str, int]) -> str:
    """`__main__`: the kernel against the reference on random inputs."""
    sizes = _sizes(cascade, features)
    lines = ['if __name__ == "__main__":', f"{INDENT}torch.manual_seed(0)", f"{INDENT}device = {device}"]
    lines.append(f"{INDENT}kind = torch.float32 if torch.float32 in KINDS else KINDS[0]")
    arguments = []
    for tensor in cascade.inputs:
        name = words.tensor(tensor.name)
        value = _sample(tensor, sizes, dict(cascade.defaults))
        if value is not None:
            lines.append(f"{INDENT}{name} = {value}")
            arguments.append(f"{name}={name}")
    call = ", ".join(arguments)
    names = ", ".join(f'"{t.name}"' for t in cascade.outputs)
    exact = call
    for tensor in cascade.inputs:
        if tensor.kind == "float" and tensor.origin in ("input", "table"):
            name = words.tensor(tensor.name)
            exact = exact.replace(f"{name}={name}", f"{name}={name}.double()")
    lines += [
        f"{INDENT}made = {cascade.name}({call})",
        f"{INDENT}meant = reference({exact})",
        f"{INDENT}made, meant = (x if isinstance(x, tuple) else (x,) for x in (made, meant))",
        f"{INDENT}for name, x, y in zip([{names}], made, meant):",
        f"{INDENT * 2}scale = torch.linalg.vector_norm(y, dim=-1).mean()",
        f"{INDENT * 2}error = torch.linalg.vector_norm(x.double() - y, dim=-1).max() / scale",
        f'{INDENT * 2}print(f"{{name}}: the worst row is {{error:.1e}} of a mean row off")',
        f'{INDENT * 2}assert error < (1e-5 if kind == torch.float32 else 2e-2), f"{{name}} is wrong"',
    ]
    return "\n".join(lines) + "\n"


def _sizes(cascade: Cascade, features: dict[str, int]) -> dict[Index, int]:
    """Small extents that fit together: lengths off the tiles, a head group of 2, features that have tiles."""
    indices = dict.fromkeys(i for t in cascade.inputs for i in t.indices)
    batched = [i for i in indices if i.role == "batch"]
    sizes = {i: {"sequence": 150, "feature": 64, "batch": 2}[i.role] for i in indices}
    sizes |= {i: features[i.name] for i in sizes if i.role == "feature" and i.name in features}
    for index in batched[1:2]:
        sizes[index] = 4
    return sizes


def _sample(tensor: Tensor, sizes: dict[Index, int], defaults: dict[str, int | float | bool]) -> str | None:
    shape = ", ".join(str(sizes[i]) for i in tensor.indices)
    if tensor.origin in ("scalar", "static"):
        return None if tensor.name in defaults else {"int": "16", "float": "0.5", "bool": "True"}[tensor.kind]
    if tensor.kind == "float":
        return f"torch.randn({shape}{', ' if shape else '(), '}device=device, dtype=kind)"
    last = tensor.indices[-1] if tensor.indices else None
    if tensor.kind == "int" and last is not None:
        return f"(torch.arange({sizes[last]}, device=device) // 40).expand({shape}).contiguous()"
    return f"torch.rand({shape}, device=device) < 0.7"
