"""DuoAttention while its heads are sorted: a gate mixes two softmaxes, over all and few (arXiv 2410.10819).

`alpha` is learned for each key head and kept between 0 and 1; heads that stay above a threshold become
`duo`'s full ones. The loss adds 0.05 times its mean.

(1) S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
(2) all[q,k] = softmax(k where k <= q) S[q,k]
(3) few[q,k] = softmax(k where k <= q and (q - k < window or k < sinks)) S[q,k]
(4) O[q,e] = sum(k) (alpha * all[q,k] + (1 - alpha) * few[q,k]) * V[k,e]

As it runs:

    seen: k <= q + (|k| - |q|) and (q + (|k| - |q|) - k < window or k < sinks)
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    all_max[q] = max(k where k <= q + (|k| - |q|)) S[q,k]
    all_total[q] = sum(k where k <= q + (|k| - |q|)) exp(S[q,k] - finite(all_max[q]))
    few_max[q] = max(k where seen) S[q,k]
    few_total[q] = sum(k where seen) exp(S[q,k] - finite(few_max[q]))
    O_total[q,e] = sum(k where k <= q + (|k| - |q|)) alpha * V[k,e] * exp(S[q,k] -
        finite(all_max[q]))
    O_sum2_total[q,e] = sum(k where seen) (1 - alpha) * V[k,e] * exp(S[q,k] - finite(few_max[q]))
    O[q,e] = O_total[q,e] / all_total[q] + O_sum2_total[q,e] / few_total[q]

One pass over k for every tile of rows q,
over one range of tiles that its predicate leaves live.
State of a row: all_max[q], all_total[q], few_max[q], few_total[q], O_total[q,e], O_sum2_total[q,e].

Edit the pattern, not this file.
"""

import contextlib
import math

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor


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


KINDS = (torch.float16, torch.bfloat16, torch.float32)

# tiles, warps and pipeline stages by the extents of features and the bytes of an element
TILES = {
    (64, 64, 2): {
        "BLOCK_Q": 64, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 4, "num_stages": 2,
    },
    (64, 64, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 64, "BLOCK_E": 64,
        "num_warps": 8, "num_stages": 2,
    },
    (128, 128, 2): {
        "BLOCK_Q": 64, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 4, "num_stages": 2,
    },
    (128, 128, 4): {
        "BLOCK_Q": 32, "BLOCK_K": 32, "BLOCK_D": 128, "BLOCK_E": 128,
        "num_warps": 8, "num_stages": 2,
    },
}


def describe(tensor, block):
    """A tensor for the copy engine, which loads blocks of it. Its rows have to be contiguous and to begin at
    multiples of 16 bytes; a tensor of another layout is copied."""
    unit = 16 // tensor.element_size()
    shape, strides = tensor.shape, tensor.stride()
    near = strides[-1] == 1 and tensor.data_ptr() % 16 == 0 and 0 not in shape
    if near and all(step and not step % unit for step in strides[:-1]):
        return TensorDescriptor(tensor, shape, strides, block)
    if 0 in shape:
        tensor = tensor.new_zeros([16] * tensor.dim())
    strides = [step if n > 1 else unit for n, step in zip(tensor.shape, tensor.stride())]
    strides[-1] = tensor.stride(-1) if tensor.shape[-1] > 1 else 1
    near = strides[-1] == 1 and tensor.data_ptr() % 16 == 0
    if not near or any(step == 0 or step % unit for step in strides[:-1]):
        wide = -(-tensor.shape[-1] // unit) * unit
        tensor = tensor.new_empty((*tensor.shape[:-1], wide))[..., : tensor.shape[-1]].copy_(tensor)
        strides = [*tensor.stride()[:-1], 1]
    return TensorDescriptor(tensor, list(tensor.shape), strides, block)


@triton.jit
def divide(a, b):
    """a / b to the last digit, where 0 / 0 is 0: the mean of nothing, a softmax over nothing."""
    return tl.where((a == 0) & (b == 0), 0.0, tl.math.div_rn(a * 1.0, b * 1.0))


@triton.jit
def finite(m):
    """A maximum as a scale: that of nothing, -inf, scales by 0."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit(do_not_specialize=["salpha_g", "window", "sinks", "NQ", "NK", "NB", "NH", "NG"])
def duo_train_kernel(
    Q, K, V, alpha, O,
    salpha_g,
    sO_b, sO_h, sO_q, sO_e,
    window, sinks,
    NQ, NK, NB, NH, NG,
    D: tl.constexpr, E: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):
    # one program: a tile of rows at one place of the batch; late rows see most, and come first
    pid = tl.program_id(0)
    tiles = tl.cdiv(NQ, BLOCK_Q)
    q0 = (tiles - 1 - pid % tiles) * BLOCK_Q
    h = (pid // tiles) % NH
    b = pid // tiles // NH
    q_in = tl.arange(0, BLOCK_Q)
    q = q0 + q_in
    e = tl.arange(0, BLOCK_E)
    k_in = tl.arange(0, BLOCK_K)
    alpha_here = alpha + (h // (NH // NG)).to(tl.int64) * salpha_g
    O_here = O + b.to(tl.int64) * sO_b + h.to(tl.int64) * sO_h
    # state of all_max[q] = max(k where seen) S[q,k]
    all_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of all_total[q] = sum(k where seen) exp(S[q,k] - finite(all_max[q]))
    all_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of few_max[q] = max(k where seen) S[q,k]
    few_max_q = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    # state of few_total[q] = sum(k where seen) exp(S[q,k] - finite(few_max[q]))
    few_total_q = tl.full([BLOCK_Q], 0.0, tl.float32)
    # state of O_total[q,e] = sum(k where seen) alpha * V[k,e] * exp(S[q,k] - finite(all_max[q]))
    O_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    # state of O_sum2_total[q,e] = sum(k where seen) (1 - alpha) * V[k,e] * exp(S[q,k] -
    #     finite(few_max[q]))
    O_sum2_total_qe = tl.full([BLOCK_Q, BLOCK_E], 0.0, tl.float32)
    Q_qd = Q.load([b, h, q0, 0]).reshape([BLOCK_Q, BLOCK_D])
    alpha_ = tl.load(alpha_here).to(tl.float32)
    last = tl.minimum(q0 + BLOCK_Q, NQ) - 1
    k_end = tl.maximum(0, NK + last - NQ + 1)
    k_hi = (BLOCK_K + k_end - 1) // BLOCK_K
    k_steps = k_hi
    # live tiles; all are tested
    for step in tl.range(0, k_steps):
        k0 = step * BLOCK_K
        k = k0 + k_in
        # S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
        K_kd = K.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_D])
        S_qk = tl.dot(Q_qd, tl.trans(K_kd), input_precision="ieee")
        # all_max[q] = max(k where seen) S[q,k]
        # seen: k < |k| and k <= q + (|k| - |q|)
        seen_qk = (k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None])
        S_seen_qk = tl.where(seen_qk, S_qk, float("-inf"))
        all_max_tile_q = tl.max(S_seen_qk, 1)
        all_max_old_q = all_max_q
        all_max_q = tl.maximum(all_max_old_q, all_max_tile_q * (1 / D ** 0.5))
        # all_total[q] = sum(k where seen) exp(S[q,k] - finite(all_max[q]))
        alpha2_q = tl.exp2(
            all_max_old_q * 1.4426950408889634 - finite(all_max_q) * 1.4426950408889634
        )
        exp_S_seen_qk = tl.exp2(
            S_seen_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(all_max_q) * 1.4426950408889634)[:, None]
        )
        all_total_tile_q = tl.sum(exp_S_seen_qk, 1)
        all_total_q = all_total_q * alpha2_q + all_total_tile_q
        # few_max[q] = max(k where seen) S[q,k]
        # seen: k < |k| and k <= q + (|k| - |q|) and (q + (|k| - |q|) - k < window or k < sinks)
        seen2_qk = (
            ((k < NK)[None, :] & (k[None, :] <= (q + (NK - NQ))[:, None]))
            & (((q + (NK - NQ))[:, None] - k[None, :] < window) | (k < sinks)[None, :])
        )
        S_seen2_qk = tl.where(seen2_qk, S_qk, float("-inf"))
        few_max_tile_q = tl.max(S_seen2_qk, 1)
        few_max_old_q = few_max_q
        few_max_q = tl.maximum(few_max_old_q, few_max_tile_q * (1 / D ** 0.5))
        # few_total[q] = sum(k where seen) exp(S[q,k] - finite(few_max[q]))
        alpha3_q = tl.exp2(
            few_max_old_q * 1.4426950408889634 - finite(few_max_q) * 1.4426950408889634
        )
        exp_S_seen2_qk = tl.exp2(
            S_seen2_qk * (1.4426950408889634 / D ** 0.5)
            - (finite(few_max_q) * 1.4426950408889634)[:, None]
        )
        few_total_tile_q = tl.sum(exp_S_seen2_qk, 1)
        few_total_q = few_total_q * alpha3_q + few_total_tile_q
        # O_total[q,e] = sum(k where seen) alpha * V[k,e] * exp(S[q,k] - finite(all_max[q]))
        exp_S_seen_seen_qk = tl.where(seen_qk, alpha_ * exp_S_seen_qk, 0.0)
        V_ke = V.load([b, h // (NH // NG), k0, 0]).reshape([BLOCK_K, BLOCK_E])
        O_total_qe = tl.dot(
            exp_S_seen_seen_qk.to(V_ke.dtype),
            V_ke,
            O_total_qe * alpha2_q[:, None],
            input_precision="ieee",
        )
        # O_sum2_total[q,e] = sum(k where seen) (1 - alpha) * V[k,e] * exp(S[q,k] -
        #     finite(few_max[q]))
        exp_S_seen2_seen_qk = tl.where(seen2_qk, (1 - alpha_) * exp_S_seen2_qk, 0.0)
        O_sum2_total_qe = tl.dot(
            exp_S_seen2_seen_qk.to(V_ke.dtype),
            V_ke,
            O_sum2_total_qe * alpha3_q[:, None],
            input_precision="ieee",
        )
    # O[q,e] = O_total[q,e] / all_total[q] + O_sum2_total[q,e] / few_total[q]
    ratio_O_total_qe = divide(O_total_qe, all_total_q[:, None])
    ratio_O_sum2_total_qe = divide(O_sum2_total_qe, few_total_q[:, None])
    O_qe = ratio_O_total_qe + ratio_O_sum2_total_qe
    tl.store(
        O_here + q0.to(tl.int64) * sO_q + q_in[:, None] * sO_q + e[None, :] * sO_e,
        O_qe.to(O.dtype.element_ty),
        mask=(q[:, None] < NQ),
    )


def duo_train(Q, K, V, alpha, window=256, sinks=128):
    """Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], alpha[g] -> O[b,h,q,e], on cuda:90.

    Tensors may have any strides. ValueError and TypeError name what does not fit.
    """
    sizes = extents(
        ("Q", "b h q d", Q),
        ("K", "b g k d", K),
        ("V", "b g k e", V),
        ("alpha", "g", alpha),
    )
    check_kinds([("Q", Q), ("K", K), ("V", V), ("alpha", alpha)], [], [], KINDS)
    check_number("window", window, int)
    check_number("sinks", sinks, int)
    NB, NH, NQ, D, NG, NK, E = (
        sizes["b"], sizes["h"], sizes["q"], sizes["d"], sizes["g"], sizes["k"], sizes["e"]
    )
    if NG == 0 or NH % NG:
        raise ValueError(f"|g| = {NG} does not divide |h| = {NH}")
    if max(sizes.values()) >= 1 << 29:
        raise ValueError(f"extents {sizes}: those of a kernel stay below 2**29")
    if not (Q.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"this kernel runs on a GPU, and `Q` is on {Q.device}")
    tile = TILES.get((D, E, Q.element_size()))
    if tile is None:
        raise ValueError(
            f"no tiles for d={D}, e={E} and {Q.element_size()} bytes an element: "
            "compile the pattern with --extent"
        )
    O = Q.new_empty((NB, NH, NQ, E))
    grid = triton.cdiv(NQ, tile["BLOCK_Q"]) * NB * NH
    if grid:
        with torch.cuda.device(Q.device) if Q.is_cuda else contextlib.nullcontext():
            duo_train_kernel[(grid,)](
                describe(Q, [1, 1, tile["BLOCK_Q"], tile["BLOCK_D"]]),
                describe(K, [1, 1, tile["BLOCK_K"], tile["BLOCK_D"]]),
                describe(V, [1, 1, tile["BLOCK_K"], tile["BLOCK_E"]]),
                alpha, O,
                *alpha.stride(), *O.stride(),
                window, sinks,
                NQ, NK, NB, NH, NG,
                D, E,
                **tile,
            )
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


def reference(Q, K, V, alpha, window=256, sinks=128):
    """`duo_train`: dense, differentiable, any device and dtype."""
    _, NH, NQ, D = Q.shape
    _, NG, NK, _ = K.shape
    h = torch.arange(NH, device=Q.device)
    q = torch.arange(NQ, device=Q.device)
    k = torch.arange(NK, device=Q.device)
    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)
    # all[b,h,q,k] = if k <= q + (|k| - |q|) then exp(S[b,h,q,k] - max(k where k <= q + (|k| - |q|))
    #     S[b,h,q,k]) / sum(k where k <= q + (|k| - |q|)) exp(S[b,h,q,k] - max(k where k <= q + (|k|
    #     - |q|)) S[b,h,q,k]) else 0
    where_qk = k <= (q + (NK - NQ))[:, None]
    max_all_q = _amax(torch.where(where_qk, S, -math.inf), 3, -math.inf)
    exp_all_qk = torch.exp(torch.where(where_qk, S - max_all_q[..., None], -math.inf))
    all = _divide(exp_all_qk, exp_all_qk.sum(-1)[..., None])
    # few[b,h,q,k] = if k <= q + (|k| - |q|) and (q + (|k| - |q|) - k < window or k < sinks) then
    #     exp(S[b,h,q,k] - max(k where k <= q + (|k| - |q|) and (q + (|k| - |q|) - k < window or k <
    #     sinks)) S[b,h,q,k]) / sum(k where k <= q + (|k| - |q|) and (q + (|k| - |q|) - k < window
    #     or k < sinks)) exp(S[b,h,q,k] - max(k where k <= q + (|k| - |q|) and (q + (|k| - |q|) - k
    #     < window or k < sinks)) S[b,h,q,k]) else 0
    where_few_qk = where_qk & (((q + (NK - NQ))[:, None] - k < window) | (k < sinks))
    max_few_q = _amax(torch.where(where_few_qk, S, -math.inf), 3, -math.inf)
    exp_few_qk = torch.exp(torch.where(where_few_qk, S - max_few_q[..., None], -math.inf))
    few = _divide(exp_few_qk, exp_few_qk.sum(-1)[..., None])
    # O[b,h,q,e] = sum(k) (alpha[h // (|h| // |g|)] * all[b,h,q,k] + (1 - alpha[h // (|h| // |g|)])
    #     * few[b,h,q,k]) * V[b, h // (|h| // |g|), k, e]
    at_h = h // (NH // NG)
    plus_O_qk = alpha[at_h][:, None, None] * all + (1 - alpha[at_h])[:, None, None] * few
    O = _einsum("bhqk,bhke->bhqe", plus_O_qk, V[:, at_h])
    return O


if __name__ == "__main__":
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {
        "Q": torch.randn(2, 4, 150, 64, device=device, dtype=torch.float32),
        "K": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "V": torch.randn(2, 2, 203, 64, device=device, dtype=torch.float32),
        "alpha": torch.rand(2, device=device, dtype=torch.float32) / 8,
        "window": 16,
        "sinks": 16,
    }
    floats = {
        name: x.double()
        for name, x in given.items()
        if torch.is_tensor(x) and x.is_floating_point()
    }
    made = duo_train(**given)
    meant = reference(**{**given, **floats})
    for name, x, y, allowed in (
        ("O", made, meant, 1e-5),
    ):
        row = torch.linalg.vector_norm(torch.where(y.isfinite(), y, 0), dim=-1).mean()
        error = torch.linalg.vector_norm(torch.where(x == y, 0, x - y), dim=-1).max() / row
        print(f"{name}: the worst row is {error:.1e} of a mean row off")
        assert error < allowed, f"{name} is wrong"
