"""Pattern and definitions → the pattern without them: every use of a `def` becomes the tree that it names.

    def softcap(x, cap) = cap * tanh(x / cap)
    S[q,k] = softcap(R[q,k], 30)    -->    S[q,k] = 30 * tanh(R[q,k] / 30)

Trees are put into trees, so brackets are never missing. No name changes its meaning on the way: it is a
mistake if an index would be caught by a reduction that its author did not see. Of several definitions of one
name the one fits that takes as many arguments and just the options given, the file's own before the standard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeVar, assert_never

from attncc import resources
from attncc.diagnostics import Diagnostic, Label, PatternError
from attncc.ops import NAMED, REDUCTIONS
from attncc.source import Source, Span
from attncc.syntax import ast
from attncc.syntax.build import DEEPEST
from attncc.syntax.parser import parse
from attncc.syntax.substitute import Captured, NotAnIndex, Use, measure, outer_names

LARGEST = 20_000
"""How many nodes one use may become: definitions of definitions can double without end."""


@dataclass(frozen=True)
class Formula:
    """A definition whose value uses no other, and what it names of the pattern: positions, and extents."""

    define: ast.Define
    value: ast.Expr
    positions: frozenset[str]
    extents: frozenset[str]


def expand(pattern: ast.Pattern, definitions: tuple[ast.Define, ...], source: Source) -> ast.Pattern:
    """The pattern with its own definitions, the file's and the standard ones applied, and no `def` left.

    What a definition brings has the span of its use. Names that nothing defines are left alone.
    Raises PatternError with every definition that cannot be used, and every use that does not fit.
    """
    own = (*definitions, *(s for s in pattern.statements if isinstance(s, ast.Define)))
    work = _Expansion(own, standard())
    for number in range(len(own)):
        work.formula(number)
    statements = tuple(work.statement(s) for s in pattern.statements if not isinstance(s, ast.Define))
    if work.mistakes:
        raise PatternError(source, tuple(dict.fromkeys(work.mistakes)))
    return replace(pattern, statements=statements)


def known_names(definitions: Iterable[ast.Define] = ()) -> frozenset[str]:
    """Every name that can stand before `(`: functions, reductions, these definitions, the standard ones."""
    defined = (*definitions, *(formula.define for formula in standard()))
    return frozenset((*NAMED, *REDUCTIONS, *(d.name for d in defined)))


def form(define: ast.Define) -> str:
    """How a definition is used: `softmax(i where c) x`, `softcap(x, cap)`."""
    options = "".join(f", {option} = …" for option in define.options)
    where = f" where {define.where}" if define.where else ""
    body = f" {define.body}" if define.body else ""
    return f"{define.name}({', '.join(define.params)}{where}{options}){body}"


@cache
def standard() -> tuple[Formula, ...]:
    """The definitions of `patterns/std.attn`."""
    source = resources.standard()
    work = _Expansion(parse(source).definitions, ())
    formulas = [work.formula(number) for number in range(len(work.own))]
    if work.mistakes:
        raise PatternError(source, work.mistakes)
    return tuple(f for f in formulas if f is not None)


@dataclass(frozen=True)
class Scope:
    """Names that are not the pattern's here: indices that run in a reduction, parameters of a definition."""

    bound: frozenset[str] = frozenset()
    params: frozenset[str] = frozenset()

    def within(self, indices: tuple[ast.Name, ...]) -> Scope:
        """The scope inside a reduction."""
        return replace(self, bound=self.bound | {i.name for i in indices})


S = TypeVar("S", bound=ast.Statement)


@dataclass
class _Expansion:
    """One text's definitions, those of them that are ready, and what is wrong."""

    own: tuple[ast.Define, ...]
    standard: tuple[Formula, ...]
    ready: dict[int, Formula | None] = field(default_factory=dict)
    under_way: list[int] = field(default_factory=list)
    mistakes: list[Diagnostic] = field(default_factory=list)

    # ---- definitions ---------------------------------------------------------------------------

    def formula(self, number: int) -> Formula | None:
        """One of the text's own definitions with the others put into it; None if it cannot be used."""
        if number not in self.ready:
            define = self.own[number]
            self.under_way.append(number)
            self.ready[number] = self._ready(number, define) if self._sound(number, define) else None
            self.under_way.pop()
        return self.ready[number]

    def _ready(self, number: int, define: ast.Define) -> Formula | None:
        params = _own_names(define)
        before = len(self.mistakes)
        value = self.expr(define.value, Scope(params=frozenset(params)))
        if len(self.mistakes) > before:
            return None
        positions, extents = outer_names(value)
        return Formula(define, value, positions - {*params}, extents - {*params})

    def _sound(self, number: int, define: ast.Define) -> bool:
        names = _own_names(define)
        if define.name in NAMED or define.name in REDUCTIONS:
            message = f"`{define.name}` already has a meaning"
            self._mistake(
                "two-definitions", message, define.span, "it is a part of the language: choose another name"
            )
            return False
        if len(set(names)) < len(names):
            twice = next(n for n in names if names.count(n) > 1)
            message = f"`{twice}` is named twice in what `{define.name}` takes"
            self._mistake("two-definitions", message, define.span, "give each its own name")
            return False
        for other in self.own[:number]:
            if _signature(other) == _signature(define):
                first = Label(other.span, "first here")
                message = f"`{form(define)}` is defined twice"
                self._mistake(
                    "two-definitions", message, define.span, "remove one of them, or rename it", first
                )
                return False
        return True

    # ---- uses ----------------------------------------------------------------------------------

    def statement(self, s: S) -> S:
        """A statement without definitions in its expressions."""
        match s:
            case ast.OverStatement():
                return replace(s, derived=tuple((name, self.whole(e)) for name, e in s.derived))
            case ast.Align():
                return s if s.start is None else replace(s, start=self.whole(s.start))
            case ast.Split():
                return replace(s, by=self.whole(s.by))
            case ast.Declare():
                return replace(s, extent=self.whole(s.extent))
            case ast.Require():
                return replace(s, demand=self.whole(s.demand))
            case ast.AssumeRange():
                return replace(s, low=self.whole(s.low), high=self.whole(s.high))
            case ast.Equate():
                return replace(s, body=self.whole(s.body))
            case _:
                return s

    def whole(self, e: ast.Expr) -> ast.Expr:
        """An expression of a statement, which may not have grown too deep."""
        value = self.expr(e, Scope())
        if measure(value, LARGEST)[1] > DEEPEST:
            message = f"written out, this nests more than {DEEPEST} deep"
            self._mistake("too-deep", message, e.span, "give a part of it a name: `part[q,k] = …`")
        return value

    def expr(self, e: ast.Expr, scope: Scope) -> ast.Expr:
        """An expression without definitions."""
        match e:
            case ast.Number() | ast.Name() | ast.Extent():
                return e
            case ast.Subscript():
                return replace(e, at=self._exprs(e.at, scope))
            case ast.Unary():
                return replace(e, body=self.expr(e.body, scope))
            case ast.Binary():
                return replace(e, left=self.expr(e.left, scope), right=self.expr(e.right, scope))
            case ast.If():
                condition, then, other = self._exprs((e.condition, e.then, e.other), scope)
                return replace(e, condition=condition, then=then, other=other)
            case ast.Call():
                call = replace(e, args=self._exprs(e.args, scope))
                return self._applied(call, scope)
            case ast.Over():
                within = scope.within(e.indices)
                over = replace(
                    e,
                    where=None if e.where is None else self.expr(e.where, within),
                    options=tuple((name, self.expr(value, scope)) for name, value in e.options),
                    body=self.expr(e.body, within),
                )
                return self._applied(over, scope)
            case _:
                assert_never(e)

    def _exprs(self, many: tuple[ast.Expr, ...], scope: Scope) -> tuple[ast.Expr, ...]:
        return tuple([self.expr(e, scope) for e in many])

    def _applied(self, e: ast.Call | ast.Over, scope: Scope) -> ast.Expr:
        """What an application to parts without definitions stands for, or itself where nothing defines it."""
        formula = self._chosen(e)
        if formula is None:
            return e
        name = formula.define.name
        place = _place(e)
        caught = (formula.positions & (scope.bound | scope.params)) | (formula.extents & scope.params)
        if caught:
            self._captured(name, min(caught), place, f"give `{name}` a parameter for it")
            return e
        try:
            value = Use.of(formula.define, e).put(formula.value)
        except Captured as captured:
            self._captured(
                name, captured.name, place, "use another index there, or take the expression as a body"
            )
            return e
        except NotAnIndex as written:
            message = f"`{name}` uses its `{written.param}` as the name of an index or a tensor"
            self._mistake("definition-use", message, written.span, f"it is used as `{form(formula.define)}`")
            return e
        size, depth = measure(value, LARGEST)
        if size > LARGEST or depth > DEEPEST:
            message = f"written out, this use of `{name}` is too large"
            self._mistake("too-deep", message, place, "give a part of it a name: `part[q,k] = …`")
            return e
        return value

    def _captured(self, name: str, index: str, place: Span, help: str) -> None:
        message = f"`{index}` would mean something else inside `{name}`"
        self._mistake("capture", message, place, help)

    def _chosen(self, e: ast.Call | ast.Over) -> Formula | None:
        """The definition that a use means; None, and perhaps a mistake, if there is none."""
        name = e.name if isinstance(e, ast.Call) else e.op
        own = [number for number, define in enumerate(self.own) if define.name == name]
        for number in own:
            if _fits(self.own[number], e):
                if number in self.under_way:
                    self._recursive(number, e)
                    return None
                return self.formula(number)
        shipped = [formula for formula in self.standard if formula.define.name == name]
        for formula in shipped:
            if _fits(formula.define, e):
                return formula
        forms = [*(self.own[number] for number in own), *(formula.define for formula in shipped)]
        if forms:
            written = " or ".join(f"`{form(define)}`" for define in forms)
            self._mistake("definition-use", _misfit(forms, e), _place(e), f"it is used as {written}")
        return None

    def _recursive(self, number: int, e: ast.Call | ast.Over) -> None:
        name = self.own[number].name
        message = f"`{name}` is defined by itself"
        help = "definitions are written out; a recurrence is an equation that reads earlier positions"
        self._mistake(
            "recursive-definition", message, _place(e), help, Label(self.own[number].span, "defined here")
        )

    def _mistake(self, code: str, message: str, span: Span, help: str, *more: Label) -> None:
        self.mistakes.append(Diagnostic(code, message, (Label(span), *more), help))


def _own_names(define: ast.Define) -> tuple[str, ...]:
    bound = (name for name in (define.where, define.body) if name)
    return (*define.params, *define.options, *bound)


def _signature(define: ast.Define) -> tuple[str, bool, int, frozenset[str]]:
    return define.name, bool(define.body), len(define.params), frozenset(define.options)


def _place(e: ast.Call | ast.Over) -> Span:
    """The name of what is applied."""
    name = e.name if isinstance(e, ast.Call) else e.op
    return Span(e.span.start, e.span.start + len(name))


def _fits(define: ast.Define, e: ast.Call | ast.Over) -> bool:
    """Whether a definition can be used so."""
    match e:
        case ast.Call():
            return not define.body and len(define.params) == len(e.args)
        case ast.Over():
            count = len(define.params)
            return (
                bool(define.body)
                and (count == len(e.indices) or count == 1)
                and (e.where is None or bool(define.where))
                and sorted(define.options) == sorted(name for name, _ in e.options)
            )
        case _:
            assert_never(e)


def _misfit(defines: list[ast.Define], e: ast.Call | ast.Over) -> str:
    """Why none of a name's definitions can be used so."""
    name = defines[0].name
    match e:
        case ast.Call():
            alike = [d for d in defines if not d.body]
            if not alike:
                return f"`{name}` applies to the expression that follows it, and none does"
            return f"`{name}` takes {_counted(alike)}, not {len(e.args)}"
        case ast.Over():
            alike = [d for d in defines if d.body]
            if not alike:
                return f"`{name}` applies to no expression, but one follows it"
            if e.where is not None and not any(d.where for d in alike):
                return f"`{name}` takes no `where`"
            given = [option for option, _ in e.options]
            strange = [o for o in given if not any(o in d.options for d in alike)]
            if strange:
                return f"`{name}` has no option `{strange[0]}`"
            if not any(sorted(d.options) == sorted(given) for d in alike):
                return f"`{name}` is given {', '.join(f'`{o}`' for o in given) or 'no option'}"
            return f"`{name}` takes {_counted(alike)}, not {len(e.indices)}"
        case _:
            assert_never(e)


def _counted(defines: list[ast.Define]) -> str:
    counts = sorted({len(d.params) for d in defines})
    noun = "index" if defines[0].body else "argument"
    plural = noun if counts == [1] else "indices" if noun == "index" else "arguments"
    return f"{' or '.join(map(str, counts))} {plural}"
