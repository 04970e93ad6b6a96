"""Cascade ⟷ sympy: the one bridge, crossed only where the shape of an expression does not show the answer.

`separate` is the factor test (theory §A.4): F(x, d) = G(x) * H(d) exactly when F(x, d) / F(x, d0) does not
depend on x.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce, free, number, reads
from attncc.ir.logic import product
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


def _to_sympy(e: Expr, leaves: Leaves, sp: Any) -> Any:
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
    parts = [_from_sympy(a, back, sp) for a in s.args]
    if s.is_Add or s.is_Mul or s.func in (sp.Max, sp.Min):
        op = "+" if s.is_Add else "*" if s.is_Mul else "max" if s.func is sp.Max else "min"
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
