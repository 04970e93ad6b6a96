"""Formula → PyTorch as text: tiles behind batched axes; plain numbers where a formula says nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from attncc.codegen.code import ATOM, LOOSE, UNARY, Code, binary, spread, union
from attncc.codegen.spell import TORCH, TORCH_HELPERS
from attncc.codegen.words import Words
from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce, Tensor, extent, kind
from attncc.masks.counted import count_of
from attncc.masks.folded import folded_of
from attncc.ops import FUNCTIONS
from attncc.schedule.block import divides, positive
from attncc.schedule.loops import Program


@dataclass
class Body:
    """What the text depends on; `helpers` collects the small functions it came to need, `steps` the integers
    that the ranges of tiles are made of.
    """

    program: Program
    words: Words
    axes: tuple[Index, ...]
    helpers: dict[str, None] = field(default_factory=dict)
    steps: set[Tensor] = field(default_factory=set)


def code_of(e: Expr, k: Body) -> Code:
    w = k.words
    match e:
        case Index():
            axis = k.program.digit_of.get(e, e)
            axes = (axis,) if axis in k.axes else ()
            return Code(w.position(e), ATOM, axes, not axes and e not in k.program.each)
        case Literal(value):
            if isinstance(value, float) and value in (float("inf"), float("-inf")):
                return Code(f"{'-' if value < 0 else ''}math.inf", UNARY if value < 0 else ATOM)
            return Code(repr(value), UNARY if not isinstance(value, bool) and value < 0 else ATOM)
        case Apply("extent", (Index() as i,)):
            return Code(w.extent(i))
        case Read(tensor) if tensor.origin in ("scalar", "static"):
            return Code(w.tensor(tensor.name))
        case Read(tensor):
            return Code(w.value(tensor), ATOM, tensor.indices, tensor not in k.steps)
        case Apply(op, args):
            return _apply(op, args, k)
        case Choose():
            return _choose(e, k)
        case Reduce() if count_of(e):
            return counts(e, k)
        case Reduce() if fold := folded_of(e):
            code = code_of(fold.value, k)
            word = {"min": "lowest", "max": "highest"}[fold.op]
            k.helpers[word] = None
            return Code(f"{word}({code.text})") if code.axes or code.lead else code
        case Reduce():
            raise AssertionError(f"a reduction reached the printer: {e}")
        case _:
            assert_never(e)


def counts(e: Reduce, k: Body) -> Code:
    """How many elements of a sorted table are at most a number, in every row of a tile if that has rows."""
    count = count_of(e)
    assert count is not None, f"no search finds {e}"
    k.helpers |= {"count_at_most": None, "gather": None}
    table, places = count.row.tensor, []
    for at in count.row.at:
        own = at == count.axis
        code = Code(f"torch.arange({k.words.extent(count.along)}, device=device)") if own else code_of(at, k)
        places.append(f"{code.within(ATOM)}[..., None]" if code.lead else code.text)
    name = k.words.tensor(table.name)
    row = f"gather({name}, {', '.join(places)})" if len(places) > 1 else name
    limit = code_of(count.limit, k)
    if limit.axes:
        return Code(f"count_at_most({row}, {limit.text})", ATOM, limit.axes, limit.lead or len(places) > 1)
    one = f"{limit.within(ATOM)}[..., None]" if limit.lead else f"torch.tensor([{limit.text}], device=device)"
    return Code(f"count_at_most({row}, {one})[..., 0]", ATOM, (), True)


NUMBERS = {
    "min": "min({0}, {1})", "max": "max({0}, {1})", "sqrt": "math.sqrt({0})", "log": "math.log({0})",
    "abs": "abs({0})", "floor": "math.floor({0})", "round": "round({0})",
    "tanh": "math.tanh({0})", "sin": "math.sin({0})", "cos": "math.cos({0})",
    "live_before": "live_before({0}, {1}, {2})",
}  # fmt: skip
"""Functions of plain numbers; of exponentials, Python makes an error where they overflow."""


def _plain(e: Expr, k: Body) -> bool:
    """Whether a value is a number of Python's: made of literals, extents, integers and truth values."""
    match e:
        case Literal() | Apply("extent"):
            return True
        case Index():
            return e in k.program.each
        case Reduce():
            return True
        case Read(tensor):
            return tensor in k.steps or (tensor.origin in ("scalar", "static") and tensor.kind != "float")
        case Apply("/", (a, b)):
            return divides(b) and _plain(a, k) and _plain(b, k)
        case Apply("sqrt" | "log", (a,)):
            return positive(a) and _plain(a, k)
        case Apply(op, args):
            return (op in NUMBERS or op in PYTHON) and all(_plain(a, k) for a in args)
        case Choose(condition, then, other):
            return all(_plain(x, k) for x in (condition, then, other))
        case _:
            assert_never(e)


PYTHON = frozenset(("neg", "not", "and", "or", "+", "-", "*", "//", "%", "<", "<=", ">", ">=", "==", "!="))
"""Functions that Python writes as operators."""


def _choose(e: Choose, k: Body) -> Code:
    c, a, b = (code_of(x, k) for x in (e.condition, e.then, e.other))
    if _plain(e.condition, k):
        if kind(e) == "float":
            a, b = _alike((e.then, e.other), (a, b), k)
        axes, lead = union((a, b), k.axes), a.lead or b.lead
        if axes or lead:
            a, b = (_filled(p, axes, e) if p.scalar else spread(p, axes) for p in (a, b))
        text = f"{a.within(LOOSE - 1)} if {c.within(LOOSE - 1)} else {b.within(LOOSE - 1)}"
        return Code(text, LOOSE, axes, lead)
    if kind(e) == "float" and _plain(e.then, k) and _plain(e.other, k):
        a = Code(_tensor(a))
    a, b = _alike((e.then, e.other), (a, b), k)
    axes = union((c, a, b), k.axes)
    parts = ", ".join(spread(p, axes).text for p in (c, a, b))
    return Code(f"torch.where({parts})", ATOM, axes, c.lead or a.lead or b.lead)


def _filled(code: Code, axes: tuple[Index, ...], e: Expr) -> Code:
    """A number as a tensor, where the other branch is one."""
    dtype = ", dtype=kind" if kind(e) == "float" else ""
    return Code(f"torch.full({[1] * len(axes)}, {code.text}, device=device{dtype})", ATOM, axes)


def _alike(args: tuple[Expr, ...], parts: Sequence[Code], k: Body, always: bool = False) -> list[Code]:
    """Integer tiles that meet real numbers, in the kind of sums: PyTorch would take float32 for them."""
    if not always and all(kind(a) != "float" for a in args):
        return list(parts)
    return [real(a, p, k) for a, p in zip(args, parts, strict=True)]


def real(e: Expr, code: Code, k: Body) -> Code:
    if kind(e) == "float" or _plain(e, k):
        return code
    return Code(f"{code.within(ATOM)}.to(kind)", ATOM, code.axes, code.lead)


def _apply(op: str, args: tuple[Expr, ...], k: Body) -> Code:
    e = Apply(op, args)
    parts = [code_of(a, k) for a in args]
    if _plain(e, k) and op in NUMBERS:
        k.helpers |= {op: None} if op in TORCH_HELPERS else {}
        return Code(NUMBERS[op].format(*(p.text for p in parts)), ATOM)
    parts = _alike(args, parts, k, always=FUNCTIONS[op].result == "float")
    axes = union(parts, k.axes)
    lead = any(p.lead for p in parts)
    parts = [spread(p, axes) for p in parts]
    match op:
        case "neg":
            return Code(f"-{parts[0].within(UNARY)}", UNARY, axes, lead)
        case "not":
            plain = _plain(e, k)
            text = f"{'not ' if plain else '~'}({parts[0].text})"
            return Code(text, LOOSE if plain else UNARY, axes, lead)
        case "and" | "or" if _plain(e, k):
            return Code(f"({parts[0].text}) {op} ({parts[1].text})", LOOSE)
        case "and" if _in_tile(args[0], k):
            return parts[1]
        case "and" | "or":
            return binary("&" if op == "and" else "|", _bracketed(parts[0]), _bracketed(parts[1]), axes)
        case "/" if not divides(args[1]) and not _plain(e, k):
            return _called("divide", args, parts, axes, lead, k)
        case "+" | "-" | "*" | "/" | "//" | "%" | "<" | "<=" | ">" | ">=" | "==" | "!=":
            return binary(op, parts[0], parts[1], axes)
        case _:
            return _called(op, args, parts, axes, lead, k)


def _in_tile(e: Expr, k: Body) -> bool:
    """Whether a test says of a walked index that it is in range, as every position of a slice is."""
    return isinstance(e, Apply) and e.op == "<" and e.args[0] in k.axes and e.args[1] == extent(e.args[0])


def _bracketed(code: Code) -> Code:
    return code if code.binds <= UNARY else replace(code, text=f"({code.text})", binds=ATOM)


def _called(
    op: str, args: tuple[Expr, ...], parts: list[Code], axes: tuple[Index, ...], lead: bool, k: Body
) -> Code:
    plain = [_plain(a, k) for a in args]
    spelled = {} if any(plain) else {"min": "torch.minimum({0}, {1})", "max": "torch.maximum({0}, {1})"}
    texts = [_tensor(p) if all(plain) else p.text for p in parts]
    text = spelled.get(op, TORCH[op]).format(*texts)
    name = text.split("(")[0]
    if name in TORCH_HELPERS:
        k.helpers[name] = None
    return Code(text, ATOM, axes, lead)


def _tensor(code: Code) -> str:
    return f"torch.tensor({code.text}, device=device, dtype=kind)"
