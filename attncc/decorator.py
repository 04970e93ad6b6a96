"""A Python function whose docstring is a pattern → the pattern as a callable."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, overload

from attncc.attention import Attention
from attncc.diagnostics import Diagnostic, Label, PatternError
from attncc.docstrings import Function, Piece, read
from attncc.source import Source, Span
from attncc.syntax.lines import CLOSING, OPENING, Word, logical_lines

_HEADER = re.compile(r"^[ \t]*(?=\()", re.MULTILINE)

_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@overload
def jit(function: Callable[..., Any], /, *, backend: str | None = None) -> Attention: ...
@overload
def jit(*, backend: str | None = None) -> Callable[[Callable[..., Any]], Attention]: ...
def jit(function: Callable[..., Any] | None = None, /, *, backend: str | None = None) -> Any:
    """The pattern in a function's docstring, as a callable: `@attncc.jit` or `@attncc.jit(backend="torch")`.

    The docstring gives tensors and outputs, `(Q[b,h,q,d], ...) -> O[b,h,q,e]`, then the statements; above
    that line stands prose. The function gives the name, the order of the parameters, and the numbers with
    their kinds and defaults, `window: int = 1024`, which may stand in the docstring instead. PatternError
    lists every mistake, at its place in the Python file where that can be read.
    """
    if function is None:
        return functools.partial(jit, backend=backend)
    if not inspect.isfunction(function):
        raise TypeError(f"attncc.jit takes a function whose docstring is a pattern, not {function!r}")
    parameters = list(inspect.signature(function).parameters.values())
    source = _source(read(function), function.__name__, parameters)
    # annotations of tensors are anybody's
    kept = [p if _kind(p) else p.replace(annotation=p.empty) for p in parameters]
    attention = Attention(source, backend, inspect.Signature(kept))
    return functools.update_wrapper(attention, function, updated=())


def _source(function: Function, name: str, parameters: list[inspect.Parameter]) -> Source:
    """`pattern attend(` the docstring's tensors `,` the signature's numbers `)` the rest of the docstring."""
    doc = function.doc
    begin = _begin(doc)
    prose = doc[:begin].strip()
    head = [Piece(f'"""{prose}"""\n', function.first)] if prose and '"""' not in prose else []
    head += [Piece("pattern ", function.name), Piece(name, function.name)]
    at = sum(len(piece.text) for piece in head)
    here = Label(Span(at - len(name), at))
    header = _header(doc, begin)
    end = begin + (header[-1].span.end if header else 0)
    declared, close = _declared(header)
    numbers = [p for p in parameters if header and p.name not in declared and _kind(p)]
    pieces = [
        *head,
        *function.pieces(begin, begin + close),
        *_numbers(function, numbers, bool(declared)),
        *function.pieces(begin + close, end),
        *([Piece(":", function.name)] if header and header[-1].text != ":" else []),
        *function.pieces(end, len(doc)),
    ]
    wrong = list(_mistakes(function, header, declared, parameters))
    source = function.source(pieces)
    if wrong:
        raise PatternError(source, [Diagnostic("jit", what, (here,), help) for what, help in wrong])
    return source


def _begin(doc: str) -> int:
    """Where the pattern begins: at a bracket that begins a line, and that an arrow follows. Prose may begin
    with a bracket too; where none has its arrow, the first is taken for a pattern with a mistake in it.
    """
    starts = [found.end() for found in _HEADER.finditer(doc)]
    for start in starts:
        header = _header(doc, start)
        _, close = _declared(header)
        if any(a.span.start == close and b.text == "->" for a, b in pairwise(header)):
            return start
    return starts[0] if starts else len(doc)


def _header(doc: str, begin: int) -> tuple[Word, ...]:
    """The words of the line that begins there, brackets and all."""
    return next(iter(logical_lines(doc[begin:])), ())


def _declared(header: tuple[Word, ...]) -> tuple[set[str], int]:
    """The names between the first brackets of a header, and the offset of the closing one."""
    names: set[str] = set()
    depth = 0
    for before, word in pairwise(header):
        depth += (before.text in OPENING) - (before.text in CLOSING)
        if depth == 1 and word.text == ")":
            return names, word.span.start
        if depth == 1 and before.text in ("(", ",") and word.kind == "name":
            names.add(word.text)
    return names, header[-1].span.end if header else 0


def _numbers(function: Function, numbers: list[inspect.Parameter], comma: bool) -> Iterator[Piece]:
    """`, window: int = 1024`"""
    for p in numbers:
        place = function.parameters.get(p.name, function.name)
        default = "" if p.default is p.empty else f" = {_spelled(p.default)}"
        if comma:
            yield Piece(", ", place)
        yield Piece(f"{p.name}: {_kind(p)}{default}", place)
        comma = True


def _kind(parameter: inspect.Parameter) -> str | None:
    """What kind of number a parameter is annotated as, by the type itself or by its name."""
    said = parameter.annotation
    name = said.__name__ if isinstance(said, type) else said
    return name if name in ("int", "float", "bool") else None


def _spelled(default: object) -> str | None:
    """A default in the language; None if it is no number."""
    match default:
        case bool():
            return "true" if default else "false"
        case int():
            return int.__repr__(default)
        case float() if not math.isnan(default):
            return float.__repr__(default)
        case _:
            return None


def _mistakes(
    function: Function, header: tuple[Word, ...], declared: set[str], parameters: list[inspect.Parameter]
) -> Iterator[tuple[str, str]]:
    """What is wrong with the function around the pattern, and what to do."""
    if not header:
        help = "it holds tensors and outputs, `(Q[b,h,q,d], K[b,h,k,d]) -> O[b,h,q,d]`, then the statements"
        yield ("the docstring holds no pattern", help)
        return
    if function.more:
        yield ("statements below the docstring would never run", "leave the docstring alone in the function")
    names = {p.name for p in parameters}
    for name in sorted(declared - names):
        yield (f"`{name}` is in the docstring, but no parameter of the function", f"add `{name}` to them")
    for p in parameters:
        if p.kind not in _PLAIN:
            yield (
                f"`{p}` cannot be called by name",
                "a pattern's parameters are tensors and numbers with names",
            )
        elif p.name in declared:
            if p.default is not p.empty:
                help = "a tensor has no default, and that of a number stands where the number is declared"
                yield (f"`{p.name}` has a default here, and is declared in the docstring", help)
        elif _kind(p) is None:
            help = f"give it indices in the docstring, `{p.name}[b,h,q,d]`, or a kind here, `{p.name}: int`"
            yield (f"`{p.name}` is neither a tensor of the docstring nor a number", help)
        elif p.default is not p.empty and _spelled(p.default) is None:
            yield (
                f"the default of `{p.name}` is no number: {p.default!r}",
                "leave it out, or write a number",
            )
