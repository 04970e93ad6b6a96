"""Predicate → a function of tensors `(b, h, q, k)`, as FlexAttention takes it; its text is plain Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, free, walk
from attncc.masks.integers import at
from attncc.masks.normal import total

INFIX = {"+": "+", "-": "-", "*": "*", "/": "/", "//": "//", "%": "%", "and": "&", "or": "|"} | {
    name: name for name in ("<", "<=", ">", ">=", "==", "!=")
}


class Inexpressible(ValueError):
    """A predicate that is no function of positions, numbers and tables."""


def least(a: Any, b: Any) -> Any:
    """The smaller one, of tensors or numbers."""
    return torch.where(a < b, a, b) if torch.is_tensor(a < b) else min(a, b)


def greatest(a: Any, b: Any) -> Any:
    """The larger one, of tensors or numbers."""
    return torch.where(a > b, a, b) if torch.is_tensor(a > b) else max(a, b)


def no(a: Any) -> Any:
    """The negation of a tensor or a truth value."""
    return torch.logical_not(a) if torch.is_tensor(a) else not a


def either(c: Any, a: Any, b: Any) -> Any:
    """`a` where `c` holds, else `b`."""
    return torch.where(c, a, b) if torch.is_tensor(c) else a if c else b


HELPERS = {"least": least, "greatest": greatest, "no": no, "either": either, "abs": abs}
CALLS = {"min": "least", "max": "greatest", "abs": "abs", "not": "no", "neg": "-"}


def function(
    predicate: Expr, names: Mapping[Index, str], env: Mapping[str, Any], tables: Mapping[str, torch.Tensor]
) -> Callable[..., torch.Tensor]:
    """The predicate over indices that are called `b`, `h`, `q` and `k`; `env` binds its numbers and extents.
    Inexpressible where it reads real tensors or reduces anything but constants.
    """
    text = spelled(total(predicate), names, env)
    # a constant still has the shape of its positions
    body = f"lambda b, h, q, k: ({text}) & (q >= 0) & (k >= 0)"
    found: Callable[..., torch.Tensor] = eval(
        body, {**HELPERS, **{f"table_{n}": t for n, t in tables.items()}}
    )
    return found


def spelled(e: Expr, names: Mapping[Index, str], env: Mapping[str, Any]) -> str:
    """An expression as Python; whatever depends on no position and no table is a number."""
    if not free(e) and not any(isinstance(x, Read) and x.at for x in walk(e)):
        return repr(at(e, env))

    def inner(part: Expr) -> str:
        return spelled(part, names, env)

    match e:
        case Index() if e in names:
            return names[e]
        case Literal(value):
            return repr(value)
        case Read(tensor, subscripts) if tensor.origin == "table" and tensor.kind != "float":
            return f"table_{tensor.name}[{', '.join(map(inner, subscripts))}]"
        case Choose(condition, then, other):
            return f"either({inner(condition)}, {inner(then)}, {inner(other)})"
        case Apply(op, (a, b)) if op in INFIX:
            return f"({inner(a)} {INFIX[op]} {inner(b)})"
        case Apply(op, args) if op in CALLS:
            return f"{CALLS[op]}({', '.join(map(inner, args))})"
        case _:
            raise Inexpressible(f"`{getattr(e, 'op', type(e).__name__)}` is no part of a mask of positions")
