"""Generated Triton text → a kernel compiled for a GPU that is not there, and what it uses."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from triton import knobs
from triton.tools.tensor_descriptor import TensorDescriptor

from attncc.ir.cascade import Cascade
from attncc.runtime.module import load
from tests.shapes import Shape, arguments

WIDTHS = {torch.float16: 2, torch.bfloat16: 2, torch.float32: 4}
POINTERS = {
    torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32",
    torch.int32: "*i32", torch.int64: "*i64", torch.bool: "*i1",
}  # fmt: skip
SHARED = {"cuda:80": 166_912, "cuda:90": 232_448, "cuda:100": 232_448, "hip:gfx942": 65_536}
"""Bytes of shared memory that a program may have."""


@dataclass(frozen=True)
class Report:
    """Registers and spilled bytes of a thread, shared memory bytes of a program; its matrix instructions, and
    of which of them a loop finds an operand in registers where it stood before.
    """

    tile: Mapping[str, int]
    registers: int
    spilled: int
    shared: int
    matrix: int
    standing: tuple[str, ...] = ()


@dataclass
class _Recorder:
    """Stands in for a kernel and keeps what it is launched with."""

    call: tuple[tuple[Any, ...], dict[str, int]] | None = field(default=None)

    def __getitem__(self, grid: object) -> _Recorder:
        return self

    def __call__(self, *arguments: Any, **tile: int) -> None:
        self.call = arguments, tile


def compiled(
    text: str, cascade: Cascade, target: str, dtype: torch.dtype, tile: Mapping[str, int] | None = None
) -> dict[tuple[int, ...], Report]:
    """Every row of a module's TILES that takes an element type, by its key, compiled for such as `cuda:90`:
    the most that any of its kernels uses.

    The module's own host function says with which arguments; `tile` are sizes that replace the row's.
    """
    module = load(text, cascade.name)
    kernels = {name: x for name, x in vars(module).items() if name.endswith("_kernel")}
    recorders = {name: _Recorder() for name in kernels}
    vars(module).update(recorders)
    always_ordered(module)
    made = {}
    for key in [k for k in module.TILES if k[-1] == WIDTHS[dtype]]:
        d, e, r = (*key[:-1], key[0], key[0])[:3]
        shape = Shape(1, 2, 2, 300, 400, d, e, {"cap": 20.0, "bias": -3.0}, r=r)
        module.TILES[key] |= tile or {}
        with knobs.runtime.scope():
            knobs.runtime.interpret = True  # the host takes tensors of a CPU for it
            getattr(module, cascade.name)(**arguments(cascade, shape, dtype, "cpu"))
        reports = []
        for name, recorder in recorders.items():
            assert recorder.call is not None, f"the host function did not launch {name}"
            reports.append(_compile(kernels[name], *recorder.call, target))
        made[key] = _most(reports)
    return made


def always_ordered(module: Any) -> None:
    """A module whose programs run in an order, if it makes any, however few they are."""
    if hasattr(module, "AT_ONCE"):
        module.AT_ONCE, module.MANY, module.LONG = 0, 1 << 30, 0


def _most(reports: list[Report]) -> Report:
    """The most of what the kernels of a module use; the tile is the last one's."""
    registers, spilled, shared, matrix = (
        max(getattr(r, what) for r in reports) for what in ("registers", "spilled", "shared", "matrix")
    )
    standing = tuple(name for r in reports for name in r.standing)
    return Report(reports[-1].tile, registers, spilled, shared, matrix, standing)


def _compile(kernel: Any, values: tuple[Any, ...], row: Mapping[str, int], target: str) -> Report:
    """As Triton would compile for such a launch: a stride of 1 is known, multiples of 16 are known to be."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    options = {n: row[n] for n in ("num_warps", "num_stages")}
    given = dict(zip(kernel.arg_names, values, strict=False)) | {
        n: v for n, v in row.items() if n not in options
    }
    fixed = {p.name for p in kernel.params if p.is_constexpr}
    loose = {p.name for p in kernel.params if p.do_not_specialize}
    fixed |= {n for n, v in given.items() if type(v) is int and v == 1 and n not in loose}
    kinds = {n: "constexpr" if n in fixed else _kind(v) for n, v in given.items()}
    aligned = [
        n
        for n, v in given.items()
        if n not in fixed | loose and (torch.is_tensor(v) or (type(v) is int and v % 16 == 0))
    ]
    source = ASTSource(
        fn=kernel,
        signature=kinds,
        constexprs={n: given[n] for n in fixed},
        attrs={(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in aligned},
    )
    backend, _, arch = target.partition(":")
    gpu = GPUTarget("cuda", int(arch), 32) if backend == "cuda" else GPUTarget("hip", arch, 64)
    made = triton.compile(source, target=gpu, options=options)
    return _amd(made, row) if backend == "hip" else _nvidia(made, row)


def _kind(value: Any) -> str:
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{POINTERS[value.base.dtype][1:]}{list(value.block_shape)}>"
    if torch.is_tensor(value):
        return POINTERS[value.dtype]
    return "i1" if isinstance(value, bool) else "i32" if isinstance(value, int) else "fp32"


def _nvidia(made: Any, row: Mapping[str, int]) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "k.cubin"
        cubin.write_bytes(made.asm["cubin"])
        tool = knobs.nvidia.cuobjdump.path
        usage = [tool, "--dump-resource-usage", cubin]
        out = subprocess.run(usage, capture_output=True, text=True, check=True).stdout
    registers, stack = (_number(rf"{word}:(\d+)", out) for word in ("REG", "STACK"))
    spilled = _spilled(made) if stack else 0
    matrix = len(re.findall(r"wgmma\.mma_async|mma\.sync|tcgen05\.mma", made.asm["ptx"]))
    return Report(row, registers, spilled, made.metadata.shared, matrix, tuple(standing(made.asm["ttgir"])))


def _spilled(made: Any) -> int:
    """Bytes of registers that are put aside: a stack may also hold an array, as a sine's of large angles."""
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "k.ptx"
        ptx.write_text(made.asm["ptx"])
        call = [
            knobs.nvidia.ptxas.path,
            "-v",
            f"--gpu-name=sm_{made.metadata.target.arch}a",
            ptx,
            "-o",
            "k.o",
        ]
        out = subprocess.run(call, capture_output=True, text=True, check=True, cwd=folder).stderr
    return _number(r"(\d+) bytes spill stores", out)


def standing(text: str) -> list[str]:
    """Matrix products of Hopper in a loop of which the first operand is in registers and computed before it:
    ptxas 12.8 takes those registers for free after the product.
    """
    found, loops, made = [], [], set[str]()
    for line in text.split("\n"):
        depth = len(line) - len(line.lstrip())
        if loops and depth == loops[-1][0] and line.lstrip().startswith("}"):
            loops.pop()
        product = re.search(r"warp_group_dot (%\w+)(?:#\d+)?,.* : (\w+)", line)
        if product and loops and product[2] == "tensor" and product[1] in loops[-1][1]:
            found.append(product[1])
        made.update(re.findall(r"^ *(%\w+)(?::\d+)? = ", line))
        if "scf.for" in line:
            loops.append((depth, set(made)))
    return found


def _amd(made: Any, row: Mapping[str, int]) -> Report:
    text = made.asm["amdgcn"]
    registers, spilled = (
        _number(rf"\.{word}:\s+(\d+)", text) for word in ("vgpr_count", "private_segment_fixed_size")
    )
    return Report(row, registers, spilled, made.metadata.shared, len(re.findall(r"v_mfma", text)))


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, f"no {pattern} in {text[:300]}"
    return int(found[1])
