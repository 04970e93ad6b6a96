"""Expressions → where a function of them must not be asked for: facts that its arguments have to be told.

    sum(k where k <= q) exp(c[q] - c[k])   -->   exp(where(k <= q, c[q] - c[k], 0))

Of an excluded term neither the value nor the derivative may overflow: 0 * inf would reach the gradient.
"""

from __future__ import annotations

from attncc.codegen.reference_bounds import Facts, negated
from attncc.codegen.reference_present import outside
from attncc.ir.cascade import Apply, Cascade, Choose, Expr, Literal, Read, Reduce, children, free, kind
from attncc.ir.logic import conjuncts, is_literal

TAME = ("exp", "sigmoid", "tanh")
"""What is finite of everything but +inf."""


def guards(facts: Facts, *args: Expr) -> Facts:
    """The facts that speak of nothing but what some arguments depend on."""
    around = frozenset().union(*map(free, args))
    return tuple(f for f in facts if free(f) <= around)


def spoken(e: Apply, facts: Facts, infinite: frozenset[str]) -> Facts:
    """The facts that arguments of a function have to be told; of an infinity, all of them."""
    exposed = e.op in ("*", "/", "sin", "cos", "silu")
    return facts if exposed and any(wild(a, infinite) for a in e.args) else guards(facts, *e.args)


def harmless(e: Apply, infinite: frozenset[str]) -> tuple[int | None, ...]:
    """What may stand for each argument where the value does not matter; None where that itself may."""
    match e:
        case Apply("exp"):
            return (0,)
        case Apply("log" | "sqrt"):
            return (1,)
        case Apply("sin" | "cos" | "silu", (x,)):
            return (0 if wild(x, infinite) else None,)
        case Apply("*", args):
            return tuple(0 if wild(a, infinite) else None for a in args)
        case Apply("/", (_, b)):
            return (0, 1 if wild(b, infinite) else None)
        case Apply("**"):
            return (1, 0)
        case _:
            return tuple(None for _ in e.args)


def told(e: Expr, facts: Facts, infinite: frozenset[str]) -> frozenset[Expr]:
    """The facts that the text of an expression depends on."""
    match e:
        case _ if kind(e) != "float":
            return frozenset()
        case Reduce():
            around = outside(facts, e.over)
            own = conjuncts(e.where)
            return (told(e.body, around + own, infinite) & set(around)) - set(own)
        case Choose():
            own, other = conjuncts(e.condition), conjuncts(negated(e.condition))
            then = (told(e.then, facts + own, infinite) & set(facts)) - set(own)
            return then | (told(e.other, facts + other, infinite) & set(facts)) - set(other)
        case Apply(args=args) if any(n is not None for n in harmless(e, infinite)):
            own = spoken(e, facts, infinite)
            return frozenset(own).union(*(told(a, facts, infinite) for a in args))
        case _:
            return frozenset().union(*(told(part, facts, infinite) for part in children(e)))


def infinite(cascade: Cascade) -> frozenset[str]:
    """Equations that may hold an infinity: the maximum of nothing, a logarithm of nothing, `inf` itself."""
    found: frozenset[str] = frozenset()
    for equation in cascade.equations:
        if equation.tensor.kind == "float" and wild(equation.body, found):
            found |= {equation.tensor.name}
    return found


def wild(e: Expr, known: frozenset[str]) -> bool:
    """Whether a value may be infinite where nothing went wrong."""
    match e:
        case Literal(value=value):
            return value in (float("inf"), -float("inf"))
        case Read(tensor=tensor):
            return tensor.name in known
        case Apply(op=op) if op in TAME:
            return False
        case Apply(op="log"):
            return True
        case Reduce(op=op):
            return (op in ("max", "min") and kind(e) == "float") or wild(e.body, known)
        case Choose():
            return wild(e.then, known) or wild(e.other, known)
        case Apply(args=args):
            return any(wild(a, known) for a in args)
        case _:
            return False


def nothing(e: Expr) -> bool:
    """Whether an expression is the number 0."""
    return is_literal(e, 0)
