"""Pattern → the parameters of a Python function, and what a call asks for by `outputs=`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from keyword import iskeyword

from attncc.diagnostics import Diagnostic, Label, PatternError
from attncc.ir.cascade import Cascade
from attncc.source import Source
from attncc.syntax.parser import parse


def signature_of(cascade: Cascade, written: inspect.Signature | None) -> inspect.Signature:
    """The parameters as they are written, or else in the pattern's order, with the pattern's defaults. By
    name only from where a parameter without a default follows one that has it.
    """
    place, name_only = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    defaults = {python_name(name): value for name, value in cascade.defaults}
    every = (
        list(written.parameters.values())
        if written
        else [inspect.Parameter(python_name(t.name), place) for t in cascade.inputs]
    )
    parameters: list[inspect.Parameter] = []
    late = False
    for n, p in enumerate(every):
        late |= p.name in defaults and any(x.name not in defaults for x in every[n:] if x.kind is place)
        default = defaults.get(p.name, inspect.Parameter.empty)
        parameters.append(p.replace(kind=name_only if late else p.kind, default=default))
    return inspect.Signature(parameters)


def refuse_reserved(cascade: Cascade, source: Source) -> None:
    """PatternError where a parameter has the name by which a call asks for equations."""
    pattern = parse(source).pattern if any(t.name == "outputs" for t in cascade.inputs) else None
    for span in [p.span for p in pattern.params if p.name == "outputs"] if pattern else []:
        message = "a parameter called `outputs` cannot be given by name: `outputs=` asks for equations"
        label = Label(span, "declared here")
        raise PatternError(source, [Diagnostic("reserved-name", message, (label,), "give it another name")])


def python_name(name: str) -> str:
    """What a parameter is called in Python."""
    return f"{name}_" if iskeyword(name) else name


def wanted(outputs: Sequence[str] | str | None) -> tuple[str, ...]:
    """The equations that a call asks for; none for the declared outputs."""
    names = (outputs,) if isinstance(outputs, str) else () if outputs is None else outputs
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"`outputs` is a name, or a list or tuple of names, not {outputs!r}")
    return tuple(names)
