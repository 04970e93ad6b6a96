"""Ten lines of mathematics become a kernel: compile a pattern, explain, check and time it, draw its mask."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

import attncc
from attncc.explain import explain
from attncc.viz import picture

PATTERN = Path(__file__).parents[1] / "patterns" / "streaming.attn"
WINDOW, SINKS = 512, 4


def main() -> None:
    """Print what the compiler makes of the pattern, and write `streaming.svg` where one stands."""
    gpu = torch.cuda.is_available()
    device, dtype, length = ("cuda", torch.bfloat16, 16384) if gpu else ("cpu", torch.float32, 8192)
    print(PATTERN.read_text())
    attend = attncc.load(PATTERN)
    print(explain(attend.cascade, length).text())

    torch.manual_seed(0)
    q = torch.randn(1, 8, length, 64, device=device, dtype=dtype)
    k, v = torch.randn(2, 1, 2, length, 64, device=device, dtype=dtype)
    start = time.perf_counter()
    out = attend(q, k, v, window=WINDOW, sinks=SINKS)
    print(f"first call on {device}, from text to result: {time.perf_counter() - start:.2f} s")

    few = slice(0, 1000)
    dense = attncc.load(PATTERN, backend="reference")
    small = [x[:, :, few].double() for x in (q, k, v)]
    exact = dense(*small, window=WINDOW, sinks=SINKS)
    made = attend(*(x[:, :, few] for x in (q, k, v)), window=WINDOW, sinks=SINKS)
    error = (made.double() - exact).norm(dim=-1).max() / exact.norm(dim=-1).mean()
    limit = 2e-2 if gpu else 1e-5
    print(
        f"worst row against the float64 reference: {error:.1e} of a mean row, in {dtype}; {limit:.0e} allowed"
    )
    assert error < limit and torch.isfinite(out).all()

    rows = torch.arange(length, device=device)
    far = rows[:, None] - rows
    mask = (far >= 0) & ((far < WINDOW) | (rows < SINKS))
    ours = milliseconds(lambda: attend(q, k, v, window=WINDOW, sinks=SINKS), gpu)
    theirs = milliseconds(lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True), gpu)
    print(f"{length} tokens, 8 heads of 64: attncc {ours:.1f} ms, SDPA with the mask {theirs:.1f} ms,")
    print(f"{theirs / ours:.1f} times as fast; SDPA's mask takes {mask.numel() / 2**20:.0f} MiB")

    svg = Path("streaming.svg")
    svg.write_text(picture(attend.cascade, numbers={"window": 48, "sinks": 4}))
    print(f"a picture of the mask: {svg.resolve()}")


def milliseconds(run: Callable[[], object], gpu: bool) -> float:
    """The median of five runs after one."""
    times = []
    for _ in range(6):
        start = time.perf_counter()
        run()
        if gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[2] * 1e3


if __name__ == "__main__":
    main()
