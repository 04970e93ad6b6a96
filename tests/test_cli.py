"""The command line: exit statuses, where things are printed, and files that survive."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from attncc import cli
from attncc.cli import meanings

ROOT = Path(__file__).parents[1]
STREAMING = str(ROOT / "patterns" / "streaming.attn")
S2 = str(ROOT / "patterns" / "s2.attn")

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
    assert json.loads(run("check", str(file), "--json").stdout) == []
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

COMMANDS = [
    ["check"],
    ["fmt"],
    ["explain"],
    ["explain", "--html", "-"],
    ["compile", "-o", "-"],
    ["viz", "-o", "-"],
    ["viz", "--html", "-"],
    ["verify", "--device", "cpu"],
    ["bench", "--device", "cpu"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
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
        ["explain", "x.attn", "--length", "1" + "0" * 21],
        ["explain", "x.attn", "--length", "9" * 5000],
        ["viz", "x.attn", "-o", "-", "--length", "100000000"],
        ["viz", "x.attn", "-o", "-", "--tile", "1" + "0" * 23],
        ["viz", "x.attn", "-o", "-", "--head", "²"],
        ["viz", "x.attn", "-o", "-", "--head", "9" * 5000],
        ["viz", "x.attn", "-o", "-", "--extent", "h=" + "9" * 5000],
        ["verify", "x.attn", "--longest", "1" + "0" * 21],
        ["compile", "x.attn", "-o", "-", "--target", "cuda:" + "9" * 5000],
        ["bench", "x.attn", "--shape", "1,2,²,8"],
        ["bench", "x.attn", "--shape", "1,2,64,100000000"],
        ["compile", "x.attn"],
        ["compile", "x.attn", "-o", "-", "--target", "tpu"],
        ["compile", "x.attn", "-o", "-", "--extent", "d"],
        ["compile", "x.attn", "-o", "-", "--extent", "d=0"],
        ["compile", "x.attn", "-o", "-", "--extent", "d=64", "--extent", "d=128"],
        ["compile", "x.attn", "-o", "-", "--dtype", "int8"],
        ["explain", "x.attn", "--set", "window"],
        ["explain", "x.attn", "--gpu", "B100"],
        ["viz", "x.attn"],
        ["viz", "x.attn", "-o", "-", "--html", "-"],
        ["viz", "x.attn", "-o", "-", "--format", "jpg"],
        ["viz", "x.attn", "-o", "mask.jpg"],
        ["viz", "x.attn", "--html", "-", "--format", "png"],
        ["viz", "x.attn", "-o", "-", "--head", "first"],
        ["viz", "x.attn", "-o", "-", "--set", "n=1", "--set", "n=2"],
        ["verify", "x.attn", "--examples", "0"],
        ["verify", "x.attn", "--device", "tpu"],
        ["bench", "x.attn", "--shape", "1,2,3"],
        ["bench", "x.attn", "--shape", "1,2,0,8"],
        ["new"],
        ["new", "two words"],
        ["new", "pattern", "-o", "-"],
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
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

    monkeypatch.setattr(meanings, "compiled", compiled)
    return calls


def test_compile_writes_one_module(file: Path, tmp_path: Path, compiled: list[tuple[object, ...]]) -> None:
    out = tmp_path / "past.py"
    chosen = ["--target", "hip:gfx942", "--extent", "d=128", "--extent", "e=64", "--dtype", "fp16"]
    assert run("compile", str(file), "-o", str(out), *chosen).exit_code == 0
    assert out.read_text() == "# a module\n"
    assert compiled == [("hip:gfx942", {"d": 128, "e": 64}, "fp16", True)]


def test_compile_to_standard_output(file: Path, compiled: list[tuple[object, ...]]) -> None:
    assert run("compile", str(file), "-o", "-").stdout == "# a module\n"
    assert compiled == [("cuda:90", {}, None, True)]


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
    for command in COMMANDS:
        if command == ["fmt"]:  # it asks for no meaning
            continue
        result = run(*command, written(file, WRONG))
        assert result.exit_code == 1
        assert result.stderr.count("error[") == 2


def test_explain_with_a_number() -> None:
    less, more = (run("explain", STREAMING, "--set", f"window={n}").stdout for n in (10, 1000))
    assert less != more
    result = run("explain", STREAMING, "--set", "windows=3")
    assert result.exit_code == 2
    assert "streaming has no number `windows`; its numbers: window, sinks" in result.stderr


# ---- new ---------------------------------------------------------------------------------------


def test_new_checks_is_canonical_and_has_a_kernel(tmp_path: Path) -> None:
    path = str(tmp_path / "mine.attn")
    result = run("new", "mine", "-o", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"attncc verify {path}" in result.stdout
    assert run("check", path).exit_code == 0
    assert run("fmt", "--check", path).exit_code == 0
    assert "def mine(" in run("compile", path, "-o", "-").stdout
    assert run("verify", path, "--device", "cpu", "--examples", "3").exit_code == 0


def test_new_in_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("new", "mine", "--json")
    assert json.loads(result.stdout) == {"pattern": "mine", "file": "mine.attn"}
    assert "pattern mine(" in (tmp_path / "mine.attn").read_text()


def test_new_replaces_nothing(file: Path) -> None:
    link = file.with_name("link.attn")
    link.symlink_to(file.with_name("nowhere"))
    for path in (file, link):
        result = run("new", "mine", "-o", str(path))
        assert result.exit_code == 2
        assert f"`{path}` is there already" in result.stderr
    assert file.read_text() == GOOD and not link.exists()


# ---- viz ---------------------------------------------------------------------------------------


def test_viz_writes_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "mask.svg"
    result = run("viz", STREAMING, "-o", str(out), "--length", "64", "--tile", "8", "--set", "window=9")
    assert result.exit_code == 0
    assert result.stdout.startswith("streaming: 64 positions, tiles of 8 by 8, window = 9, sinks = 4\n")
    assert out.read_text().startswith("<svg ")
    assert run("viz", STREAMING, "-o", "-").stdout.startswith("<svg ")


def test_viz_as_data(tmp_path: Path) -> None:
    out = str(tmp_path / "mask.svg")
    data = json.loads(run("viz", STREAMING, "-o", out, "--set", "window=20", "--json").stdout)
    assert data["panels"][0]["tiles"] == {"full": 0, "partial": 18, "skipped": 18}


@pytest.mark.parametrize("arguments", [["-o", "{}.png"], ["-o", "{}.x", "--format", "png"]], ids=" ".join)
def test_viz_writes_pixels(arguments: list[str], tmp_path: Path) -> None:
    told = [argument.format(tmp_path / "mask") for argument in arguments]
    result = run("viz", S2, *told, "--length", str(1 << 20))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "a point is 4,096 by 4,096 cells" in result.stdout
    assert "blue: tiles seen whole; orange: tiles on an edge" in result.stdout
    assert Path(told[1]).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_viz_writes_pixels_to_standard_output() -> None:
    assert run("viz", S2, "-o", "-", "--format", "png").stdout_bytes.startswith(b"\x89PNG")


def test_viz_of_one_head(tmp_path: Path) -> None:
    out = str(tmp_path / "mask.svg")
    some = {
        head: json.loads(run("viz", S2, "-o", out, "--head", head, "--length", "2048", "--json").stdout)
        for head in ("3", "all")
    }
    assert [panel["title"] for panel in some["3"]["panels"]] == ["h = 3"]
    assert [panel["title"] for panel in some["all"]["panels"]] == [f"h = {n}" for n in range(4)]
    alike = run("viz", S2, "-o", out, "--extent", "h=8", "--set", "stride=2", "--length", "2048", "--json")
    titles = [panel["title"] for panel in json.loads(alike.stdout)["panels"]]
    assert titles == ["h = 0, 1, 4, 5 (identical)", "h = 2, 3, 6, 7 (identical)"]


@pytest.mark.parametrize("arguments", [["--html", "{}.html"], ["-o", "{}.html"]], ids=" ".join)
def test_viz_writes_a_page(arguments: list[str], tmp_path: Path) -> None:
    told = [argument.format(tmp_path / "mask") for argument in arguments]
    result = run("viz", STREAMING, *told, "--set", "window=2048")
    assert result.stdout.endswith(f"drawn in {told[1]}\n")
    assert result.stdout.startswith("streaming: 8,192 positions")
    assert Path(told[1]).read_text().startswith("<!DOCTYPE html>")


def test_viz_keeps_the_pattern(file: Path) -> None:
    result = run("viz", str(file), "-o", str(file))
    assert result.exit_code == 2
    assert file.read_text() == GOOD


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["moba"], 1, "no kernel plan for a selection over `n`"),
        (["prefix_lm"], 2, "`prefix` has no default: say `--set prefix=...`"),
        (["window", "--set", "window=x"], 2, "`window` is an integer between"),
        (["s2", "--head", "4"], 1, "there is no head 4 of 4: say `--extent h=...`"),
        (["s2", "--extent", "h=1000"], 1, "1,000 heads are too many to see: choose one with `--head`"),
        (["causal", "--head", "7"], 1, "the mask of causal is the same for every head: leave out `--head`"),
        (["causal", "--extent", "zz=7"], 2, "no index `zz`; its arguments show b, h, q, d, g, k, e"),
        (["causal", "--extent", "k=7"], 2, "`k` is a sequence: `--length` is that of every sequence"),
        (
            ["causal", "--length", "1000000", "--tile", "8"],
            1,
            "125,000 tiles a side are too many to classify: draw --tile 123",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_viz_says_what_it_cannot_draw(arguments: list[str], status: int, said: str) -> None:
    name, *rest = arguments
    result = run("viz", str(ROOT / "patterns" / f"{name}.attn"), "-o", "-", *rest)
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr


# ---- verify, bench and doctor ------------------------------------------------------------------

CPU = ["--device", "cpu"]


def test_verify_of_a_right_kernel(file: Path) -> None:
    result = run("verify", str(file), *CPU, "--examples", "5", "--dtype", "fp32", "--seed", "4")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("past on cpu: 5 calls, ") and result.stdout.endswith("right\n")
    data = json.loads(run("verify", str(file), *CPU, "--examples", "5", "--json").stdout)
    assert data["right"] and data["tried"] == 5


def test_verify_of_a_wrong_kernel(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attncc.attention import Attention

    call = Attention.__call__

    def doubled(self: Attention, /, *args: object, **kwargs: object) -> object:
        out = call(self, *args, **kwargs)  # type: ignore[arg-type]
        return out if self.backend == "reference" else 2 * out

    monkeypatch.setattr(Attention, "__call__", doubled)
    result = run("verify", str(file), *CPU, "--examples", "5", "--dtype", "fp32")
    assert result.exit_code == 1
    assert "WRONG: O at b = 0, h = 0, q = 0" in result.stdout
    assert run("verify", str(file), *CPU, "--examples", "5", "--json").exit_code == 1


def test_verify_names_the_rule_that_refuses() -> None:
    result = run("verify", str(ROOT / "patterns" / "moba.attn"), *CPU, "--examples", "3")
    assert result.exit_code == 1
    assert "P_max, P_total, O_total over k: 3 calls, " in result.stdout
    assert result.stdout.endswith("moba: no kernel to try\n")
    assert "error[plan-selection]: no kernel plan for a selection over `n`" in result.stderr


def test_verify_without_hypothesis(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    result = run("verify", str(file), *CPU)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install 'attncc[verify]'" in result.stderr


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_a_gpu_that_is_not_there(command: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from attncc import doctor

    monkeypatch.setattr(doctor, "gpu", lambda: False)
    result = run(command, str(file), "--device", "cuda")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "torch sees no GPU here: say `--device cpu`" in result.stderr


def test_bench(file: Path) -> None:
    result = run("bench", str(file), *CPU, "--shape", "1,2,70,8", "--extent", "e=4")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "|d| = 8" in result.stdout and "|e| = 4" in result.stdout and "SDPA, causal" in result.stdout
    data = json.loads(run("bench", str(file), *CPU, "--shape", "1,2,70,8", "--json").stdout)
    assert data["cells"] == 2 * 70 * 71 // 2 and set(data["milliseconds"]) == {"attncc", "SDPA, causal"}


def test_bench_says_what_does_not_fit(file: Path) -> None:
    result = run("bench", str(file), *CPU, "--extent", "z=4")
    assert result.exit_code == 2
    assert "past has no index `z`; its arguments show b, h, q, d, k, e" in result.stderr
    grouped = str(ROOT / "patterns" / "causal.attn")
    result = run("bench", grouped, *CPU, "--shape", "1,3,64,16", "--extent", "g=2")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: |g| = 2 does not divide |h| = 3" in result.stderr


def test_bench_says_that_memory_does_not_suffice(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made, and where PyTorch finds out."""
    large = ("bench", str(file), *CPU, "--shape", "1,16777216,1024,1024")
    setting = importlib.import_module("attncc.bench.setting")
    for said in ("arguments and outputs take", "can't allocate memory"):
        result = run(*large)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("Error: not enough memory: ") and said in result.stderr
        monkeypatch.setattr(setting, "memory", lambda _: 1 << 99)


def test_doctor() -> None:
    result = run("doctor")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "kernel on cpu" in result.stdout and result.stdout.endswith("\nusable\n")
    data = json.loads(run("doctor", "--json").stdout)
    assert data["usable"] and data["python"].count(".") == 2 and data["torch"][0].isdigit()


# ---- the program -------------------------------------------------------------------------------


def test_version() -> None:
    result = run("--version")
    assert (result.exit_code, result.stdout.split()[0]) == (0, "attncc")


def test_module_runs_as_a_program(file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "attncc", "check", str(file)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1 file, no mistakes\n"), done.stderr


def program(*arguments: str, out: str, input: str = "") -> tuple[int, str]:
    """Status and stderr of the program when its standard streams are as the shell is told."""
    command = f'exec "$0" -m attncc "$@" {out}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, *arguments],
        cwd=ROOT,
        input=input,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", STREAMING],
        ["explain", STREAMING, "--html", "-"],
        ["viz", STREAMING, "-o", "-"],
        ["--help"],
    ],
)
@pytest.mark.parametrize(
    ("out", "why"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
def test_a_standard_output_that_cannot_be_written(arguments: list[str], out: str, why: str) -> None:
    assert program(*arguments, out=out) == (1, f"Error: standard output cannot be written: {why}\n")


def test_a_closed_standard_output_that_is_not_needed(file: Path, tmp_path: Path) -> None:
    assert program("fmt", written(file, UNTIDY), out=">&-") == (0, f"formatted {file}\n")


def test_a_reader_that_is_gone_is_no_mistake() -> None:
    status, said = program("viz", STREAMING, "-o", "-", out="| true")
    assert (status, said) == (0, "")


@pytest.mark.parametrize(
    ("out", "why"), [("<&-", "is closed"), ("0>/dev/null", "cannot be read: Bad file descriptor")]
)
def test_a_standard_input_that_cannot_be_read(out: str, why: str) -> None:
    assert program("check", "-", out=out) == (1, f"Error: standard input {why}\n")


def test_names_and_letters_that_a_terminal_cannot_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    path = tmp_path / "größe.attn"
    path.write_text(GOOD.replace("Attention to", "Größe of"), encoding="utf-8")
    assert program("explain", str(path), out=">/dev/null") == (0, "")
    assert program("viz", str(path), "-o", str(tmp_path / "größe.svg"), out=">/dev/null") == (0, "")


def test_links_and_names_that_lead_nowhere(file: Path, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert run("new", "mine", "-o", str(loop)).exit_code == 2
    assert "is there already" in run("new", "mine", "-o", str(loop)).stderr
    assert run("new", "mine", "-o", str(loop / "x")).exit_code == 2
    assert run("compile", str(file), "-o", str(loop / "x")).exit_code == 2
    result = run("new", "a" * 400, "-o", str(tmp_path / ("a" * 400)))
    assert result.exit_code == 2
    assert "cannot be written: File name too long" in result.stderr
