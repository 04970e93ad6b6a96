"""What checked patterns compute, against NumPy written by hand: positions, heads, splits, recurrences."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attncc.ir.check import check
from attncc.ir.evaluate import evaluate, outputs
from attncc.source import Source
from attncc.syntax.parser import parse

Array = NDArray[Any]

RANDOM = np.random.default_rng(0)


def draw(*shape: int) -> Array:
    return RANDOM.standard_normal(shape)


def run(text: str, **values: Array | int | float | bool) -> tuple[Array, ...]:
    source = Source("test.attn", text)
    cascade = check(parse(source), source)
    return outputs(cascade, evaluate(cascade, values))


def attend(S: Array, V: Array, see: Array) -> Array:
    """One head: a softmax over what each row sees; a row that sees nothing is 0."""
    weights = np.where(see, np.exp(S), 0)
    total = weights.sum(-1, keepdims=True)
    return np.asarray((weights / np.where(total == 0, 1, total)) @ V)


WINDOW = """pattern p(Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], window: int = 3) -> O[b,h,q,e]:
    over b, h with g = h // (|h| // |g|)
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    P[q,k] = softmax(k where k <= q and q - k < window) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
"""


def test_prefill_chunk_and_decode_are_one_text() -> None:
    """The last query is the last key; four query heads share two key heads."""
    Q, K, V = draw(2, 4, 7, 3), draw(2, 2, 7, 3), draw(2, 2, 7, 5)
    see = np.array([[k <= q and q - k < 3 for k in range(7)] for q in range(7)])
    whole = np.stack(
        [[attend(Q[b, h] @ K[b, h // 2].T, V[b, h // 2], see) for h in range(4)] for b in range(2)]
    )
    for queries in (7, 3, 1):
        (found,) = run(WINDOW, Q=Q[:, :, 7 - queries :], K=K, V=V)
        np.testing.assert_allclose(found, whole[:, :, 7 - queries :], rtol=1e-12)


def test_more_queries_than_keys() -> None:
    """The first queries stand before every key, and see nothing."""
    Q, K, V = draw(1, 1, 5, 3), draw(1, 1, 2, 3), draw(1, 1, 2, 4)
    (found,) = run(WINDOW, Q=Q, K=K, V=V)
    assert not found[0, 0, :3].any()
    np.testing.assert_allclose(found[0, 0, 3], V[0, 0, 0], rtol=1e-12)


def test_ragged_starts() -> None:
    text = WINDOW.replace("window: int = 3", "window: int = 3, start[b]: int").replace(
        "to k", "to k at start[b]"
    )
    Q, K, V = draw(2, 1, 2, 3), draw(2, 1, 6, 3), draw(2, 1, 6, 4)
    (found,) = run(text, Q=Q, K=K, V=V, start=np.array([0, 4]))
    for b, start in enumerate((0, 4)):
        see = np.array([[k <= q and q - k < 3 for k in range(6)] for q in (start, start + 1)])
        np.testing.assert_allclose(found[b, 0], attend(Q[b, 0] @ K[b, 0].T, V[b, 0], see), rtol=1e-12)


def test_blocks_with_a_ragged_end() -> None:
    text = """pattern p(K[b,k,d], q0[q]) -> M[b,n,d], T[b,k], L[b,q]:
    over b
    align q to k
    split k into n, i by 3
    M[n,d] = mean(i) K[n,i,d]
    c[k] = sum(n, i where n * 3 + i <= k) K[n,i,0]
    T[k] = c[k] + max(i) K[k // 3, i, 1]
    L[q] = q0[q] + T[q] + M[q // 3, 0]
"""
    K, q0 = draw(2, 8, 2), draw(2)
    M, T, L = run(text, K=K, q0=q0)
    blocks = [K[:, n : n + 3] for n in (0, 3, 6)]
    np.testing.assert_allclose(M, np.stack([x.mean(1) for x in blocks], 1), rtol=1e-12)
    top = np.stack([x[..., 1].max(1) for x in blocks], 1)[:, np.arange(8) // 3]
    np.testing.assert_allclose(T, K[..., 0].cumsum(1) + top, rtol=1e-12)
    np.testing.assert_allclose(L, q0 + T[:, 6:] + M[:, 2:, 0], rtol=1e-12)


def test_heads_that_are_split() -> None:
    text = """pattern p(imp[b,h,q], K[b,g,q]) -> G[b,g,q], O[b,h,q]:
    over b, h
    split h into g, r by |h| // |g|
    along q
    G[g,q] = sum(r) imp[g,r,q] * (r + 1)
    O[q] = G[q] * imp[q] + K[q]
"""
    imp, K = draw(2, 6, 4), draw(2, 2, 4)
    G, O = run(text, imp=imp, K=K)
    np.testing.assert_allclose(G, np.einsum("bgrq,r->bgq", imp.reshape(2, 2, 3, 4), [1, 2, 3]), rtol=1e-12)
    np.testing.assert_allclose(O, G.repeat(3, 1) * imp + K.repeat(3, 1), rtol=1e-12)


def test_scan_and_delta_rule() -> None:
    text = """pattern p(K[k,d], V[k,e], beta[k], S0[d,e]) -> U[k,e], last[d,e], c[q]:
    along k
    align j to k
    align q to k
    A[k,j] = sum(d) K[k,d] * K[j,d]
    U[k,e] = beta[k] * (V[k,e] - sum(j where j < k) A[k,j] * U[j,e])
    S[k,d,e] = (if k == 0 then S0[d,e] else beta[k] * S[k - 1,d,e]) + K[k,d] * U[k,e]
    last[d,e] = S[|k| - 1,d,e]
    c[q] = sum(j where j <= q) beta[j]
"""
    K, V, beta, S0 = draw(6, 3), draw(6, 2), RANDOM.random(6), draw(3, 2)
    U, last, c = run(text, K=K, V=V, beta=beta, S0=S0)
    state, kept, wanted = np.zeros((3, 2)), S0, []
    for t in range(6):
        u = beta[t] * (V[t] - K[t] @ state)
        state = state + np.outer(K[t], u)
        kept = (kept if t == 0 else beta[t] * kept) + np.outer(K[t], u)
        wanted.append(u)
    np.testing.assert_allclose(U, np.array(wanted), rtol=1e-12)
    np.testing.assert_allclose(last, kept, rtol=1e-12)
    np.testing.assert_allclose(c, beta.cumsum(), rtol=1e-12)


def test_a_place_found_is_a_position() -> None:
    """The last three queries of eight keys: the place of the largest is counted as keys are."""
    text = """pattern p(x[b,q], y[b,k]) -> at[b], there[b], first[b]:
    over b
    align q to k
    at = argmax(q) x[q]
    there = y[at]
    first = argmax(k) y[k]
"""
    x, y = draw(4, 3), draw(4, 8)
    at, there, first = run(text, x=x, y=y)
    np.testing.assert_array_equal(at, x.argmax(1) + 5)
    np.testing.assert_array_equal(there, y[np.arange(4), x.argmax(1) + 5])
    np.testing.assert_array_equal(first, y.argmax(1))


def test_selection_of_everything_and_of_nothing() -> None:
    text = WINDOW.replace("window: int = 3", "picks: int").replace(
        "k <= q and q - k < window", "k <= q and top(k where k <= q, count = picks) S[q,k]"
    )
    Q, K, V = draw(1, 2, 4, 3), draw(1, 1, 6, 3), draw(1, 1, 6, 4)
    (everything,) = run(text, Q=Q, K=K, V=V, picks=6)
    np.testing.assert_allclose(everything, run(WINDOW, Q=Q, K=K, V=V, window=6)[0], rtol=1e-12)
    (nothing,) = run(text, Q=Q, K=K, V=V, picks=0)
    assert not nothing.any()
    (best,) = run(text, Q=Q, K=K, V=V, picks=1)
    for h in range(2):
        for n, q in enumerate(range(2, 6)):
            scores = Q[0, h, n] @ K[0, 0, : q + 1].T
            np.testing.assert_allclose(best[0, h, n], V[0, 0, scores.argmax()], rtol=1e-12)
