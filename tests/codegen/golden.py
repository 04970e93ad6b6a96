"""What every pattern with a kernel compiles to. `python -m tests.codegen.golden` writes the files anew."""

from __future__ import annotations

from pathlib import Path

from attncc.pipeline import compile
from attncc.schedule.spec import KINDS, Specialisation
from attncc.source import Source
from tests.shapes import KERNELS, MORE, PACKED

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "golden"
TARGETS = {"cuda": ("triton", "cuda:90"), "torch": ("torch", "cpu")}
"""Backend and target by the ending of a file's name; one of `TRAINED` has gradients, `cuda.gradients`."""

TRAINED = (
    "causal", "streaming", "alibi", "sink", "document", "s2", "differential", "cosine", "neighborhood2d",
    "evoformer", "music", "based",
)  # fmt: skip
"""One pattern of every kind: ranges, slopes, sinks, tables, classes, two maxima, norms, boxes, sums at cells,
tables at places, polynomials."""

FILES = tuple((name, ending) for name in (*KERNELS, *MORE, *PACKED) for ending in TARGETS) + tuple(
    (name, f"{ending}.gradients") for name in TRAINED for ending in TARGETS
)


def path(name: str, ending: str) -> Path:
    """Where the text of a pattern is kept."""
    return FOLDER / f"{name}.{ending}.py"


def text(name: str, ending: str) -> str:
    """What the compiler makes of a pattern today, its features at their default extents."""
    ending, _, gradients = ending.partition(".")
    backend, target = TARGETS[ending]
    source = Source.read(ROOT / "patterns" / f"{name}.attn")
    wrt = None if gradients else ()
    return compile(source, Specialisation(backend, target, KINDS[backend], ()), wrt=wrt)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.glob("*.py"):
        old.unlink()
    for name, ending in FILES:
        path(name, ending).write_text(text(name, ending), "utf-8")


if __name__ == "__main__":
    main()
