"""A pattern → the host functions of its module: the one a person calls, or those that training is made of.

With gradients there are three: `causal_forward` gives the outputs and what is saved, `causal_backward` the
gradients, and `causal` is both, as torch's automatic differentiation takes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from attncc.codegen.host import statistic
from attncc.codegen.module import INDENT, host
from attncc.codegen.reference import reference
from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade, Index, Read, Tensor, reads, walk
from attncc.passes.saved import used_lengths
from attncc.passes.share import replace_reads
from attncc.schedule.plan import Plan
from attncc.schedule.training import Training


@dataclass(frozen=True)
class Function:
    """One host function: what it computes, before the passes, and its kernels.

    `plain` functions are the pattern's own; gradients have the element types of what they are gradients `of`,
    and take what reaches the outputs, `given`.
    """

    cascade: Cascade
    plan: Plan
    name: str
    plain: bool = True
    of: tuple[Tensor, ...] = ()
    given: tuple[Tensor, ...] = ()

    @property
    def sums(self) -> frozenset[str]:
        """Inputs that reach statistics of rows, which are held as sums are, whatever the others are."""
        return frozenset(t.name for t in self.given if statistic(t))

    @property
    def cascades(self) -> tuple[Cascade, ...]:
        """Everything that gives names to its text."""
        return (self.cascade, self.plan.cascade, *(kernel.cascade for kernel in self.plan.kernels))

    def ending(self, words: Words) -> Iterator[str]:
        """What follows the kernels: sums over rows, and what is returned."""
        if self.plan.totals:
            whole = _totals(self.plan)
            gives = ", ".join(words.tensor(t.name) for t in whole.outputs)
            takes = ", ".join(f"{words.tensor(t.name)}={words.tensor(t.name)}" for t in whole.inputs)
            yield f"{gives} = _{self.name}_totals({takes})"
        returned = [words.tensor(t.name) for t in self.cascade.outputs]
        for n, (output, tensor) in enumerate(zip(self.cascade.outputs, self.of, strict=False)):
            if not any(i.role == "feature" for i in output.indices) or output.name in _late(self.plan):
                returned[n] += f".to({words.tensor(tensor.name)}.dtype)"
        yield f"return {', '.join(returned)}"

    def text(self, words: Words, check_lines: Sequence[str], body: Sequence[str], target: str) -> str:
        """The function, after the one that adds up its rows."""
        own = host(self.cascade, words, check_lines, body, target, self.name)
        if not self.plan.totals:
            return own
        dense = reference(_totals(self.plan)).function.split("\n", 2)
        lines = dense[2] if dense[1].lstrip().startswith('"""') else "\n".join(dense[1:])
        head = dense[0].replace("def reference(", f"def _{self.name}_totals(")
        return f'{head}\n{INDENT}"""Sums over rows, one after the other."""\n{lines}\n\n\n{own}'


def functions(cascade: Cascade, plan: Plan, training: Training | None) -> tuple[Function, ...]:
    """The host functions of a module that have kernels."""
    if training is None:
        return (Function(cascade, plan, cascade.name),)
    return (
        Function(training.forward, training.forward_plan, f"{cascade.name}_forward"),
        Function(
            training.backward,
            training.backward_plan,
            f"{cascade.name}_backward",
            False,
            training.wrt,
            training.given,
        ),
    )


def _late(plan: Plan) -> set[str]:
    return {e.tensor.name for e in plan.totals}


def _totals(plan: Plan) -> Cascade:
    """The sums that follow the kernels, as a cascade of its own."""
    made = _late(plan)
    cascade = plan.cascade
    rows = {r.tensor.name: r.tensor for e in plan.totals for r in reads(e.body) if r.tensor.name not in made}
    given = {
        name: replace(t, origin="input" if t.origin == "equation" else t.origin) for name, t in rows.items()
    }

    def read(r: Read) -> Read | None:
        return Read(given[r.tensor.name], r.at) if r.tensor.name in given else None

    found = replace(
        cascade,
        inputs=tuple(given.values()),
        equations=tuple(replace(e, body=replace_reads(e.body, read)) for e in plan.totals),
        outputs=tuple(t for t in cascade.outputs if t.name in made),
        demands=(),
        defaults=(),
    )
    found = replace(found, lengths=used_lengths(found))
    said = [*(e.body for e in found.equations), *(length for _, length in found.lengths)]
    wanted = {x for e in said for x in walk(e) if isinstance(x, Index)}
    wanted |= {i for t in found.outputs for i in t.indices}
    # tensors besides, that show an extent, or a device
    shown = {i for t in found.inputs for i in t.indices} | {i for i, _ in found.lengths}
    besides = []
    for t in cascade.inputs:
        if t.name not in given and (wanted & set(t.indices)) - shown:
            besides.append(t)
            shown |= set(t.indices)
    if not found.inputs and not besides:
        besides = [next(t for t in cascade.inputs if t.origin == "input")]
    return replace(found, inputs=(*found.inputs, *besides))
