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

SHAPES = ("relu({a} - {r})", "exp({a} - {r})", "({a} - {r}) * ({a} - {r})", "{a} * {r}", "{a} / (1 + abs({r}))")
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
    given = {t: replace(t, name=f"{t.name}_given", origin="input") for t in made(cascade) if t.name in cut}
    assert len(given) == len(cut), f"{reader} does not wait for equations: {cut}"

    def put(read: Read) -> Read | None:
        return Read(given[read.tensor], read.at) if read.tensor in given else None

    equations = tuple(
        replace(e, body=replace_reads(e.body, put)) if e.tensor.name == reader else e
        for e in cascade.equations
    )
    return replace(cascade, inputs=(*cascade.inputs, *given.values()), equations=equations)


def made(cascade: Cascade) -> list:
    return [e.tensor for e in cascade.equations]


def blamed(passes: Passes) -> dict[str, frozenset[str]]:
    """What every reader is said to wait for."""
    readers = dict.fromkeys(edge.reader for edge in passes.blocking)
    return {name: frozenset(e.read for e in passes.blocking if e.reader == name) for name in readers}


def edges_are_true(text: str) -> None:
    """Without its edges a reader is in an earlier pass; without all of them but one, it is not."""
    cascade = streamed(meant(text))
    for index in walked(cascade):
        passes, _ = passes_over(cascade, index)
        of = dict(passes.of)
        event(f"{passes.count} passes, {len(passes.blocking)} edges")
        assert (passes.count > 1) == bool(passes.blocking), passes
        for reader, edges in blamed(passes).items():

            def after(cut: frozenset[str], reader: str = reader) -> int:
                return dict(passes_over(without(cascade, reader, cut), index)[0].of)[reader]

            assert after(edges) < of[reader], f"{reader} needs no {edges}: {passes}"
            for edge in edges if len(edges) > 1 else ():
                assert after(edges - {edge}) == of[reader], f"{reader} can do with {edge}: {passes}"


@given(several())
@settings(max_examples=200)
def test_what_blocks_a_pass_does(text: str) -> None:
    edges_are_true(text)


@pytest.mark.nightly
@given(several())
@settings(max_examples=2000, derandomize=False)
def test_what_blocks_a_pass_of_many_does(text: str) -> None:
    edges_are_true(text)
