"""A Python function whose docstring is a pattern: what becomes of it, and where its mistakes are reported."""

from __future__ import annotations

import copy
import inspect
import pickle
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import attncc
from attncc import PatternError

STREAMING = attncc.load(Path(__file__).parents[1] / "patterns" / "streaming.attn")


@attncc.jit
def attend(Q: Tensor, V: Tensor, K: Tensor, sinks: int = 4, *, window: int = 1024) -> Tensor:
    """A window, and the first keys.

    (Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e]) -> O[b,h,q,e], lse[b,h,q]
    over b, h with g = h // (|h| // |g|)
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P[q,k] = softmax(k where k <= q and (q - k < window or k < sinks)) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
    lse[q] = logsumexp(k where k <= q and (q - k < window or k < sinks)) S[q,k]
    """


@attncc.jit(backend="reference")
def scaled(X, by: float, off: float = -0.5, strict: bool = True):
    "(X[b,q,d]) -> Y[b,q,d]\nover b\nalong q\nY[q,d] = if strict then by * X[q,d] + off else X[q,d]"


def tensors() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(size) for size in ((2, 4, 33, 16), (2, 2, 40, 16), (2, 2, 40, 24))]


def test_attncc_jit_is_the_decorator() -> None:
    """Also after every module of the package that could be called so was imported."""
    import attncc.attention
    import attncc.decorator

    assert attncc.jit is attncc.decorator.jit
    assert "jit" in attncc.__all__


def test_it_is_the_pattern() -> None:
    q, k, v = tensors()
    o, lse = attend(q, v, k, 3, window=5)
    wanted = STREAMING(q, k, v, window=5, sinks=3, outputs=("O", "lse"))
    assert torch.equal(o, wanted[0]) and torch.equal(lse, wanted[1])
    assert torch.equal(attend(Q=q, K=k, V=v, outputs="O"), STREAMING(q, k, v))


def test_it_looks_like_the_function() -> None:
    assert isinstance(attend, attncc.Attention)
    assert attend.__name__ == attend.__qualname__ == attend.cascade.name == "attend"
    assert attend.__module__ == __name__
    assert (attend.__doc__ or "").startswith("A window, and the first keys.")
    assert list(inspect.signature(attend).parameters) == ["Q", "V", "K", "sinks", "window"]
    assert attend.source.name == __file__
    with pytest.raises(TypeError, match="too many positional arguments"):
        attend(*tensors(), 3, 5)
    q, k, v = tensors()
    attend(q, v, k)
    assert all('"""A window, and the first keys.' in text for text in attend.modules.values())


def test_numbers_have_kinds_and_defaults() -> None:
    x = torch.randn(2, 3, 4)
    assert torch.allclose(scaled(x, 2), 2 * x - 0.5)
    assert torch.allclose(scaled(x, by=2.0, off=1.5), 2 * x + 1.5)
    assert torch.allclose(scaled(x, 2.0, strict=False), x)
    assert dict(scaled.cascade.defaults) == {"off": -0.5, "strict": True}
    assert scaled.backend == "reference"


def test_copies() -> None:
    assert copy.deepcopy(attend) is attend
    again = pickle.loads(pickle.dumps(attend))
    q, k, v = tensors()
    assert torch.equal(again(q, v, k, 3, window=7)[0], attend(q, v, k, 3, window=7)[0])
    assert (again.__name__, again.__module__, again.__doc__) == ("attend", __name__, attend.__doc__)
    assert again.__signature__ == attend.__signature__


def test_a_number_of_the_docstring_keeps_its_default() -> None:
    @attncc.jit(backend="reference")
    def shifted(by, X, off):
        """
        (X[b,q,d], by: float = 2.0, off: int = 3) -> Y[b,q,d]
        over b
        along q
        Y[q,d] = by * X[q,d] + off
        """

    x = torch.randn(2, 3, 4)
    assert torch.equal(shifted(X=x), 2 * x + 3)
    assert torch.equal(shifted(X=x, off=1, by=1.0), x + 1)
    assert str(inspect.signature(shifted)) == "(*, by=2.0, X, off=3)"
    assert inspect.signature(pickle.loads(pickle.dumps(shifted))) == inspect.signature(shifted)


@pytest.mark.parametrize(
    "prose", ["(See the paper.)", "(One,\n  two [3] lines)", "(a) first\n  (b) last", "(never closed ->"]
)
def test_prose_may_begin_with_a_bracket(prose: str) -> None:
    made: dict[str, Any] = {}
    exec(f"def twice(Q):\n  '''Prose.\n\n  {prose}\n\n{BODY}'''", made)
    twice = attncc.jit(made["twice"])
    x = torch.randn(2, 3, 4)
    assert torch.equal(twice(x), 2 * x)
    assert prose.split()[-1] in (twice.cascade.doc or "")


def test_a_parameter_cannot_be_called_outputs() -> None:
    def wrong(Q, outputs: int):
        """
        (Q[b,q,d]) -> O[b,q,d]
        over b
        along q
        O[q,d] = outputs * Q[q,d]
        """

    with pytest.raises(PatternError, match="a parameter called `outputs` cannot be given by name") as refused:
        attncc.jit(wrong)
    line, column = place_of(wrong, "outputs: int")
    assert f"--> {__file__}:{line}:{column}\n" in str(refused.value)


# ---- mistakes ----------------------------------------------------------------------------------


def place_of(function: Any, text: str) -> tuple[int, int]:
    """Line and column, in this file, of a text in a function."""
    lines, first = inspect.getsourcelines(function)
    row = next(n for n, line in enumerate(lines) if text in line)
    return first + row, lines[row].index(text) + 1


def test_mistakes_are_reported_in_the_python_file() -> None:
    def wrong(Q, K, V, window: int = 3):
        """Prose, Größen and all.

        (Q[b,h,q,d], K[b,h,k,d],
         V[b,h,k,e, e]) -> O[b,h,q,e]
        over b, h
        align q to k
        S[q,k] = sum(d) Q[q,d] * L[k,d]
        P[q,k] = softmax(k where k <= q and q - k < widow) S[q,k]
        O[q,e] = sum(k) P[q,k] * V[k,e]
        """

    with pytest.raises(PatternError) as refused:
        attncc.jit(wrong)
    words = str(refused.value)
    for text in ("L[k,d]", "widow"):
        line, column = place_of(wrong, text)
        assert f"--> {__file__}:{line}:{column}\n" in words
    assert "S[q,k] = sum(d) Q[q,d] * L[k,d]\n" in words
    assert "did you mean `window`" in words or "window" in words


def test_syntax_is_reported_in_the_python_file() -> None:
    def wrong(Q, K):
        """(Q[b,q,d], K[b,k,d]) -> S[b,q,k]
        over b
        along q, k
        S[q,k] = sum(d) Q[q,d] * * K[k,d]
        """  # fmt: skip

    with pytest.raises(PatternError) as refused:
        attncc.jit(wrong)
    line, column = place_of(wrong, "* K[k,d]")
    assert f"--> {__file__}:{line}:{column}\n" in str(refused.value)


def test_numbers_are_reported_where_they_are_annotated() -> None:
    def wrong(
        Q,
        size: int = 1.5,
    ):
        """
        (Q[b,q,d]) -> O[b,q,d]
        over b
        along q
        O[q,d] = size * Q[q,d]
        """

    with pytest.raises(PatternError, match="the default is not of kind `int`") as refused:
        attncc.jit(wrong)
    line, _ = place_of(wrong, "size: int")
    assert f"--> {__file__}:{line}:" in str(refused.value)


BODY = "(Q[b,q,d]) -> O[b,q,d]\nover b\nalong q\nO[q,d] = 2 * Q[q,d]"

REFUSED = {
    "nothing": ("def f(Q): pass", "the docstring holds no pattern"),
    "prose": ("def f(Q):\n  'Only prose.'", "the docstring holds no pattern"),
    "code": (f"def f(Q):\n  '''{BODY}'''\n  return Q", "statements below the docstring would never run"),
    "no tensor": (f"def f(Q, K):\n  '''{BODY}'''", "`K` is neither a tensor of the docstring nor a number"),
    "no number": (f"def f(Q, n: str):\n  '''{BODY}'''", "`n` is neither a tensor"),
    "not a parameter": (f"def f():\n  '''{BODY}'''", "`Q` is in the docstring, but no parameter"),
    "many": (f"def f(Q, *more):\n  '''{BODY}'''", "`*more` cannot be called by name"),
    "by place": (f"def f(Q, /):\n  '''{BODY}'''", "`Q` cannot be called by name"),
    "default": (
        f"def f(Q=None):\n  '''{BODY}'''",
        "`Q` has a default here, and is declared in the docstring",
    ),
    "none": (f"def f(Q, n: int = None):\n  '''{BODY}'''", "the default of `n` is no number: None"),
    "not finite": (
        f"def f(Q, x: float = float('nan')):\n  '''{BODY}'''",
        "the default of `x` is no number: nan",
    ),
    "a word": (f"def f(Q, where: int = 1):\n  '''{BODY}'''", "`where` is a word of the language"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("file", [True, False], ids=["file", "no file"])
def test_functions_that_are_no_patterns(text: str, words: str, file: bool, tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    if file:
        path.write_text(text)
    made: dict[str, Any] = {}
    exec(compile(text, str(path), "exec"), made)
    if words.startswith("statements") and not file:
        return attncc.jit(made["f"]) and None
    with pytest.raises(PatternError) as refused:
        attncc.jit(made["f"])
    assert words in str(refused.value)
    assert f"--> {path if file else '<jit f>'}:" in str(refused.value)


def test_without_a_file_the_pattern_itself_is_shown() -> None:
    made: dict[str, Any] = {}
    exec(textwrap.dedent(f"def f(Q, n: int = 3):\n  '''{BODY.replace('2', 'm')}'''"), made)
    with pytest.raises(PatternError) as refused:
        attncc.jit(made["f"])
    assert "--> <jit f>:4:10\n" in str(refused.value)
    assert "4 | O[q,d] = m * Q[q,d]" in str(refused.value)


@pytest.mark.parametrize("thing", [3, "text", len, STREAMING], ids=str)
def test_what_is_no_function(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"attncc\.jit takes a function whose docstring is a pattern, not"):
        attncc.jit(thing)
