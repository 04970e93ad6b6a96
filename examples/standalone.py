"""A pattern becomes a Python file that needs torch alone: write it, read it, import it, check it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

PATTERN = Path(__file__).parents[1] / "patterns" / "chunked.attn"


def main() -> None:
    """Compile the pattern, run the check that the file carries, and call its function."""
    target = "cuda:90" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chunked.py"
        command = [sys.executable, "-m", "attncc", "compile", str(PATTERN), "-o", str(path)]
        subprocess.run([*command, "--target", target], check=True)
        text = path.read_text()
        print("\n".join(text.splitlines()[:24]))
        assert "import attncc" not in text
        print(subprocess.run([sys.executable, str(path)], check=True, capture_output=True, text=True).stdout)

        spec = importlib.util.spec_from_file_location("chunked", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        device = torch.device(target.partition(":")[0])
        q, k, v = torch.randn(3, 1, 4, 200, 64, device=device)
        out = module.chunked(q, k, v, chunk=64)
        assert torch.allclose(out, module.reference(q, k, v, chunk=64), atol=1e-4)
        print(f"chunked(q, k, v, chunk=64): {tuple(out.shape)}, equal to the reference in the same file")


if __name__ == "__main__":
    main()
