"""Formulas → values of a tile: what is loaded, what gets a name, what stays a formula.

Values are kept as formulas until something needs them as a tile: a scale stays outside the matrix product it
multiplies, so that it meets the exponent, and `exp(x)` is `exp2(x * log2(e))` with the constant folded into
that scale. Whatever costs more than arithmetic is computed once per tile, and named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import e as EULER
from math import log2
from typing import assert_never

from attncc.ir.cascade import (
    ONE,
    TRUE,
    Apply,
    Choose,
    Expr,
    Index,
    Literal,
    Read,
    Reduce,
    Tensor,
    free,
    kind,
    number,
    reads,
    walk,
)
from attncc.ir.logic import factors, product, quotient, terms, times, total
from attncc.masks.counted import count_of
from attncc.schedule.loops import Let, Load, Statement

LOG2E = log2(EULER)
VANISHING = -1100.0
"""2 to this power is 0 in every precision."""

COSTLY = frozenset(
    ("exp", "exp2", "log", "sqrt", "tanh", "sigmoid", "softplus", "silu", "sin", "cos", "**", "/", "//", "%")
)
"""Functions worth a name: each is computed once per tile."""


@dataclass
class Block:
    """Statements under construction, and what is already held in a local; inner blocks see outer ones.

    `where` is the predicate of the state being written. Under it, `absent` gives for a tile what is -inf
    where the predicate fails, and `zero` for an exponential what is 0 there. `exponents` are read
    outside of an exponential too, and then `bounded`: a product with what is 0 is 0. Where nothing is absent,
    `mask` makes an exponent -inf where the predicate fails.
    """

    axes: tuple[Index, ...]
    outer: Block | None = None
    statements: list[Statement] = field(default_factory=list)
    held: dict[Expr | Tensor, Expr] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    where: Expr = TRUE
    absent: dict[tuple[Expr, Expr], Expr] = field(default_factory=dict)
    zero: dict[tuple[Expr, Expr], Expr] = field(default_factory=dict)
    exponents: frozenset[Expr] = frozenset()
    bounded: set[Expr] = field(default_factory=set)
    mask: Callable[[Expr, Block], Expr] | None = None

    def find(self, key: Expr | Tensor) -> Expr | None:
        found = self.held.get(key)
        return found if found is not None or self.outer is None else self.outer.find(key)

    def made(self, tensor: Tensor) -> Expr | None:
        """What a local was first said to be; None for what is loaded, folded or contracted."""
        said = (s.value for s in self.statements if isinstance(s, Let) and s.target == tensor)
        value = next(said, None)
        return value if value is not None or self.outer is None else self.outer.made(tensor)

    def outermost(self, key: Expr | Tensor) -> Block:
        """The outermost block that holds a value."""
        above = self.outer and self.outer.find(key) is not None
        return self.outer.outermost(key) if self.outer and above else self

    def beside(self, tensor: Tensor, name: str) -> Tensor:
        """A local of the same indices, whose name has the other's in it."""
        made = self.local(f"{tensor.name}{name}", Read(tensor, tensor.indices), tensor.indices)
        return replace(made, kind="float")

    def local(self, name: str, e: Expr, indices: tuple[Index, ...] | None = None) -> Tensor:
        """A new local over the tile indices an expression has; the second `x` is `x2`, whatever ends in 2."""
        own = tuple(i for i in self.axes if i in free(e)) if indices is None else indices
        count = self._count(name) + 1
        while count > 1 and self._count(f"{name}{count}"):
            count += 1
        numbered = name if count == 1 else f"{name}{count}"
        self.names |= {numbered: 1, name: count}
        return Tensor(numbered, own, kind(e), "equation")

    def rename(self, old: Expr, new: Expr) -> None:
        """What is held in one local is held in another."""
        self.held.update({key: new for key, value in self.held.items() if value == old})

    def _count(self, name: str) -> int:
        above = self.outer._count(name) if self.outer else 0
        return max(above, self.names.get(name, 0))


def value_of(e: Expr, block: Block) -> Expr:
    """The expression over locals; loads and named values are added to the block on the way."""
    held = block.find(e)
    if held is not None:
        return held
    match e:
        case Index() | Literal() | Apply("extent"):
            return e
        case Read(tensor) if tensor.origin in ("scalar", "static"):
            return e
        case Read(tensor) if tensor.origin == "equation":
            found = block.find(tensor)
            assert found is not None, f"{tensor.name} is read before it is computed"
            return found
        case Read(tensor, at):
            place = Read(tensor, tuple(value_of(s, block) for s in at))
            target = block.local(tensor.name, place)
            return _hold(e, Load(target, place), target, block)
        case Apply("exp", (x,)):
            zero = block.zero.get((e, block.where))
            if zero is not None:
                return zero
            exponent, vanishes = _exponent(x, block)
            if x in block.exponents and len(free(exponent) & set(block.axes)) > 1:
                bounded = Apply("not_below", (exponent, number(VANISHING)))
                exponent = let(bounded, bounded, block, f"exponent_{_subject(exponent)}")
                block.bounded.add(exponent)
                block.held[x] = times(exponent, number(1 / LOG2E))
            elif block.mask and not vanishes and len(free(exponent) & set(block.axes)) > 1:
                exponent, vanishes = block.mask(exponent, block), True
            value = _named(e, Apply("exp2", (exponent,)), block)
            if vanishes:
                block.held.pop(e, None)  # another predicate leaves other terms
                block.zero[e, block.where] = value
            return value
        case Apply("finite", (a,)):
            scale, rest = positive_scale(value_of(a, block), block)
            return times(Apply("finite", (rest,)), scale)
        case Apply(op, args):
            values = tuple(value_of(a, block) for a in args)
            whole = _divided(values[0], values[1], block) if op == "/" else Apply(op, values)
            return _named(e, whole, block) if op in COSTLY else whole
        case Choose(condition, then, other):
            return Choose(value_of(condition, block), value_of(then, block), value_of(other, block))
        case Reduce() if count := count_of(e):
            row = Read(count.row.tensor, tuple(value_of(s, block) for s in count.row.at))
            found = replace(e, where=Apply("<=", (row, value_of(count.limit, block))))
            target = block.local(f"{count.row.tensor.name}_count", found)
            return _hold(e, Let(target, found), target, block)
        case Reduce():
            raise AssertionError(f"a reduction inside an expression: {e}")
        case _:
            assert_never(e)


def vanishes(value: Expr, where: Expr, block: Block) -> bool:
    """Whether a value is 0 where a predicate fails: an exponential that is, or its product with exponents, or
    with what is finite where tensors are.
    """
    up, down = factors(value)
    zero = {z for (_, w), z in block.zero.items() if w == where}
    rest = [f for f in up if f not in zero]
    finite = block.mask is not None and all(is_finite(f, block.made) for f in rest)
    finite = finite and all(map(positive, down))
    return len(rest) < len(up) and (finite or (not down and block.bounded.issuperset(rest)))


def is_finite(e: Expr, made: Callable[[Tensor], Expr | None]) -> bool:
    """Whether a value is finite if the tensors are that it is made of; `made` says of what another one is."""
    match e:
        case Read(tensor):
            value = made(tensor)
            # a running value is made of what it was
            return value is None or is_finite(value, lambda t: None if t == tensor else made(t))
        case Index() | Apply("extent" | "tanh" | "sigmoid" | "sin" | "cos"):
            return all(is_finite(r, made) for r in reads(e))
        case Literal(value):
            return abs(value) != float("inf")
        case Apply("+" | "-" | "*" | "neg" | "abs" | "relu" | "max" | "min" | "finite", args):
            return all(is_finite(a, made) for a in args)
        case Apply("/", (a, b)):
            return is_finite(a, made) and positive(b)
        case Choose(_, then, other):
            return is_finite(then, made) and is_finite(other, made)
        case Reduce("sum", body=body):
            return is_finite(body, made)
        case _:
            return False


def _divided(a: Expr, b: Expr, block: Block) -> Expr:
    """`a / (x[q] * y[k])` as `a / x[q] / y[k]`: a division is by rows or by columns where it can be."""
    up, down = factors(b)
    parts: dict[frozenset[Index], list[Expr]] = {}
    for factor in up:
        parts.setdefault(frozenset(free(factor) & set(block.axes)), []).append(factor)
    if down or len(parts) < 2 or frozenset().union(*parts) in parts:
        return Apply("/", (a, b))
    for along in sorted(parts, key=len):
        a = Apply("/", (a, product(parts[along])))
    return a


def _hold(e: Expr, statement: Statement, target: Tensor, block: Block) -> Expr:
    """The statement is written, and what it computes is held for later reads."""
    block.statements.append(statement)
    block.held[e] = Read(target, target.indices)
    return block.held[e]


def _named(e: Expr, value: Expr, block: Block) -> Expr:
    """The value under a name of its own, when it is a whole tile; rows and scalars stay formulas."""
    if len([i for i in block.axes if i in free(value)]) < 2 or _is_scaled(value, block):
        return value
    return let(e, value, block)


def let(e: Expr, value: Expr, block: Block, name: str = "") -> Expr:
    target = block.local(name or name_of(value), value)
    return _hold(e, Let(target, value), target, block)


def _is_scaled(value: Expr, block: Block) -> bool:
    """A division by what is the same on the whole tile: a scale, which better meets what it scales."""
    match value:
        case Apply("/", (_, divisor)):
            return not free(divisor) & set(block.axes)
        case _:
            return False


def name_of(value: Expr) -> str:
    """`exp(S - m)` is called `exp_S`, a masked one `exp_S_seen`."""
    words = {"exp2": "exp", "**": "power", "/": "ratio", "//": "quotient", "%": "rest"}
    match value:
        case Choose(_, then, _):
            return f"{_subject(then)}_seen"
        case Apply(op):
            return f"{words.get(op, op)}_{_subject(value)}"
        case _:
            return _subject(value)


def _subject(e: Expr) -> str:
    found = [r.tensor.name for r in reads(e) if len(r.tensor.indices) > 1] or [
        r.tensor.name for r in reads(e)
    ]
    return found[0] if found else "tile"


def _in_base_two(x: Expr, block: Block) -> Expr:
    """`x * log2(e)`, the constant joined to what does not vary over the tile."""
    return total([(sign, _scaled_by(term, number(LOG2E), block)) for sign, term in terms(x)])


def _exponent(x: Expr, block: Block) -> tuple[Expr, bool]:
    """What 2 is raised to, and whether that is -inf where the predicate fails. What is read besides is a
    difference first and scaled then: 0 where it is measured from itself.
    """
    value = value_of(x, block)
    if x in block.exponents:
        parts = [(sign, *positive_scale(term, block)) for sign, term in terms(value)]
        scales = {scale for _, scale, _ in parts}
        if len(scales) == 1:
            rest, vanishes = _without_absent(total([(sign, y) for sign, _, y in parts]), block)
            return times(rest, times(scales.pop(), number(LOG2E))), vanishes
    return _without_absent(_in_base_two(value, block), block)


def _without_absent(x: Expr, block: Block) -> tuple[Expr, bool]:
    """An exponent that is -inf where the predicate fails, if it rises with a tile of which that is known."""
    signed = terms(x)
    for place, (sign, term) in enumerate(signed):
        up, down = factors(term)
        for tile in (f for f in up if (f, block.where) in block.absent):
            others = [f for f in (*up, *down) if f != tile]
            if sign > 0 and len(others) == len(up) + len(down) - 1 and all(positive(f) for f in others):
                up = [block.absent[f, block.where] if f == tile else f for f in up]
                signed[place] = (sign, _scaled_by(quotient(up, down), ONE, block))
                return total(signed), True
    return x, False


def _scaled_by(term: Expr, scale: Expr, block: Block) -> Expr:
    up, down = factors(term)
    varies = [bool(free(f) & set(block.axes)) for f in (*up, *down)]
    fixed = quotient(
        [scale, *(f for f, v in zip(up, varies, strict=False) if not v)],
        [f for f, v in zip(down, varies[len(up) :], strict=True) if not v],
    )
    moving = quotient(
        [f for f, v in zip(up, varies, strict=False) if v],
        [f for f, v in zip(down, varies[len(up) :], strict=True) if v],
    )
    return times(moving, fixed)


def positive_scale(x: Expr, block: Block) -> tuple[Expr, Expr]:
    """`x = scale * rest` with a scale that is > 0 and the same on the whole tile."""
    up, down = factors(x)
    up_fixed = [f for f in up if positive(f) and not free(f) & set(block.axes)]
    down_fixed = [f for f in down if positive(f) and not free(f) & set(block.axes)]
    rest = quotient([f for f in up if f not in up_fixed], [f for f in down if f not in down_fixed])
    return quotient(up_fixed, down_fixed), rest


def divides(e: Expr) -> bool:
    """Whether a division by a value needs no test: it is > 0, also of a sequence without tiles."""
    extents = (x.args[0] for x in walk(e) if isinstance(x, Apply) and x.op == "extent")
    return positive(e) and not any(isinstance(i, Index) and i.role == "sequence" for i in extents)


def positive(e: Expr) -> bool:
    """Whether an expression is > 0 by its form; extents are, as an empty index has no tiles."""
    match e:
        case Literal(value, sort):
            return sort != "bool" and value > 0
        case Apply("extent" | "exp" | "exp2"):
            return True
        case Apply("sqrt", (a,)):
            return positive(a)
        case Apply("*" | "/" | "+" | "min", (a, b)):
            return positive(a) and positive(b)
        case Apply("max", (a, b)):
            return positive(a) or positive(b)
        case _:
            return False
