"""A pattern as a callable: how it is called, what it refuses and in which words, how often it is compiled."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import process_time
from timeit import repeat
from typing import Any

import pytest
import torch
from torch import Tensor

import attncc
from attncc.diagnostics import Diagnostic
from attncc.ir.cascade import Cascade
from attncc.schedule.refused import Refused
from tests.patterns.cases import CASES, inputs
from tests.shapes import Shape, arguments
from tests.test_pipeline import REFUSED

ROOT = Path(__file__).parents[1]
PATTERNS = ROOT / "patterns"


def load(name: str, backend: str | None = None) -> attncc.Attention:
    return attncc.load(PATTERNS / f"{name}.attn", backend)


@pytest.fixture(scope="module")
def streaming() -> attncc.Attention:
    return load("streaming")


def tensors(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Queries, keys and values with 4 heads in 2 groups, 33 rows and 40 columns, D = 16 and E = 24."""
    torch.manual_seed(0)
    return [torch.randn(size, dtype=dtype) for size in ((2, 4, 33, 16), (2, 2, 40, 16), (2, 2, 40, 24))]


# ---- how it is called --------------------------------------------------------------------------


def test_it_says_what_it_is(streaming: attncc.Attention) -> None:
    assert str(inspect.signature(streaming)) == "(Q, K, V, window=1024, sinks=4)"
    assert streaming.__name__ == "streaming"
    assert (streaming.__doc__ or "").startswith("StreamingLLM")
    assert repr(streaming).startswith("<attncc streaming(Q, K, V, window=1024, sinks=4) from ")


def test_in_order_or_by_name(streaming: attncc.Attention) -> None:
    q, k, v = tensors()
    first = streaming(q, k, v, 7, 2)
    assert torch.equal(first, streaming(V=v, K=k, Q=q, sinks=2, window=7))
    assert torch.equal(first, streaming(q, k, sinks=2, V=v, window=7))
    assert not torch.equal(first, streaming(q, k, v, 7))


def test_defaults(streaming: attncc.Attention) -> None:
    q, k, v = tensors()
    assert torch.equal(streaming(q, k, v), streaming(q, k, v, 1024, 4))


LATE = """
pattern late(Q[b,h,q,d], K[b,h,k,d], near: int = 3, V[b,h,k,e], cap: float) -> O[b,h,q,e]:
    over b, h
    align q to k
    S[q,k] = cap * tanh(sum(d) Q[q,d] * K[k,d] / cap)
    P[q,k] = softmax(k where k <= q and q - k < near) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
"""


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_after_a_default_by_name_only(backend: str) -> None:
    late = attncc.compile(LATE, backend)
    assert str(inspect.signature(late)) == "(Q, K, *, near=3, V, cap)"
    q, k, v = tensors()
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    assert torch.equal(late(q, k, V=v, cap=2.0), late(q, k, V=v, cap=2.0, near=3))
    assert late(q, k, V=v, cap=2).shape == (2, 4, 33, 24)
    with pytest.raises(TypeError, match="missing a required argument: 'cap'"):
        late(q, k, V=v)
    with pytest.raises(TypeError, match="too many positional arguments"):
        late(q, k, v)


def test_words_of_python_get_a_tail() -> None:
    text = LATE.replace("cap", "lambda").replace("near", "is")
    q, k, v = tensors()
    k, v = (x.repeat_interleave(2, dim=1) for x in (k, v))
    assert str(inspect.signature(attncc.compile(text))) == "(Q, K, *, is_=3, V, lambda_)"
    made = attncc.compile(text)(q, k, V=v, lambda_=2.0, is_=5)
    assert torch.equal(made, attncc.compile(LATE)(q, k, V=v, cap=2.0, near=5))


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_outputs_by_name(backend: str) -> None:
    streaming = load("streaming", backend)
    q, k, v = tensors()
    o = streaming(q, k, v, 9)
    lse = streaming(q, k, v, 9, outputs="lse")
    both = streaming(q, k, v, window=9, outputs=["lse", "O"])
    assert isinstance(both, tuple)
    assert torch.equal(both[0], lse) and torch.equal(both[1], o)
    score = torch.einsum("bhqd,bhkd->bhqk", q, k.repeat_interleave(2, dim=1)) / 4
    at, keys = torch.arange(33)[:, None] + 7, torch.arange(40)
    seen = (keys <= at) & ((at - keys < 9) | (keys < 4))
    torch.testing.assert_close(lse, torch.where(seen, score, -torch.inf).logsumexp(-1))


def test_an_inner_equation_of_the_reference() -> None:
    q, k, v = tensors()
    p = load("streaming", "reference")(q, k, v, outputs="P")
    assert p.shape == (2, 4, 33, 40)
    torch.testing.assert_close(p.sum(-1), torch.ones(2, 4, 33))


# ---- what it refuses ---------------------------------------------------------------------------

REFUSALS: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "rank": (
        lambda f, q, k, v: f(q[0], k, v),
        ValueError,
        "`Q` is over (b h q d), but has 3 axes: (4, 33, 16)",
    ),
    "extent": (lambda f, q, k, v: f(q, k[..., :8], v), ValueError, "`K` has 8 along `d`, but `Q` has 16"),
    "length": (lambda f, q, k, v: f(q, k[:, :, 1:], v), ValueError, "`V` has 40 along `k`, but `K` has 39"),
    "batch": (lambda f, q, k, v: f(q, k, v[:1]), ValueError, "`V` has 1 along `b`, but `Q` has 2"),
    "group": (lambda f, q, k, v: f(q[:, :3], k, v), ValueError, "|g| = 2 does not divide |h| = 3"),
    "no group": (lambda f, q, k, v: f(q, k[:, :0], v[:, :0]), ValueError, "|g| = 0 does not divide |h| = 4"),
    "kinds": (lambda f, q, k, v: f(q, k, v.double()), TypeError, "`V` is float64, but `Q` is float32"),
    "integers": (
        lambda f, q, k, v: f(q.int(), k, v),
        TypeError,
        "`Q` is int32; this kernel takes float16, bfloat",
    ),
    "device": (lambda f, q, k, v: f(q, k.to("meta"), v), ValueError, "`K` is on meta, `Q` on cpu"),
    "no tensor": (
        lambda f, q, k, v: f(q, k.numpy(), v),
        TypeError,
        "`K` is a tensor over (b g k d), not ndarray",
    ),
    "missing": (
        lambda f, q, k, v: f(q, k),
        TypeError,
        "streaming(Q, K, V, window=1024, sinks=4): missing a req",
    ),
    "unknown": (lambda f, q, k, v: f(q, k, v, widow=3), TypeError, "unexpected keyword argument 'widow'"),
    "too many": (lambda f, q, k, v: f(q, k, v, 1, 2, 3), TypeError, "too many positional arguments"),
    "real": (lambda f, q, k, v: f(q, k, v, 2.0), TypeError, "`window` is an integer, not 2.0"),
    "truth": (lambda f, q, k, v: f(q, k, v, sinks=True), TypeError, "`sinks` is an integer, not True"),
    "large": (lambda f, q, k, v: f(q, k, v, 1 << 29), ValueError, "stay between -2**29 and 2**29"),
    "unordered": (
        lambda f, q, k, v: f(q, k, v, outputs={"O", "lse"}),
        TypeError,
        "is a name, or a list or tuple",
    ),
    "twice": (lambda f, q, k, v: f(q, k, v, outputs=("O", "O")), ValueError, "an output is asked for twice"),
    "output": (
        lambda f, q, k, v: f(q, k, v, outputs="nothing"),
        attncc.PatternError,
        "error[unknown-output]: no equation defines `nothing`, which is asked for\n"
        "  = help: the equations are `S`, `P`, `O` and `lse`",
    ),
}


@pytest.mark.parametrize(("call", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(
    call: Callable[..., Any], kind: type[Exception], words: str, streaming: attncc.Attention
) -> None:
    with pytest.raises(kind) as refused:
        call(streaming, *tensors())
    assert words in str(refused.value)


def test_numbers_without_a_default() -> None:
    sigmoid = load("sigmoid")
    q, k, v = tensors()
    with pytest.raises(TypeError, match="missing a required argument: 'bias'"):
        sigmoid(q, k, v)
    with pytest.raises(TypeError, match="`bias` is a number, not 'low'"):
        sigmoid(q, k, v, "low")
    assert torch.equal(sigmoid(q, k, v, -3), sigmoid(q, k, v, bias=-3.0))


def test_numbers_that_divide_positions() -> None:
    q, k, v = tensors()
    for block in (0, -1):
        with pytest.raises(ValueError, match="`block` divides positions and must be positive"):
            load("s2")(q, k, v, block=block)


@pytest.mark.parametrize("name", REFUSED)
def test_patterns_without_kernels(name: str) -> None:
    """They load, and run as the reference; a kernel is refused with its rule, and the line it applies to."""
    with pytest.raises(attncc.PatternError) as refused:
        load(name)(**inputs(CASES[name][1]))
    words = str(refused.value)
    assert words.startswith(f"error[{REFUSED[name]}]: no kernel plan")
    assert f"{name}.attn:" in words and "^^^" in words
    assert load(name, "reference")(**inputs(CASES[name][1])) is not None


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="backend 'cuda': choose torch, triton, reference, or None"):
        load("causal", "cuda")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        attncc.load(tmp_path / "none.attn")
    with pytest.raises(IsADirectoryError):
        attncc.load(tmp_path)
    latin = tmp_path / "latin.attn"
    latin.write_bytes(b"# one\n# \xe9\n")
    with pytest.raises(attncc.PatternError, match="is not UTF-8, in line 2"):
        attncc.load(latin)
    empty = tmp_path / "empty.attn"
    empty.write_bytes(b"")
    with pytest.raises(attncc.PatternError, match="there is no pattern here"):
        attncc.load(empty)


def test_mistakes_come_when_it_is_loaded() -> None:
    with pytest.raises(attncc.PatternError) as refused:
        attncc.compile(LATE.replace("P[q,k] *", "R[q,k] *").replace("tanh", "tan"), name="late.attn")
    assert {label.span.start for d in refused.value.diagnostics for label in d.labels}
    assert str(refused.value).count("--> late.attn:") == 2


# ---- gradients ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_gradients(backend: str) -> None:
    given = [x[:1, : x.shape[1] // 2, :5, :3].double().requires_grad_() for x in tensors()]
    assert torch.autograd.gradcheck(load("causal", backend), given)


def test_gradients_are_refused_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the rule, a stand-in here; without it where there is no kernel for the outputs either."""

    def refuse(cascade: Cascade, wrt: tuple[str, ...]) -> Any:
        raise Refused(Diagnostic("plan-walk", "no kernel plan for it", (), "help"))

    monkeypatch.setattr("attncc.pipeline.trained", refuse)
    causal = load("causal")
    q, k, v = (x.requires_grad_() for x in tensors())
    words = "error[plan-walk]: no gradients in `Q`, `V`: no kernel plan for it\n  = help: differentiate"
    with pytest.raises(attncc.PatternError) as refused:
        causal(q, k.detach(), v)
    assert words in str(refused.value)
    assert 'backend="reference"' in str(refused.value) and "torch.no_grad()" in str(refused.value)
    with torch.no_grad():
        assert not causal(q, k, v).requires_grad
    call = {
        n: x.requires_grad_() if torch.is_tensor(x) and x.is_floating_point() else x
        for n, x in inputs(CASES["gla"][1]).items()
    }
    with pytest.raises(attncc.PatternError, match=r"error\[plan-recurrence\]: no kernel plan"):
        load("gla")(**call)


# ---- how often it is compiled ------------------------------------------------------------------


def test_lengths_and_numbers_share_a_module() -> None:
    streaming = load("streaming")
    for length in range(1, 400, 20):
        given = arguments(streaming.cascade, Shape(1, 2, 1, length, length + 3, 16, 16), torch.float32, "cpu")
        for window in (1, 16, 100, 1000, 5000):
            streaming(**given, window=window)
    assert streaming.compilations == 1
    streaming(**given, outputs="lse")
    assert streaming.compilations == 2
    streaming(**{n: x[..., :8].bfloat16() for n, x in given.items()})
    assert streaming.compilations == 2
    assert all(text.startswith('"""StreamingLLM') for text in streaming.modules.values())


def test_a_call_costs_little() -> None:
    """Under a tenth of a millisecond around the module's own function, in processor time."""
    streaming = load("streaming")
    q, k, v = tensors()
    streaming(q, k, v)
    ((key, function),) = streaming._functions.items()
    streaming._functions[key] = function._replace(call=lambda **given: None)
    seconds = (
        min(repeat(lambda: streaming(q, k, v, window=7), timer=process_time, number=100, repeat=5)) / 100
    )
    assert seconds < 1e-4


LOADED = """
import json, sys
from pathlib import Path

def heavy():
    return sorted({"torch", "triton", "sympy"} & set(sys.modules))

import attncc
found = [heavy()]
attend = attncc.load("patterns/streaming.attn")
found.append(heavy())
import torch
attend(*(torch.randn(1, 1, 8, 4) for _ in range(3)))
found.append(heavy())
print(json.dumps(found))
"""


def test_what_is_imported_when() -> None:
    """Nothing heavy to load a pattern; triton not even to call one on a CPU."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    bare, loaded, called = json.loads(done.stdout)
    assert (bare, loaded) == ([], [])
    assert "triton" not in called


def test_a_parameter_cannot_be_called_outputs() -> None:
    text = (PATTERNS / "window.attn").read_text("utf-8").replace("window: int", "outputs: int")
    with pytest.raises(
        attncc.PatternError, match="a parameter called `outputs` cannot be given by name"
    ) as no:
        attncc.compile(text.replace("< window", "< outputs"))
    at = text[: text.index("outputs: int")]
    assert f"--> <pattern>:{at.count(chr(10)) + 1}:{len(at.rpartition(chr(10))[2]) + 1}\n" in str(no.value)
