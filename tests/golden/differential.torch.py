"""Differential attention: the difference of two softmaxes over the same keys and values (arXiv 2410.05258).

The paper's `lam` is `exp(lq1 . lk1) - exp(lq2 . lk2) + start`, of four learned vectors and a number of the
layer's own, `0.8 - 0.6 * exp(-0.3 * layer)`. The norm of each head and the factor `1 - start` stay outside.

(1) S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
(2) S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
(3) P1[q,k] = softmax(k where k <= q) S1[q,k]
(4) P2[q,k] = softmax(k where k <= q) S2[q,k]
(5) O[q,e] = sum(k) (P1[q,k] - lam * P2[q,k]) * V[k,e]

As it runs:

    S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
    S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
    P1_max[q] = max(k where k <= q + (|k| - |q|)) S1[q,k]
    P1_total[q] = sum(k where k <= q + (|k| - |q|)) exp(S1[q,k] - finite(P1_max[q]))
    P2_max[q] = max(k where k <= q + (|k| - |q|)) S2[q,k]
    P2_total[q] = sum(k where k <= q + (|k| - |q|)) exp(S2[q,k] - finite(P2_max[q]))
    O_total[q,e] = sum(k where k <= q + (|k| - |q|)) V[k,e] * exp(S1[q,k] - finite(P1_max[q]))
    O_sum2_total[q,e] = sum(k where k <= q + (|k| - |q|)) V[k,e] * exp(S2[q,k] - finite(P2_max[q]))
    O[q,e] = O_total[q,e] / P1_total[q] - lam * (O_sum2_total[q,e] / P2_total[q])

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: P1_max[q], P1_total[q], P2_max[q], P2_total[q], O_total[q,e], O_sum2_total[q,e].

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


def differential(Q1, K1, Q2, K2, V, lam):
    """Q1[b,h,q,d], K1[b,g,k,d], Q2[b,h,q,d], K2[b,g,k,d], V[b,g,k,e], lam[] -> O[b,h,q,e], on any
        device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q1", "b h q d", Q1),
        ("K1", "b g k d", K1),
        ("Q2", "b h q d", Q2),
        ("K2", "b g k d", K2),
        ("V", "b g k e", V),
        ("lam", "", lam),
    )
    check_kinds(
        [("Q1", Q1), ("K1", K1), ("Q2", Q2), ("K2", K2), ("V", V), ("lam", lam)], [], [], KINDS
    )
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    O = Q1.new_empty((NB, NH, NQ, E))
    device, kind = Q1.device, accumulator(Q1)
    h = torch.arange(NH, device=device)[None, :]
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # state of P1_max[q] = max(k where seen) S1[q,k]
        P1_max_q = torch.full([NB, NH, q1 - q0], -math.inf, device=device, dtype=kind)
        # state of P1_total[q] = sum(k where seen) exp(S1[q,k] - finite(P1_max[q]))
        P1_total_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of P2_max[q] = max(k where seen) S2[q,k]
        P2_max_q = torch.full([NB, NH, q1 - q0], -math.inf, device=device, dtype=kind)
        # state of P2_total[q] = sum(k where seen) exp(S2[q,k] - finite(P2_max[q]))
        P2_total_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S1[q,k] - finite(P1_max[q]))
        O_total_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        # state of O_sum2_total[q,e] = sum(k where seen) V[k,e] * exp(S2[q,k] - finite(P2_max[q]))
        O_sum2_total_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        Q1_qd = Q1[:, :, q0:q1].to(kind)
        Q2_qd = Q2[:, :, q0:q1].to(kind)
        # tiles of k that these rows see, and which of them whole
        last = q1 - 1
        end = max(0, NK + last - NQ + 1)
        hi = (BLOCK_K + end - 1) // BLOCK_K
        inner_end = max(0, NK + q0 - NQ + 1)
        full_hi = inner_end // BLOCK_K
        tiles = (
            (range(0, full_hi), True),
            (range(full_hi, hi), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            k = torch.arange(k0, k1, device=device)
            # S1[q,k] = sum(d) Q1[q,d] * K1[k,d] / sqrt(|d|)
            K1_kd = K1[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            S1_qk = Q1_qd @ K1_kd.mT
            # S2[q,k] = sum(d) Q2[q,d] * K2[k,d] / sqrt(|d|)
            K2_kd = K2[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            S2_qk = Q2_qd @ K2_kd.mT
            # P1_max[q] = max(k where seen) S1[q,k]
            S1_seen_qk = S1_qk
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                S1_seen_qk = torch.where(seen_qk, S1_seen_qk, -math.inf)
            P1_max_tile_q = S1_seen_qk.amax(-1)
            P1_max_old_q = P1_max_q
            P1_max_q = torch.maximum(P1_max_old_q, P1_max_tile_q * (1 / math.sqrt(D)))
            # P1_total[q] = sum(k where seen) exp(S1[q,k] - finite(P1_max[q]))
            alpha_q = torch.exp2(
                P1_max_old_q * 1.4426950408889634 - finite(P1_max_q) * 1.4426950408889634
            )
            exp_S1_seen_qk = torch.exp2(
                S1_seen_qk * (1.4426950408889634 / math.sqrt(D))
                - (finite(P1_max_q) * 1.4426950408889634)[..., :, None]
            )
            P1_total_tile_q = exp_S1_seen_qk.sum(-1)
            P1_total_q = P1_total_q * alpha_q + P1_total_tile_q
            # P2_max[q] = max(k where seen) S2[q,k]
            S2_seen_qk = S2_qk
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                S2_seen_qk = torch.where(seen_qk, S2_seen_qk, -math.inf)
            P2_max_tile_q = S2_seen_qk.amax(-1)
            P2_max_old_q = P2_max_q
            P2_max_q = torch.maximum(P2_max_old_q, P2_max_tile_q * (1 / math.sqrt(D)))
            # P2_total[q] = sum(k where seen) exp(S2[q,k] - finite(P2_max[q]))
            alpha2_q = torch.exp2(
                P2_max_old_q * 1.4426950408889634 - finite(P2_max_q) * 1.4426950408889634
            )
            exp_S2_seen_qk = torch.exp2(
                S2_seen_qk * (1.4426950408889634 / math.sqrt(D))
                - (finite(P2_max_q) * 1.4426950408889634)[..., :, None]
            )
            P2_total_tile_q = exp_S2_seen_qk.sum(-1)
            P2_total_q = P2_total_q * alpha2_q + P2_total_tile_q
            # O_total[q,e] = sum(k where seen) V[k,e] * exp(S1[q,k] - finite(P1_max[q]))
            V_ke = V[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            O_total_qe = O_total_qe * alpha_q[..., :, None] + exp_S1_seen_qk @ V_ke
            # O_sum2_total[q,e] = sum(k where seen) V[k,e] * exp(S2[q,k] - finite(P2_max[q]))
            O_sum2_total_qe = O_sum2_total_qe * alpha2_q[..., :, None] + exp_S2_seen_qk @ V_ke
        # O[q,e] = O_total[q,e] / P1_total[q] - lam * (O_sum2_total[q,e] / P2_total[q])
        ratio_O_total_qe = divide(O_total_qe, P1_total_q[..., :, None])
        lam_ = lam[None, None, ...].to(kind)
        ratio_O_sum2_total_qe = divide(O_sum2_total_qe, P2_total_q[..., :, None])
        O_qe = ratio_O_total_qe - lam_[..., None, None] * ratio_O_sum2_total_qe
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


def _amax(x, dim, nothing):
    """The largest along an axis, which may be empty."""
    return x.amax(dim) if x.shape[dim] else torch.full_like(x.sum(dim), nothing)


def reference(Q1, K1, Q2, K2, V, lam):
    """`differential`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q1.shape
    _, NG, NK, _ = K1.shape
    h = torch.arange(NH, device=Q1.device)
    q = torch.arange(NQ, device=Q1.device)
    k = torch.arange(NK, device=Q1.device)
    # S1[b,h,q,k] = sum(d) Q1[b,h,q,d] * K1[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S1 = _einsum("bhqd,bhkd->bhqk", Q1, K1[:, h // (NH // NG)]) / math.sqrt(D)
    # S2[b,h,q,k] = sum(d) Q2[b,h,q,d] * K2[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S2 = _einsum("bhqd,bhkd->bhqk", Q2, K2[:, h // (NH // NG)]) / math.sqrt(D)
    # P1[b,h,q,k] = if k <= q + (|k| - |q|) then exp(S1[b,h,q,k] - max(k where k <= q + (|k| - |q|))
    #     S1[b,h,q,k]) / sum(k where k <= q + (|k| - |q|)) exp(S1[b,h,q,k] - max(k where k <= q +
    #     (|k| - |q|)) S1[b,h,q,k]) else 0
    where_qk = k <= (q + (NK - NQ))[:, None]
    max_P1_q = _amax(torch.where(where_qk, S1, -math.inf), 3, -math.inf)
    exp_P1_qk = torch.exp(torch.where(where_qk, S1 - max_P1_q[..., None], -math.inf))
    P1 = _divide(exp_P1_qk, exp_P1_qk.sum(-1)[..., None])
    # P2[b,h,q,k] = if k <= q + (|k| - |q|) then exp(S2[b,h,q,k] - max(k where k <= q + (|k| - |q|))
    #     S2[b,h,q,k]) / sum(k where k <= q + (|k| - |q|)) exp(S2[b,h,q,k] - max(k where k <= q +
    #     (|k| - |q|)) S2[b,h,q,k]) else 0
    max_P2_q = _amax(torch.where(where_qk, S2, -math.inf), 3, -math.inf)
    exp_P2_qk = torch.exp(torch.where(where_qk, S2 - max_P2_q[..., None], -math.inf))
    P2 = _divide(exp_P2_qk, exp_P2_qk.sum(-1)[..., None])
    # O[b,h,q,e] = sum(k) (P1[b,h,q,k] - lam * P2[b,h,q,k]) * V[b, h // (|h| // |g|), k, e]
    O = _einsum("bhqk,bhke->bhqe", P1 - lam * P2, V[:, h // (NH // NG)])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q1": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K1": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "Q2": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K2": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "lam": torch.rand((), device=device, dtype=torch.float32) / 8,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = differential(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
