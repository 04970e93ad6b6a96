"""Compiled patterns on disk: never stale, never torn, never in the way, whoever else writes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import attncc
from attncc import pipeline
from attncc.runtime import cache
from attncc.schedule.spec import KINDS, Specialisation
from attncc.schedule.tiles import Tile
from attncc.source import Source

ROOT = Path(__file__).parents[2]
compiler = cache.compiler
SPEC = Specialisation("torch", "cpu", KINDS["torch"], ((),))
SOURCE = Source("a.attn", "pattern a")


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of its own, and sources that nobody changes meanwhile."""
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(cache, "compiler", lambda: cache.COMPILER)
    return tmp_path / "kept"


def never() -> str:
    raise AssertionError("it is on disk, and was made again")


def sound(folder: Path) -> list[Path]:
    """The files of a folder; each is whole, and nothing unfinished is left."""
    files = sorted(folder.iterdir())
    for path in files:
        assert cache.opened(path.name, path.read_bytes()) is not None, path
    return files


# ---- what is kept ------------------------------------------------------------------------------


def test_made_once(kept: Path) -> None:
    text = '"""é"""\nx = 1\r\n\f\n'
    assert cache.cached(SOURCE, (), SPEC, lambda: text) == text
    assert cache.cached(SOURCE, (), SPEC, never) == text
    (file,) = sound(kept)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes().endswith(text.encode())


def test_everything_a_text_follows_from() -> None:
    tile = replace(SPEC, tile=Tile(64, 64, 4, 2))
    extents = replace(SPEC, extents=((("d", 64),),))
    others = [
        (Source("a.attn", "pattern b"), (), SPEC),
        (SOURCE, ("lse",), SPEC),
        (SOURCE, ("lse", "O"), SPEC),
        *((SOURCE, (), spec) for spec in (replace(SPEC, backend="triton"), replace(SPEC, target="cuda:80"))),
        *((SOURCE, (), spec) for spec in (replace(SPEC, dtypes=("float32",)), tile, extents)),
        (SOURCE, (), replace(tile, tile=Tile(64, 64, 4, 3))),
    ]
    for n, (source, outputs, spec) in enumerate(others):
        assert cache.cached(source, outputs, spec, lambda n=n: str(n)) == str(n)
    for n, (source, outputs, spec) in enumerate(others):
        assert cache.cached(source, outputs, spec, never) == str(n)
    for wrt in (("Q",), ("K",), ("Q", "K")):
        assert cache.cached(SOURCE, (), SPEC, lambda wrt=wrt: str(wrt), wrt) == str(wrt)
    for wrt in (("Q",), ("K",), ("Q", "K")):
        assert cache.cached(SOURCE, (), SPEC, never, wrt) == str(wrt)
    assert cache.cached(Source("elsewhere/a.attn", "pattern b"), (), SPEC, never) == "0"


def test_another_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its texts are its own."""
    cache.cached(SOURCE, (), SPEC, lambda: "old")
    monkeypatch.setattr(cache, "COMPILER", "another")
    assert cache.cached(SOURCE, (), SPEC, lambda: "new") == "new"
    assert cache.cached(SOURCE, (), SPEC, never) == "new"


@pytest.mark.parametrize("now", ["changed since", ""])
def test_a_compiler_that_changed_while_it_ran_keeps_nothing(
    now: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "compiler", lambda: now)
    assert cache.cached(SOURCE, (), SPEC, lambda: "mixed") == "mixed"
    assert not kept.exists()


def test_a_compiler_whose_sources_cannot_be_read_keeps_nothing(
    kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.resources, "folder", lambda name: kept / name)
    assert compiler() == ""
    monkeypatch.setattr(cache, "COMPILER", "")
    assert [cache.cached(SOURCE, (), SPEC, lambda n=n: n) for n in "ab"] == ["a", "b"]
    assert not kept.exists()


def test_the_digest_of_the_compiler_is_of_its_sources(tmp_path: Path) -> None:
    """A copy of the package has another one as soon as a byte of one file is another, at the same size."""
    for name in ("attncc", "grammar", "patterns"):
        subprocess.run(["cp", "-r", ROOT / name, tmp_path / name], check=True)

    def digest() -> str:
        code = "from attncc.runtime.cache import COMPILER; print(COMPILER)"
        run = [sys.executable, "-B", "-c", code]
        return subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    before = digest()
    assert digest() == before
    for name in ("attncc/masks/sums.py", "grammar/attn.lark", "patterns/std.attn"):
        path = tmp_path / name
        old = path.read_bytes()
        path.write_bytes(old.replace(b" a ", b" A ", 1))
        assert path.read_bytes() != old
        assert digest() != before
        path.write_bytes(old)
    assert digest() == before


def test_the_digest_of_the_compiler_is_cheap() -> None:
    """Processor time; 2 ms where this was written."""
    compiler()
    start = time.process_time()
    for _ in range(5):
        compiler()
    assert (time.process_time() - start) / 5 < 0.02


# ---- what is on disk is not believed -----------------------------------------------------------


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data, other: b"",
        lambda data, other: data[:-1],
        lambda data, other: data + b"\n",
        lambda data, other: data[: len(data) // 2],
        lambda data, other: data.replace(b"x", b"y"),
        lambda data, other: data.replace(b"attncc", b"others"),
        lambda data, other: data.partition(b"\n")[2],
        lambda data, other: b"\xff" * 100,
        lambda data, other: other,
    ],
)
def test_torn_and_foreign_files_are_made_again(spoil: Callable[[bytes, bytes], bytes], kept: Path) -> None:
    cache.cached(SOURCE, (), SPEC, lambda: "x = 1\n")
    (file,) = sound(kept)
    good = file.read_bytes()
    cache.cached(Source("b", "b"), (), SPEC, lambda: "x = 2\n")
    (other,) = (path for path in kept.iterdir() if path != file)
    file.write_bytes(spoil(good, other.read_bytes()))
    assert cache.cached(SOURCE, (), SPEC, lambda: "x = 1\n") == "x = 1\n"
    assert file.read_bytes() == good
    assert cache.cached(SOURCE, (), SPEC, never) == "x = 1\n"


# ---- where it is -------------------------------------------------------------------------------


def test_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ATTNCC_CACHE_DIR", "own")
    assert cache.folder() == Path("own")
    monkeypatch.setenv("ATTNCC_CACHE_DIR", "")
    assert cache.folder() is None
    monkeypatch.delenv("ATTNCC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "attncc"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.folder() == tmp_path / "home" / ".cache" / "attncc"

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache.folder() is None


def test_switched_off(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNCC_CACHE_DIR", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [cache.cached(SOURCE, (), SPEC, lambda n=n: n) for n in "ab"] == ["a", "b"]
    assert not kept.exists()


def not_a_folder(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.write_text("a file")


def under_a_file(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.write_text("a file")
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(kept / "deep" / "er"))


def refused(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only file system."""

    def fail(*args: object, **more: object) -> None:
        raise OSError(30, "Read-only file system", "there")

    monkeypatch.setattr("tempfile.mkstemp", fail)


def full(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk: the file is begun, and cannot be finished."""

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)


@pytest.mark.parametrize("broken", [not_a_folder, under_a_file, refused, full])
def test_a_folder_that_does_not_work_is_done_without(
    broken: Callable[[Path, pytest.MonkeyPatch], None], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(kept, monkeypatch)
    with pytest.warns(RuntimeWarning, match="no compiled patterns are kept in .*; ATTNCC_CACHE_DIR"):
        assert cache.cached(SOURCE, (), SPEC, lambda: "a") == "a"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said once
        assert cache.cached(SOURCE, (), SPEC, lambda: "b") == "b"
        assert cache.cached(Source("c", "c"), (), SPEC, lambda: "c") == "c"
    assert not kept.is_dir() or not list(kept.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(kept: Path) -> None:
    kept.mkdir()
    for mode in (0o500, 0o000):
        kept.chmod(mode)
        cache._WARNED.clear()
        with pytest.warns(RuntimeWarning, match="Permission denied"):
            assert cache.cached(SOURCE, (), SPEC, lambda: "a") == "a"
    kept.chmod(0o700)


# ---- how much it is ----------------------------------------------------------------------------


def test_the_longest_unused_go(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST", 5)
    kept.mkdir()
    strangers = ["mine.py", "0" * 32, "0" * 31 + ".py", ".0.tmp", "notes.txt"]
    for name in strangers:
        (kept / name).write_text("a person's")
        os.utime(kept / name, (0, 0))
    files = []
    for n in range(5):
        cache.cached(Source("a", str(n)), (), SPEC, lambda n=n: str(n))
        files += sorted({*kept.glob("?" * 32 + ".py")} - {*files, kept / strangers[2]})
        os.utime(files[-1], (1000 + n, 1000 + n))
    cache.cached(Source("a", "0"), (), SPEC, never)  # young again
    cache.write("f" * 32 + ".json", b"{}")
    cache.cached(Source("a", "new"), (), SPEC, lambda: "new")
    assert [path.exists() for path in files] == [True, False, True, True, True]
    assert all((kept / name).exists() for name in (*strangers, "f" * 32 + ".json"))


def test_what_a_killed_process_left_goes(kept: Path) -> None:
    kept.mkdir()
    old, fresh = (kept / f".{'0' * 32}.{name}.tmp" for name in ("abc_1", "def_2"))
    for path in (old, fresh):
        path.write_text("half")
    os.utime(old, (0, 0))
    cache.cached(SOURCE, (), SPEC, lambda: "a")
    assert (old.exists(), fresh.exists()) == (False, True)


# ---- many at once ------------------------------------------------------------------------------


def test_64_threads(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each writes and reads the same eight names; some files are dropped and some spoiled meanwhile."""
    monkeypatch.setattr(cache, "MOST", 6)
    texts = {Source("a", str(n)): f"text {n}\n" * 2000 for n in range(8)}
    wrong: list[object] = []
    start = threading.Barrier(64)

    def work(number: int) -> None:
        start.wait()
        try:
            for turn in range(6):
                for source, text in texts.items():
                    found = cache.cached(source, (), SPEC, lambda text=text: text)
                    if found != text:
                        wrong.append(found[:20])
                if number == turn and (files := list(kept.glob("*.py"))):
                    files[0].write_bytes(b"spoiled")
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    for source, text in texts.items():
        assert cache.cached(source, (), SPEC, lambda text=text: text) == text
    assert 0 < len(sound(kept)) <= 6


COMPILING = """
import hashlib, json, os, sys
from attncc.pipeline import generate, meaning
from attncc.runtime import cache
from attncc.schedule.spec import KINDS, Specialisation
from attncc.source import Source

cache.compiler = lambda: cache.COMPILER  # whoever edits the sources meanwhile
TORCH = Specialisation("torch", "cpu", KINDS["torch"], ((),))
TRITON = Specialisation("triton", "cuda:90", KINDS["triton"], ((("d", 64), ("e", 64)),))
NAMES = {"causal": TRITON, "streaming": TORCH, "softcap": TRITON}
SOURCES = {name: Source.read(f"patterns/{name}.attn") for name in NAMES}

def compiled(name):
    return generate(meaning(SOURCES[name]), SOURCES[name], NAMES[name])

def texts(first, make):
    names = [*NAMES] * 2
    found = {n: cache.cached(SOURCES[n], (), NAMES[n], lambda: make(n)) for n in names[first % 3 :][:3]}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in found.items()}
"""

FORKED = """
import multiprocessing

def work(number, barrier, answers):
    def together(name):
        text = compiled(name)
        if not waited:
            waited.append(barrier.wait())
        return text

    waited = []
    found = texts(number, together)
    answers.put((found, len(waited)))

folder = os.environ["ATTNCC_CACHE_DIR"]
os.environ["ATTNCC_CACHE_DIR"] = ""
expected = texts(0, compiled)
os.environ["ATTNCC_CACHE_DIR"] = folder
context = multiprocessing.get_context("fork")
barrier, answers = context.Barrier(64), context.Queue()
workers = [context.Process(target=work, args=(n, barrier, answers)) for n in range(64)]
for worker in workers:
    worker.start()
found = [answers.get(timeout=60) for _ in workers]
for worker in workers:
    worker.join()
assert all(worker.exitcode == 0 for worker in workers)
assert found == [(expected, 1)] * 64
assert not {"torch", "triton"} & set(sys.modules)
"""


def test_64_processes(kept: Path) -> None:
    """Forked from one; all have compiled their first pattern before any of them writes."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILING + FORKED], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(sound(kept)) == 3


@pytest.mark.slow
def test_64_fresh_processes(kept: Path) -> None:
    """Eight at a time, each an interpreter of its own with its own order of sets."""
    waiting = list(range(64))
    running: list[subprocess.Popen[str]] = []
    found = []
    while waiting or running:
        while waiting and len(running) < 8:
            number = waiting.pop()
            code = COMPILING + f"print(json.dumps(texts({number}, compiled), sort_keys=True))"
            environment = {**os.environ, "PYTHONHASHSEED": str(number)}
            running.append(
                subprocess.Popen(
                    [sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
                )
            )
        done = running.pop(0)
        found.append(done.communicate()[0])
        assert done.returncode == 0
    assert len(set(found)) == 1
    assert len(sound(kept)) == 3


# ---- what a hit saves --------------------------------------------------------------------------


def test_a_hit_compiles_nothing(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another callable of the same text, as in another process, runs what the first one left."""
    q, k = torch.randn(1, 4, 9, 8), torch.randn(1, 2, 9, 8)
    first = attncc.load(ROOT / "patterns" / "causal.attn")
    made = first(q, k, k)
    assert len(sound(kept)) == 1
    monkeypatch.setattr("attncc.attention.generate", None)
    second = attncc.compile((ROOT / "patterns" / "causal.attn").read_text())
    assert torch.equal(second(q, k, k), made)
    assert second.modules == first.modules
    with pytest.raises(TypeError):
        second(q, k, k, outputs="lse")


WARM = """
import sys, torch, attncc
from attncc.runtime import cache
cache.COMPILER = sys.argv[1]
attend = attncc.load("patterns/causal.attn")
attend(torch.randn(1, 4, 9, 8), *torch.randn(2, 1, 2, 9, 8))
assert attend.compilations == 1
assert not {"networkx", "sympy", "triton"} & set(sys.modules)
"""


def test_a_hit_loads_no_heavy_library(kept: Path) -> None:
    attncc.load(ROOT / "patterns" / "causal.attn")(torch.randn(1, 4, 9, 8), *torch.randn(2, 1, 2, 9, 8))
    run = [sys.executable, "-c", WARM, cache.COMPILER]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(sound(kept)) == 1


TRITON = """
import sys
from attncc.runtime import cache
from attncc.runtime.module import load
kernel = load(cache.read(sys.argv[1]), "causal").causal_kernel
print(kernel.cache_key, kernel.starting_line_number)
"""


def test_tritons_own_cache_finds_its_binaries(kept: Path) -> None:
    """Its key of a kernel is the same in every process, for a text that was made and one that was read."""
    source = Source.read(ROOT / "patterns" / "causal.attn")
    spec = Specialisation("triton", "cuda:90", KINDS["triton"], ((("d", 64), ("e", 64)),))
    text = pipeline.generate(pipeline.meaning(source), source, spec)
    assert cache.cached(source, (), spec, lambda: text) == text
    (file,) = kept.iterdir()
    keys = []
    for seed in "12":
        done = subprocess.run(
            [sys.executable, "-c", TRITON, file.name],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        keys.append(done.stdout)
    from attncc.runtime.module import load

    kernel = load(text, "causal").causal_kernel
    assert keys == [f"{kernel.cache_key} {kernel.starting_line_number}\n"] * 2
