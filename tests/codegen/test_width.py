"""Which integers of a kernel are 64 bits wide; that the values are right is `corners`."""

from __future__ import annotations

import pytest
import torch

from attncc.pipeline import compile
from attncc.runtime.module import load
from attncc.schedule.spec import Specialisation
from attncc.source import Source

TEXT = """pattern wide(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e], n: int, far[h]: int) -> O[b,h,q,e]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d]{bias}
    O[q,e] = sum(k) (softmax(k where {predicate}) S[q,k]) * V[k,e]
"""


def kernel(predicate: str = "k <= q", bias: str = "") -> str:
    text = TEXT.format(predicate=predicate, bias=bias)
    made = compile(Source("wide.attn", text), Specialisation("triton", "cuda:90", ("bfloat16",), ()))
    return made.partition("    last = ")[2] or made.partition("def wide_kernel")[2]


@pytest.mark.parametrize(
    ("predicate", "casts"),
    [
        ("k <= q", 0),
        ("k <= q and q - k < n", 0),
        ("k <= q and q // n == k // n", 0),
        ("q - k < far", 2),  # the first and the last row's range
        ("q - k < n * n", 3),
        ("k * 7 < n", 1),
        ("k <= q * q", 3),  # and the greatest and the least end of the tile's rows
    ],
)
def test_only_what_may_overflow(predicate: str, casts: int) -> None:
    text = kernel(predicate).partition("O_qe = ")[0]
    wide = [line for line in text.split("\n") if ".to(tl.int64)" in line and "_here" not in line]
    assert sum(line.count(".to(tl.int64)") for line in wide) == casts, "\n".join(wide)


def test_numbers_that_a_kernel_is_compiled_for() -> None:
    """They are Python's: no method of Triton's, and nothing that makes what they multiply wide."""
    text = TEXT.replace("n: int", "block: int").replace(
        "align q to k", "align q to k\n    split k into n, i by block"
    )
    source = Source("wide.attn", text.format(predicate="k * (block * block) <= q + block * block", bias=""))
    made = compile(source, Specialisation("triton", "cuda:90", ("bfloat16",), ()))
    assert "block: tl.constexpr" in made
    assert "block.to(" not in made
    assert "k.to(tl.int64) * (block * block)" in made


def test_a_square_of_positions_is_real() -> None:
    """Integers to a power are real numbers: no product of 32 bits."""
    assert "* 1.0) * " in " ".join(kernel(bias=" - (q - k) ** 2 / 100").split())


def test_extents_past_29_bits_are_refused() -> None:
    text = compile(
        Source("wide.attn", TEXT.format(predicate="k <= q", bias="")),
        Specialisation("triton", "cuda:90", ("float32",), ()),
    )
    x = torch.zeros(1).expand(1, 1, 1 << 29, 16)
    with pytest.raises(ValueError, match="stay below 2\\*\\*29"):
        load(text, "wide").wide(x, x, x, 1, torch.zeros(1, dtype=torch.int32))
