"""Training → the function that a person calls, with torch's automatic differentiation."""

from __future__ import annotations

from attncc.codegen.host import signature
from attncc.codegen.lines import hanging
from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade, Tensor
from attncc.schedule.training import Training

INDENT = "    "


def differentiable(cascade: Cascade, training: Training, words: Words) -> str:
    """The function that a person calls, with torch's automatic differentiation."""
    name = words.function(cascade.name)
    kind = f"_{name}_gradients"
    takes = [words.tensor(t.name) for t in cascade.inputs]
    numbers = [words.tensor(t.name) for t in cascade.inputs if t.origin in ("scalar", "static")]
    tensors = [x for x in takes if x not in numbers]
    gives = [words.tensor(t.name) for t in training.forward.outputs]
    saved = [words.tensor(t.name) for t in training.saved]
    given = [words.tensor(t.name) for t in training.given]
    real = [t for t in cascade.outputs if t.kind == "float"]
    returned = gives[: len(cascade.outputs)]
    kept = list(dict.fromkeys((*tensors, *saved)))
    grads = {
        t.name: words.tensor(o.name) for t, o in zip(training.wrt, training.backward.outputs, strict=True)
    }
    reached = dict(zip((t.name for t in real), given, strict=True))
    arguments = ", ".join(reached.get(t.name, "_") for t in cascade.outputs)
    back = ", ".join([*takes, *saved, *given])
    declared = signature(cascade, words)
    call = ", ".join(f"{x}={x}" for x in takes) if "*" in declared else ", ".join(takes)
    lines = [
        f"class {kind}(torch.autograd.Function):",
        f'{INDENT}"""`{name}` and its gradients, once; a second derivative is an error."""',
        "",
        f"{INDENT}@staticmethod",
        f"{INDENT}def forward(ctx, {', '.join(takes)}):",
        f"{INDENT * 2}{', '.join(gives)} = {words.function(f'{cascade.name}_forward')}({call})",
        f"{INDENT * 2}ctx.save_for_backward({', '.join(kept)})",
    ]
    if numbers:
        lines.append(f"{INDENT * 2}ctx.numbers = ({', '.join(numbers)},)")
    whole = [words.tensor(t.name) for t in cascade.outputs if t.kind != "float"]
    if whole:
        lines.append(f"{INDENT * 2}ctx.mark_non_differentiable({', '.join(whole)})")
    lines += [
        f"{INDENT * 2}return {', '.join(returned)}",
        "",
        f"{INDENT}@staticmethod",
        f"{INDENT}def backward(ctx, {arguments}):",
        f"{INDENT * 2}if torch.is_grad_enabled():",
        f'{INDENT * 3}words = "`{name}` has no second derivative (create_graph=True), but `reference` has"',
        f"{INDENT * 3}raise NotImplementedError(words)",
        f"{INDENT * 2}{', '.join(kept)}{',' if len(kept) == 1 else ''} = ctx.saved_tensors",
    ]
    if numbers:
        lines.append(f"{INDENT * 2}({', '.join(numbers)},) = ctx.numbers")
    made = ", ".join(grads.values())
    lines += [
        f"{INDENT * 2}{made} = {words.function(f'{cascade.name}_backward')}({back})",
        f"{INDENT * 2}return {', '.join(grads.get(t.name, 'None') for t in cascade.inputs)}",
        "",
        "",
        f"def {name}({declared}):",
        *(f"{INDENT}{line}" for line in hanging(f'"""{_shown(cascade)}, differentiable."""')),
        f"{INDENT}return {kind}.apply({', '.join(takes)})",
    ]
    return "\n".join(lines) + "\n"


def _shown(cascade: Cascade) -> str:
    def said(t: Tensor) -> str:
        return f"{t.name}[{','.join(i.name for i in t.indices)}]"

    takes = ", ".join(said(t) for t in cascade.inputs if t.origin in ("input", "table"))
    return f"{takes} -> {', '.join(map(said, cascade.outputs))}"
