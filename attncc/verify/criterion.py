"""When a kernel's output counts as right: row by row, against what PyTorch gets wrong in the same precision.

    |x - ref| <= 2 * max |PyTorch - ref| over the 65 rows around + 4 * eps * mean |ref| over them

with ref in float64 and PyTorch the plain dense reference in the kernel's own element type. Never a mean over
the tensor: that passes when 40 of 16,384 rows are zero.

Where terms cancel and leave nothing, as in the gradient of a softmax over one key, ref is 0 in all the rows
around and has no size. There the sum of the magnitudes of the terms, of the row or of the rows around, stands
for its size, if it is known.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

EPSILON = {
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
    torch.float32: 2.0**-23,
    # no better reference says what PyTorch gets wrong; float32 anywhere on the way loses more
    torch.float64: 2.0**-44,
}
AROUND = 65


def worst(x: Tensor, plain: Tensor, exact: Tensor, dtype: torch.dtype, features: bool) -> float:
    """The largest error of a row over its bound: right up to 1."""
    return float(ratios(x, plain, exact, dtype, features).max()) if x.numel() else 0.0


NOTHING = 2.0**-40
"""What is left of terms that cancel in float64, next to them, at most."""


def ratios(
    x: Tensor,
    plain: Tensor,
    exact: Tensor,
    dtype: torch.dtype,
    features: bool,
    terms: Tensor | None = None,
    left: float = NOTHING,
) -> Tensor:
    """The error of every row over its bound. NaN, and an infinity where none belongs, give inf.

    Tensors are (..., rows, features), or (..., rows) where `features` is false; `exact` is float64, and so
    are the magnitudes of its `terms`, which count where what is `left` of them is no more.
    """
    x, plain = x.double(), plain.double()
    if not features:
        x, plain, exact = x[..., None], plain[..., None], exact[..., None]
        terms = None if terms is None else terms[..., None]
    wild = ~torch.isfinite(exact)
    broken = (torch.where(wild, x != exact, ~torch.isfinite(x))).any(dim=-1)
    x, plain, exact = (torch.where(wild | broken[..., None], 0.0, t) for t in (x, plain, exact))
    error = (x - exact).norm(dim=-1)
    allowed = _around(torch.nan_to_num((plain - exact).norm(dim=-1), nan=0.0), max_pool1d)
    size = _around(exact.norm(dim=-1), avg_pool1d)
    bound = 2 * allowed + 4 * EPSILON[dtype] * size
    if terms is not None:
        own = terms.norm(dim=-1)
        made_of = _around(own, avg_pool1d).maximum(own)
        bound = torch.where(size <= left * made_of, bound.maximum(4 * EPSILON[dtype] * made_of), bound)
    found = torch.where(error == 0, 0.0, error / bound.clamp_min(1e-300))
    return torch.where(broken, torch.inf, found)


def _around(rows: Tensor, pool: object) -> Tensor:
    """A statistic over the rows around every row; at the ends, over those that are there."""
    if not rows.numel():
        return rows
    flat = rows.reshape(-1, 1, rows.shape[-1])
    half = AROUND // 2
    if pool is avg_pool1d:
        out = avg_pool1d(flat, AROUND, 1, half, count_include_pad=False)
    else:
        out = max_pool1d(flat, AROUND, 1, half)
    return out.reshape(rows.shape)
