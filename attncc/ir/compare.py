"""Comparisons and differences of positions → those that mean nothing, because the indices are not aligned.

`k <= q` asks which of two positions is first, and `q - k` how far they are apart. Both are answered only
where the indices count the same positions: they are equal, aligned, or split from what is. Indices declared
by `index` and numbers read from tables compare freely. A difference is checked wherever it stands, in `E[h, q
- k + R]` and in `slope * (q - k)` too; `tab[q] - k` is no difference of positions.

Where a pattern names no sequence at all, the indices its inputs show are held to the same rule: a forgotten
`align` is no reason to compare positions of two sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product

from attncc.ir.said import Mistakes, walk
from attncc.ir.scope import Scope
from attncc.syntax import ast

COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
ARITHMETIC = ("+", "-", "*", "//", "%")


def check_compared(e: ast.Binary, scope: Scope, mistakes: Mistakes) -> None:
    """`a < b`, where a position of one sequence meets one of another; a difference is reported itself."""
    sides = (e.left, e.right)
    inside = [x for side in sides for x in walk(side) if isinstance(x, ast.Binary) and x.op == "-"]
    if any(_difference(x, scope) for x in inside):
        return
    said = [n for side in sides for n in _positions(side)]
    pair = next((p for p in combinations(said, 2) if _strangers(*p, scope)), None)
    if pair is not None:
        _report(*pair, e, "compared", scope, mistakes)


def check_subtracted(e: ast.Binary, scope: Scope, mistakes: Mistakes) -> None:
    """`a - b`, likewise."""
    pair = _difference(e, scope)
    if pair is not None:
        _report(*pair, e, "subtracted", scope, mistakes)


def _difference(e: ast.Binary, scope: Scope) -> tuple[ast.Name, ast.Name] | None:
    pairs = product(_terms(e.left), _terms(e.right))
    return next((p for p in pairs if _strangers(*p, scope)), None)


def _positions(e: ast.Expr) -> Iterator[ast.Name]:
    """The indices whose positions a value is made of: not those of subscripts, predicates and conditions."""
    match e:
        case ast.Name():
            yield e
        case ast.Unary(body=body):
            yield from _positions(body)
        case ast.Binary(left=left, right=right):
            yield from _positions(left)
            yield from _positions(right)
        case ast.If(then=then, other=other):
            yield from _positions(then)
            yield from _positions(other)
        case ast.Call(args=args):
            for arg in args:
                yield from _positions(arg)
        case ast.Over(op="argmax" | "argmin"):
            yield from e.indices
        case ast.Over(op=op) if op not in ("rank", "ahead"):
            yield from _positions(e.body)
        case _:
            pass


def _terms(e: ast.Expr) -> Iterator[ast.Name]:
    """The indices that a value is made of by integer arithmetic alone."""
    match e:
        case ast.Name():
            yield e
        case ast.Unary(op="-", body=body):
            yield from _terms(body)
        case ast.Binary(op=op, left=left, right=right) if op in ARITHMETIC:
            yield from _terms(left)
            yield from _terms(right)
        case _:
            pass


def _strangers(a: ast.Name, b: ast.Name, scope: Scope) -> bool:
    """Whether both are indices, of sequences that have nothing to do with one another."""
    if a.name not in scope.indices or b.name not in scope.indices:
        return False
    first, second = scope.indices[a.name], scope.indices[b.name]
    if not (first.related and second.related) or first.unknown or second.unknown:
        return False
    sequences = any(k.role == "sequence" for k in scope.indices.values())
    wanted = "sequence" if sequences else "feature"
    return first.role == second.role == wanted and first.related != second.related


def _report(a: ast.Name, b: ast.Name, e: ast.Binary, done: str, scope: Scope, mistakes: Mistakes) -> None:
    message = f"`{a.name}` and `{b.name}` are {done}, and are not aligned"
    # inputs show the rows first: queries, then keys
    wholes = (scope.indices[a.name].related, scope.indices[b.name].related)
    first, second = sorted(wholes, key=list(scope.indices).index)
    help = f"`align {first} to {second}` says that both count the same positions"
    mistakes.add("unaligned-comparison", message, e.span, f"{done} here", help)
