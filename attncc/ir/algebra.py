"""Cascade ⟷ sympy: the one bridge, crossed only where the shape of an expression does not show the answer.

`separate` is the factor test (theory §A.4): F(x, d) = G(x) * H(d) exactly when F(x, d) / F(x, d0) does not
depend on x. `comoving` finds the few functions that F(x, d) and its derivatives in d are made of (§A.5, step
6).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np

from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce, free, number, reads
from attncc.ir.logic import bare, product, terms, total
from attncc.ir.rank import outranks
from attncc.ops import FUNCTIONS

Leaves = dict[Expr, Any]


class _Beyond(Exception):
    """The expression, or what sympy made of it, has no counterpart on the other side."""


LARGEST = 8
"""A power that is still written as a product."""

POINTS = (1, 2, 3)
"""Where the values that wait are fixed: a first point at which the rest is neither 0 nor undefined."""

OPAQUE = ("extent", "finite", "through")
"""Functions that mean more than their value as a number."""


@lru_cache(maxsize=4096)
def separate(body: Expr, along: frozenset[Index], apart: frozenset[Read]) -> tuple[Expr, Expr] | None:
    """`body = G * H` with G free of the reads `apart` and H free of the indices `along`; None where there is
    none.
    """
    if outranks(body, along, tuple(sorted(apart, key=str)), 1):
        return None
    import sympy as sp

    leaves: Leaves = {}
    try:
        whole = _to_sympy(body, leaves, sp)
    except _Beyond:
        return None
    varying = {s for e, s in leaves.items() if free(e) & along}
    waiting = {s for e, s in leaves.items() if apart & set(reads(e))}
    fixed = (whole.subs(dict.fromkeys(waiting, point)) for point in POINTS)
    rest = next((x for x in fixed if x != 0 and not x.has(sp.nan, sp.zoo, sp.oo)), None)
    if rest is None:
        return None
    ratio = sp.simplify(whole / rest)
    if ratio.free_symbols & varying:
        return None
    back = {s: e for e, s in leaves.items()}
    try:
        return _from_sympy(rest, back, sp), _from_sympy(ratio, back, sp)
    except _Beyond:
        return None


RANK = 4
"""The most functions of a basis that moves along."""


@dataclass(frozen=True)
class Comoving:
    """A term F(x, d) as the first of a basis B with B(x, d + step) = exp(growth * step) * W(step) * B(x, d).

    `basis` are the others, `weights` the first row of W: polynomials in the steps, and rotations by them.
    """

    basis: tuple[Expr, ...]
    growth: tuple[Expr, ...]
    weights: tuple[Expr, ...]


@lru_cache(maxsize=4096)
def comoving(
    body: Expr,
    along: frozenset[Index],
    moving: tuple[Expr, ...],
    steps: tuple[Expr, ...],
    known: tuple[Expr, ...],
) -> Comoving | None:
    """The basis of a term that changes with `moving`, of `known` terms where they serve; None where there
    is none of at most `RANK` functions which one exponential, polynomials and rotations move. `finite(m)`
    moves as `m`.
    """
    if outranks(body, along, moving, RANK):
        return None
    import sympy as sp

    d = [sp.Symbol(f"d{n}", real=True) for n in range(len(moving))]
    leaves: Leaves = {}
    for e, symbol in zip(moving, d, strict=True):
        leaves |= {bare(e): symbol, e: symbol}
    try:
        basis = [_to_sympy(body, leaves, sp)]
        others = [(e, x) for e in known if (x := _convertible(e, leaves, sp)) is not None]
    except _Beyond:
        return None
    rows: list[list[list[Any]]] = [[] for _ in d]
    for n in range(RANK):
        for symbol, matrix in zip(d, rows, strict=True):
            slope = sp.diff(basis[n], symbol)
            row = _combination(slope, basis, sp)
            if row is None:
                basis += _joining(slope, basis, [x for _, x in others], sp)
                row = _combination(slope, basis, sp)
            if row is None or len(basis) > RANK:
                return None
            matrix.append(row)
        if n + 1 == len(basis):
            break
    size = len(basis)
    matrices = [sp.Matrix([row + [0] * (size - len(row)) for row in matrix]) for matrix in rows]
    growth = [matrix.trace() / size for matrix in matrices]
    turns = [matrix - g * sp.eye(size) for matrix, g in zip(matrices, growth, strict=True)]
    if size == 1 or any(a * b != b * a for a in turns for b in turns):
        return None
    step = [sp.Symbol(f"step{n}", real=True) for n in range(len(d))]
    moved = sp.eye(size)
    for s, turn in zip(step, turns, strict=True):
        motion = _motion(turn, s, sp)
        if motion is None:
            return None
        moved = moved * motion
    back = {s: e for e, s in leaves.items()} | dict(zip(step, steps, strict=True))
    named = {x: e for e, x in others}
    try:
        found = tuple(named[x] if x in named else _from_sympy(x, back, sp) for x in basis[1:])
        weights = tuple(_from_sympy(sp.expand(w), back, sp) for w in moved.row(0))
        return Comoving(found, tuple(_from_sympy(g, back, sp) for g in growth), weights)
    except _Beyond:
        return None


def _motion(turn: Any, step: Any, sp: Any) -> Any:
    """`exp(turn * step)` where it is made of polynomials and rotations; None where a part of it grows, or
    where that is not proved.
    """
    size = turn.rows
    if turn**size == sp.zeros(size):
        return sum(((step * turn) ** n / sp.factorial(n) for n in range(1, size)), sp.eye(size))
    if any(sp.re(root) != 0 for root in turn.eigenvals()):
        return None
    moved = (turn * step).exp().applyfunc(lambda x: sp.simplify(x.rewrite(sp.cos)))
    rest = (moved.diff(step) - turn * moved).applyfunc(sp.simplify)
    proved = rest == sp.zeros(size) and moved.subs(step, 0) == sp.eye(size)
    return moved if proved and not moved.has(sp.I, sp.exp) else None


def _convertible(e: Expr, leaves: Leaves, sp: Any) -> Any:
    """A known term over the same leaves, or None."""
    count = len(leaves)
    try:
        made = _to_sympy(e, leaves, sp)
    except _Beyond:
        return None
    return made if len(leaves) == count else None


def _combination(x: Any, basis: list[Any], sp: Any) -> list[Any] | None:
    """The numbers that make `x` of a basis: found on sampled points, and then proved."""
    symbols = sorted(set().union(x.free_symbols, *(b.free_symbols for b in basis)), key=str)
    random = Random(0)
    points = [{s: sp.Rational(random.randint(20, 180), 100) for s in symbols} for _ in range(len(basis) + 4)]
    try:
        values = np.array([[float(f.subs(p).evalf()) for f in (*basis, x)] for p in points])
    except TypeError:
        return None
    if not np.isfinite(values).all():
        return None
    numbers = np.linalg.lstsq(values[:, :-1], values[:, -1], rcond=None)[0]
    if not np.allclose(values[:, :-1] @ numbers, values[:, -1], rtol=1e-8, atol=1e-10):
        return None
    rational = [sp.nsimplify(round(float(n), 10), rational=True) for n in numbers]
    rest = sp.simplify(x - sum(n * b for n, b in zip(rational, basis, strict=True)))
    return rational if rest == 0 else None


def _joining(x: Any, basis: list[Any], known: list[Any], sp: Any) -> list[Any]:
    """What joins a basis for the sake of `x`: known terms if they do, one or several, or the shortest."""
    others = [term for term in known if term not in basis]
    for term in others:
        if _combination(x, [*basis, term], sp) is not None:
            return [term]
    row = _combination(x, [*basis, *others], sp) if others else None
    if row is not None:
        return [term for n, term in zip(row[len(basis) :], others, strict=True) if n != 0]
    shifted = [sp.factor_terms(x + n * b) for b in basis for n in (0, 1, -1, 2, -2)]
    best = min(shifted, key=lambda f: (f.count_ops(), str(f)))
    return [best.as_coeff_Mul()[1]]


def _to_sympy(e: Expr, leaves: Leaves, sp: Any) -> Any:
    if e in leaves:
        return leaves[e]
    match e:
        case Literal(value, kind) if kind != "bool":
            return sp.Float(value) if kind == "float" else sp.Integer(value)
        case Apply(op, args) if op not in OPAQUE and FUNCTIONS[op].result in ("float", "join"):
            return FUNCTIONS[op].symbolic(sp, *(_to_sympy(a, leaves, sp) for a in args))
        case Read() | Index() | Apply("extent" | "finite"):
            # nothing is known of a value's sign
            positive = True if isinstance(e, Apply) and e.op == "extent" else None
            return leaves.setdefault(e, sp.Symbol(f"x{len(leaves)}", real=True, positive=positive))
        case Apply() | Reduce() | Choose() | Literal():
            raise _Beyond
    raise _Beyond


def _from_sympy(s: Any, back: dict[Any, Expr], sp: Any) -> Expr:
    named = {sp.exp: "exp", sp.log: "log", sp.tanh: "tanh", sp.Abs: "abs", sp.sin: "sin", sp.cos: "cos"}
    if s in back:
        return back[s]
    if s.is_Integer:
        return number(int(s))
    if s.is_Rational:
        return number(float(s))
    if s.is_Float:
        return number(float(s))
    if s.is_Pow and s.base != sp.E:
        return _power(s, back, sp)
    if s.is_Add:
        signed = [a.as_coeff_Mul() for a in s.args]
        return total([(1 if n > 0 else -1, _from_sympy(abs(n) * x, back, sp)) for n, x in signed])
    if s.is_Mul and s.args[0] == -1:
        return total([(-sign, x) for sign, x in terms(_from_sympy(-s, back, sp))])
    parts = [_from_sympy(a, back, sp) for a in s.args]
    if s.is_Mul or s.func in (sp.Max, sp.Min):
        op = "*" if s.is_Mul else "max" if s.func is sp.Max else "min"
        whole = parts[0]
        for part in parts[1:]:
            whole = Apply(op, (whole, part))
        return whole
    if s.func in named:
        return Apply(named[s.func], (parts[0],))
    raise _Beyond


def _power(s: Any, back: dict[Any, Expr], sp: Any) -> Expr:
    """A whole power as a product: its base may be negative."""
    base = _from_sympy(s.base, back, sp)
    size = abs(s.exp) if s.exp.is_Number else s.exp
    if size.is_Integer and size <= LARGEST:
        raised = product([base] * int(size))
    elif size == sp.Rational(1, 2) or (size.is_Float and size == 0.5):
        raised = Apply("sqrt", (base,))
    else:
        return Apply("**", (base, _from_sympy(s.exp, back, sp)))
    return Apply("/", (number(1.0), raised)) if s.exp.is_negative else raised
