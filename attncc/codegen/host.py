"""Cascade → the host function of a module: the pattern's signature, its checks, its extents by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from attncc.codegen.ascending import sorted_lines
from attncc.codegen.lines import said
from attncc.codegen.words import Words
from attncc.ir.cascade import Apply, Cascade, Expr, Index, Literal, Read, Tensor, walk
from attncc.ir.show import show_expr
from attncc.ops import BITS
from attncc.schedule.boxes import box
from attncc.schedule.loops import Program
from attncc.schedule.tiles import Tile

EXTENTS = '''def extents(*tensors):
    """Extents by index; each tensor is (name, its indices, itself). What does not fit is an error."""
    found = {}
    first = tensors[0][2]
    for name, indices, tensor in tensors:
        names = indices.split()
        if not torch.is_tensor(tensor):
            raise TypeError(f"`{name}` is a tensor over ({indices}), not {type(tensor).__name__}")
        shape = tensor.shape
        if len(shape) != len(names):
            raise ValueError(f"`{name}` is over ({indices}), but has {len(shape)} axes: {tuple(shape)}")
        if tensor.device != first.device:
            raise ValueError(f"`{name}` is on {tensor.device}, `{tensors[0][0]}` on {first.device}")
        for index, size in zip(names, shape):
            known = found.setdefault(index, size)
            if known != size:
                other = next(n for n, those, _ in tensors if index in those.split())
                raise ValueError(f"`{name}` has {size} along `{index}`, but `{other}` has {known}")
    return found
'''

KINDS = '''def check_kinds(floats, integers, booleans, allowed):
    """Element types: all float tensors share one of `allowed`. What this launches has no gradients."""
    for name, tensor in floats:
        if tensor.dtype not in allowed:
            names = ", ".join(str(kind)[6:] for kind in allowed)
            raise TypeError(f"`{name}` is {str(tensor.dtype)[6:]}; this kernel takes {names}")
        if tensor.dtype != floats[0][1].dtype:
            first, other = floats[0][0], str(floats[0][1].dtype)[6:]
            raise TypeError(f"`{name}` is {str(tensor.dtype)[6:]}, but `{first}` is {other}")
        if tensor.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError(
                f"`{name}` requires grad, and this function has no backward pass: call it under "
                "torch.no_grad(), or as the dense `reference`, which is differentiable"
            )
    for name, tensor in integers:
        if tensor.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8):
            raise TypeError(f"`{name}` is a table of integers, not {str(tensor.dtype)[6:]}")
    for name, tensor in booleans:
        if tensor.dtype != torch.bool:
            raise TypeError(f"`{name}` is a table of truth values, not {str(tensor.dtype)[6:]}")
'''

NUMBERS = '''def check_number(name, value, kind):
    """A number of the pattern; an integer fits BITS bits, so that positions can be added to it."""
    if kind is bool and not isinstance(value, bool):
        raise TypeError(f"`{name}` is True or False, not {value!r}")
    if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"`{name}` is an integer, not {value!r}")
    if kind is int and not -(1 << BITS) < value < 1 << BITS:
        raise ValueError(f"`{name}` is {value}: integers of a pattern stay between -2**BITS and 2**BITS")
    if kind is float and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"`{name}` is a number, not {value!r}")
'''.replace("BITS", str(BITS))


def signature(cascade: Cascade, words: Words) -> str:
    """`Q, K, V, window=1024`: the pattern's parameters; by name only from where one without a default
    follows one that has it.
    """
    defaults = dict(cascade.defaults)
    parts: list[str] = []
    for n, tensor in enumerate(cascade.inputs):
        name = words.tensor(tensor.name)
        if tensor.name not in defaults:
            parts.append(name)
            continue
        if "*" not in parts and any(t.name not in defaults for t in cascade.inputs[n:]):
            parts.append("*")
        parts.append(f"{name}={spelled(defaults[tensor.name])}")
    return ", ".join(parts)


def spelled(value: int | float | bool) -> str:
    """A number of the pattern, as Python."""
    infinite = isinstance(value, float) and value in (float("inf"), float("-inf"))
    return f"{'-' if value < 0 else ''}math.inf" if infinite else repr(value)


def checks(
    cascade: Cascade,
    words: Words,
    dtypes: str,
    body: Sequence[str],
    positives: Sequence[Expr],
    periods: Sequence[Expr],
    sums: Collection[str] = (),
) -> Iterator[str]:
    """Lines that check the arguments, divisors too, and name the extents that they and the body read; `sums`
    are inputs of any precision.
    """
    tensors = [t for t in cascade.inputs if t.origin in ("input", "table", "kept")]
    rows = [
        f'("{t.name}", "{" ".join(i.name for i in t.indices)}", {words.tensor(t.name)}),' for t in tensors
    ]
    yield "sizes = extents("
    yield from (f"    {row}" for row in rows)
    yield ")"
    floats, integers, booleans = (
        ", ".join(
            f'("{t.name}", {words.tensor(t.name)})'
            for t in tensors
            if t.kind == kind and t.origin != "kept" and t.name not in sums
        )
        for kind in ("float", "int", "bool")
    )
    yield f"check_kinds([{floats}], [{integers}], [{booleans}], {dtypes})"
    yield from sorted_lines(cascade, words)
    for tensor in cascade.inputs:
        if tensor.origin in ("scalar", "static"):
            yield f'check_number("{tensor.name}", {words.tensor(tensor.name)}, {tensor.kind})'
    divisors = tuple(dict.fromkeys((*positives, *_divisors(cascade))))
    yield from _positive((e for e in divisors if isinstance(e, Read)), words)
    known = tuple(dict.fromkeys(i for t in tensors for i in t.indices))
    rest = [f"{words.extent(index)} = {number_text(length, words)}" for index, length in cascade.lengths]
    rest += _divisions(cascade, words)
    rest += [*_positive((e for e in divisors if isinstance(e, Apply)), words), *_bounded(periods, words)]
    read = [i for i in known if said(words.extent(i), (*rest, *body))]
    if read:
        names = ", ".join(words.extent(i) for i in read)
        yield f"{names} = {', '.join(f'sizes[{_quoted(i)}]' for i in read)}"
    yield from rest


def tables(cascade: Cascade, words: Words, wide: str) -> Iterator[str]:
    """Lines that widen the tables of integers, as sums of shorter ones would wrap around; `wide` is a method
    of the tensor, which may say `{name}`.
    """
    names = [words.tensor(t.name) for t in cascade.inputs if t.indices and t.kind == "int"]
    yield from ("# sums of shorter integers would wrap around",) if names else ()
    yield from (f"{name} = {name}.{wide.format(name=name)}" for name in names)


def _divisions(cascade: Cascade, words: Words) -> Iterator[str]:
    for many, few in _groups(cascade):
        yield f"if {words.extent(few)} == 0 or {words.extent(many)} % {words.extent(few)}:"
        text = (
            f"|{few.name}| = {{{words.extent(few)}}} does not divide |{many.name}| = {{{words.extent(many)}}}"
        )
        yield f'    raise ValueError(f"{text}")'


def _quoted(index: Index) -> str:
    return f'"{index.name}"'


def _groups(cascade: Cascade) -> tuple[tuple[Index, Index], ...]:
    """Pairs (h, g) whose quotient `|h| // |g|` the pattern reads: the second has to divide the first."""
    found: dict[tuple[Index, Index], None] = {}
    for e in (x for equation in cascade.equations for x in walk(equation.body)):
        match e:
            case Apply("//", (Apply("extent", (Index() as many,)), Apply("extent", (Index() as few,)))):
                found[(many, few)] = None
    return tuple(found)


def _divisors(cascade: Cascade) -> Iterator[Expr]:
    """What lengths are divided by."""
    for _, length in cascade.lengths:
        for e in walk(length):
            match e:
                case Apply("//" | "%", (_, divisor)):
                    yield divisor


def _positive(divisors: Iterable[Expr], words: Words) -> Iterator[str]:
    """Numbers that lengths or the ranges of tiles are divided by."""
    for e in divisors:
        number = number_text(e, words)
        yield f"if {number} <= 0:"
        text = f"`{show_expr(e)}` divides positions and must be positive, not {{{number}}}"
        yield f'    raise ValueError(f"{text}")'


def _bounded(periods: Sequence[Expr], words: Words) -> Iterator[str]:
    """After how many columns a predicate repeats itself."""
    for e in dict.fromkeys(periods):
        if not isinstance(e, Literal):
            period, said_ = number_text(e, words), show_expr(e)
            yield f"if {period.strip('()')} >= 1 << 29:"
            text = f"`{said_}` is {{{period}}}: a predicate repeats after fewer than 2**29 positions"
            yield f'    raise ValueError(f"{text}")'


def number_text(e: Expr, words: Words) -> str:
    """An integer formula over extents and numbers, as Python."""
    match e:
        case Literal(value):
            return repr(value)
        case Apply("extent", (Index() as i,)):
            return words.extent(i)
        case Read(tensor, ()):
            return words.tensor(tensor.name)
        case Apply("neg", (a,)):
            return f"-({number_text(a, words)})"
        case Apply("min" | "max" as op, (a, b)):
            return f"{op}({number_text(a, words)}, {number_text(b, words)})"
        case Apply(op, (a, b)):
            return f"({number_text(a, words)} {op} {number_text(b, words)})"
        case _:
            raise AssertionError(f"an extent is no formula over numbers: {e}")


def with_digits(cascade: Cascade, programs: Iterable[Program]) -> Cascade:
    """A cascade with the extents of the digits that its kernels take positions apart into."""
    found = [length for p in programs for grid in p.grids.values() for length in grid.lengths]
    return replace(cascade, lengths=tuple(dict.fromkeys((*cascade.lengths, *found))))


def boxes(program: Program, tile: Tile, words: Words) -> dict[str, int]:
    """The sides of a program's boxes, by the names under which kernels know them."""
    found: dict[str, int] = {}
    for index, grid in program.grids.items():
        side = index != program.rows
        sides = box(tile.columns if side else tile.rows, grid)
        own = [(axis.rows, axis.columns)[side] for axis in grid.axes]
        found |= {words.block(i): size for i, size in zip(own, sides, strict=True)}
    return found


def statistic(output: Tensor) -> bool:
    """Whether an output is a number of a row, which is held as sums are; others have the inputs' kind."""
    return all(i.role != "feature" for i in output.indices) and (
        sum(i.role == "sequence" for i in output.indices) < 2
    )


def output_shape(output: Tensor, words: Words) -> str:
    """`(NB, NH, NQ, E)`"""
    names = [words.extent(i) for i in output.indices]
    return f"({', '.join(names)}{',' if len(names) == 1 else ''})"
