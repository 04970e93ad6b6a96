"""Generated modules on disk: a pattern is compiled once for all processes, and read by the others.

A file is whole or absent: it is written beside its place, moved there, and begins with a digest of the rest.
Nobody waits: two processes that write the same name write the same bytes, and the last one wins. Without a
folder that can be written everything works, only slower.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from attncc import resources
from attncc.schedule.spec import Specialisation
from attncc.source import Source

MOST = 512
"""Files of a kind that are kept; beyond them the longest unused go."""

LEFT = 3600
"""Seconds after which an unfinished file is what a killed process left."""

_OURS = re.compile(r"[0-9a-f]{32}(\.\w+)")
_WARNED: set[Path] = set()
_UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.\w+\.tmp")


def folder() -> Path | None:
    """Where files are kept: $ATTNCC_CACHE_DIR, which switches it off if empty, $XDG_CACHE_HOME/attncc, or
    ~/.cache/attncc. None without any.
    """
    own = os.environ.get("ATTNCC_CACHE_DIR")
    if own is not None:
        return Path(own) if own else None
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "attncc"
    except RuntimeError:
        return None


def compiler() -> str:
    """A digest of everything a text is made by: Python, this package with its version, the grammar, the
    standard definitions. Empty where the sources cannot be read.
    """
    found = hashlib.sha256(repr(sys.version_info[:2]).encode())
    package = Path(__file__).resolve().parents[1]
    files = (resources.folder("grammar") / "attn.lark", resources.folder("patterns") / "std.attn")
    try:
        for path in (*sorted(package.rglob("*.py")), *files):
            data = path.read_bytes()
            found.update(f"{path.name} {len(data)}\n".encode() + data)
    except OSError:
        return ""
    return found.hexdigest()


COMPILER = compiler()
"""Taken when the process loads the compiler: of the sources it runs, even if they change meanwhile."""


def cached(
    source: Source,
    outputs: tuple[str, ...],
    spec: Specialisation,
    make: Callable[[], str],
    wrt: tuple[str, ...] = (),
) -> str:
    """What `make` gives for this pattern, these outputs, this specialisation, and the inputs whose gradients
    it has, from disk if it is there.
    """
    name = f"{digest([source.text, outputs, asdict(spec), wrt])}.py"
    text = read(name)
    if text is None:
        text = make()
        write(name, sealed(name, text))
    return text


def digest(said: object, length: int = 32) -> str:
    """A name, in hexadecimal digits, for what was said to this compiler."""
    return hashlib.sha256(json.dumps([COMPILER, said]).encode()).hexdigest()[:length]


def sealed(name: str, text: str) -> bytes:
    """The file of a text: a comment that names and vouches for it, then the text."""
    body = text.encode()
    return f"# attncc {name} {hashlib.sha256(body).hexdigest()}\n".encode() + body


def opened(name: str, data: bytes) -> str | None:
    """The text of a file; None if it is torn, or not the file of that name."""
    try:
        text = data.partition(b"\n")[2].decode()
    except UnicodeDecodeError:
        return None
    return text if data == sealed(name, text) else None


def read(name: str) -> str | None:
    """The text that is kept under a name; reading it makes it young again."""
    data = read_bytes(name)
    text = None if data is None else opened(name, data)
    where = folder()
    if text is not None and where is not None:
        with suppress(OSError):
            os.utime(where / name)
    return text


def read_bytes(name: str) -> bytes | None:
    """A file as it is; None if there is none."""
    where = folder()
    if where is None or not COMPILER:
        return None
    try:
        return (where / name).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(where, error)
        return None


def write(name: str, data: bytes) -> None:
    """Puts a file in its place at once, unless the compiler changed since it was loaded; then drops the
    longest unused of its kind.
    """
    where = folder()
    if where is None or not COMPILER or compiler() != COMPILER:
        return
    try:
        where.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{name.partition('.')[0]}.", suffix=".tmp", dir=where)
        try:
            with open(handle, "wb") as file:
                file.write(data)
            os.replace(temporary, where / name)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        _prune(where, Path(name).suffix)
    except OSError as error:
        _warn(where, error)


def _prune(where: Path, suffix: str) -> None:
    """Whoever else prunes or writes meanwhile, a file that is lost is only made again."""
    ages: list[tuple[float, str]] = []
    now = time.time()
    with os.scandir(where) as entries:
        for entry in entries:
            ours, unfinished = _OURS.fullmatch(entry.name), _UNFINISHED.fullmatch(entry.name)
            with suppress(FileNotFoundError):
                if ours and ours[1] == suffix:
                    ages.append((entry.stat().st_mtime, entry.path))
                elif unfinished and now - entry.stat().st_mtime > LEFT:
                    os.unlink(entry.path)
    for _, path in sorted(ages)[: max(0, len(ages) - MOST)]:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _warn(where: Path, error: OSError) -> None:
    """Once a process and folder."""
    if where not in _WARNED:
        _WARNED.add(where)
        text = f"no compiled patterns are kept in {where}: {error.strerror}; ATTNCC_CACHE_DIR names another"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
