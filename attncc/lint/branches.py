"""Predicates as written, and as meant → parts that no cell ever uses, for any length and any numbers.

    k <= q and (k > q or c)         the left side of `or` never holds
    q - k < 16 or q - k < 8         the right side of `or` adds nothing to the left one
    k <= q and q - k >= 0           the right side of `and` always holds

Each is a proof, by bands or by relations, that some conjunction holds in no cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from attncc.diagnostics import Diagnostic, Label
from attncc.ir.cascade import (
    TRUE,
    Apply,
    Cascade,
    Choose,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    children,
    extent,
    free,
    kind,
    reads,
    substitute,
    walk,
)
from attncc.ir.logic import conjoin, negated
from attncc.ir.said import walk as walked
from attncc.lint.seen import DEEPEST, written
from attncc.masks.bands import bands
from attncc.masks.normal import total
from attncc.masks.relations import never
from attncc.ops import REDUCTIONS
from attncc.source import Span
from attncc.syntax import ast

LONGEST = 400
"""A conjunction of more nodes is not tried."""

LONG = 120
"""One of more nodes is not solved for its bands, which may be many before they are few."""

KEEPS = frozenset(name for name, row in REDUCTIONS.items() if row.keeps)

Said = Mapping[str, ast.Expr]
"""What every equation says, as written."""

Verdicts = dict[tuple[Span, str], bool]
"""For every part of a predicate, and what may be wrong with it, whether it is so wherever it is used."""

NEVER, NOTHING, ALWAYS = (
    "never holds",
    "adds nothing to what is said before",
    "always holds where it is asked",
)


def unused(cascade: Cascade, said: Said) -> Iterator[Diagnostic]:
    """Parts of the predicates of reductions that are wrong in the same way at every use."""
    uses = list(_uses(cascade, said))
    equations = {e.tensor.name: e for e in cascade.equations}
    asked = _Asked(equations, said, _elsewhere(cascade, frozenset(where for where, _, _ in uses)), {})
    for where, at, plane in uses:
        asked.visit(where, at, TRUE, plane)
    found: dict[Span, str] = {}
    for (span, what), always in asked.verdicts.items():
        if always:
            found.setdefault(span, what)
    for span, what in found.items():
        message = f"this part of a predicate {what}, whatever the length and the numbers"
        help = "leave it out, or look at what it was to say"
        yield Diagnostic("unreachable", message, (Label(span, what),), help, "warning")


def _uses(cascade: Cascade, said: Said) -> Iterator[tuple[Expr, ast.Expr, tuple[Index, Index]]]:
    """The predicates of reductions, as meant and as written, with their row and column."""
    for equation in cascade.equations:
        own = _wheres(said[equation.tensor.name])
        for reduce in walk(equation.body):
            if isinstance(reduce, Reduce) and reduce.span in own and (plane := _plane(reduce)):
                yield reduce.where, own[reduce.span], plane


def _elsewhere(cascade: Cascade, seen: frozenset[Expr]) -> frozenset[str]:
    """Predicates that are also used for something else, which may need what their reductions do not."""
    found = {t.name for t in cascade.outputs}

    def collect(e: Expr) -> None:
        if e in seen:
            return
        if isinstance(e, Read):
            found.add(e.tensor.name)
        for part in children(e):
            collect(part)

    for equation in cascade.equations:
        if equation.tensor.kind != "bool" or any(isinstance(x, Reduce) for x in walk(equation.body)):
            collect(equation.body)
    return frozenset(found)


def wheres(said: Said) -> dict[Span, Span]:
    """For every reduction's place, that of its predicate."""
    return {at: e.span for body in said.values() for at, e in _wheres(body).items()}


def _wheres(body: ast.Expr) -> dict[Span, ast.Expr]:
    return {x.span: x.where for x in walked(body) if isinstance(x, ast.Over) and x.where is not None}


def _plane(reduce: Reduce) -> tuple[Index, Index] | None:
    """The row and the column of a reduction over one sequence, where there is one row."""
    used = free(reduce.where) | free(reduce.body)
    rows = [i for i in used if i.role == "sequence" and i not in reduce.over]
    columns = [i for i in reduce.over if i.role == "sequence"]
    return (rows[0], columns[0]) if len(rows) == len(columns) == 1 else None


@dataclass
class _Asked:
    """Every part of a predicate, with what is known to hold where it is asked."""

    equations: Mapping[str, Equation]
    said: Said
    elsewhere: frozenset[str]
    verdicts: Verdicts

    def visit(
        self, e: Expr, at: ast.Expr, given: Expr, plane: tuple[Index, Index], depth: int = DEEPEST
    ) -> None:
        """Judges the parts of a predicate that stands where `given` holds."""
        match e, at:
            case Apply(op="and", args=(a, b)), ast.Binary("and", left, right):
                self.visit(a, left, given, plane, depth)
                beside = conjoin((given, self._whole(a)))
                self._judge(left, ALWAYS, given, plane, self._whole(a))
                self._judge(right, ALWAYS, beside, plane, self._whole(b))
                self.visit(b, right, beside, plane, depth)
            case Apply(op="or", args=(a, b)), ast.Binary("or", left, right):
                first, second = self._whole(a), self._whole(b)
                for part, own in ((left, first), (right, second)):
                    self._judge(part, NEVER, conjoin((given, own)), plane)
                self._judge(right, NOTHING, conjoin((given, second)), plane, first)
                self.visit(a, left, given, plane, depth)
                self.visit(b, right, given, plane, depth)
            case Choose(condition=c, then=a, other=b), ast.If(_, then, other) if kind(e) == "bool":
                condition = self._whole(c)
                for taken, value, part in ((condition, a, then), (negated(condition), b, other)):
                    inside = conjoin((given, taken))
                    self._judge(part, "is never asked", inside, plane)
                    self.visit(value, part, inside, plane, depth)
            case Read(), ast.Subscript() | ast.Name():
                self._named(e, given, plane, depth)
            case _:
                pass

    def _named(self, e: Read, given: Expr, plane: tuple[Index, Index], depth: int) -> None:
        """Judges the parts of a predicate that an equation names, if only reductions use it."""
        name = e.tensor.name
        if depth and name in self.equations and name not in self.elsewhere:
            equation = self.equations[name]
            if not any(isinstance(x, Reduce) for x in walk(equation.body)):
                body = substitute(equation.body, dict(zip(equation.tensor.indices, e.at, strict=True)))
                self.visit(body, self.said[name], given, plane, depth - 1)

    def _whole(self, e: Expr) -> Expr:
        return written(e, self.equations)

    def _judge(
        self, part: ast.Expr, what: str, cells: Expr, plane: tuple[Index, Index], but: Expr | None = None
    ) -> None:
        """Whether no cell is left, but those where `but` holds; where that may have no value, some may be."""
        key = part.span, what
        wrong = but is None or not any(r.tensor.indices for r in reads(but))
        if self.verdicts.get(key, True):
            left = cells if but is None else conjoin((cells, negated(but)))
            self.verdicts[key] = wrong and void(left, *plane)


def void(cells: Expr, rows: Index, columns: Index) -> bool:
    """Whether a predicate provably holds in no cell, for any lengths and numbers that have a meaning."""
    size = sum(1 for _ in walk(cells))
    if size > LONGEST:
        return False
    if rows.space == columns.space and not any(isinstance(x, Reduce) and x.op in KEEPS for x in walk(cells)):
        distance = Apply("-", (extent(columns), extent(rows)))
        place = Index(f"{rows.name} at", "sequence", rows.space)  # a row's position among the columns
        moved = substitute(cells, {rows: Apply("-", (place, distance))})
        if never(moved, place, columns, q=(float("-inf"), float("inf"))):
            return True
    if never(cells, rows, columns):
        return True
    data = any(isinstance(x, Reduce) for x in walk(cells)) or any(
        r.tensor.kind == "float" for r in reads(cells)
    )
    return not data and size <= LONG and not bands(total(cells), rows, columns)
