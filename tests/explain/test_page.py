"""The page that explains a pattern: whole, alone, and with every text escaped."""

from __future__ import annotations

import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attncc import cli
from attncc.explain import explain
from attncc.explain.markup import Markup, element
from attncc.explain.page import WHAT, page
from attncc.passes import PASSES
from attncc.pipeline import meaning
from attncc.source import Source
from tests.test_pipeline import NAMES, REFUSED

PATTERNS = Path(__file__).parents[2] / "patterns"
VOID = {"meta"}
FETCHING = {"script", "link", "img", "iframe", "object", "embed", "base", "use", "image", "form", "a"}


class Read(HTMLParser):
    """The elements of a page, all closed in order, and its text; nothing in it is fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert tag not in FETCHING
        for name, value in attrs:
            assert name not in ("src", "href", "xlink:href", "srcset") and not name.startswith("on")
            assert "url(" not in (value or "") and (name == "xmlns" or "//" not in (value or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            assert "url(" not in data and "@import" not in data and "//" not in data
        else:
            self.text += data


def run(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(cli.main, ["explain", *arguments], input=given)


@pytest.mark.parametrize("name", NAMES)
def test_every_pattern(name: str) -> None:
    source = Source.read(PATTERNS / f"{name}.attn")
    said = explain(meaning(source), 333)
    data = json.loads(json.dumps(said.data(), allow_nan=False))
    found = Read(page(said))
    assert ("Every exponent is proved" in found.text) == bool(said.exponents and said.derived)
    assert found.seen.count("html") == found.seen.count("title") == 1
    assert name in found.text
    assert ("svg" in found.seen) != (name in REFUSED or "No picture: " in found.text)
    assert (data["refused"] in found.text) if name in REFUSED else "With each tile of it" in found.text
    rewrites = [(r["name"], r["before"], r["passes"]) for r in data["rewrites"]]
    for rewrite, before, passes in rewrites if data["passes"] else ():
        assert f"{rewrite}" in found.text
        assert all(f"{before[i]} → {n}" in found.text for i, n in passes.items() if n < before[i])


def test_no_picture_of_what_depends_on_a_number() -> None:
    found = Read(page(explain(meaning(Source.read(PATTERNS / "prefix_lm.attn")), 64)))
    assert "No picture: `prefix` has no default" in found.text and "svg" not in found.seen
    given = explain(meaning(Source.read(PATTERNS / "prefix_lm.attn")), 64, {"prefix": 7})
    assert "prefix = 7" in Read(page(given)).text


def test_texts_are_escaped() -> None:
    text = (PATTERNS / "causal.attn").read_text("utf-8").split('"""', 2)[2]
    doc = "</h1><script>alert(1)</script> & a < b"
    said = explain(meaning(Source("p", f'"""{doc}\n\n<b>second</b>"""{text}')), 64)
    written = page(said)
    assert "<script" not in written and "<b>second" not in written
    found = Read(written)
    assert doc in found.text and "<b>second</b>" in found.text
    assert "k <= q" in found.text and "k <= q" not in written


def test_elements() -> None:
    inner = element("i", "a < b", class_='x"><y')
    assert inner == '<i class="x&quot;&gt;&lt;y">a &lt; b</i>'
    assert element("p", inner, "&", Markup("&amp;")) == f"<p>{inner}&amp;&amp;</p>"


def test_every_pass_of_the_compiler_says_what_it_does() -> None:
    assert WHAT.keys() == {"online", *(rewrite.__name__ for rewrite in PASSES)} and all(WHAT.values())


def test_a_page_in_a_file(tmp_path: Path) -> None:
    pattern, out = str(PATTERNS / "streaming.attn"), tmp_path / "page.html"
    result = run(pattern, "--html", str(out), "--gpu", "A100", "--length", "500")
    assert (result.exit_code, result.stdout) == (0, f"explained in {out}\n")
    written = out.read_text("utf-8")
    assert written.startswith("<!DOCTYPE html>") and "ms at least on an A100" in written
    assert run(pattern, "--html", "-", "--gpu", "A100", "--length", "500").stdout == written
    data = json.loads(run(pattern, "--html", str(out), "--json").stdout)
    assert data["pattern"] == "streaming"


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    result = run(str(PATTERNS / "causal.attn"), "--html", str(tmp_path / "no" / "page.html"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "cannot be written: No such file or directory" in result.stderr


def test_a_page_never_replaces_its_pattern(tmp_path: Path) -> None:
    path = tmp_path / "it.attn"
    path.write_bytes((PATTERNS / "causal.attn").read_bytes())
    result = run(str(path), "--html", os.path.join(str(tmp_path), ".", "it.attn"))
    assert result.exit_code == 2 and "is the pattern itself" in result.stderr
    assert path.read_bytes() == (PATTERNS / "causal.attn").read_bytes()


def test_a_gpu_without_a_data_sheet() -> None:
    result = run("x.attn", "--gpu", "TPU")
    assert result.exit_code == 2
    assert "'A100', 'H100', 'H200'" in result.stderr
