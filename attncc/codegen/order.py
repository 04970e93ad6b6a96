"""Kernel whose row tiles are uneven work → the program that counts it, and the lines that put most first.

    work[place, tile of rows] = how many tiles its walks visit
    order = the programs, most work first

A kernel is done when its last program is. Where programs are few and some have many times the work of others,
none of the long ones should begin late. Where they are many, an order gains nothing, and neighbours that
run together share what they load: on an H100 it took up to twice the time (`benchmarks/balance.py`). Work is
counted at the places of those batched indices alone that it follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from attncc.codegen.listed import list_of
from attncc.codegen.listed_module import launch
from attncc.codegen.words import Words
from attncc.ir.cascade import Cascade, Tensor, free, reads
from attncc.schedule.loops import Program, Tally, Walk, expressions, statements

CONSTANTS = """# an order pays for programs between these numbers, with rows of so many tiles
AT_ONCE, MANY, LONG = 512, 2048, 128
"""

PLACING = '''@triton.jit(do_not_specialize=["count"])
def _order_kernel(work, order, count):
    """Puts a program behind all that have more work, and behind those before it that have as much."""
    pid = tl.program_id(0)
    own, before = tl.load(work + pid), 0
    for first in tl.range(0, count, 1024):
        n = first + tl.arange(0, 1024)
        other = tl.load(work + n, mask=n < count, other=-1)
        before += tl.sum(((other > own) | ((other == own) & (n < pid))).to(tl.int32))
    tl.store(order + before, pid)
'''
"""What makes an order of counts of work."""


def work_of(program: Program, words: Words) -> Program:
    """What counts the tiles that every row tile of a kernel visits."""
    walks = tuple(replace(s, body=()) for s in program.body if isinstance(s, Walk))
    said = [e for s in walks for e in (*expressions((s,)), *([] if s.listed is None else [s.listed]))]
    batch = tuple(i for i in program.batch if any(i in free(e) for e in said))
    own = [e for s in walks for e in expressions((s,))]
    read = {r.tensor for e in own for r in reads(e)}
    read |= {list_of(s, program, words) for s in walks if s.listed is not None}
    output = Tensor(words.free(f"{program.rows.name}_work"), (), "int", "table")
    inputs = tuple(t for t in program.inputs if t in read)
    name = f"{program.name}_work"
    return Program(name, program.rows, batch, inputs, (output,), (Tally(output, walks),))


def order_lines(
    program: Program, work: Program, tiles: str, cascade: Cascade, words: Words, first: str
) -> Iterator[str]:
    """What makes the order before the kernel that follows it; `tiles` is how many tiles of rows there are."""
    w, order, beside = words, words.free("order"), words.free("beside")
    others = [w.extent(i) for i in program.batch if i not in work.batch]
    same = [w.extent(i) for i in work.batch]
    walked = dict.fromkeys(s.index for s in statements(work.body) if isinstance(s, Walk))
    longest = " + ".join(f'triton.cdiv({w.extent(i)}, tile["{w.block(i)}"])' for i in walked)
    name = w.tensor(work.outputs[0].name)
    yield "# rows are uneven work, by the tables of this call: most of it comes first"
    yield f"{order} = {first}.new_empty(0, dtype=torch.int32)"
    yield from [f"{beside} = 1"] if others else []
    yield f"if AT_ONCE < grid <= MANY and {longest} > LONG:"
    yield f"    {name} = {first}.new_empty({' * '.join([tiles, *same])}, dtype=torch.int32)"
    yield from (f"    {line}" for line in launch(work, f"{name}.numel()", cascade, w, warps=1))
    yield f"    {order} = torch.empty_like({name})"
    yield f"    _order_kernel[({name}.numel(),)]({name}, {order}, {name}.numel(), num_warps=4, num_stages=1)"
    yield from [f"    {beside} = {' * '.join(others)}"] if others else []
