"""Random patterns mean the same after every pass, and as a kernel of many small tiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import event, given, settings

from attncc.diagnostics import PatternError
from attncc.ir.verify import verified
from attncc.passes import PASSES
from attncc.source import Source
from attncc.syntax.parser import parse
from attncc.syntax.printer import show
from tests.passes.meanings import kernel, meant, results, same
from tests.strategies import Drawn, patterns

TILE = 2
"""Rows and columns of a tile, so that few positions make many tiles, and ragged ones."""


def passes_keep_the_meaning(drawn: Drawn) -> None:
    cascade = meant(drawn.text)
    wanted = results(cascade, drawn.values)
    for place, rewrite in enumerate(PASSES):
        cascade = verified(rewrite(cascade))
        try:
            same(results(cascade, drawn.values), wanted)
        except AssertionError as wrong:
            raise AssertionError(f"after {rewrite.__name__}, pass {place}: {wrong}") from None


def kernel_gives(drawn: Drawn) -> None:
    cascade = meant(drawn.text)
    try:
        found = kernel(drawn.text, drawn.values, TILE)
    except PatternError as refused:
        event(f"refused: {refused.diagnostics[0].code}")
        return
    event("planned")
    same(found, results(cascade, drawn.values))


@given(patterns())
@settings(max_examples=200)
def test_passes_keep_the_meaning(drawn: Drawn) -> None:
    passes_keep_the_meaning(drawn)


@given(patterns(plain=True))
@settings(max_examples=80)
def test_a_kernel_gives_the_meaning(drawn: Drawn) -> None:
    kernel_gives(drawn)


CONSTANTS = """pattern constants(Q[q,d], K[k,d]) -> D[q]:
    along q, k
    s[q,k] = sum(d) Q[q,d] * K[k,d]
    D[q] = max(k) (if s[q,k] > 0 then 0.3 else 1.1)
"""


def test_constants_are_exact() -> None:
    values = {"Q": np.ones((3, 2)), "K": np.ones((4, 2))}
    same(kernel(CONSTANTS, values, TILE), results(meant(CONSTANTS), values))


@given(patterns())
@settings(max_examples=100)
def test_what_is_drawn_is_read_back(drawn: Drawn) -> None:
    file = parse(Source("test.attn", drawn.text))
    assert file == drawn.file
    assert show(file) == drawn.text


@pytest.mark.nightly
@given(patterns())
@settings(max_examples=2000, derandomize=False)
def test_passes_keep_the_meaning_of_many(drawn: Drawn) -> None:
    passes_keep_the_meaning(drawn)


@pytest.mark.nightly
@given(patterns(plain=True))
@settings(max_examples=2000, derandomize=False)
def test_kernels_give_the_meaning_of_many(drawn: Drawn) -> None:
    kernel_gives(drawn)
