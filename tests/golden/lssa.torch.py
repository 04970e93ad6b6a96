"""LSSA: softplus in the place of exp, of cosines scaled with the length of the row (arXiv 2501.13428).

Queries and keys are divided by their lengths; a row that sees `n` keys scales their products by
`log(|d|) * log(n)`.

(1) X[q,d] = unit(d) Q[q,d]
(2) Y[k,d] = unit(d) K[k,d]
(3) S[q,k] = log(|d|) * log(q + 1) * sum(d) X[q,d] * Y[k,d]
(4) A[q,k] = softplus(S[q,k])
(5) O[q,e] = (sum(k where k <= q) A[q,k] * V[k,e]) / sum(k where k <= q) A[q,k]

As it runs:

    Y_sum[k] = sum(d) K[k,d] * K[k,d]
    Y_sum_inverse[k] = inverse(sqrt(Y_sum[k]))
    X_sum[q] = sum(d) Q[q,d] * Q[q,d]
    S_total[q,k] = sum(d) Q[q,d] * K[k,d]
    O_sum[q,e] = sum(k where k <= q + (|k| - |q|)) softplus(log(|d|) * log(q + (|k| - |q|) + 1) *
        (S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]))) * V[k,e]
    O_sum2[q] = sum(k where k <= q + (|k| - |q|)) softplus(log(|d|) * log(q + (|k| - |q|) + 1) *
        (S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q])))
    O[q,e] = O_sum[q,e] / O_sum2[q]

Kernel lssa_Y_sum_inverse writes Y_sum_inverse[b,g,k].
Kernel lssa writes O[b,h,q,e].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: O_sum2[q], O_sum[q,e].

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
BLOCK_K = 128
BLOCK_Q = 128


def accumulator(tensor):
    """The kind that sums are held in: float64 for float64, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def divide(a, b):
    """a / b, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    nothing = (a == 0) & (b == 0)
    return torch.where(nothing, 0.0, a / torch.where(nothing, 1.0, b))


def inverse(x):
    """1 / x, and of 0 the largest number: 0 times it is 0, the mean of nothing, a softmax over nothing."""
    largest = torch.finfo(x.dtype).max
    return torch.where(torch.abs(x) * largest < 1, largest, 1 / x)


def softplus(x):
    """log(1 + exp(x)), finite for every finite x."""
    return torch.clamp(x, min=0) + torch.log1p(torch.exp(-torch.abs(x)))


def walk(tiles, block, end):
    """(start, stop, seen whole) of every tile."""
    for steps, whole in tiles:
        for n in steps:
            yield n * block, min((n + 1) * block, end), whole


def lssa(Q, K, V):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e] -> O[b,h,q,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [], [], KINDS)
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    Y_sum_inverse = Q.new_empty((NB, NG, NK), dtype=accumulator(Q))
    O = Q.new_empty((NB, NH, NQ, E))
    device, kind = Q.device, accumulator(Q)
    for k0 in range(0, NK, BLOCK_K):
        k1 = min(k0 + BLOCK_K, NK)
        # Y_sum[k] = sum(d) K[k,d] * K[k,d]
        K_kd = K[:, :, k0:k1].to(kind)
        Y_sum_k = (K_kd * K_kd).sum(-1)
        # Y_sum_inverse[k] = inverse(sqrt(Y_sum[k]))
        Y_sum_inverse_k = inverse(torch.sqrt(Y_sum_k))
        Y_sum_inverse[..., k0:k1] = Y_sum_inverse_k
    h = torch.arange(NH, device=device)[None, :]
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # X_sum[q] = sum(d) Q[q,d] * Q[q,d]
        Q_qd = Q[:, :, q0:q1].to(kind)
        X_sum_q = (Q_qd * Q_qd).sum(-1)
        # state of O_sum2[q] = sum(k where seen) softplus(log(|d|) * log(q + (|k| - |q|) + 1) *
        #     (S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q])))
        O_sum2_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of O_sum[q,e] = sum(k where seen) softplus(log(|d|) * log(q + (|k| - |q|) + 1) *
        #     (S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]))) * V[k,e]
        O_sum_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
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
            # S_total[q,k] = sum(d) Q[q,d] * K[k,d]
            K_kd = K[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            S_total_qk = Q_qd @ K_kd.mT
            # O_sum2[q] = sum(k where seen) softplus(log(|d|) * log(q + (|k| - |q|) + 1) *
            #     (S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q])))
            Y_sum_inverse_k = Y_sum_inverse[:, :, k0:k1].index_select(
                1, (h // (NH // NG)).flatten()
            ).to(kind)
            ratio_S_total_qk = divide(
                S_total_qk * Y_sum_inverse_k[..., None, :], torch.sqrt(X_sum_q)[..., :, None]
            )
            softplus_ratio_S_total_qk = softplus(
                (math.log(D) * torch.log((q + (NK - NQ) + 1).to(kind)))[:, None] * ratio_S_total_qk
            )
            softplus_ratio_S_total_seen_qk = softplus_ratio_S_total_qk
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                softplus_ratio_S_total_seen_qk = torch.where(
                    seen_qk, softplus_ratio_S_total_seen_qk, 0.0
                )
            O_sum2_tile_q = softplus_ratio_S_total_seen_qk.sum(-1)
            O_sum2_q = O_sum2_q + O_sum2_tile_q
            # O_sum[q,e] = sum(k where seen) softplus(log(|d|) * log(q + (|k| - |q|) + 1) *
            #     (S_total[q,k] * Y_sum_inverse[k] / sqrt(X_sum[q]))) * V[k,e]
            V_ke = V[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            O_sum_qe = O_sum_qe + softplus_ratio_S_total_seen_qk @ V_ke
        # O[q,e] = O_sum[q,e] / O_sum2[q]
        O_qe = divide(O_sum_qe, O_sum2_q[..., :, None])
        O[..., q0:q1, :] = O_qe
    return O


def _divide(a, b):
    """a / b; 0 / 0 is 0, and no gradient passes where the divisor is 0."""
    none = b == 0
    at_none = torch.where(a == 0, 0, a / b).detach()
    return torch.where(none, at_none, a / torch.where(none, 1, b))


def _log(x):
    """The logarithm; of 0 it is -inf with gradient 0, which is that of a sum of nothing."""
    none = x == 0
    return torch.where(none, -math.inf, torch.log(torch.where(none, 1, x)))


def _sqrt(x):
    """The square root; of 0 it is 0 with gradient 0, which is that of a sum of nothing."""
    none = x == 0
    return torch.where(none, 0, torch.sqrt(torch.where(none, 1, x)))


def _softplus(x):
    """log(1 + exp(x)) without a threshold."""
    return -torch.nn.functional.logsigmoid(-x)


def _einsum(spelled, *tensors):
    """torch.einsum in the widest dtype of its tensors; a mask among them is 0 and 1."""
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return torch.einsum(spelled, *(x.to(dtype) for x in tensors))


def reference(Q, K, V):
    """`lssa`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # X[b,h,q,d] = Q[b,h,q,d] / sqrt(sum(d) Q[b,h,q,d] * Q[b,h,q,d])
    X = _divide(Q, _sqrt(_einsum("bhqd,bhqd->bhq", Q, Q))[..., None])
    # Y[b,g,k,d] = K[b,g,k,d] / sqrt(sum(d) K[b,g,k,d] * K[b,g,k,d])
    Y = _divide(K, _sqrt(_einsum("bgkd,bgkd->bgk", K, K))[..., None])
    # S[b,h,q,k] = log(|d|) * log(q + (|k| - |q|) + 1) * sum(d) X[b,h,q,d] * Y[b, h // (|h| // |g|),
    #     k, d]
    at_q = q + (NK - NQ)
    where_qk = k <= at_q[:, None]
    log_S_qk = torch.where(where_qk, _log((at_q + 1).to(Q.dtype))[:, None], 0)
    times_S_qk = torch.where(where_qk, Q.new_full((), math.log(D)), 0) * log_S_qk
    S = torch.where(where_qk, times_S_qk, 0) * _einsum("bhqd,bhkd->bhqk", X, Y[:, h // (NH // NG)])
    # A[b,h,q,k] = softplus(S[b,h,q,k])
    A = _softplus(S)
    # O[b,h,q,e] = (sum(k where k <= q + (|k| - |q|)) A[b,h,q,k] * V[b, h // (|h| // |g|), k, e]) /
    #     sum(k where k <= q + (|k| - |q|)) A[b,h,q,k]
    sum_O_qe = _einsum("bhqk,bhke->bhqe", torch.where(where_qk, A, 0), V[:, h // (NH // NG)])
    O = _divide(sum_O_qe, torch.where(where_qk, A, 0).sum(-1)[..., None])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = lssa(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
