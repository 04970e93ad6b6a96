"""Pattern → what a notebook shows of it: its name, its author's words, its equations and its mask."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod

from attncc.calls import BadNumber, Number, scalars
from attncc.explain.markup import Markup, element
from attncc.ir.brief import briefly
from attncc.ir.cascade import Cascade, reads
from attncc.pipeline import streamed
from attncc.schedule.plan import Plan, partition
from attncc.schedule.refused import Refused
from attncc.viz.mask import Unseen, draw

SHORTEST, LONGEST = 64, 1 << 16
"""Positions that are drawn where nobody chose."""

EXAMPLE: Mapping[str, Number] = {"int": 16, "float": 1.0, "bool": True}
"""Numbers that stand for those without a default; the caption says so."""

SAID = (
    (r"`--set (\w+)=\.\.\.`", r'`numbers={"\1": ...}`'),
    (r"`--extent (\w+)=\.\.\.`", r'`extents={"\1": ...}`'),
    (r"--tile (\d+)", r"it with `tile=\1`"),
    (r"--(head|length)\b", r"\1="),
)
"""What options of the command line are called in Python."""


def shown(cascade: Cascade, signature: str) -> str:
    """HTML that changes nothing around it, and looks the same in any notebook."""
    head = element("div", element("b", cascade.name), element("code", signature))
    words = element("p", cascade.doc.strip(), style="white-space: pre-line; max-width: 60em")
    maths = element("pre", "\n".join(briefly(cascade)))
    return element("div", head, *([words] if cascade.doc.strip() else []), maths, _picture(cascade))


def _picture(cascade: Cascade) -> Markup:
    """The mask, or why there is no picture of it."""
    try:
        plan = partition(streamed(cascade))
        length = telling(cascade, plan)
        numbers = {t.name: EXAMPLE[t.kind] for t in scalars(cascade)} | dict(cascade.defaults)
        return Markup(draw(cascade, plan, length, numbers=numbers).svg)
    except (Refused, Unseen, BadNumber) as reason:
        return element("p", f"No picture of the mask: {reason}")


def telling(cascade: Cascade, plan: Plan) -> int:
    """A length at which the numbers of a mask show: all of them multiplied, twice."""
    read = {r.tensor.name for k in plan.kernels for loop in k.loops for r in reads(loop.reach)}
    defaults: dict[str, Number] = {name: x for name, x in cascade.defaults if name in read}
    length = 2 * prod(x for x in defaults.values() if isinstance(x, int) and x > 0)
    return min(max(1 << (length - 1).bit_length(), SHORTEST), LONGEST)


def in_python(message: str) -> str:
    """A message with what to write in Python, in place of options."""
    for option, argument in SAID:
        message = re.sub(option, argument, message)
    return message
