"""Tensors → the backend that runs them, the device it is compiled for, and what its compiler needs first."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from threading import Thread
from typing import Any

import torch


def backend_of(device: torch.device) -> str:
    """The backend that tensors on a device are for."""
    return "triton" if device.type == "cuda" else "torch"


def target_of(backend: str | None, arguments: list[Any]) -> tuple[str, str]:
    """(backend, target); the backend follows the first tensor's device unless one is given."""
    first = next((a for a in arguments if isinstance(a, torch.Tensor)), None)
    device = torch.device("cpu") if first is None else first.device
    backend = backend or backend_of(device)
    return backend, _gpu(device) if backend == "triton" else "cpu"


@lru_cache
def _gpu(device: torch.device) -> str:
    """The target of kernels on a device."""
    if device.type != "cuda":
        return "cuda:90"  # for the interpreter, which runs the text of any GPU
    if torch.version.hip:
        return f"hip:{torch.cuda.get_device_properties(device).gcnArchName.split(':')[0]}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda:{major}{minor}"


@lru_cache
def prepare() -> None:
    """Has Triton find its GPU, for which it runs a C compiler once on a machine, while a pattern is read.

    Only in a process that already uses a GPU, which therefore does not fork. What goes wrong is said again,
    in its place, by the first kernel.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        Thread(target=_prepared, daemon=True).start()


def _prepared() -> None:
    with suppress(Exception):
        import triton

        triton.runtime.driver.active.get_current_target()
