"""Cascade → a plain PyTorch function: its dense definition, a statement for each equation below its text.

    # S[b,h,q,k] = sum(d) Q[b,h,q,d] * K[b, h // (|h| // |g|), k, d] / sqrt(|d|)
    S = _einsum("bhqd,bhkd->bhqk", Q, K[:, h // (NH // NG)]) / math.sqrt(D)

Differentiable by torch. What a predicate excludes gives exact zeros, forward and backward: no exponential,
logarithm or quotient is taken of it, and rows that see nothing have gradient 0. Equal maxima share their
gradient evenly.
"""

from __future__ import annotations

import keyword
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from string import ascii_letters

from attncc.codegen.host import tables
from attncc.codegen.reference_bounds import Bounds, Facts
from attncc.codegen.reference_guards import infinite
from attncc.codegen.reference_helpers import HELPERS, helpers
from attncc.codegen.reference_layout import WIDTH
from attncc.codegen.reference_lines import Body
from attncc.codegen.reference_needed import needed
from attncc.codegen.reference_present import explicit, mark_of
from attncc.codegen.reference_scope import Draft, Frame, Scope
from attncc.codegen.reference_terms import value
from attncc.codegen.reference_values import Value
from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade, Index, Reduce, walk
from attncc.ir.graph import live, recurrent
from attncc.ir.linear import linear
from attncc.ir.show import show_equation

OWN = frozenset(
    {*keyword.kwlist, *HELPERS, "abs", "int", "max", "min", "math", "range", "reversed", "round", "torch"}
)
"""Words of the text that stand for no tensor of the cascade."""


@dataclass(frozen=True)
class Reference:
    """The text of a reference: `def reference(...)`, and the functions that it calls, "" if there are none.

    Both need `import math` and `import torch`, where they say `math.` and `torch.`.
    """

    helpers: str
    function: str


def reference(cascade: Cascade) -> Reference:
    """The dense definition of a pattern, in plain PyTorch.

    `reference` takes the cascade's inputs by name and in order, tensors of any strides, device and float
    dtype, numbers as Python's, and returns its outputs in their declared index order: one tensor, or a tuple
    of several.
    """
    names = live(cascade)
    cascade = replace(cascade, equations=tuple(e for e in cascade.equations if e.tensor.name in names))
    whole, lacking = explicit(cascade)
    frame = _frame(whole)
    steps = {i: frame.words.free(f"{i.name}_now") for i in frame.positions}
    body = _body(cascade, whole, lacking, steps)
    # a loop over positions may have the name of its index, unless that is a tensor of positions somewhere
    free = {i: name for i, name in frame.positions.items() if not _said(name, body.lines)}
    body = _body(cascade, whole, lacking, {**steps, **free})
    words = body.frame.words
    wide = [f"    {line}" for line in tables(cascade, words, "long()")]
    lines = [*_signature(cascade, words), *wide, *_extents(cascade, body), *body.lines]
    text = "\n".join(lines) + "\n"
    return Reference(helpers(text), text)


def _body(cascade: Cascade, whole: Cascade, lacking: Mapping[str, Facts], steps: Mapping[Index, str]) -> Body:
    """The equations' lines and the last one, under some names for the positions of loops."""
    frame = _frame(whole)
    comments = {e.tensor.name: tuple(_comment(show_equation(e))) for e in cascade.equations}
    marks = {mark_of(e.tensor).name: (f"# where {e.tensor.name} has a value",) for e in cascade.equations}
    taken = {*OWN, *frame.sizes.values(), *frame.positions.values(), *steps.values()}
    taken |= {frame.words.tensor(t.name) for t in (*whole.inputs, *(e.tensor for e in whole.equations))}
    numbers = ("scalar", "static")
    tensors = {
        t.name: Value(frame.words.tensor(t.name), t.indices, t.kind, host=t.origin in numbers)
        for t in whole.inputs
    }
    # what has no value matters no more than what nobody reads
    read = needed(whole)
    known = {name: frame.bounds.least((*facts, *lacking.get(name, ())), ()) for name, facts in read.items()}
    body = Body(frame, {**marks, **comments}, known, steps, taken, tensors)
    groups = {name: group for group in recurrent(whole) for name in group}
    for e in whole.equations:
        if e.tensor.name in body.tensors:
            continue
        if e.tensor.name in groups:
            body.group(tuple(whole.equation(name) for name in groups[e.tensor.name]))
        else:
            body.equation(e)
    returned = [frame.whole(body.tensors[t.name], t.indices).text for t in cascade.outputs]
    body.lines.append(f"    return {', '.join(returned)}")
    return body


def _frame(cascade: Cascade) -> Frame:
    tensors = (*cascade.inputs, *(e.tensor for e in cascade.equations))
    indices = _indices(cascade)
    words = Words(frozenset(t.name for t in tensors) | OWN, indices)
    arrays = [t for t in cascade.inputs if t.origin in ("input", "table")]
    floats = [t for t in arrays if t.kind == "float"]
    letters = {i: i.name for i in indices if len(i.name) == 1}
    spare = iter(c for c in ascii_letters if c not in letters.values())
    return Frame(
        words,
        Bounds(dict(cascade.lengths)),
        words.tensor((floats or arrays)[0].name),
        bool(floats),
        {i: words.extent(i) for i in indices},
        {i: words.position(i) for i in indices},
        {**letters, **{i: next(spare) for i in indices if i not in letters}},
        infinite(cascade),
    )


def _indices(cascade: Cascade) -> tuple[Index, ...]:
    """Every index, in order of appearance."""
    found: list[Index] = [i for t in cascade.inputs for i in t.indices]
    found += [i for i, _ in cascade.lengths]
    for e in cascade.equations:
        found += e.tensor.indices
        found += [i for x in walk(e.body) if isinstance(x, Reduce) for i in x.over]
    found += [i for t in cascade.outputs for i in t.indices]
    return tuple(dict.fromkeys(found))


def _comment(said: str) -> list[str]:
    return textwrap.wrap(said, 96, initial_indent="# ", subsequent_indent="#     ", break_long_words=False)


def _signature(cascade: Cascade, words: Words) -> Iterator[str]:
    """`def reference(Q, K, V, window=1024):` and what it is."""
    given = dict(cascade.defaults)
    later = False
    params: list[str] = []
    for n, t in enumerate(cascade.inputs):
        if t.name in given and not later and any(u.name not in given for u in cascade.inputs[n:]):
            params.append("*")
        later = later or t.name in given
        params.append(words.tensor(t.name) + (f"={_number(given[t.name])}" if t.name in given else ""))
    line = f"def reference({', '.join(params)}):"
    if len(line) <= WIDTH:
        yield line
    elif len(inside := f"    {', '.join(params)}") <= WIDTH:
        yield from ("def reference(", inside, "):")
    else:
        yield from ("def reference(", *(f"    {p}," for p in params), "):")
    yield f'    """`{cascade.name}`: dense, differentiable, any device and dtype."""'


def _number(default: float) -> str:
    return repr(default) if abs(default) != float("inf") else f'float("{default}")'


def _extents(cascade: Cascade, body: Body) -> Iterator[str]:
    """The extents and positions that the lines use, each from the first tensor that shows it."""
    frame = body.frame
    lengths = [_length(i, body) for i, _ in cascade.lengths]
    used = [*body.lines]
    kept: list[str] = []
    shown = {i for t in cascade.inputs for i in t.indices}
    positions = [
        f"    {name} = torch.arange({frame.sizes[i]}, device={frame.first}.device)"
        for i, name in frame.positions.items()
        if _said(name, body.lines) and name not in body.steps.values()
    ]
    used += positions
    for (i, _), line in reversed(list(zip(cascade.lengths, lengths, strict=True))):
        if i not in shown and _said(frame.sizes[i], used):
            kept.insert(0, line)
            used.append(line)
    yield from _shapes(cascade, frame, used)
    yield from kept
    yield from positions


def _length(index: Index, body: Body) -> str:
    formula = body.frame.bounds.lengths[index]
    made = value(formula, Scope(body.frame, Draft({}, set()), body.tensors, index.name, ()))
    text = made.text if made.host else f"int({made.text})"
    if not body.frame.bounds.at_least(linear(formula), ()):
        text = f"max({text}, 0)"
    return f"    {body.frame.sizes[index]} = {text}"


def _shapes(cascade: Cascade, frame: Frame, used: list[str]) -> Iterator[str]:
    """`NB, NH, NQ, D = Q.shape`"""
    known: set[Index] = set()
    for t in cascade.inputs:
        new = [i for i in t.indices if i not in known and _said(frame.sizes[i], used)]
        known |= set(t.indices)
        name = frame.words.tensor(t.name)
        if len(new) == 1:
            yield f"    {frame.sizes[new[0]]} = {name}.shape[{t.indices.index(new[0])}]"
        elif new:
            yield f"    {', '.join(frame.sizes[i] if i in new else '_' for i in t.indices)} = {name}.shape"


def _said(name: str, lines: list[str]) -> bool:
    """Whether code uses a name, comments and strings aside."""
    plain = (re.sub(r'"[^"]*"', "", line) for line in lines if not line.lstrip().startswith("#"))
    return any(re.search(rf"(?<![\w.]){re.escape(name)}\b", line) for line in plain)
