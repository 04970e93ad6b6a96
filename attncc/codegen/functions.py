"""A pattern → the host functions of its module: the one that a person calls, or those that training is made of.

With gradients there are three: `causal_forward` gives the outputs and what is saved besides, `causal_backward`
the gradients, and `causal` is both, as torch's automatic differentiation takes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from attncc.codegen.module import INDENT, host
from attncc.codegen.reference import reference
from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade, Read, Tensor, reads
from attncc.passes.share import replace_reads
from attncc.schedule.plan import Plan
from attncc.schedule.training import Training


@dataclass(frozen=True)
class Function:
    """One host function: what it computes, before the passes, and its kernels.

    `plain` functions are the pattern's own; gradients have the element types of what they are gradients `of`.
    """

    cascade: Cascade
    plan: Plan
    name: str
    plain: bool = True
    of: tuple[Tensor, ...] = ()

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
        Function(training.backward, training.backward_plan, f"{cascade.name}_backward", False, training.wrt),
    )


def _late(plan: Plan) -> set[str]:
    return {e.tensor.name for e in plan.totals}


def _totals(plan: Plan) -> Cascade:
    """The sums that follow the kernels, as a cascade of its own."""
    made = _late(plan)
    given = {r.tensor.name: r.tensor for e in plan.totals for r in reads(e.body) if r.tensor.name not in made}
    inputs = tuple(replace(t, origin="input" if t.origin == "equation" else t.origin) for t in given.values())
    inputs += _showing(plan, made, inputs)
    names = {t.name: t for t in inputs}
    equations = tuple(
        replace(e, body=replace_reads(e.body, lambda r: Read(names[r.tensor.name], r.at) if r.tensor.name in names else None))
        for e in plan.totals
    )
    outputs = tuple(t for t in plan.cascade.outputs if t.name in made)
    return replace(
        plan.cascade, inputs=inputs, equations=equations, outputs=outputs, demands=(), defaults=()
    )


def _showing(plan: Plan, made: set[str], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs that show the extents of what sums have and none of their own inputs does."""
    shown = {i for t in inputs for i in t.indices} | {i for i, _ in plan.cascade.lengths}
    more: dict[Tensor, None] = {}
    for index in (i for t in plan.cascade.outputs if t.name in made for i in t.indices):
        if index not in shown:
            found = next(t for t in plan.cascade.inputs if t.loaded and index in t.indices)
            more[found] = None
            shown |= set(found.indices)
    return tuple(more)
