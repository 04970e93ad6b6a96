"""Plan → text: one function per backend."""

from __future__ import annotations

from collections.abc import Callable

from attncc.codegen import torch_module, triton_module
from attncc.codegen.module import Said
from attncc.ir.cascade import Cascade
from attncc.schedule.plan import Plan
from attncc.schedule.spec import Specialisation
from attncc.schedule.training import Training

Generate = Callable[[Said, Cascade, Plan, Specialisation, Training | None], str]

BACKENDS: dict[str, Generate] = {"torch": torch_module.generate, "triton": triton_module.generate}
