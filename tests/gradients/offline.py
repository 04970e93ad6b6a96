"""A module with gradients → its kernels compiled for a GPU that is not there, and what each uses."""

from __future__ import annotations

import torch
from triton import knobs

from attncc.ir.cascade import Cascade
from attncc.runtime.module import load
from attncc.verify.gradients import called, gradients, weights
from tests.codegen.offline import Report, _compile, _Recorder, always_ordered
from tests.shapes import Shape, arguments, numbers


def compiled(text: str, cascade: Cascade, dtype: torch.dtype, target: str = "cuda:90") -> dict[str, Report]:
    """Every kernel by its name, as its host function would launch it for 64 features."""
    module = load(text, cascade.name)
    kernels = {name: x for name, x in vars(module).items() if name.endswith("_kernel")}
    recorders = {name: _Recorder() for name in kernels}
    vars(module).update(recorders)
    always_ordered(module)
    more = {**numbers(cascade.name), "cap": 20.0, "bias": -3.0}
    given = arguments(cascade, Shape(1, 2, 2, 300, 400, 64, 64, more, r=64), dtype, "cpu")
    names = [t.name for t in cascade.inputs if t.kind == "float" and t.origin == "input"]
    function = getattr(module, cascade.name)
    with knobs.runtime.scope():
        knobs.runtime.interpret = True  # the host takes tensors of a CPU for it
        made = called(function, cascade, given)
        reach = weights([torch.zeros_like(x) for x in made], dtype, 1)
        gradients(lambda given: called(function, cascade, given), given, names, reach)
    found = {}
    for name, recorder in recorders.items():
        assert recorder.call is not None, f"the host functions did not launch {name}"
        found[name] = _compile(kernels[name], *recorder.call, target)
    return found
