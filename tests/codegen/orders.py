"""Uneven work with and without an order: `python -m tests.codegen.orders`, run with TRITON_INTERPRET=1.

One line a call: whether the outputs are the same bits, whether the order is that of the work, whether the
work is the live tiles of the mask, and how many programs were ordered beside how many places.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attncc.pipeline import compile
from attncc.runtime.module import load
from attncc.schedule.spec import Specialisation
from attncc.source import Source
from tests.codegen.seen import CASES, Drawn, positions
from tests.codegen.seen import at as placed

PATTERNS = Path(__file__).parents[2] / "patterns"

PLANE = '''"""A window for each head, on a plane."""

pattern plane(Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], width: int, span[h]: int) -> O[b,h,q,e]:
    over b, h with g = h // (|h| // |g|)
    align q to k
    split k into y, x by width
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    P[q,y,x] = softmax(y, x where abs(y - q // width) < span and abs(x - q % width) < span) S[q,y,x]
    O[q,e] = sum(y, x) P[q,y,x] * V[y,x,e]
'''

TWICE = '''"""Two kernels, each with an order."""

pattern twice(Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e], doc[b,k]: int) -> O[b,h,q,e]:
    over b, h with g = h // (|h| // |g|)
    align q to k
    assume sorted doc
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    P[q,k] = softmax(k where k <= q and doc[k] == doc[q]) S[q,k]
    O[q,e] = sum(k where k <= q and doc[k] == doc[q]) max(P[q,k] - 0.1, 0.0) * V[k,e]
'''


@dataclass
class Recorder:
    """A kernel that keeps what it was launched with."""

    kernel: Any
    calls: list[dict[str, Any]] = field(default_factory=list)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **tile: int) -> None:
            self.calls.append(dict(zip(self.kernel.arg_names, arguments, strict=False)) | tile)
            self.kernel[grid](*arguments, **tile)

        return launch


def drawn() -> Iterator[Drawn]:
    """Calls whose work tables or heads decide, with their masks."""
    for n, (b, h, g, rows, keys) in enumerate(((1, 5, 1, 130, 130), (4, 5, 5, 40, 130), (6, 7, 7, 3, 100))):
        source = torch.Generator().manual_seed(n)
        q, k = positions(rows, keys)
        real = {
            name: torch.randn(b, heads, length, 16, generator=source)
            for name, heads, length in (("Q", h, rows), ("K", g, keys), ("V", g, keys))
        }
        shape = (b, h, rows, keys)
        doc = (3 * torch.randn(b, keys, generator=source)).floor().sort(-1).values
        same = (doc[:, None] == placed(doc, q[:, 0])[..., None]) & (k <= q) & (q >= 0)
        yield Drawn("document", {**real, "doc": doc.int()}, same[:, None].expand(shape), True)
        span = torch.randint(1, 200, (h,), generator=source)
        near = (k <= q) & (q - k < span[:, None, None])
        yield Drawn("per_head_window", {**real, "span": span}, near[None].expand(shape), True)
        length = torch.randint(0, keys, (b,), generator=source)
        there = (k <= q) & (k < length[:, None, None]) & (q < length[:, None, None])
        yield Drawn("padded", {**real, "length": length}, there[:, None].expand(shape), False)
    yield from islice(CASES(), 4, 12)


def made(name: str, text: str | None = None) -> Any:
    """The module of a pattern, or of a text."""
    source = Source.read(PATTERNS / f"{name}.attn") if text is None else Source(name, text)
    spec = Specialisation("triton", "cuda:90", ("float32",), ((("d", 16), ("e", 16)),))
    return load(compile(source, spec), name)


def both(module: Any, name: str, given: dict[str, Any]) -> tuple[bool, dict[str, Any], Tensor]:
    """Whether outputs are the same with an order and without; how the kernel was launched with it, and what
    work was counted.
    """
    kernels = {n: Recorder(getattr(module, n)) for n in (f"{name}_kernel", f"{name}_work_kernel")}
    vars(module).update(kernels)
    module.AT_ONCE, module.MANY, module.LONG = 1 << 30, 1 << 30, 0
    plain = getattr(module, name)(**given)
    assert not kernels[f"{name}_work_kernel"].calls
    assert kernels[f"{name}_kernel"].calls[-1]["ordered"] == 0
    module.AT_ONCE = 0
    ordered = getattr(module, name)(**given)
    call = kernels[f"{name}_kernel"].calls[-1]
    vars(module).update({n: recorder.kernel for n, recorder in kernels.items()})
    return torch.equal(plain, ordered), call, kernels[f"{name}_work_kernel"].calls[-1]["q_work"]


def sorted_by(work: Tensor, order: Tensor) -> bool:
    """Whether an order has every program once, most work first, and the same work as it was."""
    pairs = [(-int(work[n]), int(n)) for n in order]
    return pairs == sorted(pairs) and sorted(order.tolist()) == list(range(len(work)))


def live(mask: Tensor, rows: int, columns: int) -> Tensor:
    """Live tiles of every tile of rows, the last one first, at every place of the batch."""
    q, k = (-mask.shape[-2] % rows, -mask.shape[-1] % columns)
    whole = torch.nn.functional.pad(mask, (0, k, 0, q))
    tiles = whole.unflatten(-1, (-1, columns)).unflatten(-3, (-1, rows)).any(-1).any(-2)
    return tiles.sum(-1).flip(-1)


def main() -> None:
    modules: dict[str, Any] = {}
    for case in drawn():
        module = modules.setdefault(case.name, made(case.name))
        same, call, work = both(module, case.name, case.given)
        counts = live(case.mask, call["BLOCK_Q"], call["BLOCK_K"])
        batch, heads = counts.shape[:2]
        places = {batch * heads: counts.flatten(), batch: counts[:, 0].flatten(), heads: counts[0].flatten()}
        mine = places[len(work) // counts.shape[-1]]
        exact = torch.equal(mine, work.long()) if case.exact else bool((mine <= work).all())
        right = sorted_by(work, call["order"]) and call["ordered"] == len(work)
        print(same, right, exact, len(work), call.get("beside", 1), case.name, *case.mask.shape, flush=True)
    (case,) = (case for case in islice(drawn(), 4) if case.mask.shape[0] == 4)
    twice = made("twice", TWICE)
    same, call, work = both(twice, "twice", case.given)
    counts = live(case.mask, call["BLOCK_Q"], call["BLOCK_K"])[:, 0].flatten()
    right = sorted_by(work, call["order"])
    print(same, right, torch.equal(counts, work.long()), len(work), call["beside"], "twice")
    module = made("plane", PLANE)
    source = torch.Generator().manual_seed(0)
    given = {n: torch.randn(3, 4, 13 * 11, 16, generator=source) for n in "QKV"}
    same, call, work = both(module, "plane", {**given, "width": 11, "span": torch.tensor([1, 9, 4, 2])})
    print(
        same, sorted_by(work, call["order"]), len(set(work.tolist())) > 2, len(work), call["beside"], "plane"
    )


if __name__ == "__main__":
    main()
