"""Generated Triton text → a kernel compiled for a GPU that is not there, and what it uses."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from attncc.runtime.module import load

POINTERS = {"float16": "*fp16", "bfloat16": "*bf16", "float32": "*fp32"}


@dataclass(frozen=True)
class Report:
    """Registers and stack bytes of a thread, shared memory bytes of a program; the matrix instructions in the
    text.
    """

    registers: int
    stack: int
    shared: int
    matrix: int


def compiled(text: str, name: str, target: str, dtype: str, tile: int = 0) -> list[Report]:
    """Every tile row of a module that fits the element type, compiled for `cuda:90` or `hip:gfx942`."""
    module = load(text, name)
    kernel = getattr(module, f"{name}_kernel")
    width = 4 if dtype == "float32" else 2
    rows = {key: row for key, row in module.TILES.items() if key[-1] == width}
    return [_compile(module, kernel, key, row, target, dtype) for key, row in rows.items()]


def _compile(
    module: ModuleType, kernel: Any, key: tuple[int, ...], row: dict[str, int], target: str, dtype: str
) -> Report:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {n: row[n] for n in ("num_warps", "num_stages")}
    blocks = {n: v for n, v in row.items() if n not in options}
    names = kernel.arg_names
    fixed = [p.name for p in kernel.params if p.is_constexpr]
    free = [n for n in fixed if n not in blocks]
    constants = {**dict(zip(free, key, strict=False)), **blocks}
    strides = [n for n in names if re.fullmatch(r"s[A-Za-z_]\w*_\w+", n) and n not in constants]
    outputs = {"lse": "*fp32"}
    kinds = {}
    for n in names:
        if n in constants:
            kinds[n] = "constexpr"
        elif any(s.startswith(f"s{n}_") for s in strides):
            kinds[n] = outputs.get(n, POINTERS[dtype])
        else:
            kinds[n] = "fp32" if n in FLOATS else "i32"
    # a contiguous last axis, everything else a multiple of 16
    last = {s for s in strides if re.search(r"_[de]$", s)}
    constants |= {s: 1 for s in last}
    kinds |= {s: "constexpr" for s in last}
    aligned = [n for n in names if kinds[n].startswith("*") or (n in strides and n not in last)]
    loose = set(getattr(kernel, "do_not_specialize", ()))
    attrs = {(names.index(n),): [["tt.divisibility", 16]] for n in aligned if n not in loose}
    backend, _, arch = target.partition(":")
    gpu = GPUTarget("cuda", int(arch), 32) if backend == "cuda" else GPUTarget("hip", arch, 64)
    source = ASTSource(fn=kernel, signature=kinds, constexprs=constants, attrs=attrs)
    made = triton.compile(source, target=gpu, options={**options, "enable_fp_fusion": True})
    return _amd(made) if backend == "hip" else _nvidia(made)


FLOATS = frozenset(("cap", "bias", "scale"))
"""Run-time numbers of patterns that are real."""


def _nvidia(made: Any) -> Report:
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "k.cubin"
        cubin.write_bytes(made.asm["cubin"])
        tool = knobs.nvidia.cuobjdump.path
        out = subprocess.run(
            [tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = (int(re.search(rf"{word}:(\d+)", out)[1]) for word in ("REG", "STACK"))  # type: ignore[index]
    matrix = len(re.findall(r"wgmma\.mma_async|mma\.sync|tcgen05\.mma", made.asm["ptx"]))
    return Report(registers, stack, made.metadata.shared, matrix)


def _amd(made: Any) -> Report:
    text = made.asm["amdgcn"]
    registers, stack = (
        int(re.search(rf"\.{word}:\s+(\d+)", text)[1])  # type: ignore[index]
        for word in ("vgpr_count", "private_segment_fixed_size")
    )
    return Report(registers, stack, made.metadata.shared, len(re.findall(r"v_mfma", text)))
