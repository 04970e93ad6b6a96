"""What a language model is trained on: the text of this repository's patterns, and associative recall."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import torch
from language_model import PATTERNS
from torch import Tensor

PAIRS, WORDS = 16, 64
"""Of recall: pairs in a row, and words, half of which are keys and half values."""

NOT_ASKED = -100
"""The target where nothing has to be foretold."""

Batch = tuple[Tensor, Tensor, Tensor]
"""Tokens, the number of the document that each is in, and the token to be foretold, all (rows, length)."""


def documents(held_out: bool) -> list[Tensor]:
    """The bytes of every eighth file of `patterns/`, or of all others, each after a 0."""
    files = sorted(PATTERNS.glob("*.attn"))
    return [torch.tensor([0, *f.read_bytes()]) for n, f in enumerate(files) if (n % 8 == 0) == held_out]


def packed(texts: list[Tensor], rows: int, length: int, seed: int) -> Iterator[Batch]:
    """Documents in random order, one after the other, cut in rows: most rows hold parts of several."""
    random, stream = Random(seed), torch.empty(0, dtype=torch.long)
    while True:
        while len(stream) <= rows * length:
            stream = torch.cat([stream, *random.sample(texts, len(texts))])
        tokens = stream[: rows * length].view(rows, length)
        yield tokens, (tokens == 0).cumsum(1).int(), stream[1 : rows * length + 1].view(rows, length)
        stream = stream[rows * length :]


def counted(seen: list[Tensor], held_out: list[Tensor]) -> dict[str, float]:
    """The loss on held-out text of what counting foretells: how often bytes, and pairs of them, were seen."""
    counts = torch.full((256, 256), 0.05)  # a pair that was never seen is not impossible
    for text in seen:
        counts.index_put_((text[:-1], text[1:]), torch.tensor(1.0), accumulate=True)
    before, byte = (torch.cat([text[part] for text in held_out]) for part in (slice(-1), slice(1, None)))
    alone, after = counts.sum(0) / counts.sum(), counts / counts.sum(1, keepdim=True)
    return {
        "single bytes": -alone[byte].log().mean().item(),
        "pairs of bytes": -after[before, byte].log().mean().item(),
    }


def recall(rows: int, seed: int) -> Iterator[Batch]:
    """Multi-query associative recall (arXiv 2312.04927): pairs of a key and a value, then every key again, in
    another order, at which its value is asked for. Keys and values are drawn anew for every row.
    """
    random, half = torch.Generator().manual_seed(seed), WORDS // 2
    while True:
        keys = torch.rand(rows, half, generator=random).argsort(1)[:, :PAIRS]
        values = torch.randint(half, WORDS, (rows, PAIRS), generator=random)
        order = torch.rand(rows, PAIRS, generator=random).argsort(1)
        pairs = torch.stack((keys, values), dim=-1).flatten(1)
        tokens = torch.cat((pairs, keys.gather(1, order)), dim=1)
        targets = torch.cat((torch.full_like(pairs, NOT_ASKED), values.gather(1, order)), dim=1)
        yield tokens, torch.zeros_like(tokens, dtype=torch.int32), targets
