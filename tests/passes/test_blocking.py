"""Random cascades of several passes: every edge that is said to force one does, and none is forced unsaid."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from attncc.ir.cascade import Cascade, Read
from attncc.passes.analyse import Passes, walked
from attncc.passes.online import passes_over
from attncc.passes.share import replace_reads
from attncc.pipeline import streamed
from tests.passes.meanings import meant

HEAD = """pattern several(Q[q,d], K[k,d], V[k,e], x[k]) -> {outputs}:
    align q to k
    align j to k
    s[q,k] = sum(d) Q[q,d] * K[k,d]
"""
MASKS = ("", "", " where k <= q", " where q - k < 4")
"""Which keys a reduction sees; others are drawn with what a row knows."""

SHAPES = (
    "relu({a} - {r})",
    "exp({a} - {r})",
    "({a} - {r}) * ({a} - {r})",
    "{a} * {r}",
    "{a} / (1 + abs({r}))",
)
SHAPES += ("abs({a}) * sigmoid({r} - {a})", "({a} - {r}) * exp({a} - {r})", "exp({a} * {r})")
"""Terms that read a row's number `r` beside one that varies along the keys."""


@dataclass
class Written:
    """The equations so far, and what can be read: numbers of a row, of every key, and of both."""

    draw: st.DrawFn
    lines: list[str] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=lambda: ["x[k]"])
    cells: list[str] = field(default_factory=lambda: ["s[q,k]"])

    def one(self, options: Iterable[str]) -> str:
        return self.draw(st.sampled_from(list(options)))

    def term(self) -> str:
        """A number of a row and a key, which mostly reads numbers of the row."""
        varying = self.one(self.cells)
        told = [self.one(self.rows) for _ in range(self.draw(st.integers(0, 2)))] if self.rows else []
        parts = [self.one(SHAPES).format(a=varying, r=r) for r in told]
        given = [self.one(self.keys)] if self.draw(st.booleans()) else []
        return " * ".join([*(parts or [varying]), *given])

    def mask(self) -> str:
        if not self.rows or self.draw(st.integers(0, 3)):
            return self.one(MASKS)
        return f" where {self.one(self.cells)} > {self.one(self.rows)}"

    def equation(self) -> None:
        """One more: a reduction of a row or of a key, a formula, a sum over features, weights, a place."""
        name = f"t{len(self.lines)}"
        row, key, cell = f"{name}[q]", f"{name}[k]", f"{name}[q,k]"
        match self.draw(st.integers(0, 10)):
            case 0 | 1 | 2 | 3:
                op = self.one(("sum", "mean", "max", "min"))
                self.say(row, f"{op}(k{self.mask()}) {self.term()}", self.rows)
            case 4 if self.rows:
                self.say(row, f"{self.one(self.rows)} / (1 + abs({self.one(self.rows)}))", self.rows)
            case 5:
                self.say(cell, f"softmax(k{self.mask()}) ({self.term()})", self.cells)
            case 6:
                row = self.one([*self.rows, "0.5"])
                self.say(cell, f"sum(d) relu(Q[q,d] * K[k,d] - {row})", self.cells)
            case 7:
                op = self.one(("sum", "max"))
                self.say(key, f"{op}(q{self.mask()}) ({self.term()})", self.keys)
            case 8:
                scanned = self.one(self.keys).replace("k", "j")
                self.say(key, f"sum(j where j <= k) {scanned}", self.keys)
            case 9:
                self.say(cell, f"rank(k) {self.one(self.cells)}", self.cells)
            case _:
                self.say(cell, self.term(), self.cells)

    def say(self, left: str, right: str, known: list[str]) -> None:
        self.lines.append(f"{left} = {right}")
        known.append(left)

    def text(self) -> str:
        """The pattern: weighted values, and one of the equations besides."""
        weight = self.one([*self.cells, self.term()])
        end = f"O[q,e] = sum(k{self.mask()}) ({weight}) * V[k,e]"
        beside = self.one(["", *(line.split(" = ")[0] for line in self.lines)])
        outputs = ", ".join(filter(None, ("O[q,e]", beside)))
        return HEAD.format(outputs=outputs) + "".join(f"    {line}\n" for line in (*self.lines, end))


@st.composite
def several(draw: st.DrawFn) -> str:
    """A pattern whose reductions read each other, directly and through what is made of them."""
    written = Written(draw)
    for _ in range(draw(st.integers(1, 4))):
        written.equation()
    return written.text()


def without(cascade: Cascade, reader: str, cut: frozenset[str]) -> Cascade:
    """The cascade in which an equation reads inputs of the same shape in place of what it waits for."""
    tensors = (e.tensor for e in cascade.equations)
    given = {t: replace(t, name=f"{t.name}_given", origin="input") for t in tensors if t.name in cut}
    assert len(given) == len(cut), f"{reader} does not wait for equations: {cut}"

    def put(read: Read) -> Read | None:
        return Read(given[read.tensor], read.at) if read.tensor in given else None

    equations = tuple(
        replace(e, body=replace_reads(e.body, put)) if e.tensor.name == reader else e
        for e in cascade.equations
    )
    return replace(cascade, inputs=(*cascade.inputs, *given.values()), equations=equations)


def blamed(passes: Passes) -> dict[str, frozenset[str]]:
    """What every reader is said to wait for."""
    readers = dict.fromkeys(edge.reader for edge in passes.blocking)
    return {name: frozenset(e.read for e in passes.blocking if e.reader == name) for name in readers}


def edges_are_true(text: str) -> int:
    """Without its edges a reader is in an earlier pass; without all of them but one, it is not.

    The passes over the index that takes the most.
    """
    cascade = streamed(meant(text))
    found = [passes_over(cascade, index)[0] for index in walked(cascade)]
    for passes in found:
        assert (passes.count > 1) == bool(passes.blocking), passes
        for reader, edges in blamed(passes).items():
            own = dict(passes.of)[reader]
            assert pass_without(cascade, passes, reader, edges) < own, f"{edges} -> {reader}: {passes}"
            for edge in edges if len(edges) > 1 else ():
                left = pass_without(cascade, passes, reader, edges - {edge})
                assert left == own, f"{reader} can do with {edge}: {passes}"
    return max(passes.count for passes in found)


def pass_without(cascade: Cascade, passes: Passes, reader: str, cut: frozenset[str]) -> int:
    """The pass that a reader would be in."""
    return dict(passes_over(without(cascade, reader, cut), passes.index)[0].of)[reader]


BLOCKED = {
    "both, as it can follow neither": (
        "O[q,e] = sum(k) relu(s[q,k] - u[q]) * relu(s[q,k] - m[q]) * V[k,e]",
        {"O": {"u_sum", "m"}},
    ),
    "one, as it can follow the other": (
        "O[q,e] = sum(k) relu(s[q,k] - u[q]) * exp(s[q,k] - m[q]) * V[k,e]",
        {"O_total": {"u_sum"}},
    ),
    "the sum with which it rides, not what that waits for": (
        "z[q,k] = sum(d) relu(Q[q,d] * K[k,d] - u[q])\n"
        "    O[q,e] = sum(k) z[q,k] * relu(s[q,k] - u[q]) * V[k,e]",
        {"z": {"u_sum"}},
    ),
    "nothing more, beside what it rides with": (
        "z[q,k] = sum(d) relu(Q[q,d] * K[k,d] - u[q])\n"
        "    O[q,e] = sum(k) z[q,k] * exp(s[q,k] - m[q]) * V[k,e]",
        {"z": {"u_sum"}},
    ),
    "a place among all": (
        "p[q,k] = rank(k) s[q,k]\n    O[q,e] = sum(k where p[q,k] < 2) V[k,e]",
        {"O": {"p"}},
    ),
    "a place among all, not the maximum that it follows": (
        "p[q,k] = rank(k) s[q,k]\n    O[q,e] = sum(k) p[q,k] * exp(s[q,k] - m[q]) * V[k,e]",
        {"O_total": {"p"}},
    ),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_a_reader_waits_for(name: str) -> None:
    said, edges = BLOCKED[name]
    means = "u[q] = mean(k) s[q,k]\n    m[q] = max(k) s[q,k]"
    text = HEAD.format(outputs="O[q,e]") + f"    {means}\n    {said}\n"
    cascade = streamed(meant(text))
    passes, _ = passes_over(cascade, walked(cascade)[0])
    assert passes.count == 2 and blamed(passes) == edges
    edges_are_true(text)


@given(several())
@settings(max_examples=200)
def test_what_blocks_a_pass_does(text: str) -> None:
    event(f"{edges_are_true(text)} passes")


@pytest.mark.nightly
@given(several())
@settings(max_examples=2000, derandomize=False)
def test_what_blocks_a_pass_of_many_does(text: str) -> None:
    edges_are_true(text)
