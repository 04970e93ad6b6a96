"""A pattern as a Python callable."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attncc.ir.cascade import Cascade
from attncc.pipeline import generate, meaning
from attncc.schedule.spec import KINDS, Specialisation
from attncc.schedule.tiles import WIDEST
from attncc.source import Source


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
        self._functions: dict[tuple[object, ...], Any] = {}
        self._cascades: dict[tuple[str, ...], Cascade] = {(): meaning(source)}
        self.__name__ = self.cascade.name
        self.__doc__ = self.cascade.doc
        self.__signature__ = _signature(self.cascade)

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

    def __call__(self, *args: Any, outputs: Sequence[str] | str | None = None, **kwargs: Any) -> Any:
        """The outputs, one tensor or a tuple; `outputs` names equations to be given instead of the declared
        ones.
        """
        bound = self.__signature__.bind(*args, **kwargs)
        names = (outputs,) if isinstance(outputs, str) else tuple(outputs or ())
        if names not in self._cascades:
            self._cascades[names] = meaning(self.source, names)
        function = self._function(self._cascades[names], names, bound.arguments)
        return function(**{_argument(name): value for name, value in bound.arguments.items()})

    def _function(self, cascade: Cascade, names: tuple[str, ...], arguments: dict[str, Any]) -> Any:
        from attncc.runtime.target import target_of

        backend, target = target_of(self.backend, [arguments.get(t.name) for t in cascade.inputs])
        extents = _features(cascade, arguments) if backend == "triton" else ()
        key = (names, backend, target, extents)
        if key not in self._functions:
            from attncc.runtime.module import load

            if backend == "reference":
                from attncc.codegen.reference_module import module_text

                text = module_text(cascade)
            else:
                spec = Specialisation(backend, target, KINDS[backend], (extents,))
                text = generate(cascade, self.source, spec)
            module = load(text, cascade.name)
            self.modules[key] = text
            self._functions[key] = getattr(module, "reference" if backend == "reference" else cascade.name)
        return self._functions[key]


def _argument(name: str) -> str:
    from attncc.codegen.words import Words

    return Words(frozenset()).tensor(name)


def _signature(cascade: Cascade) -> inspect.Signature:
    defaults = dict(cascade.defaults)
    parameters: list[inspect.Parameter] = []
    for tensor in cascade.inputs:
        late = any(p.default is not p.empty for p in parameters)
        kind = inspect.Parameter.KEYWORD_ONLY if late and tensor.name not in defaults else None
        default = defaults.get(tensor.name, inspect.Parameter.empty)
        after = any(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters)
        place = kind or (inspect.Parameter.KEYWORD_ONLY if after else inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters.append(inspect.Parameter(tensor.name, place, default=default))
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
    return Attention(Source.read(path), backend)


def compile(text: str, backend: str | None = None, name: str = "<pattern>") -> Attention:
    """The pattern of a text as a callable. PatternError lists every mistake in it."""
    return Attention(Source(name, text), backend)
