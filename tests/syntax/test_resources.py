"""The grammar and the standard definitions are found in a checkout and in an installed package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from attncc import resources

ROOT = Path(__file__).parents[2]


def test_checkout() -> None:
    assert resources.folder("grammar") == ROOT / "grammar"
    assert resources.grammar() == (ROOT / "grammar" / "attn.lark").read_text(encoding="utf-8")
    assert resources.standard().text == (ROOT / "patterns" / "std.attn").read_text(encoding="utf-8")


def test_installed(tmp_path: Path) -> None:
    """As a wheel unpacks: the package with its data inside, nothing beside it."""
    package = tmp_path / "attncc"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "attncc", package, ignore=ignored)
    shutil.copytree(ROOT / "grammar", package / "_data" / "grammar")
    shutil.copytree(ROOT / "patterns", package / "_data" / "patterns")
    program = (
        "from attncc import resources\n"
        "from attncc.syntax.definitions import standard\n"
        "print(resources.folder('grammar'), len(standard()))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": ""}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    folder, count = run.stdout.split()
    assert Path(folder) == package / "_data" / "grammar"
    assert int(count) > 15
