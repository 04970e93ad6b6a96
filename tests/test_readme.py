"""What the README shows is what the compiler makes."""

from __future__ import annotations

import re
from pathlib import Path

import attncc
from attncc.explain import explain
from attncc.pipeline import meaning
from attncc.source import Source

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def test_the_kernel_is_the_generated_one() -> None:
    (shown,) = re.findall(r"```python\n(    # live tiles.*?)```", README, re.DOTALL)
    made = (ROOT / "tests" / "golden" / "streaming.cuda.py").read_text("utf-8")
    start = made.index("    # live tiles")
    assert shown == made[start : made.index("    # O[q,e] = O_total", start)]


def test_the_merge_is_the_derived_one() -> None:
    """And no other part of the README shows one."""
    source = Source.read(ROOT / "patterns" / "streaming.attn")
    (operator,) = explain(meaning(source), 333).operators
    shown = re.findall(r"^    (\S+ = .*_a\b.*)$", README, re.MULTILINE)
    assert shown == [rule.merge for rule in operator.rules]


def test_the_decorated_function_is_a_pattern() -> None:
    (shown,) = re.findall(r"```python\n(@attncc\.jit\n.*?)```", README, re.DOTALL)
    names: dict[str, object] = {"attncc": attncc}
    exec(shown, names)
    attend = names["attend"]
    assert isinstance(attend, attncc.Attention)
    assert [t.name for t in attend.cascade.inputs] == ["Q", "K", "V", "doc", "window"]
