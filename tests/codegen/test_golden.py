"""Generated text is what was reviewed, byte for byte; it stands alone, and each file passes its own test."""

from __future__ import annotations

import ast
import difflib
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import attncc
from tests.codegen.golden import FILES, FOLDER, ROOT, path, text

ALLOWED = {
    "weakref",
    "contextlib",
    "math",
    "torch",
    "triton",
    "triton.language",
    "triton.language.extra.cuda",
}
ALLOWED |= {"triton.tools.tensor_descriptor"}

ALONE = """
import runpy, sys
for path in sys.argv[1:]:
    runpy.run_path(path, run_name="__main__")
assert not any(name.partition(".")[0] == "attncc" for name in sys.modules)
"""

DIGESTS = """
import hashlib
from tests.codegen.golden import FILES, text
for file in FILES:
    print(*file, hashlib.sha256(text(*file).encode()).hexdigest())
"""


@pytest.mark.parametrize(("name", "ending"), FILES)
def test_text(name: str, ending: str) -> None:
    kept, made = path(name, ending).read_text("utf-8"), text(name, ending)
    difference = difflib.unified_diff(kept.splitlines(), made.splitlines(), "kept", "made", lineterm="", n=1)
    assert kept == made, "\n".join(["if this is better: python -m tests.codegen.golden", *difference])


def test_no_file_is_left_over() -> None:
    assert sorted(FOLDER.glob("*")) == sorted(path(*file) for file in FILES)


def test_same_bytes_in_another_process() -> None:
    """Nothing depends on the order of a set, or on what was compiled before."""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    made = subprocess.run(
        [sys.executable, "-c", DIGESTS],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    kept = {file: hashlib.sha256(path(*file).read_bytes()).hexdigest() for file in FILES}
    assert {(name, ending): d for name, ending, d in map(str.split, made.splitlines())} == kept


@pytest.mark.parametrize(("name", "ending"), FILES)
def test_stands_alone(name: str, ending: str) -> None:
    kept = path(name, ending).read_text("utf-8")
    tree = ast.parse(kept)
    found = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    found |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert found <= ALLOWED
    assert "attncc" not in kept


@pytest.mark.parametrize(("name", "ending"), FILES)
def test_lines(name: str, ending: str) -> None:
    lines = path(name, ending).read_text("utf-8").splitlines()
    long = [f"{n}: {line}" for n, line in enumerate(lines, 1) if len(line) > 110 or line != line.rstrip()]
    assert not long, "\n".join(long)


def test_nothing_is_unused_or_unknown() -> None:
    """No import, local or parameter of a loop that nothing reads; no name that nothing defines."""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--quiet", "--output-format", "concise"]
    done = subprocess.run([*ruff, "--select", "F", FOLDER], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def run(paths: list[Path], folder: Path, **environment: str) -> list[str]:
    """What some files print, run as scripts where attncc cannot be found."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *paths],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout.splitlines()


def test_plain_files_pass_their_own_check(tmp_path: Path) -> None:
    files = [file for file in FILES if file[1].startswith("torch")]
    said = run([path(*file) for file in files], tmp_path, OMP_NUM_THREADS="1")
    wanted = 0
    for name, ending in files:
        cascade = attncc.load(ROOT / "patterns" / f"{name}.attn").cascade
        gradients = [t for t in cascade.inputs if t.origin == "input"] if "." in ending else []
        wanted += len(cascade.outputs) + len(gradients)
    assert len(said) == wanted
    assert all("the worst row is" in line for line in said)


def test_kernels_pass_their_own_check(tmp_path: Path) -> None:
    """Two of them, interpreted; the others are, at more lengths, in test_triton.py."""
    said = run([path("streaming", "cuda"), path("alibi", "cuda.gradients")], tmp_path, TRITON_INTERPRET="1")
    assert len(said) == 1 + 5
