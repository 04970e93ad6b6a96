"""Tensors → the backend that runs them, and the device it is compiled for."""

from __future__ import annotations

from typing import Any

import torch


def backend_of(device: torch.device) -> str:
    """The backend that tensors on a device are for."""
    return "triton" if device.type == "cuda" else "torch"


def target_of(backend: str | None, arguments: list[Any]) -> tuple[str, str]:
    """(backend, target); the backend follows the first tensor's device unless one is given."""
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
    device = tensors[0].device if tensors else torch.device("cpu")
    backend = backend or backend_of(device)
    if backend != "triton":
        return backend, "cpu"
    if device.type != "cuda":
        return backend, "cuda:90"  # for the interpreter, which runs the text of any GPU
    if torch.version.hip:
        return backend, f"hip:{torch.cuda.get_device_properties(device).gcnArchName.split(':')[0]}"
    major, minor = torch.cuda.get_device_capability(device)
    return backend, f"cuda:{major}{minor}"
