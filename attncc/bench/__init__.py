"""Pattern → how fast its kernel is: beside PyTorch's own where they compute the same, and beside the machine.

Forward passes on random data; medians of runs in turns (A, B, B, A). What is compared is checked first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from attncc.attention import Attention
from attncc.bench import peers
from attncc.bench.clock import ceilings, milliseconds, peaks
from attncc.bench.report import Report
from attncc.bench.setting import Setting, extents, room, setting
from attncc.calls import BadNumber, Number, indices, numbered, sized
from attncc.explain.costs import traffic, unknown, work
from attncc.pipeline import planned
from attncc.schedule.spec import WIDTHS
from attncc.schedule.tiles import Tile
from attncc.source import Source

MASK = 2**31
"""Bytes of a dense mask that SDPA is given at most."""

SMALL = 65
"""Length at which a peer has to agree with the reference."""

Runs = dict[str, Callable[[], Any]]


def bench(
    source: Source,
    device: str,
    dtype: str,
    shape: tuple[int, ...],
    fixed: Mapping[str, int],
    numbers: Mapping[str, Number],
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Times a pattern's forward pass; `shape` is batch, heads, length and features, `fixed` the extents of
    single indices. PatternError names the rule by which there is no kernel, BadNumber what does not fit;
    MemoryError where the machine is too small.
    """
    with room():
        return _timed(source, device, dtype, shape, fixed, numbers, tell)


def _timed(
    source: Source,
    device: str,
    dtype: str,
    shape: tuple[int, ...],
    fixed: Mapping[str, int],
    numbers: Mapping[str, Number],
    tell: Callable[[str], None],
) -> Report:
    kernel, reference = Attention(source), Attention(source, "reference")
    cascade = kernel.cascade
    plan = planned(cascade, source)
    sized(cascade, fixed)
    chosen, kind = numbered(cascade, numbers), getattr(torch, dtype)
    here = setting(cascade, plan, shape, fixed, chosen, kind, device)
    role = {i.name: i.role for i in indices(cascade)}
    kept = {name: size for name, size in fixed.items() if role[name] != "sequence"}
    short = (*shape[:2], SMALL, shape[3])
    small = setting(cascade, plan, short, kept, chosen, torch.float64, "cpu")
    runs: Runs = {"attncc": here.call(kernel)}
    tell("compiling")
    with torch.no_grad():
        made = _first(runs["attncc"])
        try:
            own = peers.roles(small)
            scale = peers.scale_of(own, small, small.call(reference)())
            found, notes = _peers(own, here, scale, made, tell)
            runs |= found
        except peers.NoPeer as reason:
            notes = [f"nothing of PyTorch's to compare with: {reason}"]
        tell("measuring")
        times, measured = milliseconds(runs, device), ceilings(device, kind)
    tell("counting cells")
    cells, flops, why = _work(here)
    return Report(
        cascade.name,
        torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        dtype,
        here.sizes,
        chosen,
        f"torch {torch.__version__}",
        cells,
        flops,
        traffic(cascade, extents(here.env), WIDTHS[dtype]),
        times,
        measured,
        peaks(device, kind),
        (*notes, *why),
    )


def _first(run: Callable[[], Any]) -> Any:
    """The first call. BadNumber where the kernel refuses its arguments, in its words."""
    try:
        return run()
    except ValueError as refused:
        raise BadNumber(str(refused)) from None


def _peers(
    own: peers.Roles, here: Setting, scale: float | None, made: torch.Tensor, tell: Callable[[str], None]
) -> tuple[Runs, list[str]]:
    """Those whose results agree with the kernel's, and why others are left out."""
    mask, notes, options = own.mask(here), [], {}
    found = peers.shape_of(mask, own, here)
    tensors = own.tensors(here)
    cells = tensors[0].shape[:3].numel() * tensors[1].shape[2]
    if found != "other":
        options[f"SDPA, {found}"] = peers.sdpa(tensors, None, found == "causal", scale)
    elif cells <= MASK:
        options["SDPA, dense mask"] = peers.sdpa(tensors, peers.dense(mask, tensors), False, scale)
    else:
        notes.append(f"SDPA is left out: a mask of {cells:,} cells does not fit")
    if made.is_cuda:
        tell("compiling FlexAttention")
        options["FlexAttention"] = peers.flex(tensors, None if found == "dense" else mask, scale)
    exact = own.laid(here.cascade.outputs[0], made).double()
    runs: Runs = {}
    for name, run in options.items():
        try:
            error = (run().double() - exact).nan_to_num(0.0).norm(dim=-1).max() / exact.norm(dim=-1).mean()
        except RuntimeError as reason:  # no memory, or a limit of its own
            notes.append(f"{name} is left out: {str(reason).splitlines()[0]}")
            continue
        if float(error) < 0.05:
            runs[name] = run
        else:
            notes.append(f"{name} is left out: {float(error):.2f} of a mean row from the kernel's result")
    return runs, notes


def _work(here: Setting) -> tuple[int | None, int | None, list[str]]:
    """Cells that are seen and operations of matrix products, or why they are not known."""
    reach = [loop.reach for kernel in here.plan.kernels for loop in kernel.loops]
    if missing := unknown(reach, here.env):
        return None, None, [f"no rates: the cells seen depend on the values of {', '.join(missing)}"]
    counts, flops = work(here.plan, here.env, Tile(128, 128, 1, 1))  # cells are the same in any tile
    return counts.cells, flops, []
