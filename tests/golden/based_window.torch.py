"""BASED with a window in one normaliser: exp weighs the near keys, its Taylor polynomial the far ones.

The two attentions that BASED stacks in separate layers (arXiv 2402.18668), as one over the same keys.

(1) s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(2) A[q,k] = 1 + s[q,k] + s[q,k] * s[q,k] / 2
(3) far[q,e] = sum(k where q - k >= window) A[q,k] * V[k,e]
(4) near[q,e] = sum(k where k <= q and q - k < window) exp(s[q,k]) * V[k,e]
(5) total[q] = sum(k where q - k >= window) A[q,k] + sum(k where k <= q and q - k < window)
    exp(s[q,k])
(6) O[q,e] = (far[q,e] + near[q,e]) / total[q]

As it runs:

    seen1: q + (|k| - |q|) - k >= window
    seen2: k <= q + (|k| - |q|) and q + (|k| - |q|) - k < window
    s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    far[q,e] = sum(k where seen1) (1 + s[q,k] + s[q,k] * s[q,k] / 2) * V[k,e]
    s_max[q] = max(k where seen2) s[q,k]
    near_total[q,e] = sum(k where seen2) V[k,e] * exp(s[q,k] - finite(s_max[q]))
    total_sum[q] = sum(k where seen1) (1 + s[q,k] + s[q,k] * s[q,k] / 2)
    total_sum2_total[q] = sum(k where seen2) exp(s[q,k] - finite(s_max[q]))
    O[q,e] = (far[q,e] * exp(-finite(max(0, s_max[q]))) + near_total[q,e] * exp(s_max[q] -
        finite(max(0, s_max[q])))) / (total_sum[q] * exp(-finite(max(0, s_max[q]))) +
        total_sum2_total[q] * exp(s_max[q] - finite(max(0, s_max[q]))))

One pass over k for every tile of rows q,
over 2 ranges of tiles that its predicate leaves live.
State of a row: s_max[q], total_sum[q], total_sum2_total[q], far[q,e], near_total[q,e].

Edit the pattern, not this file.
"""

import math

import torch


def extents(*tensors):
    """Extents by index; each tensor is (name, its indices, itself). What does not fit is an error."""
    found = {}
    first = tensors[0][2]
    for name, indices, tensor in tensors:
        names = indices.split()
        if not torch.is_tensor(tensor):
            raise TypeError(f"`{name}` is a tensor over ({indices}), not {type(tensor).__name__}")
        shape = tensor.shape
        if len(shape) != len(names):
            raise ValueError(f"`{name}` is over ({indices}), but has {len(shape)} axes: {tuple(shape)}")
        if tensor.device != first.device:
            raise ValueError(f"`{name}` is on {tensor.device}, `{tensors[0][0]}` on {first.device}")
        for index, size in zip(names, shape):
            known = found.setdefault(index, size)
            if known != size:
                other = next(n for n, those, _ in tensors if index in those.split())
                raise ValueError(f"`{name}` has {size} along `{index}`, but `{other}` has {known}")
    return found


def check_kinds(floats, integers, booleans, allowed):
    """Element types: all float tensors share one of `allowed`. What this launches has no gradients."""
    for name, tensor in floats:
        if tensor.dtype not in allowed:
            names = ", ".join(str(kind)[6:] for kind in allowed)
            raise TypeError(f"`{name}` is {str(tensor.dtype)[6:]}; this kernel takes {names}")
        if tensor.dtype != floats[0][1].dtype:
            first, other = floats[0][0], str(floats[0][1].dtype)[6:]
            raise TypeError(f"`{name}` is {str(tensor.dtype)[6:]}, but `{first}` is {other}")
        if tensor.requires_grad and torch.is_grad_enabled():
            raise NotImplementedError(
                f"`{name}` requires grad, and this function has no backward pass: call it under "
                "torch.no_grad(), or as the dense `reference`, which is differentiable"
            )
    for name, tensor in integers:
        if tensor.dtype not in (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8):
            raise TypeError(f"`{name}` is a table of integers, not {str(tensor.dtype)[6:]}")
    for name, tensor in booleans:
        if tensor.dtype != torch.bool:
            raise TypeError(f"`{name}` is a table of truth values, not {str(tensor.dtype)[6:]}")


def check_number(name, value, kind):
    """A number of the pattern; an integer fits 29 bits, so that positions can be added to it."""
    if kind is bool and not isinstance(value, bool):
        raise TypeError(f"`{name}` is True or False, not {value!r}")
    if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"`{name}` is an integer, not {value!r}")
    if kind is int and not -(1 << 29) < value < 1 << 29:
        raise ValueError(f"`{name}` is {value}: integers of a pattern stay between -2**29 and 2**29")
    if kind is float and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"`{name}` is a number, not {value!r}")


KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# rows and columns of a tile
BLOCK_Q = 128
BLOCK_K = 128


def accumulator(tensor):
    """The kind that sums are held in: float64 for float64, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def divide(a, b):
    """a / b, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    nothing = (a == 0) & (b == 0)
    return torch.where(nothing, 0.0, a / torch.where(nothing, 1.0, b))


def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return torch.where(m == -math.inf, 0.0, m)


def most(a, b):
    """The larger of two, tensors or numbers."""
    if torch.is_tensor(a) and torch.is_tensor(b):
        return torch.maximum(a, b)
    if torch.is_tensor(a) or torch.is_tensor(b):
        return torch.clamp(a, min=b) if torch.is_tensor(a) else torch.clamp(b, min=a)
    return max(a, b)


def walk(tiles, block, end):
    """(start, stop, seen whole) of every tile."""
    for steps, whole in tiles:
        for n in steps:
            yield n * block, min((n + 1) * block, end), whole


def based_window(Q, K, V, window=64):
    """Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e] -> O[b,h,q,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b h k d", K),
        ("V", "b h k e", V),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [], KINDS)
    check_number("window", window, int)
    NB, NH, NQ, D, NK, E = sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["k"], sizes["e"]
    O = Q.new_empty((NB, NH, NQ, E))
    device, kind = Q.device, accumulator(Q)
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # state of s_max[q] = max(k where seen) s[q,k]
        s_max_q = torch.full([NB, NH, q1 - q0], -math.inf, device=device, dtype=kind)
        # state of total_sum[q] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2)
        total_sum_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of total_sum2_total[q] = sum(k where seen) exp(s[q,k] - finite(s_max[q]))
        total_sum2_total_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of far[q,e] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2) * V[k,e]
        far_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        # state of near_total[q,e] = sum(k where seen) V[k,e] * exp(s[q,k] - finite(s_max[q]))
        near_total_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        Q_qd = Q[:, :, q0:q1].to(kind)
        # tiles of k that these rows see, and which of them whole
        last = q1 - 1
        end0 = max(0, min(NK, NK + last - NQ - window + 1))
        hi0 = (BLOCK_K + end0 - 1) // BLOCK_K
        inner_end0 = max(0, min(NK, NK + q0 - NQ - window + 1))
        full_hi0 = inner_end0 // BLOCK_K
        begin1 = max(0, NK + q0 - NQ - window + 1)
        end1 = max(0, NK + last - NQ + 1)
        lo1 = begin1 // BLOCK_K
        hi1 = (BLOCK_K + end1 - 1) // BLOCK_K if begin1 < end1 else lo1
        stop0 = min(hi0, max(lo1, full_hi0)) if hi0 <= hi1 else hi0
        start1 = max(lo1, stop0)
        stop1 = max(hi1, start1)
        tiles = (
            (range(0, stop0), False),
            (range(start1, stop1), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            k = torch.arange(k0, k1, device=device)
            # s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            K_kd = K[:, :, k0:k1].to(kind)
            s_qk = Q_qd @ K_kd.mT
            # s_max[q] = max(k where seen) s[q,k]
            # seen: k < |k| and k <= q + (|k| - |q|) and q + (|k| - |q|) - k < window
            seen_qk = (
                (k[None, :] <= (q + (NK - NQ))[:, None])
                & ((q + (NK - NQ))[:, None] - k[None, :] < window)
            )
            s_seen_qk = torch.where(seen_qk, s_qk, -math.inf)
            s_max_tile_q = s_seen_qk.amax(-1)
            s_max_old_q = s_max_q
            s_max_q = torch.maximum(s_max_old_q, s_max_tile_q * (1 / math.sqrt(D)))
            # total_sum[q] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2)
            # seen: k < |k| and q + (|k| - |q|) - k >= window
            seen2_qk = (q + (NK - NQ))[:, None] - k[None, :] >= window
            s_seen2_qk = torch.where(
                seen2_qk,
                1
                + s_qk * (1 / math.sqrt(D))
                + s_qk * (1 / math.sqrt(D)) * (s_qk * (1 / math.sqrt(D))) / 2,
                0.0,
            )
            total_sum_tile_q = s_seen2_qk.sum(-1)
            total_sum_q = total_sum_q + total_sum_tile_q
            # total_sum2_total[q] = sum(k where seen) exp(s[q,k] - finite(s_max[q]))
            alpha_q = torch.exp2(
                s_max_old_q * 1.4426950408889634 - finite(s_max_q) * 1.4426950408889634
            )
            exp_s_seen_qk = torch.exp2(
                s_seen_qk * (1.4426950408889634 / math.sqrt(D))
                - (finite(s_max_q) * 1.4426950408889634)[..., :, None]
            )
            total_sum2_total_tile_q = exp_s_seen_qk.sum(-1)
            total_sum2_total_q = total_sum2_total_q * alpha_q + total_sum2_total_tile_q
            # far[q,e] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2) * V[k,e]
            V_ke = V[:, :, k0:k1].to(kind)
            far_qe = far_qe + s_seen2_qk @ V_ke
            # near_total[q,e] = sum(k where seen) V[k,e] * exp(s[q,k] - finite(s_max[q]))
            near_total_qe = near_total_qe * alpha_q[..., :, None] + exp_s_seen_qk @ V_ke
        # O[q,e] = (far[q,e] * exp(-finite(max(0, s_max[q]))) + near_total[q,e] * exp(s_max[q] -
        #     finite(max(0, s_max[q])))) / (total_sum[q] * exp(-finite(max(0, s_max[q]))) +
        #     total_sum2_total[q] * exp(s_max[q] - finite(max(0, s_max[q]))))
        O_qe = divide(
            far_qe * torch.exp2(-(finite(most(0, s_max_q)) * 1.4426950408889634))[..., :, None]
            + near_total_qe
            * torch.exp2(
                s_max_q * 1.4426950408889634 - finite(most(0, s_max_q)) * 1.4426950408889634
            )[..., :, None],
            (
                total_sum_q * torch.exp2(-(finite(most(0, s_max_q)) * 1.4426950408889634))
                + total_sum2_total_q
                * torch.exp2(
                    s_max_q * 1.4426950408889634 - finite(most(0, s_max_q)) * 1.4426950408889634
                )
            )[..., :, None],
        )
        O[..., q0:q1, :] = O_qe
    return O


def _divide(a, b):
    """a / b; 0 / 0 is 0, and no gradient passes where the divisor is 0."""
    none = b == 0
    at_none = torch.where(a == 0, 0, a / b).detach()
    return torch.where(none, at_none, a / torch.where(none, 1, b))


def _einsum(spelled, *tensors):
    """torch.einsum in the widest dtype of its tensors; a mask among them is 0 and 1."""
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return torch.einsum(spelled, *(x.to(dtype) for x in tensors))


def reference(Q, K, V, window=64):
    """`based_window`: dense, differentiable, any device and dtype."""
    _, _, NQ, D = Q.shape
    NK = K.shape[2]
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # s[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b,h,k,d] / sqrt(|d|)
    s = _einsum("bhqd,bhkd->bhqk", Q, K) / math.sqrt(D)
    # A[b,h,q,k] = 1 + s[b,h,q,k] + s[b,h,q,k] * s[b,h,q,k] / 2
    A = 1 + s + s * s / 2
    # far[b,h,q,e] = sum(k where q + (|k| - |q|) - k >= window) A[b,h,q,k] * V[b,h,k,e]
    far_ = _einsum("bhqk,bhke->bhqe", torch.where((q + (NK - NQ))[:, None] - k >= window, A, 0), V)
    # near[b,h,q,e] = sum(k where k <= q + (|k| - |q|) and q + (|k| - |q|) - k < window)
    #     exp(s[b,h,q,k]) * V[b,h,k,e]
    at_q = q + (NK - NQ)
    exp_near_qk = torch.exp(torch.where((k <= at_q[:, None]) & (at_q[:, None] - k < window), s, -math.inf))
    near = _einsum("bhqk,bhke->bhqe", exp_near_qk, V)
    # total[b,h,q] = sum(k where q + (|k| - |q|) - k >= window) A[b,h,q,k] + sum(k where k <= q +
    #     (|k| - |q|) and q + (|k| - |q|) - k < window) exp(s[b,h,q,k])
    total = torch.where(at_q[:, None] - k >= window, A, 0).sum(-1) + exp_near_qk.sum(-1)
    # O[b,h,q,e] = (far[b,h,q,e] + near[b,h,q,e]) / total[b,h,q]
    O = _divide(far_ + near, total[..., None])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "window": 16,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = based_window(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
