"""Cascade → two cascades: the one that also leaves what gradients need, and the one of the gradients.

    O[q,e] = sum(k) P[q,k] * V[k,e]      -->   dP[q,k] = sum(e) dO[q,e] * V[k,e]
                                               dV[k,e] = sum(q) P[q,k] * dO[q,e]

Reverse mode over the equations, last to first (theory §A.6). What a reduction over a sequence made is read
from memory, and so is saved; all else is computed again. Differentiated is the cascade whose divisions are
deferred and in which no exponential is measured from a maximum (`passes.stream.deferred`): a maximum that was
there for stability has cancelled, and one that is left has a gradient. A divisor that is a sum of
exponentials is written as an exponential itself, of the logarithm that is saved:

    O[q,e] = total[q,e] / sum[q]         -->   L[q] = log(sum[q]),  O[q,e] = total[q,e] * exp(-L[q])

for then `exp(S[q,k]) * exp(-L[q])` is `exp(S[q,k] - L[q])`, which needs no other maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from attncc.ir.cascade import (
    TRUE,
    ZERO,
    Apply,
    Cascade,
    Choose,
    Demand,
    Equation,
    Expr,
    Index,
    Read,
    Reduce,
    Tensor,
    children,
    free,
    kind,
    number,
    reads,
    rebuild,
    walk,
)
from attncc.ir.logic import conjoin, conjuncts, disjoin, factors, is_literal, plus, quotient, terms
from attncc.passes.inverted import Names, readers
from attncc.passes.logarithms import at_rows, ordered, with_logarithms
from attncc.passes.placed import place_of
from attncc.passes.share import fresh, pruned, replace_reads, share
from attncc.passes.simplify import tidy
from attncc.passes.slopes import Part, Slopes


@dataclass(frozen=True)
class Adjoint:
    """`forward` gives the outputs and, after them, what is `saved` besides; `backward` takes what is saved and
    what reaches the real outputs, `given`, and gives the gradients of `wrt`.
    """

    forward: Cascade
    backward: Cascade
    saved: tuple[Tensor, ...]
    given: tuple[Tensor, ...]
    wrt: tuple[Tensor, ...]


def adjoint(cascade: Cascade, wrt: Iterable[str] | None = None) -> Adjoint:
    """The gradients of a cascade whose divisions are deferred, in the inputs named by `wrt`: all by default."""
    chosen = differentiable(cascade) if wrt is None else tuple(wrt)
    inputs = tuple(t for t in cascade.inputs if t.name in chosen)
    cascade, logarithms = with_logarithms(cascade, _taken(cascade))
    return _Reverse(apart(cascade), inputs, logarithms).adjoint()


def differentiable(cascade: Cascade) -> tuple[str, ...]:
    """The inputs that have a gradient."""
    return tuple(t.name for t in cascade.inputs if t.origin == "input" and t.kind == "float")


# ---- before ------------------------------------------------------------------------------------


def apart(cascade: Cascade) -> Cascade:
    """The factors that wait for reductions over a sequence, each product of them in an equation of its own:
    what is saved is then of a normal size, and stands for itself in a slope.

    O[q,e] = gate[q] * (total[q,e] * exp(-L[q]))   -->   X[q,e] = total[q,e] * exp(-L[q]),  O[q,e] = gate[q] * X[q,e]
    """
    taken = _taken(cascade)
    whole: set[Tensor] = set()
    held: dict[Expr, Tensor] = {}
    made: list[Equation] = []

    def part(e: Expr, host: Equation) -> Expr:
        match e:
            case Apply("*" | "/"):
                up, down = factors(e)
                first, second = (
                    [x for x in side if _settled(x, whole) and at_rows(x)] for side in (up, down)
                )
                if len(first) + len(second) > 1:
                    up = [x for x in up if x not in first]
                    down = [x for x in down if x not in second]
                    up.append(hold(quotient(first, second), host))
                return quotient([part(x, host) for x in up], [part(x, host) for x in down])
            case _:
                return rebuild(e, tuple(part(x, host) for x in children(e)))

    def hold(e: Expr, host: Equation) -> Expr:
        if e == host.body:
            return e
        if e not in held:
            name = fresh(f"{host.tensor.name}_part", taken)
            taken.add(name)
            held[e] = Tensor(name, ordered(e), "float", "equation")
            whole.add(held[e])
            made.append(Equation(held[e], e, host.span))
        return Read(held[e], held[e].indices)

    for equation in cascade.equations:
        own = equation.body
        plain = isinstance(own, Apply) and own.op in "*/" and at_rows(own) and _all_settled(own, whole)
        body = own if plain else part(own, equation)
        if _settled(own, whole):
            whole.add(equation.tensor)
        made.append(replace(equation, body=body))
    return replace(cascade, equations=tuple(made))


def _all_settled(e: Expr, whole: set[Tensor]) -> bool:
    return all(_settled(x, whole) for side in factors(e) for x in side)


def _settled(e: Expr, whole: set[Tensor]) -> bool:
    """Whether a value waits for a reduction over a sequence, but for a count in a table."""
    folds = any(
        isinstance(x, Reduce) and any(i.role == "sequence" for i in x.over) and not _counts(x)
        for x in walk(e)
    )
    return folds or any(r.tensor in whole for r in reads(e))


def _counts(e: Reduce) -> bool:
    """Whether a reduction counts in a table: it is searched there, not walked."""
    return kind(e) == "int" and any(
        r.tensor.origin == "table" and set(e.over) & free(r) for r in reads(e.where)
    )


def _taken(cascade: Cascade) -> set[str]:
    names = {t.name for t in (*cascade.inputs, *cascade.outputs)} | {e.tensor.name for e in cascade.equations}
    return names | {i.name for t in cascade.inputs for i in t.indices} | {i.name for i, _ in cascade.lengths}


# ---- reverse mode ------------------------------------------------------------------------------


@dataclass
class _Reverse:
    cascade: Cascade
    wrt: tuple[Tensor, ...]
    logarithms: dict[Expr, Tensor]
    reached: dict[Tensor, list[Expr]] = field(default_factory=dict)
    rows: dict[Read, dict[tuple[Index, ...], list[Expr]]] = field(default_factory=dict)
    made: list[Equation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = Names(
            _taken(self.cascade)
            | {
                i.name
                for e in self.cascade.equations
                for x in walk(e.body)
                if isinstance(x, Index)
                for i in [x]
            }
        )
        self.bodies = {e.tensor: e.body for e in self.cascade.equations}
        self.live = set(self.wrt)
        for e in self.cascade.equations:
            if e.tensor.kind == "float" and any(r.tensor in self.live for r in reads(e.body)):
                self.live.add(e.tensor)
        self.slopes = Slopes(lambda r: r.tensor in self.live, self.bodies)

    def adjoint(self) -> Adjoint:
        given = [self._given(t) for t in self.cascade.outputs if t.kind == "float"]
        gradients = []
        for equation in reversed(self.cascade.equations):
            weight = self._reaching(equation.tensor)
            if weight is not None and equation.tensor in self.live:
                for part in self.slopes.parts(equation, weight):
                    self._reach(part)
        for tensor in self.wrt:
            self._collect(tensor)
            body = _summed(self.reached.get(tensor, []))
            gradient = Tensor(self._name(tensor), tensor.indices, "float", "equation")
            self.made.append(Equation(gradient, _real(body)))
            gradients.append(gradient)
        return self._finished(given, gradients)

    def _name(self, tensor: Tensor) -> str:
        name = fresh(f"d{tensor.name}", self.names.taken)
        self.names.taken.add(name)
        return name

    def _given(self, output: Tensor) -> Tensor:
        """What reaches an output, an input of the gradients; summed over indices its equation lacks."""
        own = self.cascade.equation(output.name).tensor
        cotangent = Tensor(self._name(output), output.indices, "float", "input")
        more = tuple(i for i in output.indices if i not in own.indices)
        body: Expr = Read(cotangent, cotangent.indices)
        self.reached.setdefault(own, []).append(Reduce("sum", more, TRUE, body) if more else body)
        return cotangent

    def _reaching(self, tensor: Tensor) -> Expr | None:
        """What reaches a tensor in all, under a name if it is a sum."""
        self._collect(tensor)
        if tensor not in self.reached:
            return None
        body = _summed(self.reached[tensor])
        if isinstance(body, Read):
            return body
        made = Tensor(self._name(tensor), tensor.indices, "float", "equation")
        self.made.append(Equation(made, body))
        return Read(made, made.indices)

    def _reach(self, part: Part) -> None:
        """What reaches a read reaches the element it reads; of an element without a position, row by row."""
        sequences = [i for i in part.over if i.role == "sequence"]
        if sequences and not any(i.role == "sequence" for i in part.read.tensor.indices):
            found_place = place_of(part.read)
            if found_place is not None:
                where = conjoin((part.where, found_place.here))
                part = Part(found_place.read, part.weight, where, (*part.over, *found_place.axes))
            rows = (*(i for i in part.over if i.role == "batch"), _row_of(part, sequences))
            features = tuple(i for i in part.over if i.role == "feature" and i in free(part.read))
            others = tuple(i for i in part.over if i not in (*rows, *features))
            weight = _folded(part.weight, part.where, others)
            self.rows.setdefault(part.read, {}).setdefault((*rows, *features), []).append(weight)
            return
        found = readers(part.read, part.over, self.names)
        where = conjoin((*found.where, found.said(part.where)))
        weight = _folded(found.said(part.weight), where, found.others)
        self.reached.setdefault(part.read.tensor, []).append(weight)

    def _collect(self, tensor: Tensor) -> None:
        """What reaches a tensor row by row, as sums over the rows."""
        for read in [r for r in self.rows if r.tensor == tensor]:
            for place, parts in self.rows.pop(read).items():
                found = readers(read, place, self.names)
                apart = [x for e in parts for x in _parts_apart(e)]
                if not all(_whole(x, place) for x in apart):
                    named = (found.said(self._with_sums(x, tensor, place)) for x in apart)
                    wholes = [_over(found.others, conjoin(found.where), x) for x in named]
                    self.reached.setdefault(tensor, []).extend(wholes)
                    continue
                name = fresh(f"d{tensor.name}_rows", self.names.taken)
                self.names.taken.add(name)
                rows = Tensor(name, place, "float", "equation")
                self.made.append(Equation(rows, _real(_summed(parts))))
                body = found.said(Read(rows, place))
                self.reached.setdefault(tensor, []).append(_over(found.others, conjoin(found.where), body))

    def _with_sums(self, e: Expr, tensor: Tensor, place: tuple[Index, ...]) -> Expr:
        """A product whose factors that are sums have a name."""
        sign, e = _unsigned(e)
        up, down = factors(e)
        for n, f in enumerate(up):
            if isinstance(f, Reduce):
                name = fresh(f"d{tensor.name}_rows", self.names.taken)
                self.names.taken.add(name)
                rows = Tensor(name, tuple(i for i in place if i in free(f)), "float", "equation")
                self.made.append(Equation(rows, _real(f)))
                up[n] = Read(rows, rows.indices)
        whole = quotient(up, down)
        return whole if sign > 0 else Apply("neg", (whole,))

    def _finished(self, given: list[Tensor], gradients: list[Tensor]) -> Adjoint:
        """The two cascades: what of the first is settled and read by the second is saved."""
        whole: set[Tensor] = set()
        for e in self.cascade.equations:
            if _settled(e.body, whole):
                whole.add(e.tensor)
        lengths = (*self.cascade.lengths, *self.names.lengths)
        backward = replace(
            self.cascade,
            name=f"{self.cascade.name}_backward",
            equations=(*self.cascade.equations, *self.made),
            inputs=(*self.cascade.inputs, *given),
            lengths=lengths,
            defaults=(),
            outputs=tuple(gradients),
            demands=tuple(d for d in self.cascade.demands if d.name in ("sorted", "range")),
        )
        # what was found to be one of the cascade's own sums is read, and not summed again
        backward = share(backward)
        own = {e.tensor for e in self.cascade.equations}
        self.made = [
            replace(e, body=self._measured(e.body)) for e in backward.equations if e.tensor not in own
        ]
        backward = replace(
            backward, equations=(*(e for e in backward.equations if e.tensor in own), *self.made)
        )
        wanted = pruned(backward)
        saved = self._saved(wanted, whole)
        given_back = {t: replace(t, origin="kept", kind="float") for t in saved}
        outputs = {t.name: t for t in self.cascade.outputs}
        given_back |= {
            t: replace(outputs[t.name], origin="kept")
            for t in saved
            if t.name in outputs and set(outputs[t.name].indices) == set(t.indices)
        }

        def read(r: Read) -> Expr | None:
            if r.tensor not in given_back:
                return None
            at = dict(zip(r.tensor.indices, r.at, strict=True))
            return Read(given_back[r.tensor], tuple(at[i] for i in given_back[r.tensor].indices))

        facts, above = self._facts(saved, given_back)
        equations = tuple(
            replace(e, body=replace_reads(e.body, read))
            for e in (*self.cascade.equations, *facts, *self.made)
            if e.tensor not in whole
        )
        kept = tuple(given_back[t] for t in saved)
        backward = replace(
            backward,
            equations=equations,
            inputs=(*self.cascade.inputs, *kept, *given),
            demands=(*backward.demands, *above),
        )
        backward = pruned(backward)
        backward = replace(backward, lengths=_used(backward))
        own = tuple(t for t in saved if t.name not in outputs)
        declared = {e.tensor.name: e.tensor for e in self.cascade.equations}
        forward = replace(
            self.cascade,
            outputs=(*self.cascade.outputs, *(declared[t.name] for t in own)),
        )
        return Adjoint(pruned(forward), backward, kept, tuple(given), self.wrt)

    def _measured(self, e: Expr) -> Expr:
        """An expression in which sums of which there are logarithms are said by these."""

        def said(r: Read) -> Expr | None:
            own = Read(r.tensor, r.tensor.indices)
            if own not in self.logarithms:
                return None
            place = dict(zip(r.tensor.indices, r.at, strict=True))
            held = self.logarithms[own]
            return Apply("exp", (Read(held, tuple(place[i] for i in held.indices)),))

        return replace_reads(e, said)

    def _saved(self, backward: Cascade, whole: set[Tensor]) -> list[Tensor]:
        """The settled tensors that others read which are not."""
        found: dict[Tensor, None] = {}
        for e in backward.equations:
            if e.tensor not in whole:
                found |= dict.fromkeys(r.tensor for r in reads(e.body) if r.tensor in whole)
        return list(found)

    def _facts(self, saved: list[Tensor], given: dict[Tensor, Tensor]) -> tuple[list[Equation], list[Demand]]:
        """That a logarithm is at least every exponent whose exponential is in it."""
        facts, above = [], []
        for tensor in saved:
            match self.bodies[tensor]:
                case Apply("log", (inside,)):
                    signed = terms(inside)
                    sums = [
                        self.bodies.get(x.tensor) for sign, x in signed if sign > 0 and isinstance(x, Read)
                    ]
                    for e in sums:
                        match e:
                            case Reduce("sum", body=Apply("exp", (exponent,))):
                                name = fresh(f"{tensor.name}_least", self.names.taken)
                                self.names.taken.add(name)
                                least = Tensor(name, tensor.indices, "float", "equation")
                                facts.append(Equation(least, replace(e, op="max", body=exponent)))
                                value = Read(least, least.indices)
                                above.append(Demand("above", subject=given[tensor].name, value=value))
        return facts, above


def _row_of(part: Part, sequences: list[Index]) -> Index:
    """The sequence along which an element without a position is reached: that of the place it is read at, and
    of all that has features of the element.
    """
    features = {i for i in free(part.read) if i.role == "feature"}
    for row in sequences:
        away = set(sequences) - {row}
        own = [f for f in factors(part.weight)[0] if free(f) & features]
        if not any(free(f) & away for f in (part.read, *own)):
            return row
    return sequences[0]


def _parts_apart(e: Expr) -> list[Expr]:
    """The terms of a sum, each with its sign."""
    return [x if sign > 0 else Apply("neg", (x,)) for sign, x in terms(e)]


def _whole(e: Expr, place: tuple[Index, ...]) -> bool:
    """Whether a factor of a product has all the features of a place, or one of them is there alone."""
    features = {i for i in place if i.role == "feature"}
    up, down = factors(_unsigned(e)[1])
    return len(features) < 2 or any(features <= free(f) for f in (*up, *down))


def _over(over: tuple[Index, ...], where: Expr, body: Expr) -> Expr:
    return Reduce("sum", over, where, body) if over else body


def _used(cascade: Cascade) -> tuple[tuple[Index, Expr], ...]:
    """The extents of a cascade that it still needs."""
    seen = {x for e in cascade.equations for x in walk(e.body) if isinstance(x, Index)}
    seen |= {i for e in cascade.equations for x in walk(e.body) if isinstance(x, Reduce) for i in x.over}
    seen |= {
        i
        for t in (*cascade.inputs, *cascade.outputs, *(e.tensor for e in cascade.equations))
        for i in t.indices
    }
    kept = []
    for index, length in reversed(cascade.lengths):
        if index in seen:
            kept.append((index, length))
            seen |= {x for x in walk(length) if isinstance(x, Index)}
    return tuple(reversed(kept))


def _summed(parts: list[Expr]) -> Expr:
    """Parts added up: those under one condition together, and sums over the same terms as one."""
    under: dict[Expr, list[Expr]] = {}
    for part in parts:
        match part:
            case Choose(where, value, other) if is_literal(other, 0):
                under.setdefault(where, []).append(value)
            case _:
                under.setdefault(TRUE, []).append(part)
    whole: Expr = ZERO
    for where, values in under.items():
        value = _merged(values)
        whole = plus(whole, value if where == TRUE else Choose(where, value, number(0.0)))
    if len(under) > 1 and TRUE not in under:
        return Choose(tidy(disjoin(under)), whole, number(0.0))
    return whole


def _merged(parts: list[Expr]) -> Expr:
    """`sum(k) a + sum(k) b  -->  sum(k) (a + b)`"""
    sums: dict[Expr, Expr] = {}
    whole: Expr = ZERO
    for sign, part in (x for e in parts for x in terms(e)):
        match part:
            case Reduce("sum"):
                key = replace(part, body=ZERO)
                sums[key] = plus(sums.get(key, ZERO), part.body if sign > 0 else Apply("neg", (part.body,)))
            case _:
                whole = plus(whole, part if sign > 0 else Apply("neg", (part,)))
    for key, body in sums.items():
        assert isinstance(key, Reduce)
        whole = plus(whole, replace(key, body=body))
    return whole


def _real(e: Expr) -> Expr:
    return e if kind(e) == "float" else Apply("*", (e, number(1.0)))


def _folded(weight: Expr, where: Expr, over: tuple[Index, ...]) -> Expr:
    """`sum(over where ...) weight`: sums over features inside, as these are products; outside what is given and
    does not vary. What equations say stays in the sum over a sequence, where exponents meet.
    """
    features = tuple(i for i in over if i.role == "feature")
    around = tuple(sorted((i for i in over if i not in features), key=lambda i: i.role != "batch"))
    sign, e = _unsigned(weight)
    if features:
        e, where = _layer(e, where, features, lambda f: not free(f) & set(features))
    if around:
        e, where = _layer(e, where, around, lambda f: not free(f) & set(around) and _is_given(f))
    e = e if sign > 0 else Apply("neg", (e,))
    return e if where == TRUE else Choose(where, e, number(0.0))


def _layer(
    e: Expr, where: Expr, layer: tuple[Index, ...], still: Callable[[Expr], bool]
) -> tuple[Expr, Expr]:
    """A sum over some indices, with the factors that are `still` outside; the conditions that are left."""
    up, down = factors(e)
    inner = quotient(*([f for f in side if not still(f)] for side in (up, down)))
    above, below = ([f for f in side if still(f)] for side in (up, down))
    here = [c for c in conjuncts(where) if free(c) & set(layer)]
    rest = conjoin(c for c in conjuncts(where) if c not in here)
    return quotient([*above, Reduce("sum", layer, conjoin(here), inner)], below), rest


def _is_given(e: Expr) -> bool:
    return all(r.tensor.origin != "equation" for r in reads(e))


def _unsigned(e: Expr) -> tuple[int, Expr]:
    """The sign of a product, and the product without it."""
    match e:
        case Apply("neg", (a,)):
            sign, rest = _unsigned(a)
            return -sign, rest
        case Apply("*" | "/" as op, (a, b)):
            (first, left), (second, right) = _unsigned(a), _unsigned(b)
            return first * second, Apply(op, (left, right))
        case _:
            return 1, e
