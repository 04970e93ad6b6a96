"""Cascade ⟷ sympy: the one bridge, crossed only where the shape of an expression does not show the answer.

`separate` is the factor test (theory §A.4): F(x, d) = G(x) * H(d) exactly when F(x, d) / F(x, d0) does not
depend on x.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce, free, number
from attncc.ops import FUNCTIONS

Leaves = dict[Expr, Any]


class _Beyond(Exception):
    """The expression, or what sympy made of it, has no counterpart on the other side."""


@lru_cache(maxsize=4096)
def separate(body: Expr, along: frozenset[Index], apart: frozenset[Read]) -> tuple[Expr, Expr] | None:
    """`body = G * H` with G free of the reads `apart` and H free of the indices `along`; None where there is
    none.
    """
    import sympy as sp

    leaves: Leaves = {}
    try:
        whole = _to_sympy(body, along, apart, leaves, sp)
    except _Beyond:
        return None
    varying = {s for e, s in leaves.items() if free(e) & along}
    waiting = {leaves[read] for read in apart if read in leaves}
    at_one = whole.subs({s: 1 for s in waiting})
    if at_one == 0 or at_one.has(sp.nan, sp.zoo, sp.oo):
        return None
    ratio = sp.simplify(whole / at_one)
    if ratio.free_symbols & varying:
        return None
    back = {s: e for e, s in leaves.items()}
    try:
        return _from_sympy(at_one, back, sp), _from_sympy(ratio, back, sp)
    except _Beyond:
        return None


def _to_sympy(e: Expr, along: frozenset[Index], apart: frozenset[Read], leaves: Leaves, sp: Any) -> Any:
    match e:
        case Literal(value, kind) if kind != "bool":
            return sp.Float(value) if kind == "float" else sp.Integer(value)
        case Apply(op, args) if op != "extent" and FUNCTIONS[op].result in ("float", "join"):
            return FUNCTIONS[op].symbolic(sp, *(_to_sympy(a, along, apart, leaves, sp) for a in args))
        case Read() | Index() | Apply("extent"):
            positive = isinstance(e, Apply) or e in apart
            return leaves.setdefault(e, sp.Symbol(f"x{len(leaves)}", real=True, positive=positive or None))
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
        return Apply("/", (number(int(s.p)), number(int(s.q))))
    if s.is_Float:
        return number(float(s))
    parts = [_from_sympy(a, back, sp) for a in s.args]
    if s.is_Add or s.is_Mul or s.func in (sp.Max, sp.Min):
        op = "+" if s.is_Add else "*" if s.is_Mul else "max" if s.func is sp.Max else "min"
        whole = parts[0]
        for part in parts[1:]:
            whole = Apply(op, (whole, part))
        return whole
    if s.is_Pow and s.exp == -1:
        return Apply("/", (number(1.0), parts[0]))
    if s.is_Pow and s.exp == sp.Rational(1, 2):
        return Apply("sqrt", (parts[0],))
    if s.is_Pow and s.exp != sp.E:
        return Apply("**", (parts[0], parts[1]))
    if s.func in named:
        return Apply(named[s.func], (parts[0],))
    raise _Beyond
