"""When a kernel's output counts as right: row by row, against what PyTorch itself gets wrong in the same
precision.

    |x - ref| <= 2 * max |PyTorch - ref| over the 65 rows around + 4 * eps * mean |ref| over them

with ref in float64 and PyTorch the plain dense reference in the kernel's own element type. Never a mean over
the tensor: that passes when 40 of 16,384 rows are zero.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, max_pool1d

EPSILON = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-23, torch.float64: 2.0**-52}
AROUND = 65


def worst(x: Tensor, plain: Tensor, exact: Tensor, dtype: torch.dtype, features: bool) -> float:
    """The largest error of a row over its bound: right up to 1. NaN, and an infinity where none belongs, give
    inf.

    Tensors are (..., rows, features), or (..., rows) where `features` is false; `exact` is float64.
    """
    if x.numel() == 0:
        return 0.0
    x, plain = x.double(), plain.double()
    if not features:
        x, plain, exact = x[..., None], plain[..., None], exact[..., None]
    wild = ~torch.isfinite(exact)
    if not torch.equal(torch.where(wild, x, 0.0), torch.where(wild, exact, 0.0)):
        return float("inf")
    x, plain, exact = (torch.where(wild, 0.0, t) for t in (x, plain, exact))
    if not torch.isfinite(x).all():
        return float("inf")
    error = (x - exact).norm(dim=-1)
    allowed = _around(torch.nan_to_num((plain - exact).norm(dim=-1), nan=0.0), max_pool1d)
    size = _around(exact.norm(dim=-1), avg_pool1d)
    bound = 2 * allowed + 4 * EPSILON[dtype] * size
    return float(torch.where(error == 0, 0.0, error / bound.clamp_min(1e-300)).max())


def _around(rows: Tensor, pool: object) -> Tensor:
    """A statistic over the rows around every row; at the ends, over those that are there."""
    flat = rows.reshape(-1, 1, rows.shape[-1])
    half = AROUND // 2
    if pool is avg_pool1d:
        out = avg_pool1d(flat, AROUND, 1, half, count_include_pad=False)
    else:
        out = max_pool1d(flat, AROUND, 1, half)
    return out.reshape(rows.shape)
