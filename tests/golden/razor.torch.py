"""RazorAttention: what most heads drop becomes one key, the mean, biased by log count (arXiv 2407.15891).

`retrieval` heads keep every key, the others the first and the last. The mean is taken of rotated keys. No
code of the authors is published; here, the last are counted among all keys, as in a cache that holds a whole
prompt.

(1) kept[q,k] = retrieval or k < sinks or q - k < max(recent, |k| // part)
(2) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(3) N[q] = count(k where k <= q) (not kept[q,k])
(4) R[q] = mean(k where k <= q and not kept[q,k]) S[q,k]
(5) W[q,e] = mean(k where k <= q and not kept[q,k]) V[k,e]
(6) far[q] = N[q] * exp(R[q])
(7) own[q,k] = if k <= q and kept[q,k] then exp(S[q,k]) else 0
(8) O[q,e] = (far[q] * W[q,e] + sum(k) own[q,k] * V[k,e]) / (far[q] + sum(k) own[q,k])

As it runs:

    seen1: k <= q + (|k| - |q|) and not retrieval and k >= sinks and q + (|k| - |q|) - k >=
        max(recent, |k| // part)
    seen2: k <= q + (|k| - |q|) and (retrieval or k < sinks or q + (|k| - |q|) - k < max(recent, |k|
        // part))
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    N[q] = sum(k where seen1) 1
    R_sum[q] = sum(k where seen1) S[q,k]
    W_sum[q,e] = sum(k where seen1) V[k,e]
    S_max[q] = max(k where seen2) S[q,k]
    O_total[q,e] = sum(k where seen2) V[k,e] * exp(S[q,k] - finite(S_max[q]))
    O_sum2_total[q] = sum(k where seen2) exp(S[q,k] - finite(S_max[q]))
    O[q,e] = (N[q] * (W_sum[q,e] / N[q]) * exp(R_sum[q] / N[q] - finite(max(R_sum[q] / N[q],
        S_max[q]))) + O_total[q,e] * exp(S_max[q] - finite(max(R_sum[q] / N[q], S_max[q])))) / (N[q]
        * exp(R_sum[q] / N[q] - finite(max(R_sum[q] / N[q], S_max[q]))) + O_sum2_total[q] *
        exp(S_max[q] - finite(max(R_sum[q] / N[q], S_max[q]))))

One pass over k for every tile of rows q,
over 4 ranges of tiles that its predicate leaves live.
State of a row: N[q], R_sum[q], S_max[q], O_sum2_total[q], W_sum[q,e], O_total[q,e].

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


def walk(tiles, block, end):
    """(start, stop, seen whole) of every tile."""
    for steps, whole in tiles:
        for n in steps:
            yield n * block, min((n + 1) * block, end), whole


def razor(Q, K, V, retrieval, sinks=4, recent=4000, part=5):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], retrieval[h] -> O[b,h,q,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("retrieval", "h", retrieval),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [("retrieval", retrieval)], KINDS)
    check_number("sinks", sinks, int)
    check_number("recent", recent, int)
    check_number("part", part, int)
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    O = Q.new_empty((NB, NH, NQ, E))
    device, kind = Q.device, accumulator(Q)
    h = torch.arange(NH, device=device)[None, :]
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # state of N[q] = sum(k where seen) 1
        N_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of R_sum[q] = sum(k where seen) S[q,k]
        R_sum_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of S_max[q] = max(k where seen) S[q,k]
        S_max_q = torch.full([NB, NH, q1 - q0], -math.inf, device=device, dtype=kind)
        # state of O_sum2_total[q] = sum(k where seen) exp(S[q,k] - finite(S_max[q]))
        O_sum2_total_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of W_sum[q,e] = sum(k where seen) V[k,e]
        W_sum_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(S_max[q]))
        O_total_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        Q_qd = Q[:, :, q0:q1].to(kind)
        retrieval_ = retrieval[None, :, ...]
        # tiles of k that these rows see, and which of them whole
        last = q1 - 1
        begin0 = max(0, sinks)
        end0 = max(0, min(NK + last - NQ + 1, NK + last - NQ - max(recent, NK // part) + 1))
        lo0 = begin0 // BLOCK_K
        hi0 = (BLOCK_K + end0 - 1) // BLOCK_K if begin0 < end0 else lo0
        end1 = max(0, NK + last - NQ + 1)
        hi1 = (BLOCK_K + end1 - 1) // BLOCK_K
        end2 = max(0, min(NK + last - NQ + 1, sinks))
        hi2 = (BLOCK_K + end2 - 1) // BLOCK_K
        inner_end2 = max(0, min(NK + q0 - NQ + 1, sinks))
        full_hi2 = inner_end2 // BLOCK_K
        begin3 = max(0, NK + q0 - NQ - max(recent, NK // part) + 1)
        lo3 = begin3 // BLOCK_K
        hi3 = (BLOCK_K + end1 - 1) // BLOCK_K if begin3 < end1 else lo3
        inner_begin3 = max(0, NK + last - NQ - max(recent, NK // part) + 1)
        inner_end3 = max(0, NK + q0 - NQ + 1)
        full_lo3 = min((BLOCK_K + inner_begin3 - 1) // BLOCK_K, hi3)
        full_hi3 = max(full_lo3, inner_end3 // BLOCK_K)
        swap00 = 0 < lo0
        left_lo00 = 0 if swap00 else lo0
        left_hi00 = hi1 if swap00 else hi0
        right_lo00 = lo0 if swap00 else 0
        right_hi00 = hi0 if swap00 else hi1
        swap01 = 0 < right_lo00
        left_lo01 = 0 if swap01 else right_lo00
        left_hi01 = hi2 if swap01 else right_hi00
        left_full_hi01 = full_hi2 if swap01 else right_lo00
        right_lo01 = right_lo00 if swap01 else 0
        right_hi01 = right_hi00 if swap01 else hi2
        right_full_hi01 = right_lo00 if swap01 else full_hi2
        swap02 = lo3 < right_lo01
        left_lo02 = lo3 if swap02 else right_lo01
        left_hi02 = hi3 if swap02 else right_hi01
        left_full_hi02 = full_hi3 if swap02 else right_full_hi01
        right_lo02 = right_lo01 if swap02 else lo3
        right_hi02 = right_hi01 if swap02 else hi3
        swap10 = left_lo01 < left_lo00
        left_lo10 = left_lo01 if swap10 else left_lo00
        left_hi10 = left_hi01 if swap10 else left_hi00
        left_full_hi10 = left_full_hi01 if swap10 else left_lo00
        right_lo10 = left_lo00 if swap10 else left_lo01
        right_hi10 = left_hi00 if swap10 else left_hi01
        right_full_hi10 = left_lo00 if swap10 else left_full_hi01
        swap11 = left_lo02 < right_lo10
        left_lo11 = left_lo02 if swap11 else right_lo10
        left_hi11 = left_hi02 if swap11 else right_hi10
        left_full_hi11 = left_full_hi02 if swap11 else right_full_hi10
        right_lo11 = right_lo10 if swap11 else left_lo02
        right_hi11 = right_hi10 if swap11 else left_hi02
        right_full_hi11 = right_full_hi10 if swap11 else left_full_hi02
        swap20 = left_lo11 < left_lo10
        left_lo20 = left_lo11 if swap20 else left_lo10
        left_hi20 = left_hi11 if swap20 else left_hi10
        left_full_hi20 = left_full_hi11 if swap20 else left_full_hi10
        right_lo20 = left_lo10 if swap20 else left_lo11
        right_hi20 = left_hi10 if swap20 else left_hi11
        right_full_hi20 = left_full_hi10 if swap20 else left_full_hi11
        stop0 = max(
            min(left_hi20, max(right_lo20, left_full_hi20))
            if left_hi20 <= right_hi20
            else left_hi20,
            left_lo20,
        )
        start1 = max(right_lo20, stop0)
        stop1 = max(
            min(right_hi20, max(right_lo11, right_full_hi20))
            if right_hi20 <= right_hi11
            else right_hi20,
            start1,
        )
        start2 = max(right_lo11, stop1)
        stop2 = max(
            min(right_hi11, max(right_lo02, right_full_hi11))
            if right_hi11 <= right_hi02
            else right_hi11,
            start2,
        )
        start3 = max(right_lo02, stop2)
        stop3 = max(right_hi02, start3)
        tiles = (
            (range(left_lo20, stop0), False),
            (range(start1, stop1), False),
            (range(start2, stop2), False),
            (range(start3, stop3), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            k = torch.arange(k0, k1, device=device)
            # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            K_kd = K[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            S_qk = Q_qd @ K_kd.mT
            # N[q] = sum(k where seen) 1
            # seen: k < |k| and k <= q + (|k| - |q|) and not retrieval and k >= sinks and q + (|k| -
            #     |q|) - k >= max(recent, |k| // part)
            seen_qk = (
                (
                    ((k[None, :] <= (q + (NK - NQ))[:, None]) & (~(retrieval_))[..., None, None])
                    & (k >= sinks)[None, :]
                )
                & ((q + (NK - NQ))[:, None] - k[None, :] >= max(recent, NK // part))
            )
            tile_seen_qk = torch.where(seen_qk, torch.tensor(1, device=device, dtype=kind), 0.0)
            N_tile_q = tile_seen_qk.sum(-1)
            N_q = N_q + N_tile_q
            # R_sum[q] = sum(k where seen) S[q,k]
            S_seen_qk = torch.where(seen_qk, S_qk, 0.0)
            R_sum_tile_q = S_seen_qk.sum(-1)
            R_sum_q = R_sum_q + R_sum_tile_q * (1 / math.sqrt(D))
            # S_max[q] = max(k where seen) S[q,k]
            # seen: k < |k| and k <= q + (|k| - |q|) and (retrieval or k < sinks or q + (|k| - |q|)
            #     - k < max(recent, |k| // part))
            seen2_qk = (
                (k[None, :] <= (q + (NK - NQ))[:, None])
                & (
                    (retrieval_[..., None] | (k < sinks))[..., None, :]
                    | ((q + (NK - NQ))[:, None] - k[None, :] < max(recent, NK // part))
                )
            )
            S_seen2_qk = torch.where(seen2_qk, S_qk, -math.inf)
            S_max_tile_q = S_seen2_qk.amax(-1)
            S_max_old_q = S_max_q
            S_max_q = torch.maximum(S_max_old_q, S_max_tile_q * (1 / math.sqrt(D)))
            # O_sum2_total[q] = sum(k where seen) exp(S[q,k] - finite(S_max[q]))
            alpha_q = torch.exp2(
                S_max_old_q * 1.4426950408889634 - finite(S_max_q) * 1.4426950408889634
            )
            exp_S_seen2_qk = torch.exp2(
                S_seen2_qk * (1.4426950408889634 / math.sqrt(D))
                - (finite(S_max_q) * 1.4426950408889634)[..., :, None]
            )
            O_sum2_total_tile_q = exp_S_seen2_qk.sum(-1)
            O_sum2_total_q = O_sum2_total_q * alpha_q + O_sum2_total_tile_q
            # W_sum[q,e] = sum(k where seen) V[k,e]
            V_ke = V[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            W_sum_qe = W_sum_qe + tile_seen_qk @ V_ke
            # O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(S_max[q]))
            O_total_qe = O_total_qe * alpha_q[..., :, None] + exp_S_seen2_qk @ V_ke
        # O[q,e] = (N[q] * (W_sum[q,e] / N[q]) * exp(R_sum[q] / N[q] - finite(max(R_sum[q] / N[q],
        #     S_max[q]))) + O_total[q,e] * exp(S_max[q] - finite(max(R_sum[q] / N[q], S_max[q])))) /
        #     (N[q] * exp(R_sum[q] / N[q] - finite(max(R_sum[q] / N[q], S_max[q]))) +
        #     O_sum2_total[q] * exp(S_max[q] - finite(max(R_sum[q] / N[q], S_max[q]))))
        ratio_W_sum_qe = divide(W_sum_qe, N_q[..., :, None])
        O_qe = divide(
            N_q[..., :, None]
            * ratio_W_sum_qe
            * torch.exp2(
                divide(R_sum_q, N_q) * 1.4426950408889634
                - finite(torch.maximum(divide(R_sum_q, N_q), S_max_q)) * 1.4426950408889634
            )[..., :, None]
            + O_total_qe
            * torch.exp2(
                S_max_q * 1.4426950408889634
                - finite(torch.maximum(divide(R_sum_q, N_q), S_max_q)) * 1.4426950408889634
            )[..., :, None],
            (
                N_q
                * torch.exp2(
                    divide(R_sum_q, N_q) * 1.4426950408889634
                    - finite(torch.maximum(divide(R_sum_q, N_q), S_max_q)) * 1.4426950408889634
                )
                + O_sum2_total_q
                * torch.exp2(
                    S_max_q * 1.4426950408889634
                    - finite(torch.maximum(divide(R_sum_q, N_q), S_max_q)) * 1.4426950408889634
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


def reference(Q, K, V, retrieval, sinks=4, recent=4000, part=5):
    """`razor`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # kept[h,q,k] = retrieval[h] or k < sinks or q + (|k| - |q|) - k < max(recent, |k| // part)
    where_qk = (q + (NK - NQ))[:, None] - k < max(recent, NK // part)
    kept = (retrieval[:, None] | (k < sinks))[:, None] | where_qk
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # N[h,q] = sum(k where k <= q + (|k| - |q|)) (if not kept[h,q,k] then 1 else 0)
    N = torch.where((k <= (q + (NK - NQ))[:, None]) & ~kept, 1, 0).sum(-1)
    # R[b,h,q] = mean(k where k <= q + (|k| - |q|) and not kept[h,q,k]) S[b,h,q,k]
    where_R_qk = (k <= (q + (NK - NQ))[:, None]) & ~kept
    R = _divide(torch.where(where_R_qk, S, 0).sum(-1), where_R_qk.sum(-1))
    # W[b,h,q,e] = mean(k where k <= q + (|k| - |q|) and not kept[h,q,k]) V[b, h // (|h| // |g|), k,
    #     e]
    W = _divide(_einsum("hqk,bhke->bhqe", where_R_qk, V[:, h // (NH // NG)]), where_R_qk.sum(-1)[..., None])
    # far[b,h,q] = N[h,q] * exp(R[b,h,q])
    far_ = N * torch.exp(R)
    # own[b,h,q,k] = if k <= q + (|k| - |q|) and kept[h,q,k] then exp(S[b,h,q,k]) else 0
    own = torch.exp(torch.where((k <= (q + (NK - NQ))[:, None]) & kept, S, -math.inf))
    # O[b,h,q,e] = (far[b,h,q] * W[b,h,q,e] + sum(k) own[b,h,q,k] * V[b, h // (|h| // |g|), k, e]) /
    #     (far[b,h,q] + sum(k) own[b,h,q,k])
    plus_O_qe = far_[..., None] * W + _einsum("bhqk,bhke->bhqe", own, V[:, h // (NH // NG)])
    O = _divide(plus_O_qe, (far_ + own.sum(-1))[..., None])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "retrieval": torch.rand(4, device=device) < 0.7,
        "sinks": 4,
        "recent": 16,
        "part": 3,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = razor(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
