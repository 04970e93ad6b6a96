"""ast.Expr → ir.Expr: indices become storage positions, batched subscripts are written out.

A tensor's axis read at a number is read at that number less the axis's origin; at its own bare index it is
read at its storage position. `None` stands for an expression with a mistake in it, which has been reported.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from attncc.ir import linear, positions
from attncc.ir.cascade import TRUE, Apply, Choose, Expr, Index, Literal, Read, Reduce, extent, free, number
from attncc.ir.compare import COMPARISONS, check_compared, check_subtracted
from attncc.ir.positions import Here
from attncc.ir.said import Mistakes, near
from attncc.ir.subscripts import At, Implied, Pair, Place, places
from attncc.ops import FUNCTIONS, NAMED, REDUCTIONS
from attncc.source import Span
from attncc.syntax import ast


def lower(e: ast.Expr, here: Here) -> Expr | None:
    """The meaning of an expression where it stands."""
    match e:
        case ast.Number():
            return number(e.value)
        case ast.Name():
            return _name(e, here)
        case ast.Extent():
            return extent(here.scope.indices[e.index].index)
        case ast.Subscript():
            return _read(e, here)
        case ast.Unary():
            return _unary(e.op, lower(e.body, here))
        case ast.Binary():
            if e.op in COMPARISONS:
                check_compared(e, here.scope, here.mistakes)
            elif e.op == "-":
                check_subtracted(e, here.scope, here.mistakes)
            return _apply(e.op, lower(e.left, here), lower(e.right, here))
        case ast.If():
            condition, then, other = (lower(part, here) for part in (e.condition, e.then, e.other))
            if condition is None or then is None or other is None:
                return None
            return Choose(condition, then, other)
        case ast.Call():
            return _call(e, here)
        case ast.Over():
            return _reduce(e, here)
        case _:
            assert_never(e)


def _apply(op: str, *args: Expr | None) -> Expr | None:
    whole = tuple(a for a in args if a is not None)
    return Apply(op, whole) if len(whole) == len(args) else None


def _unary(op: str, body: Expr | None) -> Expr | None:
    match body:
        case Literal(value=value, kind="int" | "float") if op == "-":
            return number(-value)
        case _:
            return _apply("neg" if op == "-" else "not", body)


# Names and positions


def _name(e: ast.Name, here: Here) -> Expr | None:
    scope = here.scope
    if e.name in scope.indices:
        return _displaced("+", _storage(e.name, e.span, here), e.name, here)
    if e.name in scope.params or e.name in scope.equations:
        return _read(ast.Subscript(e.name, (), e.span), here)
    help = near(e.name, scope.everything()) or f"the header declares parameters: `{e.name}: float`"
    here.mistakes.add("unknown-name", f"there is no `{e.name}`", e.span, "", help)
    return None


def _storage(name: str, span: Span, here: Here) -> Expr | None:
    at = positions.storage(name, span, here)
    return at if at is None or isinstance(at, Index) else lower(at, here)


def _displaced(op: str, e: Expr | None, name: str, here: Here) -> Expr | None:
    """A storage position as a position (`+`), a position as one in storage (`-`)."""
    for part in positions.origin(name, here.scope):
        shift = part if part is None or not isinstance(part, ast.Expr) else lower(part, here)
        if e is None or (part is not None and shift is None):
            return None
        if shift is not None:
            e = Apply("+", (e, shift)) if op == "+" else linear.minus(e, shift)
    return e


# Reads


def _read(e: ast.Subscript, here: Here) -> Expr | None:
    scope, tensor = here.scope, here.tensors.get(e.tensor)
    if tensor is None:
        _no_tensor(e, here)
        return None
    own = [i.name for i in tensor.indices if i.role != "batch"]
    if own and not e.at:
        message, help = f"`{e.tensor}` has indices of its own", f"read it as `{e.tensor}[{','.join(own)}]`"
        here.mistakes.add("wrong-rank", message, e.span, "read here", help)
        return None
    axes = tuple(i.name for i in tensor.indices)
    # a batched index it should have may be one that it does not have for a mistake
    silent = e.tensor in here.doubtful and len(e.at) > len(own)
    fit = places(e, axes, scope, Mistakes(here.mistakes.source) if silent else here.mistakes)
    if fit is None:
        for subscript in e.at:
            lower(subscript, here)
        return None
    at = [_place(place, e.span, here) for place in fit]
    whole = tuple(a for a in at if a is not None)
    if len(whole) < len(at):
        return None
    read = Read(tensor, whole)
    here.seen.reads.setdefault(read, e.span)
    return read


def _place(place: Place, span: Span, here: Here) -> Expr | None:
    """The storage position that is read along one axis."""
    match place:
        case Implied():
            return _storage(place.axis, span, here)
        case At(subscript=ast.Name(name=name, span=at)) if name == place.axis:
            return _storage(name, at, here)
        case At():
            return _displaced("-", lower(place.subscript, here), place.axis, here)
        case Pair():
            outer, inner = _place(place.outer, span, here), _place(place.inner, span, here)
            return _apply("+", _apply("*", outer, lower(place.split.by, here)), inner)
        case _:
            assert_never(place)


def _no_tensor(e: ast.Subscript, here: Here) -> None:
    for subscript in e.at:
        lower(subscript, here)
    if e.tensor in here.scope.indices:
        message = f"`{e.tensor}` is an index, and an index has no subscripts"
        here.mistakes.add("not-a-tensor", message, e.span)
    else:
        help = near(e.tensor, here.tensors)
        here.mistakes.add("unknown-name", f"there is no tensor `{e.tensor}`", _word(e.tensor, e), "", help)


# Functions and reductions


def _call(e: ast.Call, here: Here) -> Expr | None:
    args = [lower(a, here) for a in e.args]
    if e.name not in NAMED:
        code, message = "unknown-function", f"there is no function `{e.name}`"
        help = near(e.name, here.scope.words)
        if e.name in REDUCTIONS:
            code, message = "missing-body", f"`{e.name}` reduces nothing: no expression follows it"
            help = f"write what is reduced behind it: `{e.name}(k) x[k]`"
        here.mistakes.add(code, message, _word(e.name, e), "", help)
        return None
    folds = e.name in REDUCTIONS
    arity = FUNCTIONS[e.name].arity
    if len(args) < 2 if folds else len(args) != arity:
        count = "two arguments or more" if folds else "one argument" if arity == 1 else f"{arity} arguments"
        message = f"`{e.name}` takes {count}, and has {len(e.args) or 'none'}"
        help = f"as a reduction it has a body: `{e.name}(k) x[k]`" if folds else ""
        here.mistakes.add("wrong-arity", message, e.span, "", help)
        return None
    if not folds:
        return _apply(e.name, *args)
    result = args[0]
    for arg in args[1:]:
        result = _apply(e.name, result, arg)
    return result


def _reduce(e: ast.Over, here: Here) -> Expr | None:
    if e.op not in REDUCTIONS:
        _no_reduction(e, here)
        return None
    row = REDUCTIONS[e.op]
    finds = row.combine in ("argmax", "argmin")
    for name, value in e.options:
        here.mistakes.add("unknown-option", f"`{e.op}` takes no `{name}`", value.span)
        lower(value, here)
    over = {i.name: i.span for i in e.indices}
    if (row.keeps or finds) and len(over) != 1:
        here.mistakes.add("wrong-arity", f"`{e.op}` runs over one index", e.span)
    # a place among the members is the place of a member, which stands outside
    places = [_storage(name, span, here) for name, span in over.items()] if row.keeps else []
    inner = replace(here, named=here.named | over.keys())
    where = TRUE if e.where is None else lower(e.where, inner)
    body = lower(e.body, inner)
    if where is None or body is None or None in places:
        return None
    known = [here.scope.indices[name] for name in over]
    used = free(where) | free(body)
    for absent in [
        k for k in known if k.index not in used and not k.unknown and not isinstance(body, Literal)
    ]:
        _absent(e, absent.name, over[absent.name], here)
    reduce = Reduce(e.op, tuple(k.index for k in known), where, body, e.span)
    # a place found is a position
    return _displaced("+", reduce, known[0].name, here) if finds else reduce


def _absent(e: ast.Over, name: str, span: Span, here: Here) -> None:
    message = f"`{e.op}` runs over `{name}`, and nothing in it depends on `{name}`"
    help = f"drop `{name}`, or read something at `{name}`"
    here.mistakes.add("index-absent", message, span, "", help)


def _no_reduction(e: ast.Over, here: Here) -> None:
    inner = replace(here, named=here.named | {i.name for i in e.indices if i.name in here.scope.indices})
    for part in (e.where, *(option for _, option in e.options), e.body):
        if part is not None:
            lower(part, inner)
    if e.op in NAMED:
        args = ", ".join(i.name for i in e.indices)
        message = f"`{e.op}` is a function, and an expression follows it"
        help = f"put an operator between the two: `{e.op}({args}) * …`"
        here.mistakes.add("not-a-reduction", message, e.span, "", help)
    else:
        help = near(e.op, here.scope.words)
        here.mistakes.add("unknown-reduction", f"there is no reduction `{e.op}`", _word(e.op, e), "", help)


def _word(name: str, e: ast.Expr) -> Span:
    """The name that an expression begins with."""
    return Span(e.span.start, e.span.start + len(name))
