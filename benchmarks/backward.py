"""Backward passes against others, in one run on one GPU: `python benchmarks/backward.py [--json FILE]`.

The cases, checks and turns of `forward.py`, whose masks are FlexAttention's too; beside it SDPA on cuDNN, and
FlashAttention-4 where it is installed and has the mask. Timed is `torch.autograd.grad` of an output that is
there, all kernels and conversions included. Gradients are checked against FlexAttention's, row by row. FLOPs
are those of five matrix products, 10 * batch * heads * cells seen * features, whatever a kernel multiplies.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import triton
from forward import CASES, DEVICE, PATTERNS, Case, _flex, milliseconds, stamp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import attncc

ALLOWED = 0.05
"""How far a row of a gradient may be off FlexAttention's, in its length and a mean row's: both are bf16."""


def measure(case: Case) -> dict[str, Any]:
    """Times of one case; the gradients agree, or it raises."""
    batch, heads, _, features = case.shape
    torch.manual_seed(0)
    inputs = [torch.randn(case.shape, device=DEVICE, dtype=torch.bfloat16) for _ in range(3)]
    reaching = torch.randn(case.shape, device=DEVICE, dtype=torch.bfloat16)
    runs: dict[str, Callable[[], Any]] = {}
    for name, forward in peers(case).items():
        leaves = [x.clone().requires_grad_() for x in inputs]
        output = forward(*leaves)
        runs[name] = lambda output=output, leaves=leaves: torch.autograd.grad(
            output, leaves, reaching, retain_graph=True
        )
    wanted = runs["flex"]()
    for name, run in runs.items():
        for x, y in zip(run(), wanted, strict=True):
            rows = y.float().norm(dim=-1)
            error = ((x.float() - y.float()).norm(dim=-1) / (rows + rows.mean())).max()
            assert error < ALLOWED, f"{name} differs on {case}: {error}"
    times = milliseconds(runs)
    flops = 10 * batch * heads * case.cells * features
    return {
        "case": f"{case.pattern} {case.words}".strip() + f" {case.shape}",
        "ms": times,
        "tflops": {name: flops / ms / 1e9 for name, ms in times.items()},
    }


def peers(case: Case) -> dict[str, Callable[..., torch.Tensor]]:
    """The forward passes whose gradients are timed."""
    kernel = attncc.load(PATTERNS / f"{case.pattern}.attn")
    given = {name: x.to(DEVICE) if torch.is_tensor(x) else x for name, x in case.given.items()}
    found: dict[str, Callable[..., torch.Tensor]] = {
        "attncc": lambda q, k, v: kernel(q, k, v, **given),
        "flex": lambda q, k, v: _flex(case, q, k, v)(),
    }
    if case.pattern in ("dense", "causal"):

        def cudnn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return scaled_dot_product_attention(q, k, v, is_causal=case.pattern == "causal")

        found["cudnn"] = cudnn
    if case.pattern in ("dense", "causal", "window") and (flash := flash_attention_4()) is not None:
        window = (case.given["window"] - 1, 0) if case.pattern == "window" else (None, None)
        found["fa4"] = lambda q, k, v: flash(
            *(x.transpose(1, 2) for x in (q, k, v)), causal=case.pattern != "dense", window_size=window
        ).transpose(1, 2)
    return found


def flash_attention_4() -> Callable[..., torch.Tensor] | None:
    """FlashAttention-4 over (batch, length, heads, features), if it is installed and runs here."""
    try:
        from flash_attn.cute import flash_attn_func
    except ImportError:
        return None

    def run(*args: Any, **options: Any) -> torch.Tensor:
        made = flash_attn_func(*args, **options)
        return made[0] if isinstance(made, tuple) else made

    return run


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of the README."""
    names = {"attncc": "attncc", "flex": "FlexAttention", "cudnn": "cuDNN", "fa4": "FlashAttention-4"}
    lines = [
        f"bf16 backward, milliseconds (TFLOP/s over the cells seen): {stamp()}.",
        "",
        f"| pattern (batch, heads, length, features) | {' | '.join(names.values())} | attncc is faster by |",
        "| --- " * (len(names) + 2) + "|",
    ]
    for row in rows:
        shown = [f"{row['ms'][n]:.3f} ({row['tflops'][n]:.0f})" if n in row["ms"] else "" for n in names]
        ratios = ", ".join(
            f"{row['ms'][n] / row['ms']['attncc']:.2f}x {label}"
            for n, label in names.items()
            if n in row["ms"] and n != "attncc"
        )
        lines.append(f"| {' | '.join([row['case'], *shown, ratios])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    rows = []
    for case in CASES:
        row = measure(case)
        rows.append(row)
        parts = [f"{name} {row['ms'][name]:.3f} ms {row['tflops'][name]:.0f} TFLOP/s" for name in row["ms"]]
        ratios = [f"{row['ms'][n] / row['ms']['attncc']:.2f}x {n}" for n in row["ms"] if n != "attncc"]
        print(f"{row['case']:50} {'; '.join(parts)}; {', '.join(ratios)}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
