"""`require` and `assume` statements → ir.Demand, checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from attncc.ir.cascade import Apply, Demand, Expr, Index, Reduce, Tensor, children, kind, reads
from attncc.ir.kinds import check_kinds, kinds_of
from attncc.ir.lower import lower
from attncc.ir.positions import Here, Seen
from attncc.ir.said import Mistakes, near
from attncc.ir.scope import Scope
from attncc.ops import Kind
from attncc.syntax import ast

DEMANDS = "`require causal`, `require covers`, `require cache <= 128`, `require passes(k) <= 1`"


def demands(
    pattern: ast.Pattern, scope: Scope, tensors: Mapping[str, Tensor], mistakes: Mistakes
) -> Iterator[Demand]:
    """Every demand of a pattern, in order; those that say nothing that can be checked are reported."""
    for statement in pattern.statements:
        match statement:
            case ast.Require():
                found = _required(statement, scope, tensors, mistakes)
            case ast.AssumeRange():
                found = _range(statement, tensors, mistakes)
            case ast.AssumeSorted():
                found = _sorted(statement, scope, tensors, mistakes)
            case _:
                continue
        if found is not None:
            yield found


def _required(
    statement: ast.Require, scope: Scope, tensors: Mapping[str, Tensor], mistakes: Mistakes
) -> Demand | None:
    match _excused(statement.demand):
        case ast.Name("causal"):
            return Demand("causal", span=statement.span)
        case ast.Name("covers"):
            return Demand("covers", span=statement.span)
        case ast.Binary("or", ast.Name("covers"), excuse):
            value = _value(excuse, "bool", scope, tensors, mistakes)
            return None if value is None else Demand("covers", value=value, span=statement.span)
        case ast.Binary("<=", ast.Name("cache"), bound):
            value = _value(bound, "int", scope, tensors, mistakes)
            return None if value is None else Demand("cache", value=value, span=statement.span)
        case ast.Binary("<=", ast.Call("passes", (ast.Name(name, span),)), ast.Number(bound)):
            if name not in scope.indices:
                message, help = f"`{name}` is no index", near(name, scope.indices)
                mistakes.add("unknown-index", message, span, "", help)
                return None
            if type(bound) is int:
                return Demand("passes", name, high=bound, span=statement.span)
    mistakes.add("bad-demand", "this cannot be required", statement.demand.span, "", f"write {DEMANDS}")
    return None


def _excused(e: ast.Expr) -> ast.Expr:
    """`(covers or a) or b` as `covers or (a or b)`."""
    match e:
        case ast.Binary("or", left, b):
            match _excused(left):
                case ast.Binary("or", ast.Name("covers") as covers, a):
                    return replace(e, left=covers, right=replace(e, left=a, right=b))
    return e


def _value(
    e: ast.Expr, wants: Kind, scope: Scope, tensors: Mapping[str, Tensor], mistakes: Mistakes
) -> Expr | None:
    """What a demand says of numbers and extents, of the kind it wants."""
    here = Here(scope, tensors, frozenset(), frozenset(), Seen(mistakes))
    known = len(mistakes.found)
    check_kinds(e, kinds_of(scope), mistakes)
    value = lower(e, here)
    if value is None or len(mistakes.found) > known:
        return None
    if any(isinstance(x, Index | Reduce) for x in _read(value)) or any(
        r.tensor.indices for r in reads(value)
    ):
        message = "a demand is made of the pattern's numbers and of extents"
        mistakes.add("bad-demand", message, e.span, "", "as in `require cache <= window + sinks`")
        return None
    if kind(value) != wants:
        what = "a predicate" if wants == "bool" else "an integer"
        mistakes.add("bad-demand", f"this is to be {what}", e.span, "", f"write {DEMANDS}")
        return None
    return value


def _read(e: Expr) -> Iterator[Expr]:
    """An expression and everything in it, but for the indices whose extents it asks for."""
    yield e
    for part in () if isinstance(e, Apply) and e.op == "extent" else children(e):
        yield from _read(part)


def _range(statement: ast.AssumeRange, tensors: Mapping[str, Tensor], mistakes: Mistakes) -> Demand | None:
    tensor = _subject(statement.tensor, tensors, mistakes)
    low, high = _constant(statement.low), _constant(statement.high)
    for bound, e in ((low, statement.low), (high, statement.high)):
        if bound is None:
            mistakes.add("bad-demand", "a bound is a number", e.span, "", "write `assume g in [-5, 0]`")
    if tensor is None or low is None or high is None:
        return None
    if tensor.kind == "bool":
        message = f"`{tensor.name}` is a predicate, and has no range"
        mistakes.add("bad-demand", message, statement.tensor.span)
        return None
    if low > high:
        message = f"nothing lies between {low} and {high}"
        mistakes.add(
            "bad-demand", message, statement.span, "", f"write `assume {tensor.name} in [{high}, {low}]`"
        )
        return None
    return Demand("range", tensor.name, low, high, statement.span)


def _sorted(
    statement: ast.AssumeSorted, scope: Scope, tensors: Mapping[str, Tensor], mistakes: Mistakes
) -> Demand | None:
    tensor = _subject(statement.tensor, tensors, mistakes)
    if tensor is None:
        return None
    if tensor.name in scope.equations or not any(i.role == "sequence" for i in tensor.indices):
        message = f"`{tensor.name}` is no input along a sequence"
        help = "a table over a sequence index can be sorted: `doc[b,k]: int`"
        mistakes.add("bad-demand", message, statement.tensor.span, "", help)
        return None
    return Demand("sorted", tensor.name, span=statement.span)


def _subject(name: ast.Name, tensors: Mapping[str, Tensor], mistakes: Mistakes) -> Tensor | None:
    if name.name not in tensors:
        help = near(name.name, tensors)
        mistakes.add("unknown-name", f"there is no tensor `{name.name}`", name.span, "", help)
    return tensors.get(name.name)


def _constant(e: ast.Expr) -> float | None:
    match e:
        case ast.Number(value) if not isinstance(value, bool):
            return value
        case ast.Unary("-", body):
            size = _constant(body)
            return None if size is None else -size
        case _:
            return None
