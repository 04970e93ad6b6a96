"""BASED: linear attention with the second-order Taylor weight of exp, normalised (arXiv 2402.18668).

The feature map is scaled so that the weight is a polynomial of `s`. It is at least 1/2, so that the epsilon
which the authors add to the denominator can be left out.

(1) s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(2) A[q,k] = 1 + s[q,k] + s[q,k] * s[q,k] / 2
(3) O[q,e] = (sum(k where k <= q) A[q,k] * V[k,e]) / sum(k where k <= q) A[q,k]

As it runs:

    s[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    O_sum[q,e] = sum(k where k <= q + (|k| - |q|)) (1 + s[q,k] + s[q,k] * s[q,k] / 2) * V[k,e]
    O_sum2[q] = sum(k where k <= q + (|k| - |q|)) (1 + s[q,k] + s[q,k] * s[q,k] / 2)
    O[q,e] = O_sum[q,e] / O_sum2[q]

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
BLOCK_Q = 128
BLOCK_K = 128


def accumulator(tensor):
    """The kind that sums are held in: float64 for float64, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def divide(a, b):
    """a / b, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    nothing = (a == 0) & (b == 0)
    return torch.where(nothing, 0.0, a / torch.where(nothing, 1.0, b))


def walk(tiles, block, end):
    """(start, stop, seen whole) of every tile."""
    for steps, whole in tiles:
        for n in steps:
            yield n * block, min((n + 1) * block, end), whole


def based(Q, K, V):
    """Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e] -> O[b,h,q,e], on any device.

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
    device, kind = Q.device, accumulator(Q)
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # state of O_sum2[q] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2)
        O_sum2_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of O_sum[q,e] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2) * V[k,e]
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
            # O_sum2[q] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2)
            s_seen_qk = (
                1
                + s_qk * (1 / math.sqrt(D))
                + s_qk * (1 / math.sqrt(D)) * (s_qk * (1 / math.sqrt(D))) / 2
            )
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                s_seen_qk = torch.where(seen_qk, s_seen_qk, 0.0)
            O_sum2_tile_q = s_seen_qk.sum(-1)
            O_sum2_q = O_sum2_q + O_sum2_tile_q
            # O_sum[q,e] = sum(k where seen) (1 + s[q,k] + s[q,k] * s[q,k] / 2) * V[k,e]
            V_ke = V[:, :, k0:k1].to(kind)
            O_sum_qe = O_sum_qe + s_seen_qk @ V_ke
        # O[q,e] = O_sum[q,e] / O_sum2[q]
        O_qe = divide(O_sum_qe, O_sum2_q[..., :, None])
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
    made = based(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
