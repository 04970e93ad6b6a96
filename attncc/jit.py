"""A pattern as a Python callable."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from keyword import iskeyword
from pathlib import Path
from typing import Any, TypeAlias

from attncc.codegen.words import Words
from attncc.diagnostics import Diagnostic, PatternError
from attncc.ir.cascade import Cascade
from attncc.pipeline import generate, meaning
from attncc.schedule.spec import KINDS, Specialisation
from attncc.schedule.tiles import WIDEST
from attncc.source import Source

_Function: TypeAlias = tuple[Callable[..., Any], dict[str, str]]
"""A function, and its parameters by what they are called in the pattern."""


class Attention:
    """A pattern that can be called: `o = attend(q, k, v, window=1024)`.

    Arguments are the pattern's parameters, in order or by name. The backend follows the device of the tensors
    unless one was named: `triton` on a GPU, `torch` elsewhere, `reference` for the dense, differentiable
    definition. A module is generated once for every set of feature extents, device kind and outputs, and
    kept; no length, window or other run-time number leads to another. `modules` holds their text.
    """

    def __init__(self, source: Source, backend: str | None = None):
        if backend not in (None, "torch", "triton", "reference"):
            raise ValueError(
                f"backend {backend!r}: choose torch, triton, reference, or None for the tensors' device"
            )
        self.source = source
        self.backend = backend
        self.modules: dict[tuple[object, ...], str] = {}
        self._functions: dict[tuple[object, ...], _Function] = {}
        self._cascades: dict[tuple[str, ...], Cascade] = {(): meaning(source)}
        self.__name__ = self.cascade.name
        self.__doc__ = self.cascade.doc
        self.__signature__ = _signature(self.cascade)
        names = (t.name for t in self.cascade.inputs)
        self._inputs = dict(zip(self.__signature__.parameters, names, strict=True))

    @property
    def cascade(self) -> Cascade:
        """What the pattern means."""
        return self._cascades[()]

    @property
    def compilations(self) -> int:
        """How many modules were generated so far."""
        return len(self.modules)

    def __repr__(self) -> str:
        return f"attncc.load({self.source.name!r}){self.__signature__}"

    def __call__(self, /, *args: Any, outputs: Sequence[str] | str | None = None, **kwargs: Any) -> Any:
        """The outputs, one tensor or a tuple; `outputs` names equations to be given instead of the declared
        ones. TypeError and ValueError name what does not fit, PatternError what has no kernel.
        """
        try:
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.__name__}{self.__signature__}: {error}") from None
        names = (outputs,) if isinstance(outputs, str) else tuple(outputs or ())
        if len(set(names)) < len(names):
            raise ValueError(f"an output is asked for twice in {', '.join(names)}")
        if names not in self._cascades:
            self._cascades[names] = meaning(self.source, names)
        arguments = {self._inputs[name]: value for name, value in bound.arguments.items()}
        function, parameters = self._function(self._cascades[names], names, arguments)
        return function(**{parameters[name]: value for name, value in arguments.items()})

    def _function(self, cascade: Cascade, names: tuple[str, ...], arguments: dict[str, Any]) -> _Function:
        from attncc.runtime.target import target_of

        backend, target = target_of(self.backend, [arguments.get(t.name) for t in cascade.inputs])
        extents = _features(cascade, arguments) if backend == "triton" else ()
        key = (names, backend, target, extents)
        if key not in self._functions:
            from attncc.runtime.module import load

            if backend == "reference":
                from attncc.codegen.reference_module import module_text

                text, name = module_text(cascade), "reference"
            else:
                spec = Specialisation(backend, target, KINDS[backend], (extents,))
                text = generate(cascade, self.source, spec)
                name = Words(frozenset()).function(cascade.name)
            function = getattr(load(text, cascade.name), name)
            parameters = inspect.signature(function).parameters
            inputs = (t.name for t in cascade.inputs)
            self.modules[key] = text
            self._functions[key] = function, dict(zip(inputs, parameters, strict=True))
        return self._functions[key]


def _signature(cascade: Cascade) -> inspect.Signature:
    """By name only from where a parameter without a default follows one that has it."""
    defaults = dict(cascade.defaults)
    parameters: list[inspect.Parameter] = []
    late = False
    for n, tensor in enumerate(cascade.inputs):
        late |= tensor.name in defaults and any(t.name not in defaults for t in cascade.inputs[n:])
        place = inspect.Parameter.KEYWORD_ONLY if late else inspect.Parameter.POSITIONAL_OR_KEYWORD
        name = f"{tensor.name}_" if iskeyword(tensor.name) else tensor.name
        default = defaults.get(tensor.name, inspect.Parameter.empty)
        parameters.append(inspect.Parameter(name, place, default=default))
    return inspect.Signature(parameters)


def _features(cascade: Cascade, arguments: dict[str, Any]) -> tuple[tuple[str, int], ...]:
    """Feature extents as the tensors have them; what does not fit is said by the module's own checks."""
    found: dict[str, int] = {}
    for tensor in cascade.inputs:
        shape = getattr(arguments.get(tensor.name), "shape", ())
        if len(shape) == len(tensor.indices):
            for index, size in zip(tensor.indices, shape, strict=True):
                if index.role == "feature":
                    found.setdefault(index.name, int(size))
    wide = {name: size for name, size in found.items() if size > WIDEST}
    if wide:
        text = ", ".join(f"|{name}| = {size}" for name, size in wide.items())
        raise ValueError(f"{text}: a kernel takes feature extents up to {WIDEST}")
    return tuple(sorted(found.items()))


def load(path: str | Path, backend: str | None = None) -> Attention:
    """The pattern of a `.attn` file as a callable. PatternError lists every mistake in it; OSError if it
    cannot be read.
    """
    try:
        source = Source.read(path)
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        wrong = Diagnostic("bad-file", f"`{path}` is not UTF-8, in line {line}", (), "save it as UTF-8")
        raise PatternError(Source(str(path), ""), [wrong]) from None
    return Attention(source, backend)


def compile(text: str, backend: str | None = None, name: str = "<pattern>") -> Attention:
    """The pattern of a text as a callable. PatternError lists every mistake in it."""
    return Attention(Source(name, text), backend)
