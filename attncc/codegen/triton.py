"""Loop tree → a Triton kernel as text: one program per row tile and head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import assert_never

from attncc.codegen.code import (
    ATOM,
    COMPARISON,
    POWER,
    PRODUCT,
    SUM,
    UNARY,
    Code,
    binary,
    spread,
    union,
)
from attncc.codegen.lines import needed
from attncc.codegen.ranges import WalkRanges, scalar, walk_ranges
from attncc.codegen.signature import Signature, statements
from attncc.codegen.spell import TRITON, TRITON_HELPERS
from attncc.codegen.words import Words
from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce, Tensor, free, kind
from attncc.masks.intervals import nonnegative
from attncc.schedule.block import positive
from attncc.schedule.loops import Dot, Edge, Fill, Fold, Let, Load, Note, Program, Statement, Store, Walk

INDENT = "    "


@dataclass
class _Kernel:
    """What the text of one kernel depends on; `helpers` collects the small functions it came to need."""

    program: Program
    words: Words
    signature: Signature
    axes: tuple[Index, ...]
    padded: frozenset[Index]
    raw: frozenset[str]
    positive: frozenset[Expr]
    helpers: dict[str, None] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    counted: set[Expr] = field(default_factory=set)


def kernel_text(
    program: Program, words: Words, signature: Signature, padded: frozenset[Index]
) -> tuple[str, str]:
    """The helpers and the kernel; `padded` are features whose extent is not a power of two."""
    tiles = (program.rows, *signature.walked, *signature.features)
    k = _Kernel(program, words, signature, tiles, padded, _raw(program.body), _positive(signature))
    rest = list(_block(program.body, k))
    body = [*_opening(k), *(f"{name} = {text}" for name, text in k.bases.items()), *rest]
    names = ", ".join(f'"{name}"' for name in signature.unspecialised)
    lines = [
        f"@triton.jit(do_not_specialize=[{names}])",
        f"def {program.name}_kernel(",
        *(f"{INDENT}{line}" for line in signature.kernel_lines()),
        "):",
        *(f"{INDENT}{line}" for line in body),
    ]
    helpers = "\n\n".join(TRITON_HELPERS[name] for name in sorted(k.helpers) if name in TRITON_HELPERS)
    return helpers, "\n".join(lines) + "\n"


def _positive(signature: Signature) -> frozenset[Expr]:
    """What divisions may rely on: tiles are not empty, and the host has checked the divisors of the
    predicate.
    """
    blocks = {scalar(signature.words.block(i)) for i in signature.walked}
    return frozenset(blocks.union(*(b.plane.positive for w in signature.walks for b in w.bands)))


def _raw(body: Iterable[Statement]) -> frozenset[str]:
    """Loaded tiles that a matrix product takes as they are."""
    flat = tuple(statements(body))
    loaded = {s.target.name for s in flat if isinstance(s, Load)}
    operands = [e for s in flat if isinstance(s, Dot) for e in (s.left, s.right)]
    return frozenset(e.tensor.name for e in operands if isinstance(e, Read) and e.tensor.name in loaded)


def _opening(k: _Kernel) -> Iterator[str]:
    """Which row tile and which head this program works on; the last rows, which see most, come first."""
    w, rows = k.words, k.program.rows
    yield "# one program: a tile of rows at one place of the batch; late rows see most, and come first"
    yield "pid = tl.program_id(0)"
    yield f"tiles = tl.cdiv({w.extent(rows)}, {w.block(rows)})"
    yield f"{w.start(rows)} = (tiles - 1 - pid % tiles) * {w.block(rows)}"
    place = "pid // tiles"
    for index in reversed(k.program.batch[1:]):
        yield f"{w.position(index)} = ({place}) % {w.extent(index)}"
        place = f"{place} // {w.extent(index)}"
    if k.program.batch:
        yield f"{w.position(k.program.batch[0])} = {place}"
    yield f"{w.inside(rows)} = tl.arange(0, {w.block(rows)})"
    yield f"{w.position(rows)} = {w.start(rows)} + {w.inside(rows)}"
    for index in k.signature.features:
        yield f"{w.position(index)} = tl.arange(0, {w.block(index)})"
    for index in k.signature.walked:
        yield f"{w.inside(index)} = tl.arange(0, {w.block(index)})"


def _block(body: Iterable[Statement], k: _Kernel) -> Iterator[str]:
    for statement in body:
        yield from _statement(statement, k)


def _statement(s: Statement, k: _Kernel) -> Iterator[str]:
    w = k.words
    match s:
        case Note(text):
            yield f"# {text}"
        case Load(target, read):
            yield f"{w.value(target)} = {_load(target, read, k)}"
        case Let(target, value):
            code = _along(_code(value, k), target.indices, k)
            yield f"{w.value(target)} = {code.text}"
        case Fill(target, value):
            shape = ", ".join(w.block(i) for i in target.indices)
            yield f"{w.value(target)} = tl.full([{shape}], {_code(value, k).text}, tl.float32)"
        case Dot():
            yield _dot(s, k)
        case Fold(target, op, over, value):
            yield _fold(target, op, over, value, k)
        case Edge():
            raise AssertionError("an edge stands in a walk only")
        case Walk():
            yield from _walk(s, k)
        case Store(output, value):
            yield from _store(output, value, k)
        case _:
            assert_never(s)


# ---- memory ------------------------------------------------------------------------------------


def _load(target: Tensor, read: Read, k: _Kernel) -> str:
    """Pointers are 64 bits wide up to the start of the tile, 32 inside it."""
    tensor = read.tensor
    pointer, tests = _pointer(tensor, tuple(zip(tensor.indices, read.at, strict=True)), target.indices, k)
    mask = f", mask={' & '.join(tests)}, other=0" if tests else ""
    text = f"tl.load({pointer}{mask})"
    if tensor.kind == "float" and target.name not in k.raw:
        text += ".to(tl.float32)"
    if tensor.kind == "bool":
        text += " != 0"
    return text


def _pointer(
    tensor: Tensor, places: tuple[tuple[Index, Expr], ...], axes: tuple[Index, ...], k: _Kernel
) -> tuple[str, list[str]]:
    """`Q + b.to(tl.int64) * sQ_b + ... + q_in[:, None] * sQ_q`, and the tests that keep it inside."""
    w = k.words
    base, far, near, tests = [w.tensor(tensor.name)], [], [], []
    for index, at in places:
        stride = w.stride(tensor, index)
        if isinstance(at, Index) and at == index and at in k.axes:
            feature = at.role == "feature"
            if not feature:
                far.append(f"{w.start(at)}.to(tl.int64) * {stride}")
            near.append(f"{_placed(w.position(at) if feature else w.inside(at), at, axes).text} * {stride}")
            if at in k.padded or not feature:
                tests.append(f"({_placed(w.position(at), at, axes).text} < {w.extent(at)})")
            continue
        code = _code(at, k)
        if code.axes:
            wide = _along(Code(f"({code.text}).to(tl.int64)", ATOM, code.axes), axes, k)
            near.append(f"{wide.text} * {stride}")
            spot = _along(code, axes, k).within(COMPARISON - 1)
            tests += [f"({spot} >= 0)", f"({spot} < {w.extent(index)})"]
        elif isinstance(at, Literal):
            base.append(f"{code.text} * {stride}")
        elif free(at) <= set(k.program.batch):
            base.append(f"{code.within(ATOM)}.to(tl.int64) * {stride}")
        else:
            far.append(f"{code.within(ATOM)}.to(tl.int64) * {stride}")
    return " + ".join([_base(tensor, base, k), *far, *near]), tests


def _base(tensor: Tensor, parts: list[str], k: _Kernel) -> str:
    """The pointer to this place of the batch, under a name of its own."""
    if len(parts) == 1:
        return parts[0]
    text = " + ".join(parts)
    same = next((name for name, known in k.bases.items() if known == text), None)
    if same is None:
        count = sum(known.startswith(f"{parts[0]} ") for known in k.bases.values())
        same = k.words.free(f"{tensor.name}_here{count + 1 if count else ''}")
        k.bases[same] = text
    return same


def _placed(name: str, index: Index, axes: tuple[Index, ...]) -> Code:
    return spread(Code(name, ATOM, (index,)), axes)


def _store(output: Tensor, value: Expr, k: _Kernel) -> Iterator[str]:
    axes = tuple(i for i in k.axes if i in output.indices)
    pointer, tests = _pointer(output, tuple((i, i) for i in output.indices), axes, k)
    code = _along(_code(value, k), axes, k)
    name = k.words.tensor(output.name)
    yield f"tl.store({pointer}, {code.within(ATOM)}.to({name}.dtype.element_ty), mask={' & '.join(tests)})"


# ---- tiles -------------------------------------------------------------------------------------


def _along(code: Code, axes: tuple[Index, ...], k: _Kernel) -> Code:
    """A value over exactly these axes, repeated where it lacks one."""
    if set(axes) <= set(code.axes):
        return code
    shape = ", ".join(k.words.block(i) for i in axes)
    if not code.axes:
        return Code(f"tl.zeros([{shape}], tl.float32) + {code.within(SUM)}", SUM, axes)
    return Code(f"tl.broadcast_to({spread(code, axes).text}, [{shape}])", ATOM, axes)


def _dot(s: Dot, k: _Kernel) -> str:
    w = k.words
    row, column = s.target.indices
    source = next((e for e in (s.left, s.right) if isinstance(e, Read) and e.tensor.name in k.raw), None)
    dtype = (
        f"{w.value(source.tensor)}.dtype"
        if source
        else f"{w.tensor(k.program.inputs[0].name)}.dtype.element_ty"
    )
    left = _operand(s.left, (row, s.over), dtype, k)
    right = _operand(s.right, (s.over, column), dtype, k)
    start = f", {_along(_code(s.start, k), s.target.indices, k).text}" if s.start is not None else ""
    return f'{w.value(s.target)} = tl.dot({left}, {right}{start}, input_precision="ieee")'


def _operand(e: Expr, axes: tuple[Index, ...], dtype: str, k: _Kernel) -> str:
    """An operand over (its own axis, the contracted one) or the reverse, in the inputs' precision."""
    if isinstance(e, Read) and e.tensor.name in k.raw:
        code = Code(k.words.value(e.tensor), ATOM, e.tensor.indices)
    else:
        value = _along(_code(e, k), tuple(sorted(axes, key=k.axes.index)), k)
        for i in value.axes:
            if i in k.padded:
                test = _placed(k.words.position(i), i, value.axes).text
                value = Code(f"tl.where({test} < {k.words.extent(i)}, {value.text}, 0.0)", ATOM, value.axes)
        code = Code(f"{value.within(ATOM)}.to({dtype})", ATOM, value.axes)
    return code.text if code.axes == axes else f"tl.trans({code.text})"


def _fold(target: Tensor, op: str, over: Index, value: Expr, k: _Kernel) -> str:
    code = _code(value, k)
    axes = tuple(i for i in k.axes if i in target.indices or i == over)
    code = _along(code, axes, k)
    if over in k.padded:
        test = _placed(k.words.position(over), over, axes).text
        identity = {"sum": "0.0", "max": 'float("-inf")', "min": 'float("inf")'}[op]
        code = Code(f"tl.where({test} < {k.words.extent(over)}, {code.text}, {identity})", ATOM, axes)
    return f"{k.words.value(target)} = tl.{op}({code.text}, {axes.index(over)})"


# ---- loops -------------------------------------------------------------------------------------


def _walk(s: Walk, k: _Kernel) -> Iterator[str]:
    w = k.words
    rows = k.program.rows
    first, last = w.start(rows), w.free("last")
    if s.bands:
        end = f"{last} = tl.minimum({first} + {w.block(rows)}, {w.extent(rows)}) - 1"
        ranges = walk_ranges(s, first, last, w.block(s.index), lambda e, counted: _scalar(e, counted, k))
        loop = list(_loop(s, ranges, k))
        yield from needed([end, *ranges.lines], loop)
        yield from loop


def _scalar(e: Expr, counted: frozenset[Expr], k: _Kernel) -> str:
    """A number of the ranges, given those that are never negative."""
    k.counted |= counted
    return _code(e, k).text


def _loop(s: Walk, ranges: WalkRanges, k: _Kernel) -> Iterator[str]:
    w = k.words
    yield f"# tiles seen whole, then tiles on an edge{'' if s.whole else ': all are tested'}"
    yield f"for step in tl.range(0, {ranges.count}):"
    where = ranges.tile if ranges.tile.startswith("tl.") or ranges.tile == "step" else f"({ranges.tile})"
    yield f"{INDENT}{w.start(s.index)} = {where} * {w.block(s.index)}"
    yield f"{INDENT}{w.position(s.index)} = {w.start(s.index)} + {w.inside(s.index)}"
    for statement in s.body:
        if isinstance(statement, Edge):
            yield f"{INDENT}if step >= {ranges.whole}:"
            yield from (f"{INDENT * 2}{line}" for line in _block(statement.body, k))
        else:
            yield from (f"{INDENT}{line}" for line in _statement(statement, k))


# ---- expressions -------------------------------------------------------------------------------


def _code(e: Expr, k: _Kernel) -> Code:
    w = k.words
    match e:
        case Index():
            return Code(w.position(e), ATOM, (e,) if e in k.axes else ())
        case Literal():
            return _literal(e)
        case Apply("extent", (Index() as i,)):
            return Code(w.extent(i))
        case Read(tensor) if tensor.origin in ("scalar", "static"):
            return Code(w.tensor(tensor.name))
        case Read(tensor):
            text = w.value(tensor)
            cast = ".to(tl.float32)" if tensor.name in k.raw and tensor.kind == "float" else ""
            return Code(text + cast, ATOM, tensor.indices)
        case Apply(op, args):
            return _apply(op, args, k)
        case Choose(condition, then, other):
            parts = [_code(x, k) for x in (condition, then, other)]
            axes = union(parts, k.axes)
            return Code(f"tl.where({', '.join(spread(p, axes).text for p in parts)})", ATOM, axes)
        case Reduce():
            raise AssertionError(f"a reduction reached the printer: {e}")
        case _:
            assert_never(e)


def _literal(e: Literal) -> Code:
    if isinstance(e.value, float) and e.value in (float("inf"), float("-inf")):
        return Code(f'float("{"-" if e.value < 0 else ""}inf")')
    return Code(repr(e.value), UNARY if not isinstance(e.value, bool) and e.value < 0 else ATOM)


def _apply(op: str, args: tuple[Expr, ...], k: _Kernel) -> Code:
    if op == "**" and isinstance(args[1], Literal) and args[1].value in (2, 3, 4):
        base = _code(args[0], k)
        return Code(" * ".join([base.within(PRODUCT - 1)] * int(args[1].value)), PRODUCT, base.axes)
    parts = [_code(a, k) for a in args]
    axes = union(parts, k.axes)
    parts = [spread(p, axes) if p.axes else p for p in parts]
    whole = all(kind(a) == "int" for a in args)
    match op:
        case "sqrt" if _fixed(args[0]):
            return Code(f"{parts[0].within(ATOM)} ** 0.5", POWER)
        case "neg":
            return Code(f"-{parts[0].within(UNARY)}", UNARY, axes)
        case "not":
            return Code(
                f"~({parts[0].text})" if free(args[0]) else f"not {parts[0].within(ATOM)}", UNARY, axes
            )
        case "and" | "or":
            return binary("&" if op == "and" else "|", _bracketed(parts[0]), _bracketed(parts[1]), axes)
        case "/" if not positive(args[1]):
            return _called("divide", parts, axes, k)
        case "//" | "%" if not (nonnegative(args[0], k.positive, k.counted) and whole):
            return _called("floor_divide" if op == "//" else "modulo", parts, axes, k)
        case "+" | "-" | "*" | "/" | "//" | "%" | "<" | "<=" | ">" | ">=" | "==" | "!=":
            return binary(op, parts[0], parts[1], axes)
        case _:
            return _called(op, parts, axes, k)


def _fixed(e: Expr) -> bool:
    """Whether a value is known when the kernel is compiled."""
    match e:
        case Literal():
            return True
        case Apply("extent", (Index(role="feature"),)):
            return True
        case Apply("extent"):
            return False
        case Apply(_, args):
            return all(_fixed(a) for a in args)
        case _:
            return False


def _bracketed(code: Code) -> Code:
    return code if code.binds <= UNARY else Code(f"({code.text})", ATOM, code.axes)


def _called(op: str, parts: list[Code], axes: tuple[Index, ...], k: _Kernel) -> Code:
    text = TRITON[op].format(*(p.text for p in parts))
    k.helpers.update(dict.fromkeys(name for name in (text.split("(")[0],) if name in TRITON_HELPERS))
    return Code(text, ATOM, axes)
