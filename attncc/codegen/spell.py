"""How each backend writes a scalar function: `{0}`, `{1}` are its arguments, already bracketed as arguments.

What a backend has no word for is written out as a small function, which the module then carries.
"""

from __future__ import annotations

TRITON = {
    "min": "tl.minimum({0}, {1})",
    "max": "tl.maximum({0}, {1})",
    "exp": "tl.exp({0})",
    "exp2": "tl.exp2({0})",
    "log": "tl.log({0})",
    "sqrt": "tl.sqrt({0})",
    "tanh": "tanh({0})",
    "sigmoid": "tl.sigmoid({0})",
    "softplus": "softplus({0})",
    "silu": "silu({0})",
    "relu": "tl.maximum({0}, 0.0)",
    "abs": "tl.abs({0})",
    "floor": "tl.floor({0}).to(tl.int32)",
    "round": "round_even({0})",
    "sign": "sign({0})",
    "sin": "tl.sin({0})",
    "cos": "tl.cos({0})",
    "finite": "finite({0})",
    "through": "({0}).to(tl.float32)",
    "**": "power({0}, {1})",
    "power_of_few": "power_of_few({0}, {1})",
    "whole_power": "whole_power({0}, {1})",
    "divide": "divide({0}, {1})",
    "inverse": "inverse({0})",
    "reciprocal": "reciprocal({0})",
    "not_below": "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
    "live_before": "live_before({0}, {1}, {2})",
    "floor_divide": "floor_divide({0}, {1})",
    "modulo": "modulo({0}, {1})",
    "held": "held({0})",
}

FAST_LOG2 = '''@triton.jit
def log2(x):
    """What the interpreter has in place of one instruction."""
    return tl.log2(x)


fast_log2 = log2 if triton.knobs.runtime.interpret else libdevice.fast_log2f  # within 3e-7
'''

SHORT = {"log": "fast_log2({0}) * 0.6931471805599453"}
"""What a CUDA kernel for 16-bit elements writes instead."""

TRITON_HELPERS = {
    "count_at_most": '''@triton.jit
def count_at_most(table, stride, size, limit):
    """How many elements of a sorted table are at most a limit, 128 looked at in every step."""
    lanes = tl.arange(0, 128)
    low, width = size * 0, size
    while width > 0:
        step = (width + 127) // 128
        x = tl.load(table + (low + lanes * step).to(tl.int64) * stride, mask=lanes * step < width, other=0)
        passed = tl.sum(((lanes * step < width) & (x <= limit)).to(tl.int32))
        start = tl.where(passed > 0, low + (passed - 1) * step + 1, low)
        width = tl.where(passed > 0, tl.minimum(step - 1, low + width - start), 0)
        low = start
    return low
''',
    "counts_at_most": '''@triton.jit
def counts_at_most(table, stride, size, limits):
    """How many elements of a sorted table are at most each limit: a binary search for all at once."""
    found, width = limits * 0, size
    while width > 0:
        half = (width + 1) // 2
        x = tl.load(table + (found + half - 1).to(tl.int64) * stride)
        found = tl.where(x <= limits, found + half, found)
        width -= half
    return found
''',
    "tanh": '''@triton.jit
def tanh(x):
    """Hyperbolic tangent; near 0, where 1 - 2 / (1 + exp) cancels, a minimax polynomial (2e-7 of it)."""
    t = tl.exp2(x * 2.8853900817779268)
    y = x * x
    near = -0.3333262160476 + y * (0.1331352073803 + y * (-0.0522311072032 + y * 0.0156404812604))
    return tl.where(y < 0.36, x + x * y * near, 1.0 - 2.0 / (1.0 + t))
''',
    "softplus": '''@triton.jit
def softplus(x):
    """log(1 + exp(x)), finite for every finite x: a minimax polynomial, 2e-7 of it also far below 0."""
    t = tl.exp(-tl.abs(x))
    far = 0.191060066 + t * (-0.136632439 + t * (0.0782259168 + t * (-0.0295052107 + t * 0.00523268589)))
    near = 0.99999997 + t * (-0.499994931 + t * (0.333190969 + t * (-0.248429824 + t * far)))
    return tl.maximum(x, 0.0) + t * near
''',
    "silu": '''@triton.jit
def silu(x):
    """x * sigmoid(x)"""
    return x * tl.sigmoid(x)
''',
    "round_even": '''@triton.jit
def round_even(x):
    """The nearest integer, halves to the even one."""
    low = tl.floor(x)
    odd = low - 2.0 * tl.floor(low * 0.5)
    rest = x - low
    up = (rest > 0.5) | ((rest == 0.5) & (odd == 1.0))
    return (low + tl.where(up, 1.0, 0.0)).to(tl.int32)
''',
    "sign": '''@triton.jit
def sign(x):
    """-1, 0 or 1"""
    return tl.where(x > 0, 1, tl.where(x < 0, -1, 0))
''',
    "finite": '''@triton.jit
def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return tl.where(m == float("-inf"), 0.0, m)
''',
    "power": '''@triton.jit
def power(x, y):
    """x ** y for x >= 0"""
    return tl.where(x == 0, tl.where(y == 0, 1.0, 0.0), tl.exp2(y * tl.log2(x * 1.0)))
''',
    "power_of_few": '''@triton.jit
def power_of_few(x, y):
    """x ** y for x >= 0, exact to float32: a phase is this times a position."""
    wide = tl.exp2(y * tl.log2(x * tl.full([], 1.0, tl.float64)))
    return tl.where(x == 0, tl.where(y == 0, 1.0, 0.0), wide.to(tl.float32))
''',
    "divide": '''@triton.jit
def divide(a, b):
    """a / b to the last digit, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    return tl.where((a == 0) & (b == 0), 0.0, tl.math.div_rn(a * 1.0, b * 1.0))
''',
    "whole_power": '''@triton.jit
def whole_power(x, n: tl.constexpr):
    """x ** n by squares, for a whole number n that the kernel is compiled for."""
    square = x * 1.0
    result = tl.zeros_like(square) + 1.0 if n == 0 else square
    more: tl.constexpr = (n if n > 0 else -n) - (n != 0)
    for bit in tl.static_range(32):
        if (more >> bit) & 1:
            result *= square
        if more >> (bit + 1):
            square *= square
    return 1.0 / result if n < 0 else result
''',
    "inverse": '''@triton.jit
def inverse(x):
    """1 / x, and of 0 the largest number: 0 times it is 0, the mean of nothing, a softmax over nothing."""
    return tl.where(tl.abs(x) < 2.938736e-39, 3.4028235e38, 1.0 / x)
''',
    "reciprocal": '''@triton.jit
def reciprocal(x):
    """1 / x, and of 0 nothing: no gradient passes a division by 0."""
    return tl.where(x == 0, 0.0, 1.0 / tl.where(x == 0, 1.0, x))
''',
    "held": '''@triton.jit
def held(x):
    """x, for a loop that multiplies by it: as a sum over one place it stays in shared memory. In registers,
    ptxas 12.8 for Hopper lets the loop's next product write over it."""
    return tl.sum(x[:, :, None], 2)
''',
    "live_before": '''@triton.jit
def live_before(n, turn, width):
    """How many of the first n tiles are live, where the first `width` of every `turn` tiles are."""
    return n // turn * width + tl.minimum(n % turn, width)
''',
    "floor_divide": '''@triton.jit
def floor_divide(a, b):
    """a // b rounded down for b > 0; the hardware rounds towards 0."""
    return (a - ((a % b) + b) % b) // b
''',
    "modulo": '''@triton.jit
def modulo(a, b):
    """a % b with the sign of b > 0; the hardware gives it the sign of a."""
    return ((a % b) + b) % b
''',
}

SHORT_HELPERS = {
    "softplus": '''@triton.jit
def softplus(x):
    """log(1 + exp(x)), finite for every finite x: a minimax polynomial, 9e-6 of it also far below 0."""
    t = tl.exp2(tl.abs(x) * -1.4426950408889634)
    far = 0.325206686 + t * (-0.210048662 + t * (0.101222221 - t * 0.0238691164))
    return tl.maximum(x, 0.0) + t * (0.999991599 + t * (-0.499361369 + t * far))
''',
    "power": '''@triton.jit
def power(x, y):
    """x ** y for x >= 0"""
    return tl.where(x == 0, tl.where(y == 0, 1.0, 0.0), tl.exp2(y * fast_log2(x * 1.0)))
''',
    "divide": '''@triton.jit
def divide(a, b):
    """a / b, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    return tl.where((a == 0) & (b == 0), 0.0, a * (1.0 / b))
''',
}

TORCH = {
    "min": "least({0}, {1})",
    "max": "most({0}, {1})",
    "exp": "torch.exp({0})",
    "exp2": "torch.exp2({0})",
    "log": "torch.log({0})",
    "sqrt": "torch.sqrt({0})",
    "tanh": "torch.tanh({0})",
    "sigmoid": "torch.sigmoid({0})",
    "softplus": "softplus({0})",
    "silu": "silu({0})",
    "relu": "torch.clamp({0}, min=0)",
    "abs": "torch.abs({0})",
    "floor": "torch.floor({0}).long()",
    "round": "torch.round({0}).long()",
    "sign": "torch.sign({0})",
    "sin": "torch.sin({0})",
    "cos": "torch.cos({0})",
    "finite": "finite({0})",
    "through": "({0} + 0.0)",
    "**": "power({0}, {1})",
    "divide": "divide({0}, {1})",
    "inverse": "inverse({0})",
    "reciprocal": "reciprocal({0})",
    "not_below": "torch.clamp({0}, min={1})",
    "live_before": "live_before({0}, {1}, {2})",
}

TORCH_HELPERS = {
    "least": '''def least(a, b):
    """The smaller of two, tensors or numbers."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return torch.minimum(a, b)
    if torch.is_tensor(a) or torch.is_tensor(b):
        return torch.clamp(a, max=b) if torch.is_tensor(a) else torch.clamp(b, max=a)
    return min(a, b)
''',
    "most": '''def most(a, b):
    """The larger of two, tensors or numbers."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return torch.maximum(a, b)
    if torch.is_tensor(a) or torch.is_tensor(b):
        return torch.clamp(a, min=b) if torch.is_tensor(a) else torch.clamp(b, min=a)
    return max(a, b)
''',
    "softplus": '''def softplus(x):
    """log(1 + exp(x)), finite for every finite x."""
    return torch.clamp(x, min=0) + torch.log1p(torch.exp(-torch.abs(x)))
''',
    "silu": '''def silu(x):
    """x * sigmoid(x)"""
    return x * torch.sigmoid(x)
''',
    "finite": '''def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return torch.where(m == -math.inf, 0.0, m)
''',
    "inverse": '''def inverse(x):
    """1 / x, and of 0 the largest number: 0 times it is 0, the mean of nothing, a softmax over nothing."""
    largest = torch.finfo(x.dtype).max
    return torch.where(torch.abs(x) * largest < 1, largest, 1 / x)
''',
    "reciprocal": '''def reciprocal(x):
    """1 / x, and of 0 nothing: no gradient passes a division by 0."""
    if not torch.is_tensor(x):
        return 1 / x if x else 0.0
    return torch.where(x == 0, 0.0, 1 / torch.where(x == 0, 1.0, x))
''',
    "power": '''def power(x, y):
    """x ** y, real"""
    return torch.pow(x * 1.0, y)
''',
    "gather": '''def gather(tensor, *at):
    """`tensor[at]`, positions broadcast together; 0 where one lies outside."""
    at = [torch.as_tensor(place, device=tensor.device) for place in at]
    inside = torch.ones((), dtype=torch.bool, device=tensor.device)
    for place, size in zip(at, tensor.shape):
        inside = inside & (place >= 0) & (place < size)
    if tensor.numel() == 0:
        return torch.zeros(inside.shape, dtype=tensor.dtype, device=tensor.device)
    near = tuple(place.clamp(0, size - 1) for place, size in zip(at, tensor.shape))
    return torch.where(inside, tensor[near], torch.zeros((), dtype=tensor.dtype, device=tensor.device))
''',
    "count_at_most": '''def count_at_most(table, limits):
    """How many elements of each sorted row of a table are at most each limit of that row."""
    lead = torch.broadcast_shapes(table.shape[:-1], limits.shape[:-1])
    rows, limits = (x.expand(*lead, x.shape[-1]).contiguous() for x in (table, limits))
    return torch.searchsorted(rows, limits, right=True)
''',
    "lowest": '''def lowest(x):
    """The least of a number over all heads."""
    return int(x.min()) if x.numel() else 0
''',
    "highest": '''def highest(x):
    """The greatest of a number over all heads."""
    return int(x.max()) if x.numel() else 0
''',
    "live_before": '''def live_before(n, turn, width):
    """How many of the first n tiles are live, where the first `width` of every `turn` tiles are."""
    return n // turn * width + min(n % turn, width)
''',
    "listed": '''def listed(whole, some, tiles):
    """Tiles, those that all of the batch sees whole and the others of which any of it may see some."""
    whole, some = (
        (torch.as_tensor(x, device=tiles.device) & (tiles >= 0))[None].flatten(0, -2)
        for x in (whole, some)
    )
    whole, some = whole.all(0), some.any(0)
    return (tiles[whole].tolist(), True), (tiles[some & ~whole].tolist(), False)
''',
    "walk": '''def walk(tiles, block, end):
    """(start, stop, seen whole) of every tile."""
    for steps, whole in tiles:
        for n in steps:
            yield n * block, min((n + 1) * block, end), whole
''',
    "boxes": '''def boxes(axes, sides):
    """(where it begins, seen whole) of every box: an axis is (lo, hi, full_lo, full_hi), in tiles."""
    starts = [()]
    for lo, hi, full_lo, full_hi in axes:
        starts = [(*before, (n, full_lo <= n < full_hi)) for before in starts for n in range(lo, hi)]
    for start in starts:
        yield [n * side for (n, _), side in zip(start, sides)], all(whole for _, whole in start)
''',
    "digits": '''def digits(*axes, device):
    """Every digit of the positions of a box: an axis is (where it begins, its side, how many there are)."""
    own = [torch.arange(start, min(start + side, end), device=device) for start, side, end in axes]
    return [x.flatten() for x in torch.meshgrid(*own, indexing="ij")]
''',
    "divide": '''def divide(a, b):
    """a / b, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    nothing = (a == 0) & (b == 0)
    return torch.where(nothing, 0.0, a / torch.where(nothing, 1.0, b))
''',
}
