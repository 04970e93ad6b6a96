"""Agent attention: a few agents attend all keys, and queries attend the agents (arXiv 2312.08874).

Agents are queries pooled on the grid. `B` and `C` are biases, built of smaller tables outside; so is the
depthwise convolution of the values that it adds.

(1) R[a,k] = sum(d) A[a,d] * K[k,d] / sqrt(|d|) + B[a,k]
(2) G[a,k] = softmax(k) R[a,k]
(3) W[a,e] = sum(k) G[a,k] * V[k,e]
(4) S[q,a] = sum(d) Q[q,d] * A[a,d] / sqrt(|d|) + C[q,a]
(5) P[q,a] = softmax(a) S[q,a]
(6) O[q,e] = sum(a) P[q,a] * W[a,e]

As it runs:

    R_sum[a,k] = sum(d) A[a,d] * K[k,d] / sqrt(|d|)
    G_max[a] = max(k) (R_sum[a,k] + B[a,k])
    G_total[a] = sum(k) exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
    W_total[a,e] = sum(k) V[k,e] * exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
    W_total_row[a,e] = W_total[a,e] / G_total[a]
    S_sum[q,a] = sum(d) Q[q,d] * A[a,d] / sqrt(|d|)
    P_max[q] = max(a) (S_sum[q,a] + C[q,a])
    P_total[q] = sum(a) exp(S_sum[q,a] + C[q,a] - finite(P_max[q]))
    O_total[q,e] = sum(a) W_total_row[a,e] * exp(S_sum[q,a] + C[q,a] - finite(P_max[q]))
    O[q,e] = O_total[q,e] / P_total[q]

Kernel agent_W_total_row writes W_total_row[b,h,a,e].
One pass over k for every tile of rows a,
over one range of tiles that its predicate leaves live.
State of a row: G_max[a], G_total[a], W_total[a,e].
Kernel agent writes O[b,h,q,e].
One pass over a for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: P_max[q], P_total[q], O_total[q,e].

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
BLOCK_A = 128
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


def agent(Q, A, K, V, B, C):
    """Q[b,h,q,d], A[b,h,a,d], K[b,h,k,d], V[b,h,k,e], B[h,a,k], C[h,q,a] -> O[b,h,q,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("A", "b h a d", A),
        ("K", "b h k d", K),
        ("V", "b h k e", V),
        ("B", "h a k", B),
        ("C", "h q a", C),
    )
    check_kinds([("Q", Q), ("A", A), ("K", K), ("V", V), ("B", B), ("C", C)], [], [], KINDS)
    NB, NH, NQ, D, NA, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["a"], sizes["k"], sizes["e"]
    )
    W_total_row = Q.new_empty((NB, NH, NA, E))
    O = Q.new_empty((NB, NH, NQ, E))
    device, kind = Q.device, accumulator(Q)
    for a0 in range(0, NA, BLOCK_A):
        a1 = min(a0 + BLOCK_A, NA)
        # state of G_max[a] = max(k) (R_sum[a,k] + B[a,k])
        G_max_a = torch.full([NB, NH, a1 - a0], -math.inf, device=device, dtype=kind)
        # state of G_total[a] = sum(k) exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
        G_total_a = torch.full([NB, NH, a1 - a0], 0.0, device=device, dtype=kind)
        # state of W_total[a,e] = sum(k) V[k,e] * exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
        W_total_ae = torch.full([NB, NH, a1 - a0, E], 0.0, device=device, dtype=kind)
        A_ad = A[:, :, a0:a1].to(kind)
        # tiles of k that these rows see, and which of them whole
        end = NK
        hi = (BLOCK_K + end - 1) // BLOCK_K
        full_hi = end // BLOCK_K
        tiles = (
            (range(0, full_hi), True),
            (range(full_hi, hi), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            k = torch.arange(k0, k1, device=device)
            # R_sum[a,k] = sum(d) A[a,d] * K[k,d] / sqrt(|d|)
            K_kd = K[:, :, k0:k1].to(kind)
            R_sum_ak = A_ad @ K_kd.mT
            # G_max[a] = max(k) (R_sum[a,k] + B[a,k])
            B_ak = B[:, a0:a1, k0:k1][None, :, ...].to(kind)
            exponent_ak = R_sum_ak * (1 / math.sqrt(D)) + B_ak
            exponent_seen_ak = exponent_ak
            if not whole:
                # seen: k < |k|
                seen_k = k < NK
                exponent_seen_ak = torch.where(seen_k[..., None, :], exponent_seen_ak, -math.inf)
            G_max_tile_a = exponent_seen_ak.amax(-1)
            G_max_old_a = G_max_a
            G_max_a = torch.maximum(G_max_old_a, G_max_tile_a)
            # G_total[a] = sum(k) exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
            alpha_a = torch.exp2(
                G_max_old_a * 1.4426950408889634 - finite(G_max_a) * 1.4426950408889634
            )
            exp_exponent_seen_ak = torch.exp2(
                exponent_seen_ak * 1.4426950408889634
                - (finite(G_max_a) * 1.4426950408889634)[..., :, None]
            )
            G_total_tile_a = exp_exponent_seen_ak.sum(-1)
            G_total_a = G_total_a * alpha_a + G_total_tile_a
            # W_total[a,e] = sum(k) V[k,e] * exp(R_sum[a,k] + B[a,k] - finite(G_max[a]))
            V_ke = V[:, :, k0:k1].to(kind)
            W_total_ae = W_total_ae * alpha_a[..., :, None] + exp_exponent_seen_ak @ V_ke
        # W_total_row[a,e] = W_total[a,e] / G_total[a]
        W_total_row_ae = divide(W_total_ae, G_total_a[..., :, None])
        W_total_row[..., a0:a1, :] = W_total_row_ae
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        # state of P_max[q] = max(a) (S_sum[q,a] + C[q,a])
        P_max_q = torch.full([NB, NH, q1 - q0], -math.inf, device=device, dtype=kind)
        # state of P_total[q] = sum(a) exp(S_sum[q,a] + C[q,a] - finite(P_max[q]))
        P_total_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of O_total[q,e] = sum(a) W_total_row[a,e] * exp(S_sum[q,a] + C[q,a] -
        #     finite(P_max[q]))
        O_total_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        Q_qd = Q[:, :, q0:q1].to(kind)
        # tiles of a that these rows see, and which of them whole
        end = NA
        hi = (BLOCK_A + end - 1) // BLOCK_A
        full_hi = end // BLOCK_A
        tiles = (
            (range(0, full_hi), True),
            (range(full_hi, hi), False),
        )
        for a0, a1, whole in walk(tiles, BLOCK_A, NA):
            a = torch.arange(a0, a1, device=device)
            # S_sum[q,a] = sum(d) Q[q,d] * A[a,d] / sqrt(|d|)
            A_ad = A[:, :, a0:a1].to(kind)
            S_sum_qa = Q_qd @ A_ad.mT
            # P_max[q] = max(a) (S_sum[q,a] + C[q,a])
            C_qa = C[:, q0:q1, a0:a1][None, :, ...].to(kind)
            exponent_qa = S_sum_qa * (1 / math.sqrt(D)) + C_qa
            exponent_seen_qa = exponent_qa
            if not whole:
                # seen: a < |a|
                seen_a = a < NA
                exponent_seen_qa = torch.where(seen_a[..., None, :], exponent_seen_qa, -math.inf)
            P_max_tile_q = exponent_seen_qa.amax(-1)
            P_max_old_q = P_max_q
            P_max_q = torch.maximum(P_max_old_q, P_max_tile_q)
            # P_total[q] = sum(a) exp(S_sum[q,a] + C[q,a] - finite(P_max[q]))
            alpha_q = torch.exp2(
                P_max_old_q * 1.4426950408889634 - finite(P_max_q) * 1.4426950408889634
            )
            exp_exponent_seen_qa = torch.exp2(
                exponent_seen_qa * 1.4426950408889634
                - (finite(P_max_q) * 1.4426950408889634)[..., :, None]
            )
            P_total_tile_q = exp_exponent_seen_qa.sum(-1)
            P_total_q = P_total_q * alpha_q + P_total_tile_q
            # O_total[q,e] = sum(a) W_total_row[a,e] * exp(S_sum[q,a] + C[q,a] - finite(P_max[q]))
            W_total_row_ae = W_total_row[:, :, a0:a1].to(kind)
            O_total_qe = O_total_qe * alpha_q[..., :, None] + exp_exponent_seen_qa @ W_total_row_ae
        # O[q,e] = O_total[q,e] / P_total[q]
        O_qe = divide(O_total_qe, P_total_q[..., :, None])
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


def reference(Q, A, K, V, B, C):
    """`agent`: dense, differentiable, any device and dtype."""
    D = Q.shape[3]
    # R[b,h,a,k] = sum(d) A[b,h,a,d] * K[b,h,k,d] / sqrt(|d|) + B[h,a,k]
    R = _einsum("bhad,bhkd->bhak", A, K) / math.sqrt(D) + B
    # G[b,h,a,k] = if true then exp(R[b,h,a,k] - max(k) R[b,h,a,k]) / sum(k) exp(R[b,h,a,k] - max(k)
    #     R[b,h,a,k]) else 0
    max_G_a = _amax(R, 3, -math.inf)
    exp_G_ak = torch.exp(R - max_G_a[..., None])
    G = _divide(exp_G_ak, exp_G_ak.sum(-1)[..., None])
    # W[b,h,a,e] = sum(k) G[b,h,a,k] * V[b,h,k,e]
    W = _einsum("bhak,bhke->bhae", G, V)
    # S[b,h,q,a] = sum(d) Q[b,h,q,d] * A[b,h,a,d] / sqrt(|d|) + C[h,q,a]
    S = _einsum("bhqd,bhad->bhqa", Q, A) / math.sqrt(D) + C
    # P[b,h,q,a] = if true then exp(S[b,h,q,a] - max(a) S[b,h,q,a]) / sum(a) exp(S[b,h,q,a] - max(a)
    #     S[b,h,q,a]) else 0
    max_P_q = _amax(S, 3, -math.inf)
    exp_P_qa = torch.exp(S - max_P_q[..., None])
    P = _divide(exp_P_qa, exp_P_qa.sum(-1)[..., None])
    # O[b,h,q,e] = sum(a) P[b,h,q,a] * W[b,h,a,e]
    O = _einsum("bhqa,bhae->bhqe", P, W)
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "A": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "B": torch.rand(4, 203, 203, device=device, dtype=torch.float32) / 8,
        "C": torch.rand(4, 150, 203, device=device, dtype=torch.float32) / 8,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = agent(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
