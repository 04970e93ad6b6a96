"""Plan → PyTorch's own attention on the same tensors, where it provably computes the same.

Which input is which is guessed from the indices, and never trusted: on small random inputs, in float64, the
peer must agree with the pattern's dense reference to nine digits, or there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from attncc.bench.predicate import Inexpressible, function
from attncc.bench.setting import Setting
from attncc.ir.cascade import Index
from attncc.ir.cascade import Tensor as Named

Mask = Callable[..., Tensor]
Three = tuple[Tensor, Tensor, Tensor]


class NoPeer(Exception):
    """Nothing of PyTorch's computes the same, and why."""


@dataclass(frozen=True)
class Roles:
    """Queries, keys and values among the inputs of a pattern, and the indices of its predicate."""

    named: tuple[Named, Named, Named]
    batch: tuple[Index, Index]
    rows: Index
    columns: Index

    def laid(self, named: Named, x: Tensor) -> Tensor:
        """A view over batch, heads, positions and features; one of each that the tensor does not have."""
        order = {"sequence": 2, "feature": 3}
        places = [order.get(i.role, 0 if i == self.batch[0] else 1) for i in named.indices]
        x = x.permute(sorted(range(x.dim()), key=places.__getitem__))
        for axis in (0, 1):
            if axis not in places:
                x = x.unsqueeze(axis)
        return x

    def tensors(self, here: Setting) -> Three:
        """Queries, keys and values of a call; keys and values for every batch."""
        q, k, v = (self.laid(t, here.given[t.name]) for t in self.named)
        return q, k.expand(q.shape[0], -1, -1, -1), v.expand(q.shape[0], -1, -1, -1)

    def mask(self, here: Setting) -> Mask:
        """The predicate as a function of positions. NoPeer where it is not one."""
        names = {self.batch[0]: "b", self.batch[1]: "h", self.rows: "q", self.columns: "k"}
        try:
            return function(here.plan.kernels[-1].loops[0].reach, names, here.env, here.tables)
        except Inexpressible as error:
            raise NoPeer(f"its mask is none of positions, numbers and tables: {error}") from None


def roles(here: Setting) -> Roles:
    """A guess at what is what. NoPeer where the pattern has another shape than attention."""
    outputs, kernel = here.cascade.outputs, here.plan.kernels[-1]
    loops = [loop for each in here.plan.kernels for loop in each.loops]
    if len(outputs) != 1 or loops != [*kernel.loops] or len(loops) != 1 or len(kernel.batch) != 2:
        raise NoPeer("it is not one output over batch and heads from one walk over keys")
    (output,) = outputs
    rows, columns = kernel.rows, kernel.loops[0].index
    real = [t for t in here.cascade.inputs if t.kind == "float" and _feature(t)]
    queries = [t for t in real if rows in t.indices][:1]
    keys = [t for t in real if columns in t.indices and t not in queries][:2]
    if len(queries) + len(keys) < 3 or _feature(queries[0]) != _feature(keys[0]) or not _feature(output):
        raise NoPeer("it has no queries, keys and values over positions and features")
    return Roles((queries[0], keys[0], keys[1]), (kernel.batch[0], kernel.batch[1]), rows, columns)


def _feature(t: Named) -> Index | None:
    """The one feature index of a tensor over one sequence."""
    found = [i for i in t.indices if i.role == "feature"]
    return found[0] if len(found) == 1 and sum(i.role == "sequence" for i in t.indices) == 1 else None


def sdpa(tensors: Three, mask: Tensor | None, causal: bool, scale: float | None) -> Callable[[], Tensor]:
    """SDPA on a pattern's arguments."""
    q, k, v = tensors
    grouped = k.shape[1] != q.shape[1]
    return lambda: scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def flex(tensors: Three, mask: Mask | None, scale: float | None) -> Callable[[], Tensor]:
    """FlexAttention on a pattern's arguments, compiled; its block mask is made once, before."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = tensors
    blocks = None
    if mask is not None:
        batch, heads, rows, _ = q.shape
        where = str(q.device)
        blocks = create_block_mask(mask, batch, heads, rows, k.shape[2], device=where, _compile=q.is_cuda)
    compiled = torch.compile(flex_attention, dynamic=False)
    grouped = k.shape[1] != q.shape[1]
    return lambda: compiled(q, k, v, block_mask=blocks, scale=scale, enable_gqa=grouped)


def dense(mask: Mask, tensors: Three, rows: slice = slice(None)) -> Tensor:
    """The cells of some rows over batch, heads, rows and columns, of which those that do not matter are 1."""
    q, k, _ = tensors
    b, h, i, j = (torch.arange(n, device=q.device) for n in (*q.shape[:3], k.shape[2]))
    found = mask(b[:, None, None, None], h[:, None, None], i[rows, None], j)
    return found[(None,) * (4 - found.dim())]


def shape_of(mask: Mask, own: Roles, here: Setting) -> str:
    """What the cells are exactly: "dense", "causal" (from the first row and column on), or "other"."""
    tensors = own.tensors(here)
    q, k, _ = tensors
    columns, found = torch.arange(k.shape[2], device=q.device), {"dense", "causal"}
    step = max(1, 2**26 // max(1, k.shape[2] * q.shape[0] * q.shape[1]))
    for start in range(0, q.shape[2], step):
        rows = slice(start, min(start + step, q.shape[2]))
        seen = dense(mask, tensors, rows)
        lower = columns <= torch.arange(start, rows.stop, device=q.device)[:, None]
        found -= set() if bool(seen.all()) else {"dense"}
        found -= set() if bool((seen == lower).all()) else {"causal"}
        if not found:
            return "other"
    return "dense" if "dense" in found else "causal"


def scale_of(own: Roles, small: Setting, exact: Tensor) -> float | None:
    """The scale with which SDPA agrees with the reference on small float64 arguments; None is its own.

    NoPeer if there is none. Rows that see nothing are left out: SDPA has no number for them.
    """
    tensors = own.tensors(small)
    cells = dense(own.mask(small), tensors)
    some = cells.any(dim=-1)[..., None]
    exact = own.laid(small.cascade.outputs[0], exact)
    worst = []
    for scale in (None, 1.0):
        made = sdpa(tensors, cells, False, scale)()
        if made.shape != exact.shape:
            raise NoPeer("its output has another shape than queries and values give")
        worst.append(float(torch.where(some, made - exact, 0.0).abs().max() / exact.abs().max()))
        if worst[-1] < 1e-9:
            return scale
    raise NoPeer(
        "its result is not that of softmax(Q K / sqrt(d)) V under any mask:"
        f" {min(worst):.1e} apart in float64 on a small example"
    )
