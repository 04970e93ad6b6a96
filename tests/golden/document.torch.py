"""Documents packed in one sequence, each causal by itself (intra-document masking, arXiv 2402.13991).

`doc` gives every position the number of its document, in ascending order; a query reads that of its own
position, also where queries are fewer than keys. Positions are not counted anew in a document.

(1) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(2) P[q,k] = softmax(k where k <= q and doc[k] == doc[q]) S[q,k]
(3) O[q,e] = sum(k) P[q,k] * V[k,e]
(4) lse[q] = logsumexp(k where k <= q and doc[k] == doc[q]) S[q,k]

As it runs:

    seen: k <= q + (|k| - |q|) and doc[k] == doc[q + (|k| - |q|)]
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P_max[q] = max(k where seen) S[q,k]
    P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O[q,e] = O_total[q,e] / P_total[q]

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: P_max[q], P_total[q], O_total[q,e].

Edit the pattern, not this file.
"""

import math
import weakref

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


ASCENDING = weakref.WeakValueDictionary()  # tables found sorted


def check_sorted(name, index, table, axis):
    """A table never falls along an index. One on a GPU that was found so is not looked at again."""
    captured = table.is_cuda and torch.cuda.is_current_stream_capturing()
    counted = table.is_cuda and not table.is_inference()
    key = (id(table), axis, table._version) if counted else None
    if key and not captured and ASCENDING.get(key) is table:
        return
    row = table.movedim(axis, -1)
    falls = row[..., 1:] < row[..., :-1]
    message = f"`{name}` is not sorted along `{index}`, as `assume sorted {name}` says: sort it, "
    message += "or take that line out of the pattern, which then visits every tile"
    if captured:
        torch._assert_async(~falls.any(), message)
        return
    if falls.any():
        place = falls.nonzero()[0, -1].item()
        raise ValueError(f"{message}; it falls behind {index} = {place}")
    if key:
        ASCENDING[key] = table


KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# rows and columns of a tile
BLOCK_Q = 128
BLOCK_K = 128


def accumulator(tensor):
    """The kind that sums are held in: float64 for float64, otherwise float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def count_at_most(table, limits):
    """How many elements of each sorted row of a table are at most each limit of that row."""
    lead = torch.broadcast_shapes(table.shape[:-1], limits.shape[:-1])
    rows, limits = (x.expand(*lead, x.shape[-1]).contiguous() for x in (table, limits))
    return torch.searchsorted(rows, limits, right=True)


def divide(a, b):
    """a / b, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    nothing = (a == 0) & (b == 0)
    return torch.where(nothing, 0.0, a / torch.where(nothing, 1.0, b))


def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return torch.where(m == -math.inf, 0.0, m)


def gather(tensor, *at):
    """`tensor[at]`, positions broadcast together; 0 where one lies outside."""
    at = [torch.as_tensor(place, device=tensor.device) for place in at]
    inside = torch.ones((), dtype=torch.bool, device=tensor.device)
    for place, size in zip(at, tensor.shape):
        inside = inside & (place >= 0) & (place < size)
    if tensor.numel() == 0:
        return torch.zeros(inside.shape, dtype=tensor.dtype, device=tensor.device)
    near = tuple(place.clamp(0, size - 1) for place, size in zip(at, tensor.shape))
    return torch.where(
        inside, tensor[near], torch.zeros((), dtype=tensor.dtype, device=tensor.device)
    )


def lowest(x):
    """The least of a number over all heads."""
    return int(x.min()) if x.numel() else 0


def walk(tiles, block, end):
    """(start, stop, seen whole) of every tile."""
    for steps, whole in tiles:
        for n in steps:
            yield n * block, min((n + 1) * block, end), whole


def document(Q, K, V, doc):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], doc[b,k] -> O[b,h,q,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("doc", "b k", doc),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [("doc", doc)], [], KINDS)
    check_sorted("doc", "k", doc, 1)
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    # sums of shorter integers would wrap around
    doc = doc.long()
    O = Q.new_empty((NB, NH, NQ, E))
    device, kind = Q.device, accumulator(Q)
    b = torch.arange(NB, device=device)[:, None]
    h = torch.arange(NH, device=device)[None, :]
    for q0 in range(0, NQ, BLOCK_Q):
        q1 = min(q0 + BLOCK_Q, NQ)
        q = torch.arange(q0, q1, device=device)
        # state of P_max[q] = max(k where seen) S[q,k]
        P_max_q = torch.full([NB, NH, q1 - q0], -math.inf, device=device, dtype=kind)
        # state of P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
        P_total_q = torch.full([NB, NH, q1 - q0], 0.0, device=device, dtype=kind)
        # state of O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
        O_total_qe = torch.full([NB, NH, q1 - q0, E], 0.0, device=device, dtype=kind)
        Q_qd = Q[:, :, q0:q1].to(kind)
        doc_q = gather(doc, b[..., None], q + (NK - NQ))
        # tiles of k that these rows see, and which of them whole
        last = q1 - 1
        doc_at0 = gather(doc, b, max(q0 + NK - NQ, 0))
        doc_count0 = count_at_most(
            gather(doc, b[..., None], torch.arange(NK, device=device)), (doc_at0 - 1)[..., None]
        )[..., 0]
        lowest0 = lowest(doc_count0)
        begin = max(0, lowest0)
        end = max(0, min(NK + last - NQ + 1, NK if last + (NK - NQ) >= 0 else 0))
        lo = begin // BLOCK_K
        hi = (BLOCK_K + end - 1) // BLOCK_K if begin < end else lo
        tiles = (
            (range(lo, hi), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            k = torch.arange(k0, k1, device=device)
            # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            K_kd = K[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            S_qk = Q_qd @ K_kd.mT
            # P_max[q] = max(k where seen) S[q,k]
            S_seen_qk = S_qk
            if not whole:
                # seen: k < |k| and k <= q + (|k| - |q|) and doc[k] == doc[q + (|k| - |q|)]
                doc2_k = doc[:, k0:k1][:, None, ...]
                seen_qk = (
                    (k[None, :] <= (q + (NK - NQ))[:, None])
                    & (doc2_k[..., None, :] == doc_q[..., :, None])
                )
                S_seen_qk = torch.where(seen_qk, S_seen_qk, -math.inf)
            P_max_tile_q = S_seen_qk.amax(-1)
            P_max_old_q = P_max_q
            P_max_q = torch.maximum(P_max_old_q, P_max_tile_q * (1 / math.sqrt(D)))
            # P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
            alpha_q = torch.exp2(
                P_max_old_q * 1.4426950408889634 - finite(P_max_q) * 1.4426950408889634
            )
            exp_S_seen_qk = torch.exp2(
                S_seen_qk * (1.4426950408889634 / math.sqrt(D))
                - (finite(P_max_q) * 1.4426950408889634)[..., :, None]
            )
            P_total_tile_q = exp_S_seen_qk.sum(-1)
            P_total_q = P_total_q * alpha_q + P_total_tile_q
            # O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
            V_ke = V[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            O_total_qe = O_total_qe * alpha_q[..., :, None] + exp_S_seen_qk @ V_ke
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


def _take(x, at):
    """x at positions along some of its axes, `at` = {axis: positions}; 0 where one of them lies outside."""
    where = [slice(None)] * x.ndim
    for axis, i in at.items():
        size = x.shape[axis]
        inside = (i >= 0) & (i < size)
        where[axis] = torch.where(inside, i, size) if torch.is_tensor(i) else i if inside else size
        x = torch.nn.functional.pad(x, [0, 0] * (x.ndim - 1 - axis) + [0, 1])
    return x[tuple(where)]


def _amax(x, dim, nothing):
    """The largest along an axis, which may be empty."""
    return x.amax(dim) if x.shape[dim] else torch.full_like(x.sum(dim), nothing)


def reference(Q, K, V, doc):
    """`document`: dense, differentiable, any device and dtype."""
    # sums of shorter integers would wrap around
    doc = doc.long()
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # P[b,h,q,k] = if k <= q + (|k| - |q|) and doc[b,k] == doc[b, q + (|k| - |q|)] then
    #     exp(S[b,h,q,k] - max(k where k <= q + (|k| - |q|) and doc[b,k] == doc[b, q + (|k| - |q|)])
    #     S[b,h,q,k]) / sum(k where k <= q + (|k| - |q|) and doc[b,k] == doc[b, q + (|k| - |q|)])
    #     exp(S[b,h,q,k] - max(k where k <= q + (|k| - |q|) and doc[b,k] == doc[b, q + (|k| - |q|)])
    #     S[b,h,q,k]) else 0
    at_q = q + (NK - NQ)
    where_qk = (k <= at_q[:, None]) & (doc[:, None] == _take(doc, {1: at_q})[..., None])
    max_P_q = _amax(torch.where(where_qk[:, None], S, -math.inf), 3, -math.inf)
    exp_P_qk = torch.exp(torch.where(where_qk[:, None], S - max_P_q[..., None], -math.inf))
    P = _divide(exp_P_qk, exp_P_qk.sum(-1)[..., None])
    # O[b,h,q,e] = sum(k) P[b,h,q,k] * V[b, h // (|h| // |g|), k, e]
    O = _einsum("bhqk,bhke->bhqe", P, V[:, h // (NH // NG)])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = "cpu"
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "doc": (torch.arange(203, device=device) // 40).expand(2, 203).contiguous(),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = document(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
