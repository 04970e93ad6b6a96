"""Comments → notes: every comment of a text goes to the statement it is about."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace

from attncc.source import Source
from attncc.syntax import ast
from attncc.syntax.lines import comments


def with_comments(file: ast.File, source: Source) -> ast.File:
    """The file with each comment before the statement that follows it, or behind the one whose line it ends.

    A comment inside a statement of several lines goes before it; what follows the last one goes to the end.
    """
    said = comments(source.text)
    if not said:
        return file
    pattern = file.pattern
    holders: list[ast.Define | ast.Pattern | ast.Statement] = [*file.definitions]
    if pattern is not None:
        holders += [pattern, *pattern.statements]
    ends = [holder.span.end for holder in holders]
    before: list[list[str]] = [[] for _ in holders]
    behind = ["" for _ in holders]
    after: list[str] = []
    for comment in said:
        rank = bisect_left(ends, comment.start + 1)
        ended = ends[rank - 1] if rank else -1
        if ended >= 0 and "\n" not in source.text[ended : comment.start]:
            behind[rank - 1] = comment.text
        elif rank < len(holders):
            before[rank].append(comment.text)
        else:
            after.append(comment.text)
    notes = [ast.Notes(tuple(b), h) for b, h in zip(before, behind, strict=True)]
    count = len(file.definitions)
    definitions = tuple(replace(d, notes=n) for d, n in zip(file.definitions, notes[:count], strict=True))
    if pattern is not None:
        statements = tuple(
            replace(s, notes=n) for s, n in zip(pattern.statements, notes[count + 1 :], strict=True)
        )
        pattern = replace(pattern, statements=statements, notes=notes[count])
    return replace(file, definitions=definitions, pattern=pattern, notes_after=tuple(after))
