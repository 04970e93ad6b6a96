"""What a piece of the reference is written in: names around it, what is known there, the lines so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from attncc.codegen.reference_bounds import Bounds, Facts
from attncc.codegen.reference_present import outside
from attncc.codegen.reference_values import Axes, Value, placed, turned
from attncc.codegen.words import Words
from attncc.ir.cascade import Expr, Index
from attncc.ops import Kind

Key = tuple[Expr, frozenset[Expr]]
"""An expression, and the facts under which its text was made."""


@dataclass(frozen=True)
class Frame:
    """What the function has named before its first equation.

    `first` is the tensor whose device is used, and whose dtype where it is a float one; `sizes` are the names
    of extents, `positions` those of indices as tensors, `letters` stand for indices in a contraction.
    """

    words: Words
    bounds: Bounds
    first: str
    has_float: bool
    sizes: Mapping[Index, str]
    positions: Mapping[Index, str]
    letters: Mapping[Index, str]
    infinite: frozenset[str]

    @property
    def dtype(self) -> str:
        """The dtype that integers take among real numbers."""
        return f"{self.first}.dtype" if self.has_float else "torch.get_default_dtype()"

    def shape(self, axes: Axes) -> str:
        """`(NB, NH)`"""
        return f"({', '.join(self.sizes[i] for i in axes)}{',' if len(axes) == 1 else ''})"

    def filled(self, axes: Axes, text: str, kind: Kind) -> Value:
        """A tensor of one number."""
        plain = "" if self.has_float else f", dtype={self.dtype}"
        dtype = {"bool": ", dtype=torch.bool", "int": ", dtype=torch.int64", "float": plain}[kind]
        fill = (
            f"new_zeros({self.shape(axes)}{dtype})"
            if text == "0"
            else f"new_full({self.shape(axes)}, {text}{dtype})"
        )
        return Value(f"{self.first}.{fill}", axes, kind)

    def whole(self, value: Value, axes: Axes) -> Value:
        """A value repeated along every axis that it lacks."""
        if value.host:
            return self.filled(axes, value.text, value.kind)
        if set(value.axes) == set(axes):
            return turned(value, axes)
        sizes = ", ".join(self.sizes[i] for i in axes)
        return Value(placed(value, axes).method(f"expand({sizes})"), axes, value.kind)


@dataclass(frozen=True)
class Walked:
    """A tensor of a recurrent group while it is walked: slices by position, under a name.

    `axes` are those of one slice, `walked` the indices that positions are of; `late` is the name of all
    slices as one tensor, those that have not been reached yet 0.
    """

    slices: str
    walked: Axes
    axes: Axes
    kind: Kind
    late: str


@dataclass
class Draft:
    """The lines of an equation as they are written.

    A value gets a name if it is `repeated`, or its text is longer than `limit`; `names` has those with one.
    """

    names: dict[Key, Value]
    taken: set[str]
    repeated: frozenset[Key] = frozenset()
    limit: int = 1000
    asked: Counter[Key] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    known: dict[Key, Value] = field(init=False)
    texts: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.known = dict(self.names)

    def name(self, stem: str, *more: str) -> str:
        """A name that nobody has, made of what the value is."""
        candidates = [stem, *more, *(f"{(more or (stem,))[-1]}_{n}" for n in range(2, 100))]
        found = next(c for c in candidates if c not in self.taken)
        self.taken.add(found)
        return found


@dataclass(frozen=True)
class Scope:
    """Where an expression stands: the order of its axes, what holds, which indices stand at one position.

    `facts` hold of every element that matters, `lazy` wherever the text is evaluated at all.
    """

    frame: Frame
    draft: Draft
    tensors: Mapping[str, Value]
    equation: str
    axes: Axes
    facts: Facts = ()
    lazy: Facts = ()
    bound: Mapping[Index, str] = field(default_factory=dict)
    walks: Mapping[str, Walked] = field(default_factory=dict)

    def knowing(self, facts: Facts) -> Scope:
        """The same, where more is known to hold."""
        return replace(self, facts=tuple(dict.fromkeys(self.facts + facts)))

    def inside(self, over: Axes, facts: Facts) -> Scope:
        """The same inside a reduction, whose indices run, as the last axes."""
        axes = tuple(i for i in self.axes if i not in over) + over
        bound = {i: text for i, text in self.bound.items() if i not in over}
        return replace(self, axes=axes, facts=facts, lazy=outside(self.lazy, over), bound=bound)
