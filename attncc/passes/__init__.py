"""The passes, in the order they run. Each takes a cascade to one of the same meaning."""

from __future__ import annotations

from collections.abc import Callable

from attncc.ir.cascade import Cascade
from attncc.passes.collect import collect
from attncc.passes.companions import accompany
from attncc.passes.counting import counting
from attncc.passes.distribute import distribute
from attncc.passes.expand import expand
from attncc.passes.placed import placed
from attncc.passes.share import inline, share
from attncc.passes.simplify import simplify
from attncc.passes.stream import stream
from attncc.passes.unsplit import unsplit

Pass = Callable[[Cascade], Cascade]

PASSES: tuple[Pass, ...] = (
    expand,
    share,
    simplify,
    inline,
    simplify,
    unsplit,
    share,
    distribute,
    placed,
    share,
    stream,
    share,
    inline,
    collect,
    share,
    accompany,
    counting,
)
