"""Formula → Triton as text: values over the tile axes of a kernel, and pointers to what is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import assert_never

from attncc.codegen.bounds import unproved
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
from attncc.codegen.ranges import scalar
from attncc.codegen.signature import Signature
from attncc.codegen.spell import SHORT, TRITON, TRITON_HELPERS
from attncc.codegen.width import Widths, fixed
from attncc.codegen.words import Words
from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce, Tensor, free, kind, reads
from attncc.masks.counted import Counted, count_of
from attncc.masks.folded import Folded, folded_of
from attncc.masks.intervals import nonnegative
from attncc.ops import FUNCTIONS
from attncc.schedule.block import divides
from attncc.schedule.loops import Program

REAL = {op for op in TRITON if op in FUNCTIONS and FUNCTIONS[op].result == "float"} | {"power_of_few"}
"""Functions of real numbers."""


@dataclass
class Body:
    """What the text of one kernel depends on; `helpers` collects the small functions it came to need.

    `bases` are pointers to this place of the batch, `elements` numbers of tables that ranges read, by their
    text or name.
    """

    program: Program
    words: Words
    signature: Signature
    axes: tuple[Index, ...]
    padded: frozenset[Index]
    short: bool
    raw: frozenset[str]
    held: frozenset[str]
    positive: frozenset[Expr]
    helpers: dict[str, None] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)
    counted: set[Expr] = field(default_factory=set)
    widths: Widths = field(init=False)

    def __post_init__(self) -> None:
        self.widths = Widths(self.positive)

    elements: dict[str, str] = field(default_factory=dict)


def code_of(e: Expr, k: Body) -> Code:
    w = k.words
    match e:
        case Index():
            axis = k.program.digit_of.get(e, e)
            return Code(w.position(e), ATOM, (axis,) if axis in k.axes else ())
        case Literal():
            return _literal(e)
        case Apply("extent", (Index() as i,)):
            return Code(w.extent(i))
        case Read(tensor) if tensor.origin == "scalar" and tensor.kind == "bool":
            return Code(f"{w.tensor(tensor.name)} != 0", COMPARISON)
        case Read(tensor) if tensor.origin in ("scalar", "static"):
            return Code(w.tensor(tensor.name))
        case Read(tensor) if tensor.loaded:
            return _element(e, k)
        case Read(tensor):
            text = w.value(tensor)
            cast = ".to(tl.float32)" if tensor.name in k.raw and tensor.kind == "float" else ""
            return Code(text + cast, ATOM, tuple(i for i in tensor.indices if i in k.axes))
        case Apply(op, args):
            return _apply(op, args, k)
        case Choose(condition, then, other):
            parts = [code_of(x, k) for x in (condition, then, other)]
            axes = union(parts, k.axes)
            return Code(f"tl.where({', '.join(spread(p, axes).text for p in parts)})", ATOM, axes)
        case Reduce() if count := count_of(e):
            return _counted(count, k)
        case Reduce() if fold := folded_of(e):
            return _folded(fold, k)
        case Reduce():
            raise AssertionError(f"a reduction reached the printer: {e}")
        case _:
            assert_never(e)


def _literal(e: Literal) -> Code:
    if isinstance(e.value, float) and e.value in (float("inf"), float("-inf")):
        return Code(f'float("{"-" if e.value < 0 else ""}inf")')
    return Code(repr(e.value), UNARY if not isinstance(e.value, bool) and e.value < 0 else ATOM)


def _apply(op: str, args: tuple[Expr, ...], k: Body) -> Code:
    if op == "**" and isinstance(args[1], Literal) and float(args[1].value).is_integer():
        args = (args[0], Literal(int(args[1].value), "int"))
    if op == "**" and isinstance(args[1], Literal) and args[1].value in (2, 3, 4):
        factor = Apply("*", (args[0], Literal(1.0, "float"))) if kind(args[0]) == "int" else args[0]
        base = code_of(factor, k)
        return Code(" * ".join([base.within(PRODUCT - 1)] * int(args[1].value)), PRODUCT, base.axes)
    parts = [code_of(a, k) for a in args]
    axes = union(parts, k.axes)
    narrow = bool(parts[-1].axes) and parts[-1].axes != axes
    parts = _wide(op, args, [spread(p, axes) if p.axes else p for p in parts], k)
    if op == "**" and len(axes) < 2 and not (kind(args[1]) == "int" and fixed(args[1])):
        op = "power_of_few"
    whole = all(kind(a) == "int" for a in args)
    match op:
        case "sqrt" if fixed(args[0]) and not reads(args[0]):
            return Code(f"{parts[0].within(ATOM)} ** 0.5", POWER)
        case "neg":
            return Code(f"-{parts[0].within(UNARY)}", UNARY, axes)
        case "not":
            return Code(f"~({parts[0].text})", UNARY, axes)
        case "and" | "or":
            return binary("&" if op == "and" else "|", _bracketed(parts[0]), _bracketed(parts[1]), axes)
        case "**" if kind(args[1]) == "int" and fixed(args[1]):
            return called("whole_power", parts, axes, k)
        case "/" if narrow and k.short and not divides(args[1]):
            return binary("*", parts[0], called("inverse", parts[1:], axes, k), axes)
        case "/" if not divides(args[1]):
            return called("divide", parts, axes, k)
        case _ if op in REAL and any(kind(a) == "int" for a in args):
            parts = [p if kind(a) == "float" else _real(p) for a, p in zip(args, parts, strict=True)]
            return called(op, parts, axes, k)
        case "//" | "%" if not (nonnegative(args[0], k.positive, k.counted) and whole):
            return _narrowed(called("floor_divide" if op == "//" else "modulo", parts, axes, k), op, args, k)
        case "%":
            return _narrowed(binary(op, parts[0], parts[1], axes), op, args, k)
        case "/" if narrow and k.short:
            return binary("*", parts[0], Code(f"(1.0 / {parts[1].within(UNARY)})", ATOM, axes), axes)
        case "+" | "-" | "*" | "/" | "//" | "%" | "<" | "<=" | ">" | ">=" | "==" | "!=":
            return binary(op, parts[0], parts[1], axes)
        case _:
            return called(op, parts, axes, k)


def _wide(op: str, args: tuple[Expr, ...], parts: list[Code], k: Body) -> list[Code]:
    """Operands of which one is 64 bits wide, where what comes out may need it."""
    if not k.widths.overflows(Apply(op, args)) or any(k.widths.wide(a) for a in args):
        return parts
    blocks = {scalar(k.words.block(i)) for i in (*k.axes, *k.program.digits)}
    n = next((n for n, a in enumerate(args) if not fixed(a) and a not in blocks), None)
    if n is None:
        return parts
    wide = Code(f"{parts[n].within(ATOM)}.to(tl.int64)", ATOM, parts[n].axes)
    return [*parts[:n], wide, *parts[n + 1 :]]


def _narrowed(code: Code, op: str, args: tuple[Expr, ...], k: Body) -> Code:
    """A remainder is as wide as its divisor."""
    if op == "//" or not k.widths.wide(args[0], tables=True) or k.widths.wide(args[1], tables=True):
        return code
    return Code(f"{code.within(ATOM)}.to(tl.int32)", ATOM, code.axes)


def _real(code: Code) -> Code:
    return Code(f"{code.within(PRODUCT)} * 1.0", PRODUCT, code.axes)


def _bracketed(code: Code) -> Code:
    return code if code.binds <= UNARY else Code(f"({code.text})", ATOM, code.axes)


def called(op: str, parts: list[Code], axes: tuple[Index, ...], k: Body) -> Code:
    """A function of some values, which the module carries if it is none of Triton's."""
    if k.short and op in SHORT:
        return Code(SHORT[op].format(*(p.text for p in parts)), PRODUCT, axes)
    text = TRITON[op].format(*(p.text for p in parts))
    k.helpers.update(dict.fromkeys(name for name in (text.split("(")[0],) if name in TRITON_HELPERS))
    return Code(text, ATOM, axes)


def along(code: Code, axes: tuple[Index, ...], k: Body) -> Code:
    """A value over exactly these axes, repeated where it lacks one."""
    if set(axes) <= set(code.axes):
        return code
    shape = ", ".join(k.words.block(i) for i in axes)
    if not code.axes:
        return Code(f"tl.zeros([{shape}], tl.float32) + {code.within(SUM)}", SUM, axes)
    return Code(f"tl.broadcast_to({spread(code, axes).text}, [{shape}])", ATOM, axes)


# ---- memory ------------------------------------------------------------------------------------


def pointer(
    tensor: Tensor, places: tuple[tuple[Index, Expr], ...], axes: tuple[Index, ...], k: Body
) -> tuple[str, list[str]]:
    """`Q + b.to(tl.int64) * sQ_b + ... + q_in[:, None] * sQ_q`, and the tests that keep it inside."""
    w = k.words
    base, far, near, tests = [w.tensor(tensor.name)], [], [], []
    # inside a tile of rows and columns, offsets are as long as the columns times the rows
    wide = ".to(tl.int64)" if tensor in k.program.outputs and _is_cells(tensor) else ""
    for index, at in places:
        stride = w.stride(tensor, index)
        if isinstance(at, Index) and at == index and at in k.axes:
            feature = at.role == "feature"
            if at in k.program.grids:
                here = placed(w.position(at), at, axes).text
                near.append(f"{here}.to(tl.int64) * {stride}")
                tests.append(f"({here} < {w.extent(at)})")
                continue
            if not feature:
                far.append(f"{w.start(at)}.to(tl.int64) * {stride}")
            inside = placed(w.position(at) if feature else w.inside(at), at, axes).text
            near.append(f"{inside}{wide} * {stride}")
            if at in k.padded or not feature:
                tests.append(f"({placed(w.position(at), at, axes).text} < {w.extent(at)})")
            continue
        code = code_of(at, k)
        if isinstance(at, Index) and k.program.each.get(at) == index:
            place = code.text if index.role == "feature" else f"tl.cast({code.text}, tl.int64)"
            far.append(f"{place} * {stride}")
        elif code.axes:
            spots = along(Code(f"({code.text}).to(tl.int64)", ATOM, code.axes), axes, k)
            near.append(f"{spots.text} * {stride}")
            spot = along(code, axes, k).within(COMPARISON - 1)
            tests += [f"({spot} >= 0)", f"({spot} < {w.extent(index)})"]
        elif isinstance(at, Literal):
            base.append(f"{code.text} * {stride}")
        elif free(at) and free(at) <= {*k.program.batch, *k.program.turned} and _given(at, k):
            turned = free(at) & k.program.turned
            (far if turned else base).append(f"{code.within(ATOM)}.to(tl.int64) * {stride}")
            tests += [f"({code_of(end, k).text})" for end in unproved(at, index)]
        else:
            far.append(f"{code.within(ATOM)}.to(tl.int64) * {stride}")
            if not isinstance(at, Read):  # a name stands for a row of this tile
                spot = code.within(COMPARISON - 1)
                tests += [] if nonnegative(at) else [f"({spot} >= 0)"]
                tests.append(f"({spot} < {w.extent(index)})")
    return " + ".join([_base(tensor, base, k), *far, *near]), tests


def _is_cells(tensor: Tensor) -> bool:
    return sum(i.role == "sequence" for i in tensor.indices) > 1


def _given(at: Expr, k: Body) -> bool:
    """Whether every number in a subscript is an argument of the kernel."""
    return all(read.tensor in k.signature.cascade.inputs for read in reads(at))


def _base(tensor: Tensor, parts: list[str], k: Body) -> str:
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


def placed(name: str, index: Index, axes: tuple[Index, ...]) -> Code:
    return spread(Code(name, ATOM, (index,)), axes)


def _element(read: Read, k: Body) -> Code:
    """One number of a table or tensor, or one for each row, for the ranges: loaded before them, named."""
    tensor = read.tensor
    axes = tuple(i for i in k.axes if any(i in free(at) for at in read.at))
    place, tests = pointer(tensor, tuple(zip(tensor.indices, read.at, strict=True)), axes, k)
    cast = {"float": ".to(tl.float32)", "bool": " != 0"}.get(tensor.kind, "")
    text = f"tl.load({place}{guard(tests)}){cast}"
    return replace(_named(text, f"{tensor.name}_at", k), axes=axes)


def _folded(fold: Folded, k: Body) -> Code:
    """The least or greatest of a number over the rows of the tile that exist."""
    w = k.words
    code = code_of(fold.value, k)
    if not code.axes:
        return code
    other = "2147483647" if fold.op == "min" else "-2147483648"
    there = f"{w.position(fold.row)} < {w.extent(fold.row)}"
    return Code(f"tl.{fold.op}(tl.where({there}, {code.text}, {other}), 0)")


def _counted(count: Counted, k: Body) -> Code:
    """How many elements of a sorted table are at most a number: for the ranges, searched before them, or for
    every row of a tile.
    """
    table = count.row.tensor
    (axis,) = (i for i, at in zip(table.indices, count.row.at, strict=True) if at == count.axis)
    places = tuple((i, at) for i, at in zip(table.indices, count.row.at, strict=True) if i != axis)
    place, _ = pointer(table, places, (), k)
    limit = code_of(count.limit, k)
    search = "counts_at_most" if limit.axes else "count_at_most"
    text = f"{search}({place}, {k.words.stride(table, axis)}, {k.words.extent(axis)}, {limit.text})"
    k.helpers[search] = None
    return Code(text, ATOM, limit.axes) if limit.axes else _named(text, f"{table.name}_count", k)


def _named(text: str, name: str, k: Body) -> Code:
    if text not in k.elements:
        count = sum(known.startswith(name) for known in k.elements.values())
        k.elements[text] = k.words.free(f"{name}{count}", ("element", text))
    return Code(k.elements[text])


def guard(tests: list[str]) -> str:
    return f", mask={' & '.join(tests)}, other=0" if tests else ""
