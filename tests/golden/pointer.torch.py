"""Pointer networks: the weights over the inputs are the output, their scores additive (arXiv 1506.03134).

`X` and `Y` are the states of decoder and encoder, projected. What has been chosen may be chosen again.

(1) u[q,k] = sum(d) v[d] * tanh(X[q,d] + Y[k,d])
(2) P[q,k] = softmax(k) u[q,k]

As it runs:

    u[q,k] = sum(d) v[d] * tanh(X[q,d] + Y[k,d])
    P_max[q] = max(k) u[q,k]
    P_total[q] = sum(k) exp(u[q,k] - finite(P_max[q]))
    P[q,k] = exp(u[q,k] - P_max[q]) / P_total[q]

Kernel pointer_P_max writes P_max[b,q], P_total[b,q].
One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: P_max[q], P_total[q].
Kernel pointer writes P[b,q,k].
One pass over k for every tile of rows q,
over all tiles, of which it stores P.

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


def pointer(X, Y, v):
    """X[b,q,d], Y[b,k,d], v[d] -> P[b,q,k], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("X", "b q d", X),
        ("Y", "b k d", Y),
        ("v", "d", v),
    )
    check_kinds([("X", X), ("Y", Y), ("v", v)], [], [], KINDS)
    NB, NQ, D, NK = sizes["b"], sizes["q"], sizes["d"], sizes["k"]
    P_max = X.new_empty((NB, NQ), dtype=accumulator(X))
    P_total = X.new_empty((NB, NQ), dtype=accumulator(X))
    P = X.new_empty((NB, NQ, NK))
    device, kind = X.device, accumulator(X)
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        # state of P_max[q] = max(k) u[q,k]
        P_max_q = torch.full([NB, q1 - q0], -math.inf, device=device, dtype=kind)
        # state of P_total[q] = sum(k) exp(u[q,k] - finite(P_max[q]))
        P_total_q = torch.full([NB, q1 - q0], 0.0, device=device, dtype=kind)
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
            # u[q,k] = sum(d) v[d] * tanh(X[q,d] + Y[k,d])
            u_qk = torch.full([NB, q1 - q0, k1 - k0], 0.0, device=device, dtype=kind)
            for d_run in range(0, D, 8):
                u_part_qk = torch.full([NB, q1 - q0, k1 - k0], 0.0, device=device, dtype=kind)
                for d_at in range(d_run, min(d_run + 8, D)):
                    v_ = v[d_at][None, ...].to(kind)
                    X_q = X[:, :, d_at][:, q0:q1].to(kind)
                    Y_k = Y[:, :, d_at][:, k0:k1].to(kind)
                    tanh_X_qk = torch.tanh(X_q[..., :, None] + Y_k[..., None, :])
                    u_part_qk = u_part_qk + v_[..., None, None] * tanh_X_qk
                u_qk = u_qk + u_part_qk
            # P_max[q] = max(k) u[q,k]
            u_seen_qk = u_qk
            if not whole:
                # seen: k < |k|
                seen_k = k < NK
                u_seen_qk = torch.where(seen_k[..., None, :], u_seen_qk, -math.inf)
            P_max_tile_q = u_seen_qk.amax(-1)
            P_max_old_q = P_max_q
            P_max_q = torch.maximum(P_max_old_q, P_max_tile_q)
            # P_total[q] = sum(k) exp(u[q,k] - finite(P_max[q]))
            alpha_q = torch.exp2(
                P_max_old_q * 1.4426950408889634 - finite(P_max_q) * 1.4426950408889634
            )
            exp_u_seen_qk = torch.exp2(
                u_seen_qk * 1.4426950408889634
                - (finite(P_max_q) * 1.4426950408889634)[..., :, None]
            )
            P_total_tile_q = exp_u_seen_qk.sum(-1)
            P_total_q = P_total_q * alpha_q + P_total_tile_q
        P_max[..., q0:q1] = P_max_q
        P_total[..., q0:q1] = P_total_q
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        P_max_q = P_max[:, q0:q1].to(kind)
        P_total_q = P_total[:, q0:q1].to(kind)
        # tiles of k that these rows see, and which of them whole
        end = NK
        hi = (BLOCK_K + end - 1) // BLOCK_K
        full_hi = end // BLOCK_K
        tiles = (
            (range(0, full_hi), True),
            (range(full_hi, hi), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            # u[q,k] = sum(d) v[d] * tanh(X[q,d] + Y[k,d])
            u_qk = torch.full([NB, q1 - q0, k1 - k0], 0.0, device=device, dtype=kind)
            for d_run in range(0, D, 8):
                u_part_qk = torch.full([NB, q1 - q0, k1 - k0], 0.0, device=device, dtype=kind)
                for d_at in range(d_run, min(d_run + 8, D)):
                    v_ = v[d_at][None, ...].to(kind)
                    X_q = X[:, :, d_at][:, q0:q1].to(kind)
                    Y_k = Y[:, :, d_at][:, k0:k1].to(kind)
                    tanh_X_qk = torch.tanh(X_q[..., :, None] + Y_k[..., None, :])
                    u_part_qk = u_part_qk + v_[..., None, None] * tanh_X_qk
                u_qk = u_qk + u_part_qk
            # P[q,k] = exp(u[q,k] - P_max[q]) / P_total[q]
            exp_u_qk = torch.exp2(
                u_qk * 1.4426950408889634 - (P_max_q * 1.4426950408889634)[..., :, None]
            )
            P_qk = divide(exp_u_qk, P_total_q[..., :, None])
            P[..., q0:q1, k0:k1] = P_qk
    return P


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


def reference(X, Y, v):
    """`pointer`: dense, differentiable, any device and dtype."""
    # u[b,q,k] = sum(d) v[d] * tanh(X[b,q,d] + Y[b,k,d])
    u = _einsum("d,bqkd->bqk", v, torch.tanh(X[:, :, None] + Y[:, None]))
    # P[b,q,k] = if true then exp(u[b,q,k] - max(k) u[b,q,k]) / sum(k) exp(u[b,q,k] - max(k)
    #     u[b,q,k]) else 0
    max_P_q = _amax(u, 2, -math.inf)
    exp_P_qk = torch.exp(u - max_P_q[..., None])
    P = _divide(exp_P_qk, exp_P_qk.sum(-1)[..., None])
    return P


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "X": torch.randn(2, 150, 64, device=device, dtype=torch.float32),
        "Y": torch.randn(2, 203, 64, device=device, dtype=torch.float32),
        "v": torch.randn(64, device=device, dtype=torch.float32),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = pointer(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("P", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
