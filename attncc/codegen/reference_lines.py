"""Equations → lines of PyTorch, one for each; equations that read each other become a loop over positions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter

from attncc.codegen.reference_bounds import Facts
from attncc.codegen.reference_layout import WIDTH, wrapped
from attncc.codegen.reference_needed import reads_where
from attncc.codegen.reference_scope import Draft, Frame, Key, Scope, Walked
from attncc.codegen.reference_terms import root
from attncc.codegen.reference_values import Axes, Value
from attncc.ir.cascade import Equation, Expr, Index, Read, free, reads
from attncc.ir.linear import added, linear

LIMITS = (1000, 72, 54, 40, 28)
"""Lengths of text beyond which a value gets a name, tried until every line fits; else lines are broken."""


@dataclass
class Body:
    """The function so far: its lines, the tensors that have a name, and all names that are taken."""

    frame: Frame
    comments: Mapping[str, Sequence[str]]
    facts: Mapping[str, Facts]
    steps: Mapping[Index, str]
    taken: set[str]
    tensors: dict[str, Value]
    lines: list[str] = field(default_factory=list)
    names: dict[Key, Value] = field(default_factory=dict)

    def equation(self, e: Equation) -> None:
        """`T = ...`"""
        scope = Scope(
            self.frame,
            self.draft(),
            self.tensors,
            e.tensor.name,
            e.tensor.indices,
            self.facts[e.tensor.name],
        )
        made, lines, draft = self.written(e, scope, "    ")
        name = self.frame.words.tensor(e.tensor.name)
        self.names, self.taken = draft.names, draft.taken
        self.lines += [*self.said(e, "    "), *lines, *wrapped(f"    {name} = {made.text}")]
        self.tensors[e.tensor.name] = Value(name, made.axes, made.kind)

    def said(self, e: Equation, indent: str) -> list[str]:
        """The equation as a comment."""
        return [f"{indent}{line}" for line in self.comments[e.tensor.name]]

    def draft(self, without: Axes = ()) -> Draft:
        """A sheet that knows the names so far, but for those of values that run along some indices."""
        names = {key: v for key, v in self.names.items() if not _mentions(key, without)}
        return Draft(names, set(self.taken))

    def written(self, e: Equation, scope: Scope, indent: str) -> tuple[Value, list[str], Draft]:
        """The value of an equation, the lines that it needs before it, and the sheet on which they stand."""
        base = scope.draft
        for limit in (*LIMITS, LIMITS[2]):
            trial = Draft(dict(base.names), set(base.taken), limit=limit)
            root(e.body, replace(scope, draft=trial))
            repeated = frozenset(key for key, n in trial.asked.items() if n > 1)
            draft = Draft(dict(base.names), set(base.taken), repeated, limit)
            made = self._settled(e, root(e.body, replace(scope, draft=draft)))
            lines = [f"{indent}{line}" for line in draft.lines]
            if max(map(len, [*lines, f"{indent}{e.tensor.name} = {made.text}"])) <= WIDTH:
                break
        return made, [part for line in lines for part in wrapped(line)], draft

    def _settled(self, e: Equation, made: Value) -> Value:
        """A tensor of the equation's own kind."""
        if made.host:
            return self.frame.filled((), made.text, e.tensor.kind)
        if made.kind != e.tensor.kind:
            return Value(made.method(f"to({self.frame.dtype})"), made.axes, e.tensor.kind)
        return made

    # Recurrences

    def group(self, group: tuple[Equation, ...]) -> None:
        """Equations that read each other: position by position, every slice computed once."""
        walked, steps = _walk(group)
        walks = {e.tensor.name: self._walked(e, walked) for e in group}
        self.lines += [f"    {w.slices} = {{}}" for w in walks.values()]
        backward = "reversed({})" if self._backward(group, walked) else "{}"
        indent = "    "
        for i in walked:
            ran = backward.format(f"range({self.frame.sizes[i]})")
            self.lines.append(f"{indent}for {self.steps[i]} in {ran}:")
            indent += "    "
        inner = replace(
            self, lines=[], names={k: v for k, v in self.names.items() if not _mentions(k, walked)}
        )
        for e in steps:
            inner._step(e, walked, walks, indent)
        self.lines += inner.lines
        self.taken = inner.taken
        for e in group:
            w = walks[e.tensor.name]
            self.lines.append(f"    {w.slices} = {self._stacked(w)}")
            self.tensors[e.tensor.name] = Value(w.slices, (*walked, *w.axes), e.tensor.kind)

    def _walked(self, e: Equation, walked: Axes) -> Walked:
        name = self.frame.words.tensor(e.tensor.name)
        axes = tuple(i for i in e.tensor.indices if i not in walked)
        return Walked(
            name, walked, axes, e.tensor.kind, Draft({}, self.taken).name(f"{e.tensor.name}_so_far")
        )

    def _step(self, e: Equation, walked: Axes, walks: Mapping[str, Walked], indent: str) -> None:
        """`S[t] = ...`"""
        own = walks[e.tensor.name]
        bound = {i: self.steps[i] for i in walked}
        facts = self.facts[e.tensor.name]
        scope = Scope(
            self.frame, self.draft(), self.tensors, e.tensor.name, own.axes, facts, (), bound, walks
        )
        made, lines, draft = self.written(e, scope, indent)
        whole = self.frame.whole(made, own.axes)
        self.names, self.taken = draft.names, draft.taken
        late = [w for w in walks.values() if any(_says(line, w.late) for line in [*lines, whole.text])]
        at = ", ".join(self.steps[i] for i in walked)
        self.lines += [
            *self.said(e, indent),
            *(f"{indent}{w.late} = {self._stacked(w)}" for w in late),
            *lines,
            *wrapped(f"{indent}{own.slices}[{at}] = {whole.text}"),
        ]

    def _stacked(self, w: Walked) -> str:
        """All slices so far as one tensor, the walked indices first."""
        sizes = [self.frame.sizes[i] for i in (*w.walked, *w.axes)]
        dtype = {"bool": ", dtype=torch.bool", "int": ", dtype=torch.int64", "float": ""}[w.kind]
        zero = f"{self.frame.first}.new_zeros({self.frame.shape(w.axes)}{dtype})"
        steps = [self.steps[i] for i in w.walked]
        if len(steps) == 1:
            return f"_stack({w.slices}, range({sizes[0]}), {zero})"
        loops = " ".join(f"for {s} in range({n})" for s, n in zip(steps, sizes, strict=False))
        places = f"[({', '.join(steps)}) {loops}]"
        return f"_stack({w.slices}, {places}, {zero}).reshape({', '.join(sizes)})"

    def _backward(self, group: tuple[Equation, ...], walked: Axes) -> bool:
        """Whether some read inside the group surely stands at a later position."""
        names = {e.tensor.name for e in group}
        for e in group:
            for read, facts in reads_where(e.body, ()):
                for i in walked if read.tensor.name in names else ():
                    ahead = added(added(linear(at(read, i)), linear(i), -1), ({}, 1), -1)
                    if self.frame.bounds.at_least(ahead, facts):
                        return True
        return False


def at(read: Read, index: Index) -> Expr:
    """The subscript that stands for one of a tensor's indices."""
    return read.at[read.tensor.indices.index(index)]


def _walk(group: tuple[Equation, ...]) -> tuple[Axes, tuple[Equation, ...]]:
    """The indices that a group is walked along, outermost first, and the order of its equations on a step.

    They are the sequence indices on every left side that some read inside the group does not merely repeat.
    """
    members = {e.tensor.name: e for e in group}
    inside = [(e, r) for e in group for r in reads(e.body) if r.tensor.name in members]
    shared = [i for i in group[0].tensor.indices if all(i in e.tensor.indices for e in group)]
    walked = tuple(i for i in shared if i.role == "sequence" and any(at(r, i) != i for _, r in inside))
    here: dict[str, list[str]] = {name: [] for name in members}
    for e, r in inside:
        if all(at(r, i) == i for i in walked):
            here[e.tensor.name].append(r.tensor.name)
    return walked, tuple(members[name] for name in TopologicalSorter(here).static_order())


def _mentions(key: Key, indices: Axes) -> bool:
    return any(free(part) & set(indices) for part in (key[0], *key[1]))


def _says(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text) is not None
