"""Cascade → the host's check that tables are sorted where the pattern assumes it.

The search of one that is not finds other tiles than those its mask leaves live.
A table on a GPU is waited for once, and again after every change in place that torch knows of. While a graph
is captured nothing can be waited for: the device then stops at the table itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade

SORTED = '''ASCENDING = weakref.WeakValueDictionary()  # tables found sorted


def check_sorted(name, index, table, axis):
    """A table never falls along an index. One on a GPU that was found so is not looked at again."""
    captured = table.is_cuda and torch.cuda.is_current_stream_capturing()
    counted = table.is_cuda and not table.is_inference()
    key = (id(table), axis, table._version) if counted else None
    if key and not captured and ASCENDING.get(key) is table:
        return
    row = table.movedim(axis, -1)
    falls = row[..., 1:] < row[..., :-1]
    message = f"`{name}` is not sorted along `{index}`, as `assume sorted {name}` says: sort it, "
    message += "or take that line out of the pattern, which then visits every tile"
    if captured:
        torch._assert_async(~falls.any(), message)
        return
    if falls.any():
        place = falls.nonzero()[0, -1].item()
        raise ValueError(f"{message}; it falls behind {index} = {place}")
    if key:
        ASCENDING[key] = table
'''


def sorted_lines(cascade: Cascade, words: Words) -> Iterator[str]:
    """`check_sorted("doc", "k", doc, 1)`, for every table that the pattern assumes sorted."""
    for table in cascade.inputs:
        for axis, index in enumerate(table.indices):
            if table.name in cascade.sorted_tables and index.role == "sequence":
                yield f'check_sorted("{table.name}", "{index.name}", {words.tensor(table.name)}, {axis})'
