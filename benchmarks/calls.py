"""What a call costs beside its kernel, on one GPU: `python benchmarks/calls.py [--json FILE]`.

The first call of a new pattern with the caches of kernels cold, in a process that has torch imported, the
median of three; the host's time for a call; and a window over 1,048,576 tokens, with the memory it takes
beyond its tensors.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import triton

import attncc

ROOT = Path(__file__).parents[1]
FIRST = """
import sys, time
import torch
x = torch.randn(3, 1, 8, 1024, 64, device="cuda", dtype=torch.bfloat16)
torch.cuda.synchronize()
start = time.perf_counter()
import attncc
attend = attncc.load(sys.argv[1])
attend(*x, **eval(sys.argv[2]))
launched = time.perf_counter() - start
torch.cuda.synchronize()
print(launched)
"""


LEAST = """
import sys, time
import torch
x = torch.randn(1024, device="cuda")
torch.cuda.synchronize()
start = time.perf_counter()
import triton
import triton.language as tl

@triton.jit
def double(X, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(X + at, tl.load(X + at) * 2)

double[(1,)](x, 1024)
print(time.perf_counter() - start)
"""


def first_call(pattern: str, numbers: dict[str, Any], bytecode: str) -> float:
    """Seconds from text to launch."""
    return fresh(FIRST, [str(ROOT / "patterns" / f"{pattern}.attn"), repr(numbers)], bytecode)


def fresh(text: str, arguments: list[str], bytecode: str) -> float:
    """What a process prints for which the caches of attncc and Triton are empty; Python's is in a folder."""
    with tempfile.TemporaryDirectory() as folder:
        caches = {"ATTNCC_CACHE_DIR": f"{folder}/attncc", "TRITON_CACHE_DIR": f"{folder}/triton"}
        caches |= {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        file = Path(folder) / "first.py"
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, str(file), *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), **caches},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return float(done.stdout)


def host(length: int = 256) -> float:
    """Microseconds of the host for a call that is queued behind others."""
    attend = attncc.load(ROOT / "patterns" / "window.attn")
    q, k, v = torch.randn(3, 1, 8, length, 64, device="cuda", dtype=torch.bfloat16)
    attend(q, k, v, window=100)
    times = []
    for _ in range(200):
        torch.cuda.synchronize()
        start = time.perf_counter()
        attend(q, k, v, window=100)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def long(length: int = 1 << 20, window: int = 1024) -> dict[str, float]:
    """Milliseconds of a window over a long sequence, bytes beyond inputs and output, and its worst row near
    the end against a call on that end alone.
    """
    attend = attncc.load(ROOT / "patterns" / "window.attn")
    q, k, v = torch.randn(3, 1, 8, length, 128, device="cuda", dtype=torch.bfloat16)
    attend(q[:, :, :512], k[:, :, :512], v[:, :, :512], window=window)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = attend(q, k, v, window=window)
    torch.cuda.synchronize()
    beyond = torch.cuda.max_memory_allocated() - before - out.numel() * out.element_size()
    last = slice(length - 4096, length)
    alone = attend(*(x[:, :, last] for x in (q, k, v)), window=window)
    error = (out[:, :, last][:, :, window:].float() - alone[:, :, window:].float()).abs().max().item()
    ms = triton.testing.do_bench(
        lambda: attend(q, k, v, window=window), warmup=50, rep=200, return_mode="median"
    )
    return {"ms": ms, "bytes": beyond, "error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    patterns = {"window": {"window": 100}, "softcap": {"cap": 30.0}, "sigmoid": {"bias": -3.0}}
    with tempfile.TemporaryDirectory() as bytecode:
        first_call("dense", {}, bytecode)  # compiles Python's modules, as an installer does
        least = statistics.median(fresh(LEAST, [], bytecode) for _ in range(3))
        cold = {
            name: statistics.median(first_call(name, numbers, bytecode) for _ in range(3))
            for name, numbers in patterns.items()
        }
    found: dict[str, Any] = {
        "first call, s": cold,
        "of a kernel of one line, by hand, s": least,
        "host, us": host(),
        "1,048,576 tokens": long(),
    }
    print(torch.cuda.get_device_name(), torch.__version__, triton.__version__)
    for name, value in found.items():
        print(name, value)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
