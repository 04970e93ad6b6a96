"""Uni-Encoder's arrow: candidates see the history and themselves, the history sees all (arXiv 2106.01263).

`segment` is 0 for the history, which comes first, then 1 and on for the candidates; each counts its positions
from where the history ends. The paper's other variants see everything ("square") or their segment alone
("diagonal").

(1) history[q,k] = segment[q] == 0 or segment[k] == 0
(2) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(3) P[q,k] = softmax(k where history[q,k] or segment[q] == segment[k]) S[q,k]
(4) O[q,e] = sum(k) P[q,k] * V[k,e]

As it runs:

    seen: (q + (|k| - |q|) >= 0 and segment[q + (|k| - |q|)] == 0 or segment[k] == 0 or q + (|k| -
        |q|) >= 0 and segment[q + (|k| - |q|)] != 0) and (segment[q + (|k| - |q|)] == 0 or
        segment[k] == 0) or q + (|k| - |q|) >= 0 and segment[q + (|k| - |q|)] == segment[k]
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P_max[q] = max(k where seen) S[q,k]
    P_total[q] = sum(k where seen) exp(S[q,k] - finite(P_max[q]))
    O_total[q,e] = sum(k where seen) V[k,e] * exp(S[q,k] - finite(P_max[q]))
    O[q,e] = O_total[q,e] / P_total[q]

One pass over k for every tile of rows q,
over 3 ranges of tiles that its predicate leaves live.
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


def highest(x):
    """The greatest of a number over all heads."""
    return int(x.max()) if x.numel() else 0


def lowest(x):
    """The least of a number over all heads."""
    return int(x.min()) if x.numel() else 0


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


def uni_encoder(Q, K, V, segment):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], segment[b,k] -> O[b,h,q,e], on any device.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("segment", "b k", segment),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V)], [("segment", segment)], [], KINDS)
    check_sorted("segment", "k", segment, 1)
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    # sums of shorter integers would wrap around
    segment = segment.long()
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
        segment_q = gather(segment, b[..., None], q + (NK - NQ))
        # tiles of k that these rows see, and which of them whole
        last = q1 - 1
        segment_count0 = count_at_most(
            gather(segment, b[..., None], torch.arange(NK, device=device)),
            torch.tensor([-1], device=device),
        )[..., 0]
        lowest0 = lowest(segment_count0)
        segment_count1 = count_at_most(
            gather(segment, b[..., None], torch.arange(NK, device=device)),
            torch.tensor([0], device=device),
        )[..., 0]
        highest0 = highest(segment_count1 - 1)
        segment_at0 = gather(segment, b, max(q0 + NK - NQ, 0))
        segment_count2 = count_at_most(
            gather(segment, b[..., None], torch.arange(NK, device=device)),
            (segment_at0 - 1)[..., None],
        )[..., 0]
        lowest1 = lowest(segment_count2)
        segment_at1 = gather(segment, b, max(last + NK - NQ, 0))
        segment_count3 = count_at_most(
            gather(segment, b[..., None], torch.arange(NK, device=device)), segment_at1[..., None]
        )[..., 0]
        highest1 = highest(segment_count3 - 1)
        end0_segment_q = gather(segment, b[..., None], most(q + (NK - NQ), 0))
        end0 = min(
            min(
                min(NK, NK if last + (NK - NQ) >= 0 else 0),
                highest(torch.where(end0_segment_q <= 0, NK - 1, -1)) + 1,
            ),
            highest(torch.where(end0_segment_q >= 0, NK - 1, -1)) + 1,
        )
        hi0 = (BLOCK_K + end0 - 1) // BLOCK_K
        inner_end0_segment_q = gather(segment, b[..., None], most(q + (NK - NQ), 0))
        inner_end0 = min(
            min(
                min(NK, NK if q0 + (NK - NQ) >= 0 else 0),
                lowest(torch.where(inner_end0_segment_q <= 0, NK - 1, -1)) + 1,
            ),
            lowest(torch.where(inner_end0_segment_q >= 0, NK - 1, -1)) + 1,
        )
        full_hi0 = inner_end0 // BLOCK_K
        begin1 = max(0, lowest0)
        end1 = max(0, min(NK, highest0 + 1))
        lo1 = begin1 // BLOCK_K
        hi1 = (BLOCK_K + end1 - 1) // BLOCK_K if begin1 < end1 else lo1
        begin2 = max(0, lowest1)
        end2 = max(0, min(min(NK, NK if last + (NK - NQ) >= 0 else 0), highest1 + 1))
        lo2 = begin2 // BLOCK_K
        hi2 = (BLOCK_K + end2 - 1) // BLOCK_K if begin2 < end2 else lo2
        swap00 = lo1 < 0
        left_lo00 = lo1 if swap00 else 0
        left_hi00 = hi1 if swap00 else hi0
        left_full_hi00 = lo1 if swap00 else full_hi0
        right_lo00 = 0 if swap00 else lo1
        right_hi00 = hi0 if swap00 else hi1
        right_full_hi00 = full_hi0 if swap00 else lo1
        swap01 = lo2 < right_lo00
        left_lo01 = lo2 if swap01 else right_lo00
        left_hi01 = hi2 if swap01 else right_hi00
        left_full_hi01 = lo2 if swap01 else right_full_hi00
        right_lo01 = right_lo00 if swap01 else lo2
        right_hi01 = right_hi00 if swap01 else hi2
        right_full_hi01 = right_full_hi00 if swap01 else lo2
        swap10 = left_lo01 < left_lo00
        left_lo10 = left_lo01 if swap10 else left_lo00
        left_hi10 = left_hi01 if swap10 else left_hi00
        left_full_hi10 = left_full_hi01 if swap10 else left_full_hi00
        right_lo10 = left_lo00 if swap10 else left_lo01
        right_hi10 = left_hi00 if swap10 else left_hi01
        right_full_hi10 = left_full_hi00 if swap10 else left_full_hi01
        stop0 = max(
            min(left_hi10, max(right_lo10, left_full_hi10))
            if left_hi10 <= right_hi10
            else left_hi10,
            left_lo10,
        )
        full_start0 = min(left_lo10, stop0)
        full_stop0 = min(max(left_full_hi10, full_start0), stop0)
        start1 = max(right_lo10, stop0)
        stop1 = max(
            min(right_hi10, max(right_lo01, right_full_hi10))
            if right_hi10 <= right_hi01
            else right_hi10,
            start1,
        )
        full_start1 = min(max(right_lo10, start1), stop1)
        full_stop1 = min(max(right_full_hi10, full_start1), stop1)
        start2 = max(right_lo01, stop1)
        stop2 = max(right_hi01, start2)
        full_start2 = min(max(right_lo01, start2), stop2)
        full_stop2 = min(max(right_full_hi01, full_start2), stop2)
        tiles = (
            (range(left_lo10, full_start0), False),
            (range(full_start0, full_stop0), True),
            (range(full_stop0, stop0), False),
            (range(start1, full_start1), False),
            (range(full_start1, full_stop1), True),
            (range(full_stop1, stop1), False),
            (range(start2, full_start2), False),
            (range(full_start2, full_stop2), True),
            (range(full_stop2, stop2), False),
        )
        for k0, k1, whole in walk(tiles, BLOCK_K, NK):
            # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            K_kd = K[:, :, k0:k1].index_select(1, (h // (NH // NG)).flatten()).to(kind)
            S_qk = Q_qd @ K_kd.mT
            # P_max[q] = max(k where seen) S[q,k]
            S_seen_qk = S_qk
            if not whole:
                # seen: k < |k| and ((q + (|k| - |q|) >= 0 and segment[q + (|k| - |q|)] == 0 or
                #     segment[k] == 0 or q + (|k| - |q|) >= 0 and segment[q + (|k| - |q|)] != 0) and
                #     (segment[q + (|k| - |q|)] == 0 or segment[k] == 0) or q + (|k| - |q|) >= 0 and
                #     segment[q + (|k| - |q|)] == segment[k])
                segment2_k = segment[:, k0:k1][:, None, ...]
                seen_qk = (
                    (
                        (
                            (
                                (
                                    ((q + (NK - NQ) >= 0) & (segment_q == 0))[..., :, None]
                                    | (segment2_k == 0)[..., None, :]
                                )
                                | ((q + (NK - NQ) >= 0) & (segment_q != 0))[..., :, None]
                            )
                            & ((segment_q == 0)[..., :, None] | (segment2_k == 0)[..., None, :])
                        )
                        | (
                            (q + (NK - NQ) >= 0)[:, None]
                            & (segment_q[..., :, None] == segment2_k[..., None, :])
                        )
                    )
                    & torch.ones([q1 - q0, k1 - k0], device=device, dtype=torch.bool)
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


def reference(Q, K, V, segment):
    """`uni_encoder`: dense, differentiable, any device and dtype."""
    # sums of shorter integers would wrap around
    segment = segment.long()
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    # history[b,q,k] = segment[b, q + (|k| - |q|)] == 0 or segment[b,k] == 0
    history = (_take(segment, {1: q + (NK - NQ)}) == 0)[..., None] | (segment == 0)[:, None]
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # P[b,h,q,k] = if history[b,q,k] or segment[b, q + (|k| - |q|)] == segment[b,k] then
    #     exp(S[b,h,q,k] - max(k where history[b,q,k] or segment[b, q + (|k| - |q|)] ==
    #     segment[b,k]) S[b,h,q,k]) / sum(k where history[b,q,k] or segment[b, q + (|k| - |q|)] ==
    #     segment[b,k]) exp(S[b,h,q,k] - max(k where history[b,q,k] or segment[b, q + (|k| - |q|)]
    #     == segment[b,k]) S[b,h,q,k]) else 0
    at_q = q + (NK - NQ)
    where_q = _take(segment, {1: at_q}) == 0
    where_qk = ((at_q >= 0) & ~where_q)[..., None] & (~(segment == 0))[:, None]
    where_P_qk = ((at_q >= 0) & where_q)[..., None] | (segment == 0)[:, None] | where_qk
    where_P_qk_2 = _take(segment, {1: at_q})[..., None] == segment[:, None]
    where_P_qk_3 = where_P_qk & history | (at_q >= 0)[:, None] & where_P_qk_2
    max_P_q = _amax(torch.where(where_P_qk_3[:, None], S, -math.inf), 3, -math.inf)
    exp_P_qk = torch.exp(torch.where(where_P_qk_3[:, None], S - max_P_q[..., None], -math.inf))
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
        "segment": (torch.arange(203, device=device) // 40).expand(2, 203).contiguous(),
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = uni_encoder(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
