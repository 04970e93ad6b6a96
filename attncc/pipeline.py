"""The compiler on one page: source → what was said → what it means → which kernels → text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attncc.codegen import BACKENDS
from attncc.codegen.module import Said
from attncc.diagnostics import Diagnostic, PatternError
from attncc.ir.cascade import Cascade
from attncc.ir.check import check
from attncc.ir.verify import verified
from attncc.lint.demands import leaking, unmet, witnessed
from attncc.passes import PASSES, Pass
from attncc.passes.adjoint import adjoint
from attncc.passes.distribute import distribute
from attncc.passes.share import pruned
from attncc.passes.stream import deferred, stream
from attncc.schedule.apart import apart
from attncc.schedule.plan import Plan, check_families, in_turn, partition
from attncc.schedule.refused import Refused
from attncc.schedule.required import not_causal, too_many_passes
from attncc.schedule.spec import KINDS, Points, Specialisation
from attncc.schedule.tiles import OLDEST, WIDEST
from attncc.schedule.training import Training
from attncc.source import Source
from attncc.syntax.ast import Equate, Notes
from attncc.syntax.parser import parse
from attncc.syntax.printer import show_statement

UNTRAINED = (
    "without gradients it has kernels: call it under torch.no_grad(), or compile it with --no-gradients; the "
    'dense reference has gradients: `attncc.load(path, backend="reference")`'
)


class Unfit(ValueError):
    """A specialisation that a pattern, or any kernel, cannot have."""


def meaning(source: Source, outputs: tuple[str, ...] = ()) -> Cascade:
    """What a pattern means; `outputs` names equations to give instead of the declared ones. PatternError."""
    return verified(check(parse(source), source, outputs))


def rewritten(cascade: Cascade) -> Iterator[tuple[str, Cascade]]:
    """The name of every pass, and the cascade after it, checked."""
    for rewrite in PASSES:
        cascade = verified(rewrite(cascade))
        yield rewrite.__name__, cascade


def streamed(cascade: Cascade) -> Cascade:
    """The cascade after all passes, checked after each."""
    for _, after in rewritten(cascade):
        cascade = after
    return cascade


def before(last: Pass, cascade: Cascade) -> Cascade:
    """The cascade after the passes before one, checked after each."""
    for rewrite in PASSES[: PASSES.index(last)]:
        cascade = verified(rewrite(cascade))
    return cascade


def planned(cascade: Cascade, source: Source) -> Plan:
    """The kernels of a cascade; PatternError names the rule by which it has none, or what it was required to
    be and is not.
    """
    plan, found = _judged(cascade)
    if isinstance(plan, Refused):
        raise PatternError(source, [*found, plan.diagnostic])
    if found:
        raise PatternError(source, found)
    return plan


def demanded(cascade: Cascade, source: Source) -> None:
    """PatternError where a pattern is not what it requires itself to be, where that can be told."""
    if any(d.name in ("passes", "causal", "covers", "cache") for d in cascade.demands):
        _, found = _judged(cascade)
        if found:
            raise PatternError(source, found)


def _judged(cascade: Cascade) -> tuple[Plan | Refused, list[Diagnostic]]:
    """The kernels of a cascade, or the rule by which it has none; the demands that it does not meet."""
    run = streamed(cascade)
    found = list(too_many_passes(run))
    masked = list(unmet(cascade))
    try:
        plan = partition(run)
    except Refused as refused:
        return refused, [*found, *(witnessed(d, cascade) for d in leaking(cascade)), *masked]
    return plan, [*found, *(witnessed(d, cascade) for d in not_causal(plan)), *masked]


def generate(cascade: Cascade, source: Source, spec: Specialisation, wrt: tuple[str, ...] | None = ()) -> str:
    """The module of a cascade, as text, with the gradients of the inputs named by `wrt`; None: of all."""
    write, plan = BACKENDS[spec.backend], planned(cascade, source)
    given = said(source), pruned(cascade), plan, spec
    try:
        return write(*given, None if wrt == () else trained(cascade, wrt))
    except Refused as refused:
        found = refused.diagnostic
    if wrt != ():
        try:
            write(*given, None)
        except Refused as refused:
            found = refused.diagnostic
        else:
            found = replace(found, message=f"{found.message} (a gradient)", help=UNTRAINED)
    raise PatternError(source, [found])


def trained(cascade: Cascade, wrt: tuple[str, ...] | None = None) -> Training:
    """The forward and the backward pass of a cascade, planned. Refused names the rule where there is none."""
    cascade = before(stream, cascade)
    check_families(cascade)
    made = adjoint(verified(deferred(cascade)), wrt)
    forward, backward = verified(made.forward), verified(made.backward)
    plan = partition(streamed(forward))
    plans = [partition(streamed(verified(c))) for c in apart(before(distribute, backward))]
    return Training(forward, plan, backward, in_turn(plans), made.saved, made.given, made.wrt)


def differentiated(cascade: Cascade, source: Source, wrt: tuple[str, ...]) -> Training:
    """The same; PatternError names the rule by which there are none, for the outputs or the gradients."""
    try:
        return trained(cascade, wrt)
    except Refused as refused:
        planned(cascade, source)
        why = refused.diagnostic
        message = f"no gradients in {', '.join(f'`{name}`' for name in wrt)}: {why.message}"
        help = 'differentiate the dense reference, `attncc.load(path, backend="reference")`'
        help += ", or call this under torch.no_grad()"
        raise PatternError(source, [replace(why, message=message, help=help)]) from None


def said(source: Source) -> Said:
    """The pattern in its author's words."""
    file = parse(source)
    assert file.pattern is not None, "a source without a pattern has no meaning"
    equations = tuple(
        show_statement(replace(s, notes=Notes())) for s in file.pattern.statements if isinstance(s, Equate)
    )
    return Said(file.pattern.name, file.pattern.doc or file.doc, equations)


def compile(
    source: Source, spec: Specialisation, outputs: tuple[str, ...] = (), wrt: tuple[str, ...] | None = ()
) -> str:
    """A pattern → the text of a standalone module, with the gradients of the inputs named by `wrt`; None: of
    all. Feature extents that `spec` leaves open are written as 64 and 128. Unfit if there are no kernels for
    what `spec` asks.
    """
    cascade = meaning(source, outputs)
    _check(spec)
    return generate(cascade, source, replace(spec, extents=_points(cascade, spec.extents)), wrt)


def _check(spec: Specialisation) -> None:
    kinds = KINDS[spec.backend]
    strange = [kind for kind in spec.dtypes if kind not in kinds]
    if strange:
        raise Unfit(f"no kernels in {', '.join(strange)} for {spec.target}: {', '.join(kinds)}")
    vendor, _, generation = spec.target.partition(":")
    if vendor == "cuda" and generation.isdigit() and int(generation) < OLDEST:
        help = 'the torch backend runs anywhere: `attncc.load(path, backend="torch")`'
        raise Unfit(f"no kernels for {spec.target}, which is older than cuda:{OLDEST}; {help}")
    wide = [f"|{name}| = {n}" for point in spec.extents for name, n in point if n > WIDEST]
    if wide and spec.backend == "triton":
        raise Unfit(f"{', '.join(wide)}: a kernel takes feature extents up to {WIDEST}")


def _points(cascade: Cascade, given: Points) -> Points:
    features = sorted({i.name for t in cascade.inputs for i in t.indices if i.role == "feature"})
    unknown = sorted({name for point in given for name, _ in point} - set(features))
    if unknown:
        raise Unfit(f"no feature index {', '.join(unknown)}: {cascade.name} has {', '.join(features)}")
    points = [dict.fromkeys(features, size) | dict(point) for point in given or ((),) for size in (64, 128)]
    return tuple(dict.fromkeys(tuple(sorted(point.items())) for point in points))
