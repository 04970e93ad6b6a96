"""The compiler from end to end: what patterns become, what may be asked of it, and files from `compile`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attncc import cli
from attncc.diagnostics import PatternError
from attncc.pipeline import Unfit, compile, meaning, planned, said, streamed
from attncc.schedule.spec import KINDS, Points, Specialisation
from attncc.source import Source
from tests.shapes import KERNELS, MORE, PACKED, UNBOUNDED

PATTERNS = Path(__file__).parents[1] / "patterns"
NAMES = sorted(p.stem for p in PATTERNS.glob("*.attn") if p.stem != "std")
REFUSED = {
    "moba": "plan-selection",
    "nsa": "plan-selection",
    "gla": "plan-recurrence",
    "gated_delta": "plan-recurrence",
    "landmark": "plan-earlier-kernel",
    "hilo": "plan-earlier-kernel",
    "halonet_padded": "plan-contraction",
}
"""Patterns without kernels, and the rule that says so."""


def source(name: str) -> Source:
    return Source.read(PATTERNS / f"{name}.attn")


def table(text: str, name: str) -> object:
    """A literal that a module assigns."""
    (node,) = (
        n for n in ast.parse(text).body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == name
    )
    return ast.literal_eval(node.value)


def compiled(name: str, target: str, *dtypes: str, extents: Points = ()) -> str:
    backend = "torch" if target == "cpu" else "triton"
    return compile(source(name), Specialisation(backend, target, dtypes or KINDS[backend], extents))


def test_every_pattern_has_kernels_or_a_reason() -> None:
    assert sorted((*KERNELS, *MORE, *PACKED, *UNBOUNDED, *REFUSED)) == NAMES


@pytest.mark.parametrize("name", [*KERNELS, *MORE, *PACKED])
def test_kernels(name: str) -> None:
    """Of two passes each has a kernel, and norms of keys and what agents gather have one before; what
    other rows give has one of its own.
    """
    kernels = planned(meaning(source(name)), source(name)).kernels
    found = [(kernel.rows.name, [loop.index.name for loop in kernel.loops]) for kernel in kernels]
    norms = [("k", [])] if name in ("qk_norm", "cosine", "lssa") else []
    walks = {
        "pointer": [("q", ["k"])] * 2,
        "agent": [("a", ["k"]), ("q", ["a"])],
        "h2o": [("q", ["k"])] * 2 + [("k", ["q"])],
    }
    assert found == [*norms, *walks.get(name, [("q", ["k"])])]


@pytest.mark.parametrize(("name", "rule"), REFUSED.items())
def test_refusals(name: str, rule: str) -> None:
    """The rule, the equation where it applies, and what to do."""
    with pytest.raises(PatternError) as refused:
        compiled(name, "cpu")
    (diagnostic,) = refused.value.diagnostics
    (label,) = diagnostic.labels
    assert diagnostic.code == rule
    assert 'backend="reference"' in diagnostic.help
    assert "=" in source(name).line(source(name).position(label.span.start)[0])


@pytest.mark.parametrize("name", NAMES)
def test_passes_keep_inputs_and_outputs(name: str) -> None:
    before = meaning(source(name))
    after = streamed(before)
    assert (after.inputs, after.outputs, after.defaults) == (before.inputs, before.outputs, before.defaults)


def test_what_was_said() -> None:
    words = said(source("window"))
    assert words.name == "window"
    assert words.doc.startswith("Sliding-window attention")
    assert words.equations[1] == "P[q,k] = softmax(k where k <= q and q - k < window) S[q,k]"
    assert len(words.equations) == 4


def test_extents_that_are_left_open() -> None:
    def keys(*points: tuple[tuple[str, int], ...]) -> list[object]:
        tiles = table(compiled("causal", "cuda:90", "bfloat16", extents=points), "TILES")
        assert isinstance(tiles, dict)
        return list(tiles)

    assert keys() == [(64, 64, 2), (128, 128, 2)]
    assert keys((("d", 80),)) == [(80, 64, 2), (80, 128, 2)]
    assert keys((("d", 80), ("e", 96))) == [(80, 96, 2)]
    assert keys((("d", 16), ("e", 16)), (("d", 256), ("e", 256))) == [(16, 16, 2), (256, 256, 2)]


@pytest.mark.parametrize(
    ("target", "dtypes", "extents", "why"),
    [
        ("cuda:90", ("bfloat16",), ((("z", 64),),), "no feature index z: causal has d, e"),
        ("cuda:90", ("bfloat16",), ((("q", 64),),), "no feature index q"),
        ("cuda:90", ("bfloat16",), ((("d", 512),),), "|d| = 512: a kernel takes feature extents up to 256"),
        ("cuda:90", ("float64",), (), "no kernels in float64 for cuda:90: float16, bfloat16, float32"),
    ],
)
def test_what_no_kernel_can_have(target: str, dtypes: tuple[str, ...], extents: Points, why: str) -> None:
    with pytest.raises(Unfit, match=why.replace("|", r"\|")):
        compiled("causal", target, *dtypes, extents=extents)


# ---- the command -------------------------------------------------------------------------------


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["compile", str(PATTERNS / "streaming.attn"), *arguments])


def test_compiled_file_runs_alone(tmp_path: Path) -> None:
    out = tmp_path / "streaming.py"
    assert run("-o", str(out), "--target", "cpu", "--extent", "d=24", "--dtype", "fp64").exit_code == 0
    done = subprocess.run([sys.executable, "-I", out], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("O: the worst row is")


def test_compiled_for_a_gpu() -> None:
    result = run(
        "-o", "-", "--target", "hip:gfx942", "--extent", "d=64", "--extent", "e=64", "--dtype", "fp16"
    )
    assert result.exit_code == 0
    tiles = table(result.stdout, "TILES")
    assert isinstance(tiles, dict) and list(tiles) == [(64, 64, 2)]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--extent", "z=3"], "no feature index z"),
        (["--extent", "e=257"], "feature extents up to 256"),
        (["--dtype", "fp64"], "no kernels in float64"),
    ],
)
def test_what_cannot_be_compiled_is_a_usage_error(arguments: list[str], why: str) -> None:
    result = run("-o", "-", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert why in result.stderr


INTEGERS = """pattern integers(near[q,k]: int) -> O[q]:
    along q, k
    O[q] = sum(k) near[q,k]
"""


def test_a_kernel_follows_a_real_tensor() -> None:
    with pytest.raises(PatternError) as refused:
        compile(Source("integers.attn", INTEGERS), Specialisation("torch", "cpu", KINDS["torch"], ()))
    assert [d.code for d in refused.value.diagnostics] == ["plan-inputs"]


def test_older_gpus_are_refused() -> None:
    with pytest.raises(Unfit, match=r"older than cuda:80; the torch backend runs anywhere"):
        compiled("causal", "cuda:75")


def test_a_feature_that_no_tensor_has() -> None:
    """Its extent is made of numbers: no row of tiles is known for it."""
    text = """pattern p(Q[b,q,d], K[b,k,d], V[b,k,e], n: int = 3) -> O[b,q,e]:
    over b
    align q to k
    index p: n * n
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    shift[q] = sum(p) Q[q, p % |d|]
    P[q,k] = softmax(k where k <= q) S[q,k] * shift[q]
    O[q,e] = sum(k) P[q,k] * V[k,e]
"""
    source = Source("p.attn", text)
    with pytest.raises(PatternError) as refused:
        compile(source, Specialisation("triton", "cuda:90", ("bfloat16",), ()))
    assert [d.code for d in refused.value.diagnostics] == ["plan-extent"]
