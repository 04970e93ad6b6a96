"""Lightning attention: linear attention whose weights decay by `exp(-slope)` per position (arXiv 2401.04658).

Feature maps, norm and output gate stay outside. A token's own weight is not decayed. The schedules of the TNL
paper and of its code disagree; either is a value of `slope`.

(1) A[q,k] = (sum(d) Q[q,d] * K[k,d]) * exp(-slope * (q - k))
(2) O[q,e] = sum(k where k <= q) A[q,k] * V[k,e]

As it runs:

    A_sum[q,k] = sum(d) Q[q,d] * K[k,d]
    O_max[q] = max(k where k <= q + (|k| - |q|)) (-slope * (q + (|k| - |q|) - k))
    O_total[q,e] = sum(k where k <= q + (|k| - |q|)) A_sum[q,k] * V[k,e] * exp(-slope * (q + (|k| -
        |q|) - k) - finite(O_max[q]))
    O[q,e] = O_total[q,e] * exp(O_max[q])

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: O_max[q], O_total[q,e].

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


def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return torch.where(m == -math.inf, 0.0, m)


def walk(tiles, block, end):
    """(start, stop, seen whole) of every tile."""
    for steps, whole in tiles:
        for n in steps:
            yield n * block, min((n + 1) * block, end), whole


def lightning(Q, K, V, slope):
    """Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e], slope[h] -> O[b,h,q,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b h k d", K),
        ("V", "b h k e", V),
        ("slope", "h", slope),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("slope", slope)], [], [], KINDS)
    NB, NH, NQ, NK, E = sizes["b"], sizes["h"], sizes["q"], sizes["k"], sizes["e"]
    O = Q.new_empty((NB, NH, NQ, E))
    device, kind = Q.device, accumulator(Q)
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # state of O_max[q] = max(k where seen) (-slope * (q + (|k| - |q|) - k))
        O_max_q = torch.full([NB, NH, q1 - q0], -math.inf, device=device, dtype=kind)
        # state of O_total[q,e] = sum(k where seen) A_sum[q,k] * V[k,e] * exp(-slope * (q + (|k| -
        #     |q|) - k) - finite(O_max[q]))
        O_total_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        Q_qd = Q[:, :, q0:q1].to(kind)
        slope_ = slope[None, :, ...].to(kind)
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
            # A_sum[q,k] = sum(d) Q[q,d] * K[k,d]
            K_kd = K[:, :, k0:k1].to(kind)
            A_sum_qk = Q_qd @ K_kd.mT
            # O_max[q] = max(k where seen) (-slope * (q + (|k| - |q|) - k))
            exponent_qk = -(
                slope_[..., None, None] * ((q + (NK - NQ))[:, None] - k[None, :]).to(kind)
            )
            exponent_seen_qk = exponent_qk
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                exponent_seen_qk = torch.where(seen_qk, exponent_seen_qk, -math.inf)
            O_max_tile_q = exponent_seen_qk.amax(-1)
            O_max_old_q = O_max_q
            O_max_q = torch.maximum(O_max_old_q, O_max_tile_q)
            # O_total[q,e] = sum(k where seen) A_sum[q,k] * V[k,e] * exp(-slope * (q + (|k| - |q|) -
            #     k) - finite(O_max[q]))
            alpha_q = torch.exp2(
                O_max_old_q * 1.4426950408889634 - finite(O_max_q) * 1.4426950408889634
            )
            exp_exponent_seen_qk = torch.exp2(
                exponent_seen_qk * 1.4426950408889634
                - (finite(O_max_q) * 1.4426950408889634)[..., :, None]
            )
            A_sum_seen_qk = A_sum_qk * exp_exponent_seen_qk
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|)
                seen_qk = k[None, :] <= (q + (NK - NQ))[:, None]
                A_sum_seen_qk = torch.where(seen_qk, A_sum_seen_qk, 0.0)
            V_ke = V[:, :, k0:k1].to(kind)
            O_total_qe = O_total_qe * alpha_q[..., :, None] + A_sum_seen_qk @ V_ke
        # O[q,e] = O_total[q,e] * exp(O_max[q])
        O_qe = O_total_qe * torch.exp2(O_max_q * 1.4426950408889634)[..., :, None]
        O[..., q0:q1, :] = O_qe
    return O


def _einsum(spelled, *tensors):
    """torch.einsum in the widest dtype of its tensors; a mask among them is 0 and 1."""
    dtype = tensors[0].dtype
    for x in tensors[1:]:
        dtype = torch.promote_types(dtype, x.dtype)
    return torch.einsum(spelled, *(x.to(dtype) for x in tensors))


def reference(Q, K, V, slope):
    """`lightning`: dense, differentiable, any device and dtype."""
    NQ = Q.shape[2]
    NK = K.shape[2]
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # A[b,h,q,k] = (sum(d) Q[b,h,q,d] * K[b,h,k,d]) * exp(-slope[h] * (q + (|k| - |q|) - k))
    at_q = q + (NK - NQ)
    minus_A_qk = torch.where(k <= at_q[:, None], -(slope[:, None, None] * (at_q[:, None] - k)), 0)
    A = _einsum("bhqd,bhkd->bhqk", Q, K) * torch.exp(minus_A_qk)
    # O[b,h,q,e] = sum(k where k <= q + (|k| - |q|)) A[b,h,q,k] * V[b,h,k,e]
    O = _einsum("bhqk,bhke->bhqe", torch.where(k <= at_q[:, None], A, 0), V)
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 4, 203, 64, device=device, dtype=torch.float32),
        "slope": torch.rand(4, device=device, dtype=torch.float32) / 8,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = lightning(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
