"""BASED: linear attention with the second-order Taylor weight of exp, normalised (arXiv 2402.18668).

The feature map is scaled so that the weight is a polynomial of `s`. It is at least 1/2, so that the epsilon
which the authors add to the denominator can be left out.

(1) s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(2) A[q,k] = 1 + s[q,k] + s[q,k] * s[q,k] / 2
(3) O[q,e] = (sum(k where k <= q) A[q,k] * V[k,e]) / sum(k where k <= q) A[q,k]

As it runs:

    s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    O_sum[q,e] = sum(k where k <= q + (|k| - |q|)) (s[q,k] + s[q,k] * s[q,k] / 2 + 1) * V[k,e]
    O_sum2[q] = sum(k where k <= q + (|k| - |q|)) (s[q,k] + s[q,k] * s[q,k] / 2 + 1)
    O[q,e] = O_sum[q,e] / O_sum2[q]

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: O_sum2[q], O_sum[q,e].

Its gradients:

    s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    dO_sum2_sum[q] = sum(e) dO[q,e] * O[q,e]
    ds_sum[q,k] = sum(e) dO[q,e] * reciprocal(O_sum2[q]) * V[k,e]
    dQ_sum[q,d] = sum(k where k <= q + (|k| - |q|)) (-reciprocal(O_sum2[q]) * dO_sum2_sum[q] +
        (-reciprocal(O_sum2[q]) * dO_sum2_sum[q]) * s[q,k] / 2 + (-reciprocal(O_sum2[q]) *
        dO_sum2_sum[q]) * s[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2 +
        ds_sum[q,k]) * K[k,d]
    dQ[q,d] = dQ_sum[q,d] / sqrt(|d|)
    dK_sum[k,d] = sum(q where k <= q + (|k| - |q|)) (-reciprocal(O_sum2[q]) * dO_sum2_sum[q] +
        (-reciprocal(O_sum2[q]) * dO_sum2_sum[q]) * s[q,k] / 2 + (-reciprocal(O_sum2[q]) *
        dO_sum2_sum[q]) * s[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2 +
        ds_sum[q,k]) * Q[q,d]
    dK[k,d] = dK_sum[k,d] / sqrt(|d|)
    dV[k,e] = sum(q where k <= q + (|k| - |q|)) dO[q,e] * reciprocal(O_sum2[q]) * (s[q,k] + s[q,k] *
        s[q,k] / 2 + 1)

Kernel based_backward_dQ writes dQ[b,h,q,d], dO_sum2_sum[b,h,q].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: dQ_sum[q,d].
Kernel based_backward_dK writes dK[b,h,k,d], dV[b,h,k,e].
One pass over q for every tile of rows k,
over one range of tiles that its predicate leaves live.
State of a row: dK_sum[k,d], dV[k,e].

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


def reciprocal(x):
    """1 / x, and of 0 nothing: no gradient passes a division by 0."""
    if not torch.is_tensor(x):
        return 1 / x if x else 0.0
    return torch.where(x == 0, 0.0, 1 / torch.where(x == 0, 1.0, x))


def walk(tiles, block, end):
    """(start, stop, seen whole) of every tile."""
    for steps, whole in tiles:
        for n in steps:
            yield n * block, min((n + 1) * block, end), whole


def based_forward(Q, K, V):
    """Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e] -> O[b,h,q,e], O_sum2[b,h,q], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b h k d", K),
        ("V", "b h k e", V),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [], KINDS)
    NB, NH, NQ, D, NK, E = sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["k"], sizes["e"]
    O = Q.new_empty((NB, NH, NQ, E))
    O_sum2 = Q.new_empty((NB, NH, NQ), dtype=accumulator(Q))
    device, kind = Q.device, accumulator(Q)
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # state of O_sum2[q] = sum(k where seen) (s[q,k] + s[q,k] * s[q,k] / 2 + 1)
        O_sum2_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of O_sum[q,e] = sum(k where seen) (s[q,k] + s[q,k] * s[q,k] / 2 + 1) * V[k,e]
        O_sum_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        Q_qd = Q[:, :, q0:q1].to(kind)
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
            # s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            K_kd = K[:, :, k0:k1].to(kind)
            s_qk = Q_qd @ K_kd.mT
            # O_sum2[q] = sum(k where seen) (s[q,k] + s[q,k] * s[q,k] / 2 + 1)
            s_seen_qk = (
                s_qk * (1 / math.sqrt(D))
                + s_qk * (1 / math.sqrt(D)) * (s_qk * (1 / math.sqrt(D))) / 2
                + 1
            )
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                s_seen_qk = torch.where(seen_qk, s_seen_qk, 0.0)
            O_sum2_tile_q = s_seen_qk.sum(-1)
            O_sum2_q = O_sum2_q + O_sum2_tile_q
            # O_sum[q,e] = sum(k where seen) (s[q,k] + s[q,k] * s[q,k] / 2 + 1) * V[k,e]
            V_ke = V[:, :, k0:k1].to(kind)
            O_sum_qe = O_sum_qe + s_seen_qk @ V_ke
        # O[q,e] = O_sum[q,e] / O_sum2[q]
        O_qe = divide(O_sum_qe, O_sum2_q[..., :, None])
        O[..., q0:q1, :] = O_qe
        O_sum2[..., q0:q1] = O_sum2_q
    return O, O_sum2


def based_backward(Q, K, V, O, O_sum2, dO):
    """Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e], O[b,h,q,e], O_sum2[b,h,q], dO[b,h,q,e] -> dQ[b,h,q,d],
        dK[b,h,k,d], dV[b,h,k,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b h k d", K),
        ("V", "b h k e", V),
        ("O", "b h q e", O),
        ("O_sum2", "b h q", O_sum2),
        ("dO", "b h q e", dO),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("dO", dO)], [], [], KINDS)
    NB, NH, NQ, D, NK, E = sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["k"], sizes["e"]
    dQ = Q.new_empty((NB, NH, NQ, D))
    dO_sum2_sum = Q.new_empty((NB, NH, NQ), dtype=accumulator(Q))
    dK = Q.new_empty((NB, NH, NK, D))
    dV = Q.new_empty((NB, NH, NK, E))
    device, kind = Q.device, accumulator(Q)
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # dO_sum2_sum[q] = sum(e) dO[q,e] * O[q,e]
        dO_qe = dO[:, :, q0:q1].to(kind)
        O_qe = O[:, :, q0:q1].to(kind)
        dO_sum2_sum_q = (dO_qe * O_qe).sum(-1)
        dO_sum2_sum[..., q0:q1] = dO_sum2_sum_q
        # state of dQ_sum[q,d] = sum(k where seen) (-reciprocal(O_sum2[q]) * dO_sum2_sum[q] +
        #     (-reciprocal(O_sum2[q]) * dO_sum2_sum[q]) * s[q,k] / 2 + (-reciprocal(O_sum2[q]) *
        #     dO_sum2_sum[q]) * s[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2 +
        #     ds_sum[q,k]) * K[k,d]
        dQ_sum_qd = torch.full([NB, NH, q1 - q0, D], 0.0, device=device, dtype=kind)
        Q_qd = Q[:, :, q0:q1].to(kind)
        O_sum2_q = O_sum2[:, :, q0:q1].to(kind)
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
            # s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            K_kd = K[:, :, k0:k1].to(kind)
            s_qk = Q_qd @ K_kd.mT
            # ds_sum[q,k] = sum(e) dO[q,e] * reciprocal(O_sum2[q]) * V[k,e]
            V_ke = V[:, :, k0:k1].to(kind)
            ds_sum_qk = dO_qe @ V_ke.mT
            # dQ_sum[q,d] = sum(k where seen) (-reciprocal(O_sum2[q]) * dO_sum2_sum[q] +
            #     (-reciprocal(O_sum2[q]) * dO_sum2_sum[q]) * s[q,k] / 2 + (-reciprocal(O_sum2[q]) *
            #     dO_sum2_sum[q]) * s[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2
            #     + ds_sum[q,k]) * K[k,d]
            s_seen_qk = (
                (-(reciprocal(O_sum2_q) * dO_sum2_sum_q))[..., :, None]
                + (-(reciprocal(O_sum2_q) * dO_sum2_sum_q))[..., :, None]
                * (s_qk * (1 / math.sqrt(D)))
                / 2
                + (-(reciprocal(O_sum2_q) * dO_sum2_sum_q))[..., :, None]
                * (s_qk * (1 / math.sqrt(D)))
                / 2
                + s_qk * (1 / math.sqrt(D)) * (ds_sum_qk * reciprocal(O_sum2_q)[..., :, None]) / 2
                + s_qk * (1 / math.sqrt(D)) * (ds_sum_qk * reciprocal(O_sum2_q)[..., :, None]) / 2
                + ds_sum_qk * reciprocal(O_sum2_q)[..., :, None]
            )
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                s_seen_qk = torch.where(seen_qk, s_seen_qk, 0.0)
            dQ_sum_qd = dQ_sum_qd + s_seen_qk @ K_kd
        # dQ[q,d] = dQ_sum[q,d] / sqrt(|d|)
        dQ_qd = dQ_sum_qd / math.sqrt(D)
        dQ[..., q0:q1, :] = dQ_qd
    for k0 in range(0, NK, BLOCK_K):
        k1 = min(k0 + BLOCK_K, NK)
        k = torch.arange(k0, k1, device=device)
        # state of dK_sum[k,d] = sum(q where seen) (-reciprocal(O_sum2[q]) * dO_sum2_sum[q] +
        #     (-reciprocal(O_sum2[q]) * dO_sum2_sum[q]) * s[q,k] / 2 + (-reciprocal(O_sum2[q]) *
        #     dO_sum2_sum[q]) * s[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2 +
        #     ds_sum[q,k]) * Q[q,d]
        dK_sum_kd = torch.full([NB, NH, k1 - k0, D], 0.0, device=device, dtype=kind)
        # state of dV[k,e] = sum(q where seen) dO[q,e] * reciprocal(O_sum2[q]) * (s[q,k] + s[q,k] *
        #     s[q,k] / 2 + 1)
        dV_ke = torch.full([NB, NH, k1 - k0, E], 0.0, device=device, dtype=kind)
        K_kd = K[:, :, k0:k1].to(kind)
        V_ke = V[:, :, k0:k1].to(kind)
        # tiles of q that these rows see, and which of them whole
        last = k1 - 1
        begin = max(0, NQ + k0 - NK)
        end = NQ
        lo = begin // BLOCK_Q
        hi = (BLOCK_Q + end - 1) // BLOCK_Q if begin < end else lo
        inner_begin = max(0, NQ + last - NK)
        full_lo = min((BLOCK_Q + inner_begin - 1) // BLOCK_Q, hi)
        full_hi = max(full_lo, end // BLOCK_Q)
        tiles = (
            (range(lo, full_lo), False),
            (range(full_lo, full_hi), True),
            (range(full_hi, hi), False),
        )
        for q0, q1, whole in walk(tiles, BLOCK_Q, NQ):
            q = torch.arange(q0, q1, device=device)
            # s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            Q_qd = Q[:, :, q0:q1].to(kind)
            s_kq = K_kd @ Q_qd.mT
            # ds_sum[q,k] = sum(e) dO[q,e] * reciprocal(O_sum2[q]) * V[k,e]
            dO_qe = dO[:, :, q0:q1].to(kind)
            ds_sum_kq = V_ke @ dO_qe.mT
            O_sum2_q = O_sum2[:, :, q0:q1].to(kind)
            # dK_sum[k,d] = sum(q where seen) (-reciprocal(O_sum2[q]) * dO_sum2_sum[q] +
            #     (-reciprocal(O_sum2[q]) * dO_sum2_sum[q]) * s[q,k] / 2 + (-reciprocal(O_sum2[q]) *
            #     dO_sum2_sum[q]) * s[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2 + s[q,k] * ds_sum[q,k] / 2
            #     + ds_sum[q,k]) * Q[q,d]
            dO_sum2_sum_q = dO_sum2_sum[:, :, q0:q1].to(kind)
            s_seen_kq = (
                (-(reciprocal(O_sum2_q) * dO_sum2_sum_q))[..., None, :]
                + (-(reciprocal(O_sum2_q) * dO_sum2_sum_q))[..., None, :]
                * (s_kq * (1 / math.sqrt(D)))
                / 2
                + (-(reciprocal(O_sum2_q) * dO_sum2_sum_q))[..., None, :]
                * (s_kq * (1 / math.sqrt(D)))
                / 2
                + s_kq * (1 / math.sqrt(D)) * (ds_sum_kq * reciprocal(O_sum2_q)[..., None, :]) / 2
                + s_kq * (1 / math.sqrt(D)) * (ds_sum_kq * reciprocal(O_sum2_q)[..., None, :]) / 2
                + ds_sum_kq * reciprocal(O_sum2_q)[..., None, :]
            )
            if not whole:
                # seen: q < |q| and k <= q + (|k| - |q|)
                seen_kq = k[:, None] <= (q + (NK - NQ))[None, :]
                s_seen_kq = torch.where(seen_kq, s_seen_kq, 0.0)
            dK_sum_kd = dK_sum_kd + s_seen_kq @ Q_qd
            # dV[k,e] = sum(q where seen) dO[q,e] * reciprocal(O_sum2[q]) * (s[q,k] + s[q,k] *
            #     s[q,k] / 2 + 1)
            s_seen2_kq = (
                reciprocal(O_sum2_q)[..., None, :]
                * (
                    s_kq * (1 / math.sqrt(D))
                    + s_kq * (1 / math.sqrt(D)) * (s_kq * (1 / math.sqrt(D))) / 2
                    + 1
                )
            )
            if not whole:
                # seen: q < |q| and k <= q + (|k| - |q|)
                seen_kq = k[:, None] <= (q + (NK - NQ))[None, :]
                s_seen2_kq = torch.where(seen_kq, s_seen2_kq, 0.0)
            dV_ke = dV_ke + s_seen2_kq @ dO_qe
        # dK[k,d] = dK_sum[k,d] / sqrt(|d|)
        dK_kd = dK_sum_kd / math.sqrt(D)
        dK[..., k0:k1, :] = dK_kd
        dV[..., k0:k1, :] = dV_ke
    return dQ, dK, dV


class _based_gradients(torch.autograd.Function):
    """`based` and its gradients, once; a second derivative is an error."""

    @staticmethod
    def forward(ctx, Q, K, V):
        O, O_sum2 = based_forward(Q, K, V)
        ctx.save_for_backward(Q, K, V, O, O_sum2)
        return O

    @staticmethod
    def backward(ctx, dO):
        if torch.is_grad_enabled():
            words = "`based` has no second derivative (create_graph=True), but `reference` has"
            raise NotImplementedError(words)
        Q, K, V, O, O_sum2 = ctx.saved_tensors
        dQ, dK, dV = based_backward(Q, K, V, O, O_sum2, dO)
        return dQ, dK, dV


def based(Q, K, V):
    """Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e] -> O[b,h,q,e], differentiable."""
    return _based_gradients.apply(Q, K, V)


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


def reference(Q, K, V):
    """`based`: dense, differentiable, any device and dtype."""
    _, _, NQ, D = Q.shape
    NK = K.shape[2]
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # s[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b,h,k,d] / sqrt(|d|)
    s = _einsum("bhqd,bhkd->bhqk", Q, K) / math.sqrt(D)
    # A[b,h,q,k] = 1 + s[b,h,q,k] + s[b,h,q,k] * s[b,h,q,k] / 2
    A = 1 + s + s * s / 2
    # O[b,h,q,e] = (sum(k where k <= q + (|k| - |q|)) A[b,h,q,k] * V[b,h,k,e]) / sum(k where k <= q
    #     + (|k| - |q|)) A[b,h,q,k]
    part_O_qk = torch.where(k <= (q + (NK - NQ))[:, None], A, 0)
    O = _divide(_einsum("bhqk,bhke->bhqe", part_O_qk, V), part_O_qk.sum(-1)[..., None])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    for name, x in floats.items():
        given[name].requires_grad_()
        x.requires_grad_()
    made = based(**given)
    meant = reference(**{**given, **floats})
    names = ["Q", "K", "V"]
    pairs = [(made, meant)]
    weights = [torch.where(x.isfinite(), torch.randn_like(x), 0) for x, _ in pairs]
    found = torch.autograd.grad([x for x, _ in pairs], [given[n] for n in names], weights)
    weights = [w.double() for w in weights]
    wanted = torch.autograd.grad([y for _, y in pairs], [floats[n] for n in names], weights)
    gradients = [
        (n, torch.atleast_2d(x), torch.atleast_2d(y)) for n, x, y in zip(names, found, wanted)
    ]
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
        *((f"d{n}", x, y, 5e-5) for n, x, y in gradients),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
