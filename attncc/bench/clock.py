"""Calls → median milliseconds, in turns; and what this machine does at most, measured on the spot."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from attncc.schedule.tiles import PEAKS

Call = Callable[[], Any]


def milliseconds(runs: Mapping[str, Call], device: str, seconds: float = 1.0) -> dict[str, float]:
    """The median time of each, run forwards and backwards through the list (A, B, B, A) after one turn that
    does not count. On a GPU the L2 cache is overwritten before every run.
    """
    one = stopwatch(device)
    first = {name: one(run) for name, run in runs.items()}  # compiles
    first = {name: one(run) for name, run in runs.items()}
    times = {
        name: max(2, min(50, int(seconds / 2 / len(runs) / max(t / 1e3, 1e-6)))) for name, t in first.items()
    }
    found: dict[str, list[float]] = {name: [] for name in runs}
    for names in (list(runs), list(runs)[::-1]):
        for name in names:
            found[name] += [one(runs[name]) for _ in range(times[name])]
    return {name: statistics.median(values) for name, values in found.items()}


def stopwatch(device: str) -> Callable[[Call], float]:
    """What times one call, in milliseconds."""
    if device == "cpu":

        def on_cpu(run: Call) -> float:
            start = time.perf_counter()
            run()
            return (time.perf_counter() - start) * 1e3

        return on_cpu
    cache = torch.empty(256 * 2**20, dtype=torch.int8, device=device)

    def on_gpu(run: Call) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        cache.zero_()
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end))

    return on_gpu


def ceilings(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """TFLOP/s of a square matrix product, and TB/s of a copy, as measured here and now."""
    size, count = (8192, 2**28) if device == "cuda" else (1024, 2**24)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    x, y = (torch.zeros(count, device=device, dtype=torch.float32) for _ in range(2))
    times = milliseconds({"product": lambda: a @ b, "copy": lambda: y.copy_(x)}, device, 0.5)
    return 2 * size**3 / times["product"] / 1e9, 2 * 4 * count / times["copy"] / 1e9


def peaks(device: str, dtype: torch.dtype) -> tuple[float, float] | None:
    """What the data sheet of this GPU says, if it is known."""
    if device != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    name = torch.cuda.get_device_name()
    return next((peak for model, peak in PEAKS.items() if model in name), None)
