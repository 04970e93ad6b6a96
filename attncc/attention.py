"""A pattern as a Python callable."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import RLock
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from attncc.codegen.words import Words
from attncc.diagnostics import Diagnostic, PatternError
from attncc.ir.cascade import Cascade
from attncc.parameters import python_name, refuse_reserved, signature_of, wanted
from attncc.pipeline import differentiated, generate, meaning, planned
from attncc.runtime.cache import cached
from attncc.schedule.spec import KINDS, WIDTHS, Specialisation
from attncc.schedule.tiles import WIDEST, Tile
from attncc.schedule.training import Training
from attncc.source import Source

if TYPE_CHECKING:
    from attncc.runtime.gradients import Runs
    from attncc.runtime.tune import Report
    from attncc.viz import Drawn


class _Key(NamedTuple):
    """What a module is generated for: `tile` if tuned, `wrt` the inputs whose gradients it has."""

    outputs: tuple[str, ...]
    backend: str
    target: str
    extents: tuple[tuple[str, int], ...]
    kinds: tuple[str, ...]
    tile: Tile | None = None
    wrt: tuple[str, ...] = ()


class _Function(NamedTuple):
    """A function, its parameters by what they are called in the pattern, its gradients if it has them."""

    call: Callable[..., Any]
    parameters: dict[str, str]
    backward: Callable[..., Any] | None = None

    def on(self, arguments: dict[str, Any]) -> Any:
        return self.call(**{self.parameters[name]: value for name, value in arguments.items()})


class Attention:
    """A pattern that can be called: `o = attend(q, k, v, window=1024)`.

    Arguments are the pattern's parameters, in order or by name. The backend follows the device of the tensors
    unless one was named: `triton` on a GPU, `torch` elsewhere, `reference` for the dense, differentiable
    definition. A module is generated once for every set of feature extents, device kind, outputs and inputs
    that require grad, and kept; no length, window or other run-time number leads to another. `modules` holds
    their text.

    `torch.compile` and `torch.export` see a call as one operator, `op`, and the reference as plain PyTorch;
    so do automatic differentiation, `torch.func` and `torch.autocast`.
    Calls from several threads are fine; a copy is the same callable.
    """

    def __init__(
        self, source: Source, backend: str | None = None, signature: inspect.Signature | None = None
    ):
        if backend not in (None, "torch", "triton", "reference"):
            raise ValueError(
                f"backend {backend!r}: choose torch, triton, reference, or None for the tensors' device"
            )
        if backend in (None, "triton") and "torch" in sys.modules:
            from attncc.runtime.target import prepare

            prepare()
        self.source = source
        self.backend = backend
        self.modules: dict[_Key, str] = {}
        self._functions: dict[_Key, _Function] = {}
        self._cascades: dict[tuple[str, ...], Cascade] = {(): meaning(source)}
        self._trainings: dict[tuple[tuple[str, ...], tuple[str, ...]], Training] = {}
        self._directs: dict[tuple[tuple[str, ...], tuple[str, ...]], Callable[..., Any]] = {}
        self._prepared: dict[tuple[str, ...], str] = {}
        self._live: dict[tuple[str, ...], tuple[str, ...]] = {}
        refuse_reserved(self.cascade, source)
        self._lock = RLock()
        self._traced = SimpleNamespace()
        self.__name__ = self.cascade.name
        self.__doc__ = self.cascade.doc
        self.__signature__ = signature_of(self.cascade, signature)
        names = {python_name(t.name): t.name for t in self.cascade.inputs}
        self._inputs = {name: names[name] for name in self.__signature__.parameters}
        parameters = self.__signature__.parameters.values()
        self._defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        self._places = sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        self._numbers = tuple(
            (t.name, t.kind) for t in self.cascade.inputs if t.origin in ("scalar", "static")
        )

    @property
    def cascade(self) -> Cascade:
        """What the pattern means."""
        return self._cascades[()]

    @property
    def compilations(self) -> int:
        """How many modules were generated so far."""
        return len(self.modules)

    def __repr__(self) -> str:
        return f"<attncc {self.__name__}{self.__signature__} from {self.source.name}>"

    def _repr_html_(self) -> str | None:
        """What a notebook shows; None, and so the text, where that fails: nobody asked for a picture."""
        try:
            from attncc.viz.notebook import shown

            return shown(self.cascade, str(self.__signature__))
        except Exception:
            return None

    def viz(
        self,
        /,
        length: int = 96,
        *,
        tile: int | None = None,
        head: int | None = None,
        numbers: Mapping[str, int | float | bool] | None = None,
        extents: Mapping[str, int] | None = None,
    ) -> Drawn:
        """The mask at a length, of one head or all: `attend.viz(4096, numbers={"window": 512})`. A notebook
        shows it, `.save("mask.png")` writes it, `.svg` and `.png` are the picture itself. ValueError says
        what cannot be drawn, PatternError what has no kernel.
        """
        from attncc.viz import draw
        from attncc.viz.notebook import in_python

        plan = planned(self.cascade, self.source)
        try:
            return draw(self.cascade, plan, length, tile, numbers, head, extents)
        except ValueError as wrong:
            raise type(wrong)(in_python(str(wrong))) from None

    def __reduce__(self) -> tuple[Any, ...]:
        said = {name: vars(self)[name] for name in functools.WRAPPER_ASSIGNMENTS if name in vars(self)}
        return Attention, (self.source, self.backend, self.__signature__), said

    def __copy__(self) -> Attention:
        return self

    def __deepcopy__(self, memo: object) -> Attention:
        return self

    def __call__(self, /, *args: Any, outputs: Sequence[str] | str | None = None, **kwargs: Any) -> Any:
        """The outputs, one tensor or a tuple; `outputs` names equations to be given instead of the declared
        ones. TypeError and ValueError name what does not fit, PatternError what has no kernel.
        """
        from attncc.runtime import gradients, ops

        arguments = self._bound(args, kwargs)
        names = wanted(outputs)
        if not ops.traced(arguments.values()):
            if self.backend == "reference":
                return self._run(names, arguments)
            if names not in self._live:
                self._live[names] = gradients.reaching(self._cascade(names))
            wrt = gradients.needed(self._live[names], arguments)
            if not ops.transformed(bool(wrt)):
                if wrt:
                    return self._differentiated(names, wrt, arguments)
                with gradients.apart(arguments):
                    return self._run(names, arguments)
        ops.check_numbers(self._numbers, arguments)
        return getattr(self._traced, self._prepare(names)).on(arguments)

    def _run(self, names: tuple[str, ...], arguments: dict[str, Any]) -> Any:
        return self._function(self._cascade(names), names, arguments).on(arguments)

    def _differentiated(self, names: tuple[str, ...], wrt: tuple[str, ...], arguments: dict[str, Any]) -> Any:
        from attncc.runtime.gradients import direct

        cascade = self._cascade(names)
        if (names, wrt) not in self._directs:
            self._directs[names, wrt] = direct(cascade, wrt, self._runs(names))
        return self._directs[names, wrt](*(arguments[t.name] for t in cascade.inputs))

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Every argument, defaults included, by what it is called in the pattern."""
        given = {**self._defaults, **dict(zip(self._inputs, args, strict=False)), **kwargs}
        twice = kwargs and any(name in kwargs for name, _ in zip(self._inputs, args, strict=False))
        unknown = len(given) > len(self._inputs) or len(args) > self._places
        if twice or unknown or any(name not in given for name in self._inputs):
            try:
                self.__signature__.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{self.__name__}{self.__signature__}: {error}") from None
        return {tensor: given[name] for name, tensor in self._inputs.items()}

    def _cascade(self, names: tuple[str, ...]) -> Cascade:
        """What the pattern means when these outputs are wanted."""
        if names not in self._cascades:
            if len(set(names)) < len(names):
                raise ValueError(f"an output is asked for twice in {', '.join(names)}")
            with self._lock:
                self._cascades[names] = meaning(self.source, names)
        return self._cascades[names]

    def op(self, outputs: Sequence[str] | str | None = None) -> Any:
        """The operator that compiled and exported programs call, `torch.ops.attncc.<name and digest>`.

        It takes the pattern's parameters, numbers included, in their order, and has to be asked for before an
        exported program is loaded. ValueError for the reference, which needs none.
        """
        from attncc.runtime import ops

        if self.backend == "reference":
            raise ValueError("the reference is plain PyTorch, and no operator")
        names = wanted(outputs)
        cascade = self._cascade(names)
        return ops.operator(self.source, cascade, self.backend, self._runs(names))

    def _runs(self, names: tuple[str, ...]) -> Runs:
        """What stands behind the operator of a call for these outputs."""
        from attncc.runtime.gradients import Runs

        def forward(wrt: tuple[str, ...], arguments: dict[str, Any]) -> Any:
            return self._function(self._cascade(names), names, arguments, wrt).on(arguments)

        def backward(wrt: tuple[str, ...], arguments: dict[str, Any], more: tuple[Any, ...]) -> Any:
            function = self._function(self._cascade(names), names, arguments, wrt).backward
            assert function is not None, f"a module with gradients in {', '.join(wrt)} has none"
            return function(*arguments.values(), *more)

        plain, training = (functools.partial(f, names) for f in (self._run, self._training))
        return Runs(plain, training, forward, backward)

    def _training(self, names: tuple[str, ...], wrt: tuple[str, ...]) -> Training:
        """The passes of a call with gradients. PatternError names the rule by which there are none."""
        if (names, wrt) not in self._trainings:
            cascade = self._cascade(names)
            with self._lock:
                self._trainings[names, wrt] = differentiated(cascade, self.source, wrt)
        return self._trainings[names, wrt]

    def _prepare(self, names: tuple[str, ...]) -> str:
        """Keeps what a call under a compiler runs as an attribute of `_traced`, and gives that name.

        A compiler runs this when it meets a call, and takes the name for a constant.
        """
        from attncc.runtime import library, ops

        if names not in self._prepared:
            cascade = self._cascade(names)
            name = ops.name_of(self.source, cascade, self.backend)
            if self.backend == "reference":
                prepared = self._function(cascade, names, {})
            else:
                inputs = (t.name for t in cascade.inputs)
                parameters = dict(zip(inputs, library.parameters(cascade.inputs), strict=True))
                prepared = _Function(self.op(names), parameters)
            setattr(self._traced, name, prepared)
            self._prepared[names] = name
        return self._prepared[names]

    # what torch.compiler.assume_constant_result does, without loading torch with every pattern
    _prepare._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _function(
        self,
        cascade: Cascade,
        names: tuple[str, ...],
        arguments: dict[str, Any],
        wrt: tuple[str, ...] = (),
    ) -> _Function:
        from attncc.runtime.tuned import tuned

        backend, target, extents = self._place(cascade, arguments)
        # measured without gradients, whose forward pass is the same but for a number a row
        known = tuned(self.source, cascade, arguments, names, backend, target, extents)
        kinds, tile = ((known[0],), known[1]) if known else (_kinds(backend, cascade, arguments), None)
        key = _Key(names, backend, target, extents, kinds, tile, wrt)
        if key not in self._functions:
            with self._lock:
                if key not in self._functions:
                    self._functions[key] = self._made(cascade, key)
        return self._functions[key]

    def _place(
        self, cascade: Cascade, arguments: dict[str, Any]
    ) -> tuple[str, str, tuple[tuple[str, int], ...]]:
        """Backend, target and feature extents of a call."""
        from attncc.runtime.target import target_of

        backend, target = target_of(self.backend, [arguments.get(t.name) for t in cascade.inputs])
        return backend, target, _features(cascade, arguments) if backend == "triton" else ()

    def tune(self, /, *args: Any, outputs: Sequence[str] | str | None = None, **kwargs: Any) -> Report:
        """Measures tiles for a call with these arguments, and keeps the fastest for every later call like it,
        in any process: `print(attend.tune(q, k, v, window=1024))`. ValueError for the reference.
        """
        from attncc.runtime.tune import tune
        from attncc.runtime.tuned import occasion_of

        names, arguments = wanted(outputs), self._bound(args, kwargs)
        cascade = self._cascade(names)
        backend, target, extents = self._place(cascade, arguments)
        occasion = occasion_of(cascade, arguments, names, backend, target, extents)
        if backend == "reference" or occasion is None:
            raise ValueError(
                "there are no tiles to tune: "
                + ("the reference has none" if occasion else "no argument is a tensor of real numbers")
            )
        dtype = occasion.dtype

        def make(tile: Tile | None) -> tuple[str, Callable[[], Any]]:
            key = _Key(names, backend, target, extents, (dtype,), tile)
            with self._lock:
                function = self._made(cascade, key)
                text = self.modules[key]
                if key not in self._functions:
                    del self.modules[key]
            given = {function.parameters[name]: value for name, value in arguments.items()}
            return text, functools.partial(function.call, **given)

        return tune(self.source, cascade, occasion, make)

    def _made(self, cascade: Cascade, key: _Key) -> _Function:
        """The function of one more module."""
        from attncc.runtime.module import load

        if key.backend == "reference":
            from attncc.codegen.reference_module import module_text

            text, names = module_text(cascade), ["reference"]
        else:
            spec = Specialisation(key.backend, key.target, key.kinds, (key.extents,), key.tile)
            text = cached(
                self.source, key.outputs, spec, lambda: generate(cascade, self.source, spec, key.wrt), key.wrt
            )
            tails = ("_forward", "_backward") if key.wrt else ("",)
            names = [Words(frozenset()).function(f"{cascade.name}{tail}") for tail in tails]
        module = load(text, cascade.name)
        call, *backward = (getattr(module, name) for name in names)
        parameters = inspect.signature(call).parameters
        inputs = (t.name for t in cascade.inputs)
        self.modules[key] = text
        return _Function(call, dict(zip(inputs, parameters, strict=True)), *backward)


def _kinds(backend: str, cascade: Cascade, arguments: dict[str, Any]) -> tuple[str, ...]:
    """The element types that a module is for: on a GPU those as wide as the arguments, which tiles follow."""
    if backend == "reference":
        return ()
    given = (arguments.get(t.name) for t in cascade.inputs if t.kind == "float" and t.origin == "input")
    width = WIDTHS.get(str(getattr(next(given, None), "dtype", ""))[6:])
    every = KINDS[backend]
    return tuple(kind for kind in every if backend != "triton" or WIDTHS[kind] == width) or every


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
