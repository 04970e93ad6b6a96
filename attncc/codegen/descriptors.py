"""Tiles that a GPU's copy engine can load by itself: which tensors, and what the host and the kernel say.

From Hopper on, a tensor descriptor made by the host replaces pointers, strides and masks: the engine computes
the addresses and fills what lies outside with 0.
"""

from __future__ import annotations

from attncc.ir.cascade import Expr, Index, Read, Tensor, free, walk
from attncc.schedule.loops import Load, Program, Walk, around, expressions, statements
from attncc.schedule.spec import WIDTHS, Specialisation

FIRST = 90
"""The first CUDA generation with such an engine."""

MOST = 5
"""Axes of a descriptor."""

DESCRIBE = '''def describe(tensor, block):
    """A tensor for the copy engine, which loads blocks of it. Its rows have to be contiguous and to begin at
    multiples of 16 bytes; a tensor of another layout is copied."""
    unit = 16 // tensor.element_size()
    shape, strides = tensor.shape, tensor.stride()
    near = strides[-1] == 1 and tensor.data_ptr() % 16 == 0 and 0 not in shape
    if near and all(step and not step % unit for step in strides[:-1]):
        return TensorDescriptor(tensor, shape, strides, block)
    if 0 in shape:
        tensor = tensor.new_zeros([16] * tensor.dim())
    strides = [step if n > 1 else unit for n, step in zip(tensor.shape, tensor.stride())]
    strides[-1] = tensor.stride(-1) if tensor.shape[-1] > 1 else 1
    near = strides[-1] == 1 and tensor.data_ptr() % 16 == 0
    if not near or any(step == 0 or step % unit for step in strides[:-1]):
        wide = -(-tensor.shape[-1] // unit) * unit
        tensor = tensor.new_empty((*tensor.shape[:-1], wide))[..., : tensor.shape[-1]].copy_(tensor)
        strides = [*tensor.stride()[:-1], 1]
    return TensorDescriptor(tensor, list(tensor.shape), strides, block)
'''


def by_descriptor(spec: Specialisation) -> bool:
    """Whether a module loads by descriptors. Exact float32 products take their operands from registers, and
    pointers lead there in fewer.
    """
    vendor, _, generation = spec.target.partition(":")
    return vendor == "cuda" and int(generation) >= FIRST and any(WIDTHS[d] == 2 for d in spec.dtypes)


def described(program: Program) -> frozenset[Tensor]:
    """What is only ever loaded as tiles of two axes, at one place of the others; of what an earlier kernel
    left, also as tiles of one, on a walk (once, a pointer costs the host less). Boxes of a grid are no tiles
    of memory.
    """
    if program.grids:
        return frozenset()
    loads = [s for s in statements(program.body) if isinstance(s, Load)]
    loaded = {load.read for load in loads}
    others = [e for e in expressions(program.body) if e not in loaded]
    others += [at for read in loaded for at in read.at]
    elsewhere = {x.tensor for e in others for x in walk(e) if isinstance(x, Read)}
    walks = [s for s in around(program.body) if isinstance(s, Walk)]
    walked = {s.read.tensor for w in walks for s in statements(w.body) if isinstance(s, Load)}
    return frozenset(
        t
        for t in program.inputs
        if t.kind == "float"
        and t not in elsewhere
        and (t in walked or any(i.role == "feature" for i in t.indices))
        and all(_is_block(load, program) for load in loads if load.read.tensor == t)
    )


def _is_block(load: Load, program: Program) -> bool:
    tensor = load.read.tensor
    own = tuple(i for i, at in zip(tensor.indices, load.read.at, strict=True) if _is_tile(i, at))
    rest = [at for i, at in zip(tensor.indices, load.read.at, strict=True) if not _is_tile(i, at)]
    return (
        len(tensor.indices) <= MOST
        and own == load.target.indices
        and own[-1:] == tensor.indices[-1:]
        and ((len(own) == 2 and own[-1].role == "feature") or (len(own) == 1 and tensor.origin == "kept"))
        and all(
            free(at) <= {*program.batch, *program.turned} and not any(isinstance(x, Read) for x in walk(at))
            for at in rest
        )
    )


def _is_tile(index: Index, at: Expr) -> bool:
    return at == index and index.role != "batch"
