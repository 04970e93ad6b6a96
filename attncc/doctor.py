"""This machine → what is installed, whether a kernel compiles here and is right, and what to do."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from attncc.schedule.tiles import OLDEST, TARGETS
from attncc.source import Source

PATTERN = """\
pattern checked(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e], lse[b,h,q]:
    over b, h
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P[q,k] = softmax(k where k <= q) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
    lse[q] = logsumexp(k where k <= q) S[q,k]
"""


@dataclass(frozen=True)
class Found:
    """What was found, by name; `advice` is what to do, `usable` whether kernels run here and are right."""

    usable: bool
    said: dict[str, str]
    advice: tuple[str, ...]

    def data(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        return {"usable": self.usable, **self.said, "advice": list(self.advice)}

    def text(self) -> str:
        """The same in words."""
        width = max(map(len, self.said))
        lines = [f"{name:{width}}  {value}" for name, value in self.said.items()]
        lines += ["", *(f"advice: {advice}" for advice in self.advice)] if self.advice else []
        return "\n".join([*lines, "", "usable" if self.usable else "NOT USABLE"])


def examine(tell: Callable[[str], None] = lambda _: None) -> Found:
    """Looks at everything; raises nothing."""
    said = {"attncc": version("attncc", "a checkout that is not installed")}
    said |= {"python": platform.python_version(), "platform": platform.platform()}
    said |= {name: version(name) for name in ("torch", "triton", "hypothesis")}
    said["cache"], advice = _cache()
    if said["hypothesis"] == ABSENT:
        advice.append("`attncc verify` draws its calls with Hypothesis: `pip install 'attncc[verify]'`")
    if os.environ.get("TRITON_INTERPRET"):
        advice.append("TRITON_INTERPRET is set: kernels are interpreted, slowly, and wrong in bf16")
    if said["torch"] == ABSENT:
        return Found(False, said, ("kernels need torch: `pip install torch`", *advice))
    usable = True
    for device in _devices(said, advice):
        tell(f"compiling for {device}")
        right, said[f"kernel on {device}"] = _checked(device)
        usable &= right
    return Found(usable, said, tuple(advice))


ABSENT = "not installed"


def version(name: str, absent: str = ABSENT) -> str:
    """The version of a package, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return absent


def gpu() -> bool:
    """Whether torch sees a GPU. ImportError without torch."""
    import torch

    return torch.cuda.is_available()


def _cache() -> tuple[str, list[str]]:
    """The folder of generated modules, and what is wrong with it."""
    from attncc.runtime.cache import folder

    where = folder()
    if where is None:
        return "switched off", ["every process generates its modules anew: set ATTNCC_CACHE_DIR to a folder"]
    inside = next((p for p in (where, *where.parents) if p.exists()), Path(os.sep))
    if not os.access(inside, os.W_OK):
        return str(where), [f"{where} cannot be written: set ATTNCC_CACHE_DIR to a folder that can"]
    files = sum(p.is_file() for p in where.iterdir()) if where.is_dir() else 0
    return f"{where}, {files} files", []


def _devices(said: dict[str, str], advice: list[str]) -> list[str]:
    """The devices to try, once what there is of a GPU is said."""
    import torch

    if not torch.cuda.is_available():
        said["gpu"] = "none that torch sees"
        if torch.version.cuda is None and torch.version.hip is None:
            advice.append("this torch is built for CPUs alone; kernels for a GPU are not run here")
        return ["cpu"]
    from attncc.runtime.target import target_of

    _, target = target_of("triton", [torch.empty(0, device="cuda")])
    said["gpu"] = f"{torch.cuda.get_device_name()}, target {target}"
    if target not in TARGETS:
        said["gpu"] += ", whose tiles are those of another GPU"
    if said["triton"] == ABSENT:
        advice.append("kernels on a GPU need triton: `pip install triton`, of the version torch asks for")
        return ["cpu"]
    vendor, _, generation = target.partition(":")
    if vendor == "cuda" and generation.isdigit() and int(generation) < OLDEST:
        advice.append(f"this GPU is older than cuda:{OLDEST}: patterns run on the CPU, or as references")
        return ["cpu"]
    return ["cpu", "cuda"]


def _checked(device: str) -> tuple[bool, str]:
    """Whether a small kernel is right there, and how that went."""
    import torch

    from attncc.attention import Attention
    from attncc.verify.criterion import worst
    from attncc.verify.trial import poisoned

    source = Source("<doctor>", PATTERN)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    try:
        numbers = torch.Generator().manual_seed(0)
        given = [torch.randn(1, 2, 130, 32, generator=numbers).to(dtype).to(device) for _ in range(3)]
        with poisoned(), torch.no_grad():
            made = Attention(source)(*given)
            plain = Attention(source, "reference")(*given)
            exact = Attention(source, "reference")(*(x.double() for x in given))
        sides = zip(made, plain, exact, (True, False), strict=True)
        ratio = max(worst(x, near, far, dtype, features) for x, near, far, features in sides)
    except Exception as error:  # whatever is wrong with the installation is what this command is to say
        return False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ratio <= 1, f"{'right' if ratio <= 1 else 'WRONG'}, its worst row {ratio:.2f} of the bound"
