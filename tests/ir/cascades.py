"""Small cascades written out by hand, one per thing a cascade can say."""

from __future__ import annotations

from attncc.ir.cascade import (
    ONE,
    TRUE,
    ZERO,
    Apply,
    Cascade,
    Choose,
    Equation,
    Expr,
    Index,
    Origin,
    Read,
    Reduce,
    Tensor,
    extent,
    number,
)
from attncc.ops import Kind


def batch(name: str) -> Index:
    return Index(name, "batch", name)


def sequence(name: str, space: str = "") -> Index:
    return Index(name, "sequence", space or name)


def feature(name: str) -> Index:
    return Index(name, "feature", name)


b, h, g = batch("b"), batch("h"), batch("g")
q, k, j, t = sequence("q", "k"), sequence("k"), sequence("j", "k"), sequence("t")
n, i = sequence("n"), sequence("i")
d, e = feature("d"), feature("e")


def tensor(name: str, *indices: Index, kind: Kind = "float", origin: Origin = "input") -> Tensor:
    return Tensor(name, indices, kind, origin)


def scalar(name: str, kind: Kind = "int", origin: Origin = "scalar") -> Tensor:
    return Tensor(name, (), kind, origin)


def made(name: str, *indices: Index, kind: Kind = "float") -> Tensor:
    return Tensor(name, indices, kind, "equation")


def at(source: Tensor, *subscripts: Expr) -> Read:
    """`source[subscripts]`, or at its own indices."""
    return Read(source, subscripts or source.indices)


def op(name: str, *args: Expr | float) -> Apply:
    return Apply(name, tuple(number(a) if isinstance(a, int | float) else a for a in args))


def over(name: str, *indices: Index, body: Expr, where: Expr = TRUE) -> Reduce:
    return Reduce(name, indices, where, body)


def cascade(
    name: str,
    inputs: tuple[Tensor, ...],
    equations: dict[Tensor, Expr],
    outputs: tuple[Tensor, ...] = (),
    lengths: tuple[tuple[Index, Expr], ...] = (),
    defaults: tuple[tuple[str, int | float | bool], ...] = (),
) -> Cascade:
    """A cascade whose outputs are its last equation, unless said."""
    written = tuple(Equation(made, body) for made, body in equations.items())
    return Cascade(name, "", inputs, defaults, lengths, written, outputs or (written[-1].tensor,))


Q, K, V = tensor("Q", b, h, q, d), tensor("K", b, g, k, d), tensor("V", b, g, k, e)
shared = op("//", h, op("//", extent(h), extent(g)))
seen = op("<=", k, op("+", q, op("-", extent(k), extent(q))))
S, P, O = made("S", b, h, q, k), made("P", b, h, q, k), made("O", b, h, q, e)
scores = over("sum", d, body=op("/", op("*", at(Q), at(K, b, shared, k, d)), op("sqrt", extent(d))))


def stable(x: Expr, index: Index, where: Expr) -> Expr:
    """`if where then exp(x - max x) / sum exp(x - max x) else 0`"""
    top = over("max", index, where=where, body=x)
    part = op("exp", op("-", x, top))
    return Choose(where, op("/", part, over("sum", index, where=where, body=part)), ZERO)


def causal(where: Expr = seen) -> Cascade:
    """Softmax attention with grouped heads; the last query is the last key."""
    out = over("sum", k, body=op("*", at(P), at(V, b, shared, k, e)))
    return cascade("causal", (Q, K, V), {S: scores, P: stable(at(S), k, where), O: out})


x, C = tensor("x", k), made("C", k)


def scan() -> Cascade:
    """`C[k] = sum(j where j <= k) x[j]`"""
    body = over("sum", j, where=op("<=", j, k), body=at(x, j))
    return cascade("scan", (x,), {C: body}, lengths=((j, extent(k)),))


block = scalar("block", origin="static")
X = tensor("X", k, d)
inside = op("+", op("*", n, at(block)), i)


def pool(name: str = "mean") -> Cascade:
    """`split k into n, i by block`, then `M[n,d] = mean(i) X[n,i,d]`; the last block may be ragged."""
    lengths = (
        (n, op("//", op("-", op("+", extent(k), at(block)), 1), at(block))),
        (i, at(block)),
    )
    body = over(name, i, body=at(X, inside, d))
    return cascade("pool", (X, block), {made("M", n, d): body}, lengths=lengths, defaults=(("block", 4),))


R = tensor("R", q, k)
count = scalar("count")
picked = made("picked", q, k, kind="bool")


def top() -> Cascade:
    """`picked[q,k] = k <= q and rank(k where k <= q) R[q,k] < count`, and what stands ahead of each."""
    where = op("<=", k, q)
    rank = over("rank", k, where=where, body=at(R))
    ahead = over("ahead", k, where=where, body=at(R))
    return cascade(
        "top",
        (R, count),
        {
            made("place", q, k, kind="int"): rank,
            made("before", q, k): ahead,
            picked: op("and", where, op("<", rank, at(count))),
        },
    )


A, beta, W, U = tensor("A", k, j), tensor("beta", k), tensor("W", k, e), made("U", k, e)


def delta() -> Cascade:
    """`U[k,e] = beta[k] * (W[k,e] - sum(j where j < k) A[k,j] * U[j,e])`"""
    behind = over("sum", j, where=op("<", j, k), body=op("*", at(A), at(U, j, e)))
    return cascade("delta", (A, beta, W), {U: op("*", at(beta), op("-", at(W), behind))})


def delta_backward() -> Cascade:
    """The same from the last position to the first: `sum(j where k < j) A[j,k] * U[j,e]`."""
    behind = over("sum", j, where=op("<", k, j), body=op("*", at(A, j, k), at(U, j, e)))
    square = tensor("A", k, j)
    return cascade("delta_backward", (square, beta, W), {U: op("*", at(beta), op("-", at(W), behind))})


S0, a, Kt, Vt, Qt = (
    tensor("S0", d, e),
    tensor("a", t),
    tensor("K", t, d),
    tensor("V", t, e),
    tensor("Q", t, d),
)
state, out, last = made("S", t, d, e), made("O", t, e), made("last", d, e)


def memory() -> Cascade:
    """A decayed state with a first value, read by a query and given back at the end."""
    before = Choose(op("==", t, 0), at(S0), op("*", at(a), at(state, op("-", t, 1), d, e)))
    return cascade(
        "memory",
        (S0, a, Kt, Vt, Qt),
        {
            state: op("+", before, op("*", at(Kt), at(Vt))),
            out: over("sum", d, body=op("*", at(Qt), at(state))),
            last: at(state, op("-", extent(t), 1), d, e),
        },
        outputs=(out, last),
    )


y, z = made("y", t), made("z", t)


def pair() -> Cascade:
    """Two equations that read each other one position back, one of them also at its own position."""
    back = op("-", t, 1)
    first = Choose(op("==", t, 0), at(a), op("*", at(a), at(z, back)))
    second = op("+", at(y), Choose(op("==", t, 0), ZERO, op("*", 0.5, at(z, back))))
    return cascade("pair", (a,), {z: second, y: first})


def one(body: Expr, *inputs: Tensor, indices: tuple[Index, ...] = (), kind: Kind = "float") -> Cascade:
    """A single equation `r[indices] = body`."""
    return cascade("one", inputs, {made("r", *indices, kind=kind): body})


def shifted() -> Cascade:
    """`r[k] = x[k - 1]`, which has no value at 0, then read by sums, counts, choices and predicates."""
    r = made("r", k)
    back = at(x, op("-", k, 1))
    return cascade(
        "shifted",
        (x,),
        {
            r: back,
            made("total"): over("sum", k, body=at(r)),
            made("mean"): over("mean", k, body=at(r)),
            made("least"): over("min", k, body=op("abs", at(r))),
            made("number", kind="int"): over("sum", k, where=op("<", at(r), 100.0), body=ONE),
            made("rest", k): Choose(op("==", k, 0), number(7.0), at(r)),
            made("either", kind="int"): over(
                "sum", k, where=op("or", op("<", at(r), 100.0), op("==", k, 0)), body=ONE
            ),
            made("neither", kind="int"): over("sum", k, where=op("not", op("<", at(r), 100.0)), body=ONE),
        },
    )


T, cost = made("T", n, i), tensor("cost", n, i)


def lattice() -> Cascade:
    """`T[n,i] = cost[n,i] + min(T[n - 1, i], T[n, i - 1])`: no one index is earlier in both reads."""
    up = Choose(op("==", n, 0), number(0.0), at(T, op("-", n, 1), i))
    left = Choose(op("==", i, 0), number(0.0), at(T, n, op("-", i, 1)))
    return cascade("lattice", (cost,), {T: op("+", at(cost), op("min", up, left))})


EVERY = (
    causal(),
    scan(),
    pool(),
    top(),
    delta(),
    delta_backward(),
    memory(),
    pair(),
    lattice(),
    shifted(),
)
"""Every cascade above, all of them well-formed."""
