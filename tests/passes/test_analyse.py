"""How many walks a cascade needs over an index: the published cascades, written out by hand (theory §A.2)."""

from __future__ import annotations

from attncc.ir.cascade import Apply, Cascade, Choose, Expr, Index, Tensor, extent
from attncc.ir.verify import verified
from attncc.passes.analyse import Edge, analyse, walked
from tests.ir.cascades import at, cascade, feature, made, op, over, sequence, tensor

m, p = sequence("m"), sequence("p")
a, b = sequence("a"), sequence("b")
d, f = feature("d"), feature("f")

Q, K, V = tensor("Q", p, d), tensor("K", m, d), tensor("V", m, f)
QK = made("QK", m, p)
GM, SD, TAU = made("GM", p), made("SD", p), made("TAU", p)
SN, A = made("SN", m, p), made("A", m, p)
SNV, AV = made("SNV", p, f), made("AV", p, f)

scores = over("sum", d, body=op("*", at(Q), at(K)))
greatest = over("max", m, body=at(QK))
shifted = op("exp", op("-", at(QK), at(GM)))
total = over("sum", m, body=at(SN))
weighted = over("sum", m, body=op("*", at(SN), at(V)))

softmax: dict[Tensor, Expr] = {QK: scores, GM: greatest, SN: shifted, SD: total}

TEXTBOOK = cascade(
    "textbook",
    (Q, K, V),
    {**softmax, A: op("/", at(SN), at(SD)), AV: over("sum", m, body=op("*", at(A), at(V)))},
)
DEFERRED = cascade("deferred", (Q, K, V), {**softmax, SNV: weighted, AV: op("/", at(SNV), at(SD))})
UNSTABLE = cascade(
    "unstable",
    (Q, K, V),
    {QK: scores, SN: op("exp", at(QK)), SD: total, SNV: weighted, AV: op("/", at(SNV), at(SD))},
)


def blocked(of: Cascade, along: Index) -> tuple[int, set[str]]:
    """Passes over an index, and what has to be complete before one of them."""
    found = analyse(verified(of), along)
    return found.count, {edge.read for edge in found.blocking}


# A sum times each of its terms


def test_a_sum_that_multiplies_its_terms() -> None:
    x, y = tensor("A", m), tensor("B", m)
    Y, X, Z = made("Y"), made("X"), made("Z")
    dot = over("sum", m, body=op("*", at(x), at(y)))
    twice = cascade("twice", (x, y), {Y: dot, Z: over("sum", m, body=op("*", at(Y), at(x)))})
    assert blocked(twice, m) == (2, {"Y"})
    assert analyse(twice, m).blocking == (Edge("Y", "Z"),)
    once = cascade("once", (x, y), {Y: dot, X: over("sum", m, body=at(x)), Z: op("*", at(Y), at(X))})
    assert blocked(once, m) == (1, set())


# Softmax attention


def test_attention_as_in_the_textbook() -> None:
    assert blocked(TEXTBOOK, m) == (3, {"GM", "SD"})
    assert dict(analyse(TEXTBOOK, m).of) == {"QK": 1, "GM": 1, "SN": 2, "SD": 2, "A": 3, "AV": 3}
    assert walked(TEXTBOOK) == (m,)


def test_attention_with_its_division_deferred() -> None:
    assert blocked(DEFERRED, m) == (2, {"GM"})


def test_attention_without_a_maximum() -> None:
    assert blocked(UNSTABLE, m) == (1, set())


def test_rows_are_walked_once() -> None:
    """Over p nothing is reduced: what is not along it is an input of every row."""
    assert blocked(TEXTBOOK, p) == (1, set())


def iterated() -> Cascade:
    """Keys in blocks `a` of places `b`; maxima and sums run along the blocks, corrected at each."""
    BK, BV = tensor("BK", a, b, d), tensor("BV", a, b, f)
    S, LM, RM = made("QK", a, b, p), made("LM", a, p), made("RM", a, p)
    SLN, SLD, SLNV = made("SLN", a, b, p), made("SLD", a, p), made("SLNV", a, p, f)
    PRM, RD, RNV = made("PRM", a, p), made("RD", a, p), made("RNV", a, p, f)
    before, last = op("-", a, 1), op("-", extent(a), 1)

    def running(first: Expr, then: Expr) -> Expr:
        return Choose(op("==", a, 0), first, then)

    def corrected(state: Tensor, more: Tensor) -> Expr:
        old = at(state, before, *state.indices[1:])
        return running(at(more), op("+", op("*", old, at(PRM)), at(more)))

    return cascade(
        "iterated",
        (Q, BK, BV),
        {
            S: over("sum", d, body=op("*", at(Q), at(BK))),
            LM: over("max", b, body=at(S)),
            RM: running(at(LM), op("max", at(RM, before, p), at(LM))),
            SLN: op("exp", op("-", at(S), at(RM))),
            SLD: over("sum", b, body=at(SLN)),
            SLNV: over("sum", b, body=op("*", at(SLN), at(BV))),
            PRM: running(op("*", 0.0, at(RM)), op("exp", op("-", at(RM, before, p), at(RM)))),
            RD: corrected(RD, SLD),
            RNV: corrected(RNV, SLNV),
            AV: op("/", at(RNV, last, p, f), at(RD, last, p)),
        },
    )


def test_attention_in_one_pass_over_its_blocks() -> None:
    """One over the blocks; two within a block, whose scores are kept until its maximum is known."""
    assert blocked(iterated(), a) == (1, set())
    assert blocked(iterated(), b) == (2, {"RM"})


# Others


def test_a_layer_norm_that_is_applied() -> None:
    X, S, MU, VAR, Y = tensor("X", m, p), made("S", p), made("MU", p), made("VAR", p), made("Y", m, p)
    away = op("-", at(X), at(MU))
    norm = cascade(
        "norm",
        (X,),
        {
            S: over("sum", m, body=at(X)),
            MU: op("/", at(S), extent(m)),
            VAR: over("sum", m, body=op("*", away, away)),
            Y: op("/", away, op("sqrt", at(VAR))),
        },
    )
    assert blocked(norm, m) == (3, {"MU", "VAR"})


def test_scores_above_a_threshold_that_they_set() -> None:
    kept = Apply(">=", (at(QK), at(TAU)))
    threshold = cascade(
        "threshold",
        (Q, K, V),
        {
            QK: scores,
            TAU: over("min", m, body=at(QK)),
            GM: over("max", m, where=kept, body=at(QK)),
            SN: Choose(kept, shifted, op("*", 0.0, at(QK))),
            SD: total,
            SNV: weighted,
            AV: op("/", at(SNV), at(SD)),
        },
    )
    assert blocked(threshold, m) == (3, {"TAU", "GM"})


def backward(delta: Expr) -> Cascade:
    """The gradient of the queries; `delta` is the row number that is taken away from the gradient of P."""
    dO, O, LSE = tensor("dO", p, f), tensor("O", p, f), tensor("LSE", p)
    S, P, dP, Delta = made("S", m, p), made("P", m, p), made("dP", m, p), made("Delta", p)
    dS, dQ = made("dS", m, p), made("dQ", p, d)
    return cascade(
        "backward",
        (Q, K, V, dO, O, LSE),
        {
            S: scores,
            P: op("exp", op("-", at(S), at(LSE))),
            dP: over("sum", f, body=op("*", at(dO), at(V))),
            Delta: delta,
            dS: op("*", at(P), op("-", at(dP), at(Delta))),
            dQ: over("sum", m, body=op("*", at(dS), at(K))),
        },
    )


def test_the_backward_pass() -> None:
    P, dP = made("P", m, p), made("dP", m, p)
    dO, O = tensor("dO", p, f), tensor("O", p, f)
    over_keys = backward(over("sum", m, body=op("*", at(P), at(dP))))
    assert blocked(over_keys, m) == (2, {"Delta"})
    over_features = backward(over("sum", f, body=op("*", at(dO), at(O))))
    assert blocked(over_features, m) == (1, set())


def test_another_position_waits() -> None:
    """Two indices of one space stay two: a tensor along `m` read at `m - 1` has to be complete."""
    x, y, z = tensor("x", m), made("y", m), made("z", m)
    back = op("-", m, 1)
    same = cascade("same", (x,), {y: op("exp", at(x)), z: op("*", 2.0, at(y))})
    other = cascade("other", (x,), {y: op("exp", at(x)), z: op("*", 2.0, at(y, back))})
    assert blocked(same, m) == (1, set())
    assert blocked(other, m) == (2, {"y"})


def test_what_is_corrected_does_not_wait() -> None:
    found = analyse(
        DEFERRED, m, lambda equation, awaited, _: (equation.tensor.name, awaited) == ("SN", {"GM"})
    )
    assert found.count == 1
