"""Imports point up the list of layers, every library has one home, and light commands load no heavy one."""

from __future__ import annotations

import ast
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "attncc"

# what a layer may import: itself, and those before it
LAYERS = (
    {"source", "diagnostics", "ops", "resources"},
    {"syntax"},
    {"ir"},
    {"passes", "masks"},
    {"schedule"},
    {"codegen"},
    {"runtime"},
    {
        "pipeline",
        "explain",
        "lint",
        "viz",
        "attention",
        "decorator",
        "docstrings",
        "parameters",
        "calls",
        "example",
        "starter",
        "verify",
        "bench",
        "doctor",
        "cli",
        "__init__",
        "__main__",
    },
)

HOMES = {
    "lark": ("syntax/",),
    "networkx": ("ir/graph.py",),
    "sympy": ("ops.py", "ir/algebra.py"),
    "mpmath": ("ir/rank.py",),
    "torch": ("runtime/", "verify/", "bench/", "doctor.py"),
    "triton": ("runtime/",),
    "click": ("cli/",),
}


def rank(part: str) -> int | None:
    """How far down the list a module or folder of the package stands; None for a stranger."""
    return next((n for n, layer in enumerate(LAYERS) if part in layer), None)


def imported(text: str, inside: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name) for name in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = [*inside[: len(inside) - level + 1]] if level else []
                whole = ".".join(base + ([module] if module else []))
                # what is taken from the package itself is one of its parts
                yield from ((node.lineno, f"{whole}.{n.name}" if whole == "attncc" else whole) for n in names)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The entry of LAYERS that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> list[tuple[int, str]]:
    inside = path.relative_to(ROOT).with_suffix("").parts[:-1]
    return list(imported(path.read_text("utf-8"), inside))


def target(name: str) -> str | None:
    """The part of the package that an imported name lies in, None if it lies elsewhere."""
    first, _, rest = name.partition(".")
    if first != "attncc":
        return None
    part = rest.partition(".")[0]
    return part if rank(part) is not None else "__init__"


def test_every_module_has_a_layer() -> None:
    strangers = sorted({part_of(p) for p in modules() if rank(part_of(p)) is None})
    assert not strangers, f"give these a place in LAYERS: {strangers}"


def test_imports_point_up() -> None:
    wrong = []
    for path in modules():
        own = rank(part_of(path))
        for line, name in imports_of(path):
            part = target(name)
            if part is None or own is None:
                continue
            other = rank(part)
            if other is None or other > own:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_every_library_has_one_home() -> None:
    wrong = []
    for path in modules():
        where = path.relative_to(PACKAGE).as_posix()
        for line, name in imports_of(path):
            homes = HOMES.get(name.partition(".")[0])
            if homes is not None and not where.startswith(homes):
                wrong.append(f"attncc/{where}:{line} imports {name}, whose home is {' and '.join(homes)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("import torch.nn as nn", ["torch.nn"]),
        ("def f():\n    from triton import jit", ["triton"]),
        ("from attncc import cli, ops", ["attncc.cli", "attncc.ops"]),
        ("from . import plan", ["attncc.schedule"]),
        ("from ..codegen.module import frame", ["attncc.codegen.module"]),
        ("from .. import cli", ["attncc.cli"]),
    ],
)
def test_imports_are_found(text: str, found: list[str]) -> None:
    assert [name for _, name in imported(text, ("attncc", "schedule"))] == found


LIGHT = """
import json, sys
from attncc.cli import main
try:
    main({arguments!r})
except SystemExit as stop:
    assert not stop.code, stop.code
loaded = {{name.partition(".")[0] for name in sys.modules}}
print(json.dumps(sorted(loaded)))
"""

MORE = {
    "explain --html": ["explain", "-", "--html", "-"],
    "viz": ["viz", "-", "-o", "-"],
    "viz --html": ["viz", "-", "--html", "-"],
    "new": ["new", "mine", "-o", "-"],
}


@pytest.mark.parametrize(
    ("command", "heavy"),
    [
        ("check", {"torch", "triton", "sympy"}),
        ("fmt", {"torch", "triton", "sympy"}),
        ("explain", {"torch", "triton"}),
        ("explain --html", {"torch", "triton"}),
        ("viz", {"torch", "triton"}),
        ("viz --html", {"torch", "triton"}),
        ("new", {"torch", "triton", "sympy"}),
    ],
)
def test_light_commands_load_no_heavy_library(command: str, heavy: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT.format(arguments=MORE.get(command, [command, "-"]))],
        cwd=ROOT,
        input=(ROOT / "patterns" / "causal.attn").read_text("utf-8"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "attncc" in loaded
    assert not loaded & heavy


def test_check_starts_within_a_second() -> None:
    """Processor time, the best of three: the wall clock says how busy the machine is."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [sys.executable, "-m", "attncc", "check", "patterns/causal.attn"], cwd=ROOT, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 1, seconds
