"""The small functions a reference carries with it, as text: what plain PyTorch has no word for."""

from __future__ import annotations

import re

HELPERS = {
    "_divide": '''def _divide(a, b):
    """a / b; 0 / 0 is 0, and no gradient passes where the divisor is 0."""
    none = b == 0
    at_none = torch.where(a == 0, 0, a / b).detach()
    return torch.where(none, at_none, a / torch.where(none, 1, b))
''',
    "_floor_divide": '''def _floor_divide(a, b):
    """a // b of integers, rounded down; by 0 it is 0."""
    return torch.where(b == 0, 0, a // torch.where(b == 0, 1, b))
''',
    "_remainder": '''def _remainder(a, b):
    """a % b of integers, with the divisor's sign; by 0 it is 0."""
    return torch.where(b == 0, 0, a % torch.where(b == 0, 1, b))
''',
    "_log": '''def _log(x):
    """The logarithm; of 0 it is -inf with gradient 0, which is that of a sum of nothing."""
    none = x == 0
    return torch.where(none, -math.inf, torch.log(torch.where(none, 1, x)))
''',
    "_sqrt": '''def _sqrt(x):
    """The square root; of 0 it is 0 with gradient 0, which is that of a sum of nothing."""
    none = x == 0
    return torch.where(none, 0, torch.sqrt(torch.where(none, 1, x)))
''',
    "_softplus": '''def _softplus(x):
    """log(1 + exp(x)) without a threshold."""
    return -torch.nn.functional.logsigmoid(-x)
''',
    "_reciprocal": '''def _reciprocal(x):
    """1 / x; of 0 it is 0."""
    none = x == 0
    return torch.where(none, 0, 1 / torch.where(none, 1, x))
''',
    "_through": '''def _through(c, r):
    """The value of c, whose gradient goes to r instead."""
    return c.detach() + torch.where(torch.isfinite(r), r - r.detach(), 0)
''',
    "_einsum": '''def _einsum(spelled, *tensors):
    """torch.einsum in the widest dtype of its tensors; a mask among them is 0 and 1."""
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return torch.einsum(spelled, *(x.to(dtype) for x in tensors))
''',
    "_take": '''def _take(x, at):
    """x at positions along some of its axes, `at` = {axis: positions}; 0 where one of them lies outside."""
    where = [slice(None)] * x.ndim
    for axis, i in at.items():
        size = x.shape[axis]
        inside = (i >= 0) & (i < size)
        where[axis] = torch.where(inside, i, size) if torch.is_tensor(i) else i if inside else size
        x = torch.nn.functional.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, 1])
    return x[tuple(where)]
''',
    "_amax": '''def _amax(x, dim, nothing):
    """The largest along an axis, which may be empty."""
    return x.amax(dim) if x.shape[dim] else torch.full_like(x.sum(dim), nothing)
''',
    "_amin": '''def _amin(x, dim, nothing):
    """The smallest along an axis, which may be empty."""
    return x.amin(dim) if x.shape[dim] else torch.full_like(x.sum(dim), nothing)
''',
    "_argmax": '''def _argmax(x, members):
    """Where the largest member along the last axis stands, the first of equals; of nothing, 0."""
    x, members = torch.broadcast_tensors(x, members)
    first = members & (_rank(x, members) == 0)
    return torch.nn.functional.pad(first.to(torch.int64), [0, 1]).argmax(-1)
''',
    "_rank": '''def _rank(x, members):
    """How many members stand before each along the last axis, in falling order, equal ones as they lie."""
    x, members = torch.broadcast_tensors(x, members)
    order = x.argsort(dim=-1, descending=True, stable=True)
    counted = members.gather(-1, order).to(torch.int64)
    return (counted.cumsum(-1) - counted).gather(-1, order.argsort(-1))
''',
    "_ahead": '''def _ahead(x, members):
    """The sum of the members that stand before each along the last axis, in falling order."""
    x, members = torch.broadcast_tensors(x, members)
    order = x.argsort(dim=-1, descending=True, stable=True)
    counted = torch.where(members, x, 0).gather(-1, order)
    before = torch.nn.functional.pad(counted, [1, 0])[..., :-1].cumsum(-1)
    return before.gather(-1, order.argsort(-1))
''',
    "_stack": '''def _stack(slices, places, zero):
    """Slices by place as one tensor, their places first; what has not been reached yet is 0."""
    found = [slices.get(place, zero) for place in places]
    return torch.stack(found) if found else zero[None][:0]
''',
}
"""By name, in the order in which they stand."""


def helpers(text: str) -> str:
    """The functions that a text calls, and those that these call."""
    used: set[str] = set()
    waiting = text
    while found := {n for n in HELPERS if n not in used and re.search(rf"\b{n}\(", waiting)}:
        used |= found
        waiting = "".join(HELPERS[n] for n in found)
    return "\n\n".join(text for name, text in HELPERS.items() if name in used)
