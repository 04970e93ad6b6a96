"""Cascade → the end of its module, `__main__`: the kernels against the reference on random inputs."""

from __future__ import annotations

from collections.abc import Iterator

from attncc.codegen.host import spelled, statistic
from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade, Index, Tensor
from attncc.schedule.spec import Specialisation
from attncc.schedule.training import Training

INDENT = "    "

ALLOWED = {"float64": "1e-10", "float32": "1e-5", "float16": "5e-3", "bfloat16": "4e-2"}
"""How far a row may be off in a module's own check, in the length of a mean row."""

SLOPES = {"float64": "1e-9", "float32": "5e-5", "float16": "2e-2", "bfloat16": "1e-1"}
"""The same for gradients, in which large numbers cancel."""


def own_test(
    cascade: Cascade, words: Words, device: str, spec: Specialisation, training: Training | None = None
) -> str:
    """The lines of `__main__`, with gradients where the module has them."""
    kind = "float32" if "float32" in spec.dtypes else spec.dtypes[0]
    sizes = _sizes(cascade, dict(spec.extents[0]) if spec.extents else {})
    placed = {i for t in cascade.inputs if t.kind == "float" for i in t.indices}
    samples = {
        words.tensor(t.name): _sample(t, sizes, kind, dict(cascade.defaults), placed) for t in cascade.inputs
    }
    lines = ["torch.manual_seed(0)", f"device = {device}"]
    lines += ["given = {", *(f'{INDENT}"{name}": {value},' for name, value in samples.items()), "}"]
    lines += [
        "floats = {",
        f"{INDENT}name: x.double()",
        f"{INDENT}for name, x in given.items()",
        f"{INDENT}if torch.is_tensor(x) and x.is_floating_point()",
        "}",
    ]
    if training is not None:
        lines += ["for name, x in floats.items():", f"{INDENT}given[name].requires_grad_()"]
        lines += [f"{INDENT}x.requires_grad_()"]
    lines += [
        f"made = {words.function(cascade.name)}(**given)",
        "meant = reference(**{**given, **floats})",
        *([] if training is None else _gradients(cascade, training, words)),
        "for name, x, y, allowed in (",
        *(f"{INDENT}{line}," for line in _compared(cascade, ALLOWED[kind])),
        *(
            []
            if training is None
            else [f'{INDENT}*((f"d{{n}}", x, y, {SLOPES[kind]}) for n, x, y in gradients),']
        ),
        "):",
        f"{INDENT}row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()",
        f"{INDENT}error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row",
        f'{INDENT}print(f"{{name}}: the worst row is {{error:.1e}} of a mean row off")',
        f'{INDENT}assert error < allowed, f"{{name}} is wrong"',
    ]
    return "\n".join(['if __name__ == "__main__":', *(f"{INDENT}{line}" for line in lines)]) + "\n"


def _gradients(cascade: Cascade, training: Training, words: Words) -> Iterator[str]:
    """`gradients`: those by both, of outputs whose elements are weighed at random."""
    real = [n for n, t in enumerate(cascade.outputs) if t.kind == "float"]
    which = [f"[{n}]" if len(cascade.outputs) > 1 else "" for n in real]
    names = ", ".join(f'"{words.tensor(t.name)}"' for t in training.wrt)
    yield f"names = [{names}]"
    yield f"pairs = [{', '.join(f'(made{w}, meant{w})' for w in which)}]"
    yield "weights = [torch.where(x.isfinite(), torch.randn_like(x), 0) for x, _ in pairs]"
    yield "found = torch.autograd.grad([x for x, _ in pairs], [given[n] for n in names], weights)"
    yield "weights = [w.double() for w in weights]"
    yield "wanted = torch.autograd.grad([y for _, y in pairs], [floats[n] for n in names], weights)"
    triples = "for n, x, y in zip(names, found, wanted)"
    yield f"gradients = [(n, torch.atleast_2d(x), torch.atleast_2d(y)) {triples}]"


def _compared(cascade: Cascade, allowed: str) -> Iterator[str]:
    """`("O", made, meant, 1e-5)`; a statistic of rows gets an axis, so that every row is judged."""
    for n, output in enumerate(cascade.outputs):
        which = f"[{n}]" if len(cascade.outputs) > 1 else ""
        axis = "[..., None]" if statistic(output) else ""
        yield f'("{output.name}", made{which}{axis}, meant{which}{axis}, {allowed})'


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
    number a quarter of its default, 3 to 16, so that at these lengths its edges are met. A table gives
    parts of 40 positions, or where they begin, if its places are none of a tensor's, or lengths.
    """
    shape = ", ".join(str(sizes[i]) for i in tensor.indices)
    if tensor.origin in ("scalar", "static"):
        default = defaults.get(tensor.name, {"int": 64, "float": 0.5, "bool": True}[tensor.kind])
        small = min(max(int(default) // 4, 3), 16)
        return spelled(small if tensor.kind == "int" and default > 4 else default)
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
