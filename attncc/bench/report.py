"""What was measured: times, what they come to, and what stands beside them for comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def _rate(tflops: float) -> str:
    return f"{tflops:.1f} TFLOP/s" if tflops >= 1 else f"{1e3 * tflops:.1f} GFLOP/s"


@dataclass(frozen=True)
class Report:
    """Median milliseconds by name, `attncc` first; `notes` say what is not compared, and why.

    `flops` is of the matrix products over the cells that are seen, `bytes` is every argument and output once.
    `measured` and `peak` are TFLOP/s and TB/s, of this machine now and of its data sheet.
    """

    pattern: str
    device: str
    dtype: str
    extents: Mapping[str, int]
    numbers: Mapping[str, Any]
    versions: str
    cells: int | None
    flops: int | None
    bytes: int
    milliseconds: Mapping[str, float]
    measured: tuple[float, float]
    peak: tuple[float, float] | None
    notes: tuple[str, ...]

    @property
    def floor(self) -> float | None:
        """Milliseconds that the work or the traffic takes at the measured ceilings."""
        if self.flops is None:
            return None
        return max(self.flops / self.measured[0], self.bytes / self.measured[1]) / 1e9

    def data(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        return {
            "pattern": self.pattern,
            "device": self.device,
            "versions": self.versions,
            "dtype": self.dtype,
            "extents": dict(self.extents),
            "numbers": dict(self.numbers),
            "cells": self.cells,
            "flops": self.flops,
            "bytes": self.bytes,
            "milliseconds": dict(self.milliseconds),
            "measured": dict(zip(("tflops", "tbytes"), self.measured, strict=True)),
            "peak": self.peak and dict(zip(("tflops", "tbytes"), self.peak, strict=True)),
            "floor_milliseconds": self.floor,
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """The same in words."""
        said = [f"|{name}| = {size}" for name, size in self.extents.items()]
        said += [f"{name} = {value}" for name, value in self.numbers.items()]
        lines = [f"{self.pattern} on {self.device}, {self.dtype}: {', '.join(said)}", self.versions, ""]
        width = max(map(len, self.milliseconds))
        ours = self.milliseconds["attncc"]
        for name, ms in self.milliseconds.items():
            line = f"  {name:{width}}  {ms:10.3f} ms"
            if self.flops is not None:
                rate = self.flops / ms / 1e9
                line += f"  {_rate(rate):>14}  {100 * rate / self.measured[0]:4.0f}% of a matrix product"
            if name != "attncc":
                line += f"  attncc takes {ours / ms:.2f} of its time"
            lines.append(line)
        product, copy = self.measured
        lines += [
            "",
            f"measured here: {_rate(product)} in a matrix product, {1e3 * copy:,.0f} GB/s in a copy",
        ]
        if self.peak:
            lines.append(f"data sheet: {self.peak[0]:.0f} TFLOP/s, {self.peak[1]:.2f} TB/s")
        if self.flops is not None and self.floor is not None:
            lines.append(
                f"{self.cells:,} cells seen: {self.flops / 1e9:,.2f} GFLOP in matrix products,"
                f" {self.bytes / 1e6:,.1f} MB; at those rates at least {self.floor:.3f} ms"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
