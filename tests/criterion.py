"""The criterion by which kernels are judged, as `attncc verify` applies it."""

from __future__ import annotations

from attncc.verify.criterion import ratios, worst

__all__ = ["ratios", "worst"]
