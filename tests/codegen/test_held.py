"""What is held for several readers is what each of them reads: exponents, extremes, names, kept rows."""

from __future__ import annotations

import numpy as np
import pytest

from tests.passes.meanings import kernel, meant, results, same

HEAD = "over b\n    along q, k\n    S[q,k] = sum(d) Q[q,d] * K[k,d]"
CASES = {
    "an entropy over pairs, whose scale is another at every position": """
    Q[b,q,d], K[b,j,k,d], w[b,j]) -> H[b,q]:
    over b
    along q, j, k
    S[q,j,k] = max(w[j], 0.1) * sum(d) Q[q,d] * K[j,k,d]
    m[q] = max(j, k) S[q,j,k]
    H[q] = (sum(j, k) exp(S[q,j,k] - m[q]) * (S[q,j,k] - m[q])) / sum(j, k) exp(S[q,j,k] - m[q])""",
    "an exponent that another sum reads, too": f"""
    Q[b,q,d], K[b,k,d]) -> O[b,q], A[b,q]:
    {HEAD}
    O[q] = sum(k) sqrt(1 + exp(0 - 900 * abs(S[q,k])))
    A[q] = sum(k) (0 - 900 * abs(S[q,k]))""",
    "an entropy beside a sum of its exponents": f"""
    Q[b,q,d], K[b,k,d]) -> H[b,q], A[b,q]:
    {HEAD}
    m[q] = max(k) 400 * S[q,k]
    H[q] = sum(k) exp(400 * S[q,k] - m[q]) * (400 * S[q,k] - m[q])
    A[q] = sum(k) (400 * S[q,k] - m[q])""",
    "a row of the first pass, declared in another order": f"""
    Q[b,q,d], K[b,k,d], V[b,k,e]) -> O[b,q,e], m[q,b]:
    {HEAD}
    m[q] = sum(k) S[q,k]
    O[q,e] = sum(k where S[q,k] > m[q] / 9) S[q,k] * V[k,e]""",
    "divisors that repeat": f"""
    Q[b,q,d], K[b,k,d], V[b,k,e]) -> O[b,q,e]:
    {HEAD}
    n[k] = sum(d) K[k,d] * K[k,d]
    O[q,e] = sum(k) S[q,k] / (n[k] * n[k]) * V[k,e]""",
    "names like those of locals": f"""
    Q[b,q,d], K[b,k,d], m_tile[b,q], m_old[b,q], l_tile[b,q]) -> O[b,q]:
    {HEAD}
    m[q] = max(k) S[q,k]
    l[q] = sum(k) exp(S[q,k] - m[q])
    O[q] = (sum(k) exp(S[q,k] - m[q]) * m_tile[q] * S[q,k]) / l[q] + m_old[q] * l_tile[q]""",
    "counts at positions": f"""
    Q[b,q,d], K[b,k,d], V[b,k,e]) -> O[b,q,e]:
    {HEAD}
    n[k] = sum(d where K[k,d] > 0) 1
    O[q,e] = sum(k) S[q,k] * (n[k] // 2) * V[k,e]""",
    "extremes of integers, and of none of them": f"""
    Q[b,q,d], K[b,k,d]) -> O[b,q], most[b,q], least[b,q]:
    {HEAD}
    most[q] = max(k where S[q,k] > 1) (k + 1)
    least[q] = min(k where Q[q,0] < 0.31 and k < 1) 2
    O[q] = sum(k) S[q,k]""",
    "two tensors of groups": """
    A[b,g,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e]:
    over b, h with g = h // (|h| // |g|)
    along q, k
    a[q] = sum(d) A[q,d] * A[q,d]
    c[q] = max(d) A[q,d]
    O[q,e] = sum(k) relu(a[q] - c[q] * K[k,0]) * V[k,e]""",
}
SIZES = {"b": 5, "h": 4, "g": 2, "q": 5, "k": 9, "j": 3, "d": 4, "e": 3}


@pytest.mark.parametrize("keys", [9, 0])
@pytest.mark.parametrize("name", CASES)
def test_every_reader_reads_what_it_means(name: str, keys: int) -> None:
    text = f"pattern several({CASES[name].strip()}\n"
    cascade = meant(text)
    rng = np.random.default_rng(0)
    sizes = SIZES | {"k": keys}
    values = {t.name: rng.standard_normal([sizes[i.name] for i in t.indices]) for t in cascade.inputs}
    same(kernel(text, values, 2), results(cascade, values))
