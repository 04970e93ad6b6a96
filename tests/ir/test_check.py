"""What texts mean: the cascades of the language's own examples, and of what is easily got wrong."""

from __future__ import annotations

from textwrap import dedent

import pytest

from attncc.diagnostics import PatternError
from attncc.ir.cascade import Cascade, Demand, Index, Read, Reduce, reads, walk
from attncc.ir.check import check
from attncc.ir.show import show_equation, show_expr, show_tensor
from attncc.ir.verify import verified
from attncc.source import Source
from attncc.syntax.parser import parse

QKV = "Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e]"
HEADS = "over b, h with g = h // (|h| // |g|)"


def meant(text: str, outputs: tuple[str, ...] = ()) -> Cascade:
    """The cascade of a text, checked against the rules of cascades."""
    source = Source("test.attn", dedent(text).strip() + "\n")
    return verified(check(parse(source), source, outputs))


def said(cascade: Cascade, name: str) -> str:
    return show_equation(cascade.equation(name))


def read_in(cascade: Cascade, equation: str, tensor: str) -> set[str]:
    """How an equation reads a tensor, wherever in it that is."""
    return {show_expr(r) for r in reads(cascade.equation(equation).body) if r.tensor.name == tensor}


def lengths(cascade: Cascade) -> dict[str, str]:
    return {index.name: show_expr(length) for index, length in cascade.lengths}


def indices(cascade: Cascade) -> dict[str, Index]:
    tensors = (*cascade.inputs, *(e.tensor for e in cascade.equations))
    return {i.name: i for t in tensors for i in t.indices} | {i.name: i for i, _ in cascade.lengths}


def origins(cascade: Cascade) -> dict[str, str]:
    return {t.name: t.origin for t in cascade.inputs}


# The first page


def test_the_first_pattern() -> None:
    c = meant(f"""
        pattern streaming({QKV}, window: int = 1024, sinks: int = 4) -> O[b,h,q,e]:
            {HEADS}
            align q to k
            S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            P[q,k] = softmax(k where k <= q and (q - k < window or k < sinks)) S[q,k]
            O[q,e] = sum(k) P[q,k] * V[k,e]
    """)
    assert said(c, "S") == ("S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)")
    assert "k <= q + (|k| - |q|) and (q + (|k| - |q|) - k < window or k < sinks)" in said(c, "P")
    assert read_in(c, "O", "V") == {"V[b, h // (|h| // |g|), k, e]"}
    assert [show_tensor(t) for t in c.outputs] == ["O[b,h,q,e]"]
    assert dict(c.defaults) == {"window": 1024, "sinks": 4}
    assert origins(c) == {"Q": "input", "K": "input", "V": "input", "window": "scalar", "sinks": "scalar"}
    assert c.lengths == ()
    assert {i.name: (i.role, i.space) for i in indices(c).values()} == {
        "b": ("batch", "b"),
        "h": ("batch", "h"),
        "g": ("batch", "g"),
        "q": ("sequence", "k"),
        "k": ("sequence", "k"),
        "d": ("feature", "d"),
        "e": ("feature", "e"),
    }


def test_spans_are_those_of_the_source() -> None:
    text = "pattern p(Q[q,d]) -> O[q]:\n    along q\n    O[q] = 2 * sum(d) Q[q,d] - 1\n"
    c = check(parse(Source("p", text)), Source("p", text))
    (equation,) = c.equations
    assert text[equation.span.start : equation.span.end] == "O[q] = 2 * sum(d) Q[q,d] - 1"
    (reduce,) = [e for e in walk(equation.body) if isinstance(e, Reduce)]
    assert text[reduce.span.start : reduce.span.end] == "sum(d) Q[q,d]"


def test_kinds_and_origins_of_parameters() -> None:
    c = meant("""
        pattern p(
            Q[b,h,q,d], K[b,h,k,d], T[], W[q]: const, doc[b,k]: int, seen[k]: bool, span[h]: int, slope[h],
            block: int = 4, rate: int, picks: int, low: int, x: float = 2, f: bool = true
        ) -> O[b,h,q]:
            over b, h
            align q to k
            split k into n, i by block
            index c: (|k| - low) // 2 + 1
            far[q,n] = rank(n where n <= q // block) Q[q,0] + i0[n] < picks - 1
            i0[n] = sum(i where seen[n,i]) K[n,i,0]
            O[q] = T * W[q] + slope * x + (if f and doc[q] == 0 and q % rate < span then 1 else sum(c) c)
    """)
    assert {t.name: (t.kind, t.origin) for t in c.inputs} == {
        "Q": ("float", "input"),
        "K": ("float", "input"),
        "T": ("float", "input"),
        "W": ("float", "table"),
        "doc": ("int", "table"),
        "seen": ("bool", "table"),
        "span": ("int", "table"),
        "slope": ("float", "input"),
        "block": ("int", "static"),
        "rate": ("int", "scalar"),
        "picks": ("int", "static"),
        "low": ("int", "static"),
        "x": ("float", "scalar"),
        "f": ("bool", "scalar"),
    }
    assert c.defaults == (("block", 4), ("x", 2.0), ("f", True))
    assert isinstance(dict(c.defaults)["x"], float)
    assert {e.tensor.name: e.tensor.kind for e in c.equations} == {"i0": "float", "far": "bool", "O": "float"}
    assert read_in(c, "O", "slope") == {"slope[h]"}
    assert read_in(c, "O", "doc") == {"doc[b, q + (|k| - |q|)]"}
    assert read_in(c, "i0", "seen") == {"seen[n * block + i]"}


def test_a_count_is_known_at_compile_time_through_equations() -> None:
    c = meant("""
        pattern p(Q[q,d], picks: int, other: int, cut: int) -> O[q]:
            along q
            r[q,d] = rank(d) Q[q,d]
            O[q] = sum(d where r[q,d] + other < picks and d < cut) Q[q,d]
    """)
    assert origins(c) == {"Q": "input", "picks": "static", "other": "static", "cut": "scalar"}


# Positions


def test_positions_of_aligned_indices() -> None:
    c = meant("""
        pattern p(Q[q,d], g[k], E[r], t[q]) -> O[q]:
            align q to k
            align j to k
            align i to q
            c[k] = sum(j where j <= k) g[j]
            a[q] = c[q] + c[q - 1] + E[q - 3] + t[q - 1] + t[|k| - 1]
            u[k] = sum(q where q <= k) t[q] + t[k] + sum(i where i < k) t[i]
            last[q] = argmax(q) t[q] + 0 * q
            O[q] = sum(d) Q[q,d] * c[q] * u[q] * a[q]
    """)
    assert said(c, "c") == "c[k] = sum(j where j <= k) g[j]"
    assert read_in(c, "a", "c") == {"c[q + (|k| - |q|)]", "c[q + (|k| - |q|) - 1]"}
    assert read_in(c, "a", "E") == {"E[q + (|k| - |q|) - 3]"}
    # what an index is counted from cancels where it is read on its own axis
    assert read_in(c, "a", "t") == {"t[q - 1]", "t[|q| - 1]"}
    # i has no extent of its own, so that it is q over again
    assert read_in(c, "u", "t") == {"t[q]", "t[k - (|k| - |q|)]", "t[i]"}
    assert "sum(i where i + (|k| - |q|) < k)" in said(c, "u")
    assert "argmax(q) t[q] + (|k| - |q|)" in said(c, "last")
    assert lengths(c) == {"j": "|k|", "i": "|q|"}
    assert indices(c)["i"].space == indices(c)["j"].space == "k"


def test_chains_of_alignments() -> None:
    c = meant("""
        pattern p(a[b,i], q[b,j], k[b,l], start[b]: int) -> O[b,i], P[b,j]:
            over b
            align i to j
            align j to l
            O[i] = k[i] + q[i] + (if i < 3 then 1 else a[i])
            P[j] = a[j]
    """)
    assert read_in(c, "O", "k") == {"k[b, i + (|l| - |i|)]"}
    assert read_in(c, "O", "q") == {"q[b, i + |j| - |i|]"}
    assert read_in(c, "O", "a") == {"a[b,i]"}
    assert indices(c)["i"].space == "l"


def test_positions_that_start_somewhere() -> None:
    c = meant("""
        pattern p(Q[b,q,d], K[b,k,d], start[b]: int) -> O[b,q]:
            over b
            align q to k at start
            near[q,k] = k <= q
            O[q] = sum(d) Q[q,d] * K[q,d] + sum(k where near[q,k]) Q[k,0]
    """)
    assert said(c, "near") == "near[b,q,k] = k <= q + start[b]"
    assert read_in(c, "O", "K") == {"K[b, q + start[b], d]"}
    assert read_in(c, "O", "Q") == {"Q[b,q,d]", "Q[b, k - start[b], 0]"}


def test_splits_of_splits() -> None:
    c = meant("""
        pattern p(K[b,k,d], block: int = 8) -> O[b,m,d]:
            over b
            along k
            split k into n, i by block
            split n into m, j by 2
            split d into x, y by 4
            A[k] = sum(d) K[k,d]
            B[n] = max(i) A[n,i]
            C[m] = max(j) B[m,j] + max(j, i) A[m,j,i]
            O[m,d] = C[m] * K[m,0,0,d] + sum(x, y) K[m,1,0,x,y]
    """)
    assert read_in(c, "B", "A") == {"A[b, n * block + i]"}
    assert read_in(c, "C", "B") == {"B[b, m * 2 + j]"}
    assert read_in(c, "C", "A") == {"A[b, (m * 2 + j) * block + i]"}
    assert read_in(c, "O", "K") == {
        "K[b, (m * 2 + 0) * block + 0, d]",
        "K[b, (m * 2 + 1) * block + 0, x * 4 + y]",
    }
    assert lengths(c) == {
        "n": "(|k| + block - 1) // block",
        "i": "block",
        "m": "(|n| + 2 - 1) // 2",
        "j": "2",
        "x": "(|d| + 4 - 1) // 4",
        "y": "4",
    }
    assert {n: i.role for n, i in indices(c).items() if n in "nimjxy"} == {
        **dict.fromkeys("nimj", "sequence"),
        **dict.fromkeys("xy", "feature"),
    }
    assert {i.space for n, i in indices(c).items() if n in "knimj"} == set("knimj")


def test_declared_indices() -> None:
    c = meant("""
        pattern p(Q[q,d], K[k,d], l: int = 32, stride: int = 16, steps: int = 3) -> O[q]:
            align q to k
            index c: (|k| - l) // stride + 1
            index s: steps
            index a: |c| - 1
            index f: |d|
            mean_[c,d] = sum(s) K[c * stride + s, d]
            late[q,a] = if a < q then 1 else 0
            O[q] = sum(c where c * stride + l - 1 <= q) mean_[c,0] + sum(a, f) mean_[a,f] * late[q,a]
    """)
    assert {n: i.role for n, i in indices(c).items() if n in "csaf"} == {
        "c": "sequence",
        "a": "sequence",
        "s": "feature",
        "f": "feature",
    }
    assert lengths(c) == {"c": "(|k| - l) // stride + 1", "s": "steps", "a": "|c| - 1", "f": "|d|"}
    assert origins(c)["l"] == origins(c)["stride"] == origins(c)["steps"] == "static"


# Batched indices


def test_an_equation_has_the_batched_indices_it_depends_on() -> None:
    c = meant(f"""
        pattern p({QKV}, slope[h], bias[h,k], T[]) -> O[b,h,q,e], N[b,g,k], M[h,b,q]:
            {HEADS}
            align q to k
            N[k] = sum(d) K[k,d] * K[k,d]
            near[q,k] = k <= q
            A[k] = slope * bias[k] + N[k]
            scale = 1 / sqrt(|d|)
            rate = 2 ** (-h) + g
            total = sum(h) slope
            W[q,k] = sum(d) Q[q,d] * K[k,d] * scale * T
            O[q,e] = sum(k where near[q,k]) W[q,k] * V[k,e] * A[k] * rate * total
            M[q] = O[q,0]
    """)
    assert {e.tensor.name: "".join(i.name for i in e.tensor.indices) for e in c.equations} == {
        "N": "bgk",
        "near": "qk",
        "A": "bhk",
        "scale": "",
        "rate": "h",
        "total": "",
        "W": "bhqk",
        "O": "bhqe",
        "M": "bhq",
    }
    assert read_in(c, "A", "N") == {"N[b, h // (|h| // |g|), k]"}
    assert said(c, "rate").endswith("+ h // (|h| // |g|)")
    assert read_in(c, "total", "slope") == {"slope[h]"}
    assert [show_tensor(t) for t in c.outputs] == ["O[b,h,q,e]", "N[b,g,k]", "M[h,b,q]"]


def test_split_heads() -> None:
    c = meant("""
        pattern p(imp[b,h,q,n], K[b,g,k], own[h]) -> G[b,g,q,n], H[b,h,q], R[g], F[b,g,q,n]:
            over b, h
            split h into g, r by |h| // |g|
            along q, k
            G[g,q,n] = sum(r) imp[g,r,q,n]
            F[g,q,n] = sum(r) imp[q,n]
            H[q] = sum(n) G[q,n] + K[0] + (if r == 0 then own else 0)
            R[g] = sum(r) own
    """)
    assert said(c, "G") == "G[b,g,q,n] = sum(r) imp[b, g * (|h| // |g|) + r, q, n]"
    # the parts are named, so that the whole is at them
    assert said(c, "F") == "F[b,g,q,n] = sum(r) imp[b, g * (|h| // |g|) + r, q, n]"
    assert read_in(c, "H", "G") == {"G[b, h // (|h| // |g|), q, n]"}
    assert read_in(c, "H", "K") == {"K[b, h // (|h| // |g|), 0]"}
    assert "if h % (|h| // |g|) == 0 then" in said(c, "H")
    assert said(c, "R") == "R[g] = sum(r) own[g * (|h| // |g|) + r]"
    assert lengths(c) == {"r": "|h| // |g|"}
    assert {i.role for n, i in indices(c).items() if n in "bhgr"} == {"batch"}


def test_batched_indices_that_follow_from_a_table() -> None:
    c = meant("""
        pattern p(Q[b,h,q], K[b,g,q], V[b,x,q], own[h]: int) -> O[b,h,q]:
            over b, h with g = own, x = g // 2
            along q
            O[q] = Q[q] + K[q] + V[q]
    """)
    assert read_in(c, "O", "K") == {"K[b, own[h], q]"}
    assert read_in(c, "O", "V") == {"V[b, own[h] // 2, q]"}


def test_batched_indices_that_only_stand_for_a_value() -> None:
    """No input shows them, so that no tensor is over them."""
    c = meant("""
        pattern p(Q[b,h,q], s[h]) -> O[b,h,q]:
            over b, h with g = h // 2, x = g % 3
            along q
            w = if g < 1 then 1 else x
            O[q] = Q[q] * w
    """)
    assert said(c, "w") == "w[h] = if h // 2 < 1 then 1 else h // 2 % 3"
    assert c.lengths == ()


def test_batched_indices_may_be_named() -> None:
    c = meant("""
        pattern p(S[b,h,q,k], x[h], y[b,h]) -> O[b,h,q,k], A[q,k], Z[h,q]:
            over b, h
            align q to k
            O[q,k] = S[h,q,k] + S[b,q,k] + S[b,h,q,k] + S[b,|h| - 1 - h,q,k] + S[0,h,q,k] + y[h] + y[b] + y
            A[q,k] = sum(b, h) S[q,k] * x
            Z[h,q] = sum(b) S[h,q,0] * x[h]
    """)
    assert read_in(c, "O", "S") == {"S[b,h,q,k]", "S[b, |h| - 1 - h, q, k]", "S[0,h,q,k]"}
    assert read_in(c, "O", "y") == {"y[b,h]"}
    assert [i.name for i in c.equation("A").tensor.indices] == ["q", "k"]
    assert [i.name for i in c.equation("Z").tensor.indices] == ["h", "q"]


# Equations that read each other


def test_equations_stand_after_what_they_read() -> None:
    c = meant("""
        pattern p(Q[q]) -> O[q]:
            along q
            O[q] = A[q] + B[q]
            B[q] = A[q] * C[q]
            A[q] = Q[q]
            C[q] = Q[q] + A[q]
    """)
    assert [e.tensor.name for e in c.equations] == ["A", "C", "B", "O"]


def test_recurrences() -> None:
    c = meant("""
        pattern p(K[b,k,d], V[b,k,e], S0[b,d,e], a[b,k], beta[b,k]) -> U[b,k,e], last[b,d,e], z[b,k], n[b,k]:
            over b
            along k
            align j to k
            A[k,j] = sum(d) K[k,d] * K[j,d]
            U[k,e] = beta[k] * (V[k,e] - sum(j where j < k) A[k,j] * U[j,e])
            S[k,d,e] = (if k == 0 then S0[d,e] else a[k] * S[k - 1,d,e]) + K[k,d] * V[k,e]
            last[d,e] = S[|k| - 1, d, e]
            x[k] = beta[k] + y[k - 2]
            y[k] = a[k] * x[k - 1] + sum(j where not j >= k) x[j]
            z[k] = y[k] + sum(j where j <= k) (if j == k then 0 else z[j - 1])
            n[k] = if k == 0 then 0 else n[k - 1] + 1
    """)
    assert said(c, "last") == "last[b,d,e] = S[b, |k| - 1, d, e]"
    assert c.equation("n").tensor.kind == "int"
    assert [i.name for i in c.equation("x").tensor.indices] == ["b", "k"]
    names = [e.tensor.name for e in c.equations]
    assert abs(names.index("x") - names.index("y")) == 1


def test_batched_indices_go_round_a_recurrence() -> None:
    c = meant("""
        pattern p(u[b,t], v[h,t], w[t]) -> y[b,h,t]:
            over b, h
            along t
            x[t] = w[t] + y[t - 1]
            y[t] = u[t] + z[t - 1]
            z[t] = v[t] * x[t - 1]
    """)
    assert {e.tensor.name: "".join(i.name for i in e.tensor.indices) for e in c.equations} == dict.fromkeys(
        "xyz", "bht"
    )


# Families


def test_decay_and_data_dependent_gate() -> None:
    c = meant("""
        pattern p(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e], slope[h], g[b,h,k]) -> O[b,h,q,e], P[b,h,q,e]:
            over b, h
            align q to k
            align j to k
            A[q,k] = (sum(d) Q[q,d] * K[k,d]) * exp(-slope * (q - k))
            O[q,e] = sum(k where k <= q) A[q,k] * V[k,e]
            c[k] = sum(j where j <= k) g[j]
            B[q,k] = (sum(d) Q[q,d] * K[k,d]) * exp(c[q] - c[k])
            P[q,e] = sum(k where k <= q) B[q,k] * V[k,e]
    """)
    assert said(c, "A").endswith("* exp(-slope[h] * (q + (|k| - |q|) - k))")
    assert said(c, "B").endswith("* exp(c[b, h, q + (|k| - |q|)] - c[b,h,k])")


def test_polynomial_of_the_score() -> None:
    c = meant("""
        pattern p(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e]:
            over b, h
            align q to k
            s[q,k] = sum(d) Q[q,d] * K[k,d]
            A[q,k] = 1 + s[q,k] + s[q,k] * s[q,k] / 2
            O[q,e] = (sum(k where k <= q) A[q,k] * V[k,e]) / (sum(k where k <= q) A[q,k])
    """)
    assert said(c, "A") == "A[b,h,q,k] = 1 + s[b,h,q,k] + s[b,h,q,k] * s[b,h,q,k] / 2"


def test_routed_blocks() -> None:
    c = meant(f"""
        pattern p({QKV}, block: int = 64, picks: int = 3) -> O[b,h,q,e]:
            {HEADS}
            align q to k
            split k into n, i by block
            M[n,d] = mean(i) K[n,i,d]
            R[q,n] = sum(d) Q[q,d] * M[n,d]
            C[q,n] = top(n where n < q // block, count = picks) R[q,n]
            S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
            P[q,k] = softmax(k where k <= q and (C[q, k // block] or k // block == q // block)) S[q,k]
            O[q,e] = sum(k) P[q,k] * V[k,e]
    """)
    assert said(c, "M") == "M[b,g,n,d] = mean(i) K[b, g, n * block + i, d]"
    assert read_in(c, "R", "M") == {"M[b, h // (|h| // |g|), n, d]"}
    assert "rank(n where n < (q + (|k| - |q|)) // block) R[b,h,q,n] < picks" in said(c, "C")
    assert c.equation("C").tensor.kind == "bool"
    assert read_in(c, "P", "C") == {"C[b, h, q, k // block]"}
    assert origins(c)["block"] == origins(c)["picks"] == "static"


def test_nested_softmax() -> None:
    c = meant("""
        pattern p(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e], block: int = 64) -> O[b,h,q,e]:
            over b, h
            align q to k
            split k into n, i by block
            S[q,k] = sum(d) Q[q,d] * K[k,d]
            own[q,k] = softmax(k where k <= q and k // block == q // block) S[q,k]
            gate[q,n] = softmax(n where n < q // block) S[q, n, block - 1]
            within[q,n,i] = softmax(i where i < block - 1) S[q,n,i]
            far[q,k] = gate[q, k // block] * within[q, k // block, k % block]
            P[q,k] = if k // block == q // block then own[q,k] else far[q,k]
            O[q,e] = sum(k) P[q,k] * V[k,e]
    """)
    assert read_in(c, "gate", "S") == {"S[b, h, q, n * block + (block - 1)]"}
    assert read_in(c, "within", "S") == {"S[b, h, q, n * block + i]"}
    assert said(c, "P").startswith(
        "P[b,h,q,k] = if k // block == (q + (|k| - |q|)) // block then own[b,h,q,k]"
    )


def test_sink_logit_and_two_key_sets() -> None:
    c = meant(f"""
        pattern p({QKV}, sink[h], mem[m,d], val[m,e]) -> O[b,h,q,e], lse[b,h,q], T[b,h,q,e]:
            {HEADS}
            align q to k
            S[q,k] = sum(d) Q[q,d] * K[k,d]
            seen[q] = sum(k where k <= q) exp(S[q,k])
            O[q,e] = (sum(k where k <= q) exp(S[q,k]) * V[k,e]) / (exp(sink) + seen[q])
            lse[q] = logsumexp(k where k <= q) S[q,k]
            R[q,m] = sum(d) Q[q,d] * mem[m,d]
            both[q] = seen[q] + sum(m) exp(R[q,m])
            T[q,e] = (sum(k where k <= q) exp(S[q,k]) * V[k,e] + sum(m) exp(R[q,m]) * val[m,e]) / both[q]
    """)
    assert "exp(sink[h])" in said(c, "O")
    assert read_in(c, "T", "val") == {"val[m,e]"}
    assert [show_tensor(t) for t in c.outputs] == ["O[b,h,q,e]", "lse[b,h,q]", "T[b,h,q,e]"]


def test_per_head_formulas_and_branches() -> None:
    c = meant(f"""
        pattern p({QKV}, span[h]: int, stride: int, R: int, g0[b,h,q], E[h,r]) -> O[b,h,q,e]:
            {HEADS}
            align q to k
            see[q,k] = (k // 4 + h * 2) % stride == 0 or q - k < span or (if h < R then k == 0 else false)
            C[q,k] = top(k where see[q,k], mass = 0.9) E[k - q + R]
            near[q,e] = sum(k where see[q,k]) V[k,e]
            O[q,e] = g0[q] * near[q,e] + (1 - g0[q]) * sum(k) through(C[q,k], E[0]) * V[k,e]
    """)
    assert read_in(c, "C", "E") == {"E[h, k - (q + (|k| - |q|)) + R]"}
    assert c.equation("see").tensor.kind == "bool"
    assert "".join(i.name for i in c.equation("see").tensor.indices) == "hqk"


def test_more_than_two_arguments_fold_left() -> None:
    c = meant("pattern p(Q[q]) -> O[q]:\n along q\n O[q] = max(Q[q], 1, 2, 3) + min(4, -5)")
    assert said(c, "O") == "O[q] = max(max(max(Q[q], 1), 2), 3) + min(4, -5)"


# Outputs and demands


FEW = (
    "pattern p(Q[b,q,d]) -> O[d,b,q]:\n over b\n along q\n S[q,d] = Q[q,d]\n O[q,d] = S[q,d]\n C[q] = q < 3\n"
)


def test_any_equation_can_be_asked_for() -> None:
    assert [show_tensor(t) for t in meant(FEW).outputs] == ["O[d,b,q]"]
    asked = meant(FEW, ("C", "O", "S")).outputs
    assert [(show_tensor(t), t.kind) for t in asked] == [
        ("C[q]", "bool"),
        ("O[d,b,q]", "float"),
        ("S[b,q,d]", "float"),
    ]
    with pytest.raises(PatternError) as raised:
        meant(FEW, ("lse", "Q"))
    assert [d.code for d in raised.value.diagnostics] == ["unknown-output"] * 2
    assert "`S`, `O` and `C`" in str(raised.value)


def test_an_output_is_repeated_along_what_it_does_not_depend_on() -> None:
    c = meant("pattern p(Q[b,q], s[h]) -> O[b,h,q]:\n over b, h\n along q\n O[q] = Q[q]")
    assert show_tensor(c.equation("O").tensor) == "O[b,q]"
    assert [show_tensor(t) for t in c.outputs] == ["O[b,h,q]"]


def test_demands() -> None:
    c = meant("""
        pattern p(Q[q], doc[q]: int) -> O[q]:
            along q
            require causal
            require passes(q) <= 2
            assume Q in [-5, inf]
            assume sorted doc
            O[q] = Q[q] + doc[q]
    """)
    assert c.demands == (
        Demand("causal"),
        Demand("passes", "q", high=2),
        Demand("range", "Q", -5, float("inf")),
        Demand("sorted", "doc"),
    )


def test_a_table_is_read_at_any_position() -> None:
    """Its axis is one that nothing runs over; other axes are read at their own index, or at an expression."""
    c = meant("pattern p(Q[q,d], pos[p,d]) -> O[q,d]:\n along q\n O[q,d] = Q[q,d] + pos[q,d] + Q[d + 0,d]")
    assert read_in(c, "O", "pos") == {"pos[q,d]"}
    assert read_in(c, "O", "Q") == {"Q[q,d]", "Q[d + 0, d]"}


def test_reads_are_of_the_tensors_defined() -> None:
    c = meant(FEW)
    defined = {t.name: t for t in (*c.inputs, *(e.tensor for e in c.equations))}
    found = [r for e in c.equations for r in reads(e.body)]
    assert found and all(isinstance(r, Read) and r.tensor == defined[r.tensor.name] for r in found)
