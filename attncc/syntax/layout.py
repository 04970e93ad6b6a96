"""Pieces with places to break → lines that fit: a group is broken at all of its places or at none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias, assert_never

WIDTH = 110
INDENT = 4


@dataclass(frozen=True)
class Break:
    """A place to break: a newline in a broken group, `flat` otherwise."""

    flat: str = ""


@dataclass(frozen=True)
class Edge:
    """What is written only in a broken group: a bracket needed by nothing but its newlines."""

    text: str


@dataclass(frozen=True)
class Row:
    """Pieces one after the other."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Indented:
    """A piece whose breaks begin lines that are deeper by one step."""

    piece: Piece


@dataclass(frozen=True)
class Group:
    """A piece that stands on one line if it fits."""

    piece: Piece


Piece: TypeAlias = str | Break | Edge | Row | Indented | Group


def row(*pieces: Piece) -> Row:
    """Pieces one after the other."""
    return Row(pieces)


def listed(pieces: Iterable[Piece]) -> Row:
    """Pieces with commas between them, broken behind each comma."""
    parts = [p for piece in pieces for p in (",", Break(" "), piece)]
    return Row(tuple(parts[2:]))


def bracketed(opening: Piece, inner: Piece, closing: Piece) -> Group:
    """A piece in brackets; broken, it stands on lines of its own."""
    return Group(row(opening, Indented(row(Break(), inner)), Break(), closing))


def flat(piece: Piece) -> str:
    """A piece on one line, however long."""
    done: list[str] = []
    rest = [piece]
    while rest:
        match piece := rest.pop():
            case str():
                done.append(piece)
            case Break():
                done.append(piece.flat)
            case Edge():
                pass
            case Row():
                rest.extend(reversed(piece.pieces))
            case Indented() | Group():
                rest.append(piece.piece)
            case _:
                assert_never(piece)
    return "".join(done)


def laid_out(piece: Piece, indent: int = 0) -> str:
    """A piece as lines, the first of which begins behind `indent` spaces that the caller has written."""
    done: list[str] = []
    column = indent
    rest: list[tuple[int, bool, Piece]] = [(indent, False, piece)]
    while rest:
        depth, broken, piece = rest.pop()
        match piece:
            case str():
                done.append(piece)
                column += len(piece)
            case Break():
                done.append("\n" + " " * depth if broken else piece.flat)
                column = depth if broken else column + len(piece.flat)
            case Edge():
                done.append(piece.text if broken else "")
                column += len(done[-1])
            case Row():
                rest.extend((depth, broken, p) for p in reversed(piece.pieces))
            case Indented():
                rest.append((depth + INDENT, broken, piece.piece))
            case Group():
                rest.append((depth, not _fits(piece.piece, rest, column), piece.piece))
            case _:
                assert_never(piece)
    return "".join(done)


def _fits(piece: Piece, rest: list[tuple[int, bool, Piece]], column: int) -> bool:
    """Whether a group's piece fits on one line, with all that follows it up to the next place to break."""
    ahead = len(rest)
    todo: list[tuple[bool, Piece]] = [(False, piece)]
    while column <= WIDTH:
        if not todo:
            if ahead == 0:
                return True
            ahead -= 1
            todo.append(rest[ahead][1:])
        broken, piece = todo.pop()
        match piece:
            case str():
                column += len(piece)
            case Break():
                if broken:
                    return True
                column += len(piece.flat)
            case Edge():
                column += len(piece.text) if broken else 0
            case Row():
                todo.extend((broken, p) for p in reversed(piece.pieces))
            case Indented():
                todo.append((broken, piece.piece))
            case Group():
                todo.append((ahead < len(rest), piece.piece))
            case _:
                assert_never(piece)
    return False
