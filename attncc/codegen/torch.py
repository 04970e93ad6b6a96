"""Loop tree → plain PyTorch as text: row tiles one after the other, matrix products over the whole batch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import assert_never

from attncc.codegen.code import ATOM, LOOSE, POWER, PRODUCT, UNARY, Code, binary, spread, union
from attncc.codegen.ranges import scalar
from attncc.codegen.signature import Signature
from attncc.codegen.spell import TORCH, TORCH_HELPERS
from attncc.codegen.words import Words
from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce, Tensor, free
from attncc.masks.bands import Band
from attncc.masks.ranges import union as union_of_bands
from attncc.schedule.block import positive
from attncc.schedule.loops import Dot, Fill, Fold, Let, Load, Note, Program, Statement, Store, Walk

INDENT = "    "


@dataclass
class _Body:
    """What the text depends on; `helpers` collects the small functions it came to need."""

    program: Program
    words: Words
    axes: tuple[Index, ...]
    helpers: dict[str, None] = field(default_factory=dict)


def body_lines(program: Program, words: Words, signature: Signature) -> tuple[str, list[str]]:
    """The helpers, and the lines that fill the outputs; extents, numbers and tile sizes are named before
    them.
    """
    k = _Body(program, words, (program.rows, *signature.walked, *signature.features))
    rows = words.position(program.rows)
    lines = [f"device, kind = {words.tensor(program.inputs[0].name)}.device, accumulator({_first(k)})"]
    batch = program.batch
    for n, index in enumerate(batch):
        marks = ", ".join(":" if m == n else "None" for m in range(len(batch)))
        lines.append(f"{words.position(index)} = torch.arange({words.extent(index)}, device=device)[{marks}]")
    inner = list(_block(program.body, k))
    for index in signature.features:
        if any(re.search(rf"\b{words.position(index)}\b", line) for line in inner):
            lines.append(f"{words.position(index)} = torch.arange({words.extent(index)}, device=device)")
    first, stop = words.start(program.rows), words.free(f"{rows}1")
    block, end = words.block(program.rows), words.extent(program.rows)
    lines.append(f"for {first} in range(0, {end}, {block}):")
    start = [
        f"{stop} = min({first} + {block}, {end})",
        f"{rows} = torch.arange({first}, {stop}, device=device)",
    ]
    lines += [f"{INDENT}{line}" for line in (*start, *inner)]
    helpers = [ACCUMULATOR, *(TORCH_HELPERS[name] for name in sorted(k.helpers) if name in TORCH_HELPERS)]
    return "\n\n".join(helpers), lines


ACCUMULATOR = '''def accumulator(tensor):
    """The kind that sums are held in: float64 for float64, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
'''


def _first(k: _Body) -> str:
    return k.words.tensor(next(t.name for t in k.program.inputs if t.kind == "float"))


def _block(body: Iterable[Statement], k: _Body) -> Iterator[str]:
    for statement in body:
        yield from _statement(statement, k)


def _statement(s: Statement, k: _Body) -> Iterator[str]:
    w = k.words
    match s:
        case Note(text):
            yield f"# {text}"
        case Load(target, read):
            yield from _load(target, read, k)
        case Let(target, value):
            yield f"{w.value(target)} = {_code(value, k).text}"
        case Fill(target, value):
            shape = ", ".join(
                [*(w.extent(i) for i in k.program.batch), *(_width(i, k) for i in target.indices)]
            )
            number = _code(value, k).text
            yield f"{w.value(target)} = torch.full([{shape}], {number}, device=device, dtype=kind)"
        case Dot(target, left, right, over, start):
            row, column = target.indices
            product = f"{_operand(left, (row, over), k)} @ {_operand(right, (over, column), k)}"
            before = "" if start is None else f"{_code(start, k).within(PRODUCT)} + "
            yield f"{w.value(target)} = {before}{product}"
        case Fold(target, op, over, value):
            axes = tuple(i for i in k.axes if i in target.indices or i == over)
            code = _along(_code(value, k), axes, k)
            word = {"sum": "sum", "max": "amax", "min": "amin"}[op]
            yield f"{w.value(target)} = {code.within(ATOM)}.{word}({axes.index(over) - len(axes)})"
        case Walk():
            yield from _walk(s, k)
        case Store(output, value):
            yield _store(output, value, k)
        case _:
            assert_never(s)


def _width(index: Index, k: _Body) -> str:
    """How many positions of an index are in the present tile."""
    w = k.words
    if index.role == "feature":
        return w.extent(index)
    return f"{w.free(index.name + '1')} - {w.start(index)}"


def _slice(index: Index, k: _Body) -> str:
    return f"{k.words.start(index)}:{k.words.free(index.name + '1')}"


# ---- memory ------------------------------------------------------------------------------------


def _load(target: Tensor, read: Read, k: _Body) -> Iterator[str]:
    """A slice where every subscript is a position of its own; a gather with a test otherwise."""
    name = k.words.value(target)
    tensor = read.tensor
    cast = ".to(kind)" if tensor.kind == "float" else ""
    places = tuple(zip(tensor.indices, read.at, strict=True))
    if all(_is_simple(at, axis, k) for axis, at in places) and _apart(places, k):
        yield f"{name} = {_sliced(tensor, places, k)}{cast}"
        return
    yield f"{name} = gather({k.words.tensor(tensor.name)}, {_gathered(target, places, k)}){cast}"
    k.helpers["gather"] = None


def _is_simple(at: Expr, axis: Index, k: _Body) -> bool:
    if at == axis:
        return True
    loose = free(at)
    return len(loose) == 1 and loose <= set(k.program.batch)


def _apart(places: tuple[tuple[Index, Expr], ...], k: _Body) -> bool:
    """Every subscript follows an index of its own."""
    loose = [i for _, at in places for i in free(at)]
    return len(loose) == len(set(loose))


def _sliced(tensor: Tensor, places: tuple[tuple[Index, Expr], ...], k: _Body) -> str:
    w = k.words
    marks = [_slice(axis, k) if at == axis and axis.role == "sequence" else ":" for axis, at in places]
    while marks and marks[-1] == ":":
        marks.pop()
    text = w.tensor(tensor.name) + (f"[{', '.join(marks)}]" if marks else "")
    along = []
    for n, (axis, at) in enumerate(places):
        (index,) = free(at)
        along.append(index)
        if at != axis:
            text += f".index_select({n}, ({_code(at, k).text}).flatten())"
    wanted = [i for i in (*k.program.batch, *k.axes) if i in along]
    if wanted != along:
        text += f".permute({', '.join(str(along.index(i)) for i in wanted)})"
    batch = [i for i in k.program.batch if i in along]
    if batch != list(k.program.batch):
        marks = [":" if i in along else "None" for i in k.program.batch]
        text += f"[{', '.join([*marks, '...'])}]"
    return text


def _gathered(target: Tensor, places: tuple[tuple[Index, Expr], ...], k: _Body) -> str:
    parts = []
    for _, at in places:
        code = _code(at, k)
        parts.append(spread(code, target.indices).text if not code.scalar else code.text)
    return ", ".join(parts)


def _store(output: Tensor, value: Expr, k: _Body) -> str:
    w = k.words
    axes = tuple(i for i in k.axes if i in output.indices)
    natural = (*(i for i in k.program.batch if i in output.indices), *axes)
    name = w.tensor(output.name)
    if natural != output.indices:
        name += f".permute({', '.join(str(output.indices.index(i)) for i in natural)})"
    marks = ["...", *(_slice(i, k) if i.role == "sequence" else ":" for i in axes)]
    return f"{name}[{', '.join(marks)}] = {_along(_code(value, k), axes, k).text}"


# ---- tiles -------------------------------------------------------------------------------------


def _along(code: Code, axes: tuple[Index, ...], k: _Body) -> Code:
    """A value over exactly these axes, repeated where it lacks one."""
    if set(axes) <= set(code.axes):
        return code
    shape = ", ".join(_width(i, k) for i in axes)
    ones = f"torch.ones([{shape}], device=device, dtype=kind)"
    return Code(f"{spread(code, axes).within(PRODUCT)} * {ones}", PRODUCT, axes, code.lead)


def _operand(e: Expr, axes: tuple[Index, ...], k: _Body) -> str:
    code = _along(_code(e, k), tuple(sorted(axes, key=k.axes.index)), k)
    return code.within(ATOM) if code.axes == axes else f"{code.within(ATOM)}.mT"


# ---- loops -------------------------------------------------------------------------------------


def _walk(s: Walk, k: _Body) -> Iterator[str]:
    w = k.words
    if not s.bands:
        return
    first, last = w.start(k.program.rows), w.free("last")
    yield f"{last} = {w.free(k.program.rows.name + '1')} - 1"
    top, bottom, width = (scalar(name) for name in (first, last, w.block(s.index)))
    ranges = union_of_bands([_together(band, k) for band in s.bands], top, bottom, width, f"{s.index.name}_")
    for step in ranges.steps:
        yield f"{w.value(step.tensor)} = {_code(step.body, k).text}"
    yield f"{w.free('tiles')} = ("
    for r in ranges.segments:
        lo, hi, full_lo, full_hi = (_code(x, k).text for x in (r.lo, r.hi, r.full_lo, r.full_hi))
        if s.whole:
            yield f"{INDENT}(range({lo}, {full_lo}), False),"
            yield f"{INDENT}(range({full_lo}, {full_hi}), True),"
            yield f"{INDENT}(range({full_hi}, {hi}), False),"
        else:
            yield f"{INDENT}(range({lo}, {hi}), False),"
    yield ")"
    start, stop, block, end = (
        w.start(s.index),
        w.free(s.index.name + "1"),
        w.block(s.index),
        w.extent(s.index),
    )
    yield f"for {start}, {stop}, whole in walk({w.free('tiles')}, {block}, {end}):"
    yield f"{INDENT}{w.position(s.index)} = torch.arange({start}, {stop}, device=device)"
    k.helpers["walk"] = None
    if s.whole:
        yield f"{INDENT}if whole:"
        yield from (f"{INDENT * 2}{line}" for line in _block(s.whole, k))
        yield f"{INDENT}else:"
    deep = INDENT * 2 if s.whole else INDENT
    yield from (f"{deep}{line}" for line in _block(s.partial, k))


def _together(band: Band, k: _Body) -> Band:
    """The band as all heads see it: an end that differs between them is left to the element test."""
    batch = set(k.program.batch)
    lows = tuple(b for b in band.lows if not free(b.value) & batch)
    highs = tuple(b for b in band.highs if not free(b.value) & batch)
    guards = tuple(g for g in band.guards if not free(g) & batch)
    same = (lows, highs, guards) == (band.lows, band.highs, band.guards)
    rest = band.rest if same else (*band.rest, Literal(True, "bool"))
    return replace(band, lows=lows, highs=highs, guards=guards, rest=rest)


# ---- expressions -------------------------------------------------------------------------------


def _code(e: Expr, k: _Body) -> Code:
    w = k.words
    match e:
        case Index():
            return Code(w.position(e), ATOM, (e,)) if e in k.axes else Code(w.position(e), ATOM, (), True)
        case Literal(value):
            if isinstance(value, float) and value in (float("inf"), float("-inf")):
                return Code(f"{'-' if value < 0 else ''}math.inf", UNARY if value < 0 else ATOM)
            return Code(repr(value), UNARY if not isinstance(value, bool) and value < 0 else ATOM)
        case Apply("extent", (Index() as i,)):
            return Code(w.extent(i))
        case Read(tensor) if tensor.origin in ("scalar", "static"):
            return Code(w.tensor(tensor.name))
        case Read(tensor):
            number = tensor.kind != "float" and not tensor.indices and tensor.origin == "equation"
            return Code(w.value(tensor), ATOM, tensor.indices, not number)
        case Apply(op, args):
            return _apply(op, args, k)
        case Choose(condition, then, other):
            c, a, b = (_code(x, k) for x in (condition, then, other))
            if c.scalar:
                axes = union((a, b), k.axes)
                text = f"{a.within(LOOSE - 1)} if {c.within(LOOSE - 1)} else {b.within(LOOSE - 1)}"
                return Code(text, LOOSE, axes, a.lead or b.lead)
            axes = union((c, a, b), k.axes)
            parts = ", ".join(spread(p, axes).text for p in (c, a, b))
            return Code(f"torch.where({parts})", ATOM, axes, c.lead or a.lead or b.lead)
        case Reduce():
            raise AssertionError(f"a reduction reached the printer: {e}")
        case _:
            assert_never(e)


NUMBERS = {
    "min": "min({0}, {1})", "max": "max({0}, {1})", "sqrt": "math.sqrt({0})", "exp": "math.exp({0})",
    "exp2": "2.0 ** ({0})", "log": "math.log({0})", "abs": "abs({0})", "floor": "math.floor({0})",
    "tanh": "math.tanh({0})", "sin": "math.sin({0})", "cos": "math.cos({0})", "round": "round({0})",
}  # fmt: skip
"""Functions of plain numbers."""


def _apply(op: str, args: tuple[Expr, ...], k: _Body) -> Code:
    parts = [_code(a, k) for a in args]
    if all(p.scalar for p in parts) and op in NUMBERS:
        text = NUMBERS[op].format(*(p.text for p in parts))
        return Code(text, POWER if op == "exp2" else ATOM)
    axes = union(parts, k.axes)
    lead = any(p.lead for p in parts)
    scalar = all(p.scalar for p in parts)
    parts = [spread(p, axes) for p in parts]
    match op:
        case "neg":
            return Code(f"-{parts[0].within(UNARY)}", UNARY, axes, lead)
        case "not":
            return Code(f"not ({parts[0].text})" if scalar else f"~({parts[0].text})", UNARY, axes, lead)
        case "and" | "or" if scalar:
            return Code(f"({parts[0].text}) {op} ({parts[1].text})", LOOSE)
        case "and" | "or":
            return binary("&" if op == "and" else "|", _bracketed(parts[0]), _bracketed(parts[1]), axes)
        case "/" if not positive(args[1]) and not scalar:
            return _called("divide", parts, axes, lead, k)
        case "+" | "-" | "*" | "/" | "//" | "%" | "<" | "<=" | ">" | ">=" | "==" | "!=":
            return binary(op, parts[0], parts[1], axes)
        case _:
            return _called(op, parts, axes, lead, k)


def _bracketed(code: Code) -> Code:
    return code if code.binds <= UNARY else replace(code, text=f"({code.text})", binds=ATOM)


def _called(op: str, parts: list[Code], axes: tuple[Index, ...], lead: bool, k: _Body) -> Code:
    spelled = {"min": "torch.minimum({0}, {1})", "max": "torch.maximum({0}, {1})"}.get(op, TORCH[op])
    if any(p.scalar for p in parts):
        spelled = TORCH[op]
    text = spelled.format(*(p.text for p in parts))
    name = text.split("(")[0]
    if name in TORCH_HELPERS:
        k.helpers[name] = None
    return Code(text, ATOM, axes, lead)
