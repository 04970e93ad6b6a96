"""The command line: exit statuses, where things are printed, and files that survive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attncc import cli

ROOT = Path(__file__).parents[1]

GOOD = '''\
"""Attention to the past."""

pattern past(Q[b,h,q,d], K[b,h,k,d], V[b,h,k,e]) -> O[b,h,q,e]:
    over b, h
    # the last query is the last key
    align q to k
    S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)
    P[q,k] = softmax(k where k <= q) S[q,k]  # rows add up to one
    O[q,e] = sum(k) P[q,k] * V[k,e]
'''
UNTIDY = GOOD.replace("    S[q,k] = sum(d) Q[q,d]", "      S[q, k]=sum(d)   Q[q,d]")
# two mistakes of meaning, and one of syntax
WRONG = GOOD.replace("K[k,d]", "Z[k,d]").replace("V[k,e]", "W[k,e]")
BROKEN = GOOD.replace("sum(k) P[q,k]", "sum(k P[q,k]")


def run(*arguments: str, given: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli.main, arguments, input=given)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "past.attn"
    path.write_text(GOOD)
    return path


def written(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


# ---- check -------------------------------------------------------------------------------------


def test_check_of_a_good_file(file: Path) -> None:
    result = run("check", str(file))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "1 file, no mistakes\n", "")


def test_check_reports_every_mistake_on_stderr(file: Path) -> None:
    result = run("check", written(file, WRONG))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"--> {file}:7:" in result.stderr and f"--> {file}:9:" in result.stderr
    assert result.stderr.count("error[") == 2


def test_check_goes_on_after_a_bad_file(tmp_path: Path) -> None:
    wrong, broken = written(tmp_path / "a.attn", WRONG), written(tmp_path / "b.attn", BROKEN)
    result = run("check", wrong, broken, written(tmp_path / "c.attn", GOOD))
    assert result.exit_code == 1
    assert "a.attn:7" in result.stderr and "b.attn:9" in result.stderr and "c.attn" not in result.stderr


def test_check_as_json(file: Path) -> None:
    assert json.loads(run("check", str(file), "--format", "json").stdout) == []
    result = run("check", written(file, WRONG), "--format", "json")
    found = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (1, "")
    assert [entry["labels"][0]["line"] for entry in found] == [7, 9]
    assert {entry["file"] for entry in found} == {str(file)}


def test_check_of_standard_input() -> None:
    assert run("check", "-", given=GOOD).exit_code == 0
    result = run("check", "-", given=WRONG)
    assert result.exit_code == 1
    assert "--> <stdin>:7:" in result.stderr


def test_check_of_definitions_alone(file: Path) -> None:
    assert run("check", written(file, "def twice(x) = 2 * x\n")).exit_code == 0


def test_check_of_nothing(file: Path) -> None:
    result = run("check", written(file, ""))
    assert result.exit_code == 1
    assert "error[" in result.stderr


def test_windows_text_is_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert run("check", str(file)).exit_code == 0


# ---- files that cannot be used -----------------------------------------------------------------

COMMANDS = [["check"], ["fmt"], ["explain"], ["compile", "-o", "-"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file"),
        ("folder", "is a directory"),
        (b"\x7fELF\0\0", "is not text"),
        ("pattern".encode("utf-16"), "is not text"),
        (b"# one\n# \xe9\n", "is not UTF-8, in line 2"),
    ],
    ids=["missing", "directory", "binary", "utf-16", "latin-1"],
)
def test_a_file_without_text(
    command: list[str], content: bytes | str | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "it.attn"
    match content:
        case "folder":
            path.mkdir()
        case bytes():
            path.write_bytes(content)
    result = run(*command, str(path))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr and str(path) in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(file: Path) -> None:
    file.chmod(0)
    result = run("check", str(file))
    assert result.exit_code == 2
    assert "cannot be read: Permission denied" in result.stderr


def test_an_unusable_file_in_json(tmp_path: Path) -> None:
    result = run("check", str(tmp_path / "none.attn"), "--format", "json")
    [entry] = json.loads(result.stdout)
    assert (result.exit_code, entry["code"], entry["labels"]) == (2, "bad-file", [])
    assert entry["file"].endswith("none.attn")


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["fmt"],
        ["prove", "x.attn"],
        ["check", "x.attn", "--format", "xml"],
        ["explain", "x.attn", "--length", "0"],
        ["compile", "x.attn"],
        ["compile", "x.attn", "-o", "-", "--target", "tpu"],
        ["compile", "x.attn", "-o", "-", "--extent", "d"],
        ["compile", "x.attn", "-o", "-", "--extent", "d=0"],
        ["compile", "x.attn", "-o", "-", "--extent", "d=64", "--extent", "d=128"],
        ["compile", "x.attn", "-o", "-", "--dtype", "int8"],
    ],
    ids=" ".join,
)
def test_usage(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


# ---- fmt ---------------------------------------------------------------------------------------


def test_fmt_writes_the_canonical_form(file: Path) -> None:
    assert run("fmt", written(file, UNTIDY)).exit_code == 0
    assert file.read_text() == GOOD


def test_fmt_leaves_a_canonical_file_alone(file: Path) -> None:
    before = file.stat()
    assert run("fmt", str(file)).exit_code == 0
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_fmt_keeps_mode_and_link(file: Path, tmp_path: Path) -> None:
    written(file, UNTIDY)
    file.chmod(0o640)
    link = tmp_path / "link.attn"
    link.symlink_to(file)
    assert run("fmt", str(link)).exit_code == 0
    assert link.is_symlink()
    assert file.read_text() == GOOD
    assert file.stat().st_mode & 0o777 == 0o640


def test_fmt_never_touches_a_text_it_cannot_read(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.attn"
    result = run("fmt", written(file, BROKEN), written(other, UNTIDY))
    assert result.exit_code == 1
    assert f"--> {file}:9:" in result.stderr
    assert file.read_text() == BROKEN
    assert other.read_text() == GOOD


@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")], ids=["write", "rename"])
def test_fmt_that_fails_to_write_leaves_the_file(
    file: Path, owner: object, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    written(file, UNTIDY)
    monkeypatch.setattr(owner, step, full)
    result = run("fmt", str(file))
    monkeypatch.undo()
    assert result.exit_code == 2
    assert "cannot be written: No space left on device" in result.stderr
    assert file.read_text() == UNTIDY
    assert list(file.parent.iterdir()) == [file]


def test_fmt_refuses_a_form_that_says_something_else(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attncc.syntax import printer

    monkeypatch.setattr(printer, "show", lambda _: GOOD.replace("# rows add up to one", ""))
    result = run("fmt", written(file, UNTIDY))
    assert isinstance(result.exception, AssertionError)
    assert file.read_text() == UNTIDY


def test_fmt_check(file: Path) -> None:
    assert run("fmt", "--check", str(file)).exit_code == 0
    result = run("fmt", "--check", written(file, UNTIDY))
    assert (result.exit_code, result.stderr) == (1, f"would reformat {file}\n")
    assert file.read_text() == UNTIDY


def test_fmt_diff(file: Path) -> None:
    same = run("fmt", "--diff", str(file))
    assert (same.exit_code, same.stdout) == (0, "")
    result = run("fmt", "--diff", written(file, UNTIDY))
    changed = [
        line for line in result.stdout.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    assert result.exit_code == 1
    assert [line[:1] for line in changed] == ["-", "+"]
    assert file.read_text() == UNTIDY


def test_fmt_of_standard_input() -> None:
    result = run("fmt", "-", given=UNTIDY)
    assert (result.exit_code, result.stdout) == (0, GOOD)


# ---- compile and explain -----------------------------------------------------------------------


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The calls that reach the compiler, which answers each with one line."""
    calls: list[tuple[object, ...]] = []

    def compiled(*arguments: object) -> str:
        calls.append(arguments[1:])
        return "# a module\n"

    monkeypatch.setattr(cli, "compiled", compiled)
    return calls


def test_compile_writes_one_module(file: Path, tmp_path: Path, compiled: list[tuple[object, ...]]) -> None:
    out = tmp_path / "past.py"
    chosen = ["--target", "hip:gfx942", "--extent", "d=128", "--extent", "e=64", "--dtype", "fp16"]
    assert run("compile", str(file), "-o", str(out), *chosen).exit_code == 0
    assert out.read_text() == "# a module\n"
    assert compiled == [("hip:gfx942", {"d": 128, "e": 64}, "fp16")]


def test_compile_to_standard_output(file: Path, compiled: list[tuple[object, ...]]) -> None:
    assert run("compile", str(file), "-o", "-").stdout == "# a module\n"
    assert compiled == [("cuda:90", {}, None)]


def test_compile_keeps_the_pattern(file: Path, compiled: list[tuple[object, ...]]) -> None:
    result = run("compile", str(file), "-o", str(file))
    assert result.exit_code == 2
    assert "is the pattern itself" in result.stderr
    assert file.read_text() == GOOD
    assert not compiled


@pytest.mark.usefixtures("compiled")
def test_compile_into_a_folder_that_is_not_there(file: Path, tmp_path: Path) -> None:
    result = run("compile", str(file), "-o", str(tmp_path / "no" / "past.py"))
    assert result.exit_code == 2
    assert "cannot be written: No such file or directory" in result.stderr


@pytest.mark.usefixtures("compiled")
def test_compile_into_a_device_writes_to_it(file: Path) -> None:
    assert run("compile", str(file), "-o", os.devnull).exit_code == 0
    assert not Path(os.devnull).is_file()


def test_mistakes_reach_every_command(file: Path) -> None:
    result = run("explain", written(file, WRONG))
    assert result.exit_code == 1
    assert result.stderr.count("error[") == 2


# ---- the program -------------------------------------------------------------------------------


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout.split()[0]) == (0, "attncc")


def test_module_runs_as_a_program(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "attncc", "check", str(file)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1 file, no mistakes\n"), done.stderr
