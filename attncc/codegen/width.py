"""Integers in a kernel's text: 32 bits wide, as positions are, and which of them need 64.

Sums and products that wrap on the way are right if what comes out fits, so that only whole sums are asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attncc.ir.cascade import Apply, Choose, Expr, Index, Literal, Read, Reduce, extent, kind
from attncc.masks.counted import count_of
from attncc.masks.folded import folded_of
from attncc.masks.intervals import POSITION, WHOLE, Interval, interval
from attncc.ops import LARGEST

LONGEST = 1 << 31


@dataclass
class Widths:
    """What is known of the integers of one kernel: numbers, positions and extents by the host's checks, among
    them that some are `positive`; elements of tables not at all; `known` names by what they stand for.
    """

    positive: frozenset[Expr] = frozenset()
    known: dict[str, tuple[Interval, bool]] = field(default_factory=dict)

    def __call__(self, e: Expr) -> Interval | None:
        match e:
            case _ if e in self.positive:
                return 1, LARGEST - 1
            case Index() | Apply(op="extent"):
                return POSITION
            case Apply("*", (Index() as group, Apply("//", (_, many)))) if many == extent(group):
                return POSITION
            case Reduce() if count_of(e):
                return POSITION
            case Read(tensor) if tensor.name in self.known:
                return self.known[tensor.name][0]
            case Read(tensor) if tensor.kind == "bool":
                return 0, 1
            case Read(tensor):
                return (1 - LARGEST, LARGEST - 1) if tensor.origin in ("scalar", "static") else WHOLE
            case _:
                return None

    def name(self, name: str, value: Expr) -> None:
        """Remembers a name for an integer."""
        if kind(value) == "int":
            self.known[name] = interval(value, self), self.wide(value)

    def overflows(self, e: Expr) -> bool:
        """Whether a sum or a product may pass 32 bits."""
        if not (isinstance(e, Apply) and e.op in ("+", "-", "*", "neg", "abs") and kind(e) == "int"):
            return False
        low, high = interval(e, self)
        return not -LONGEST <= low <= high < LONGEST

    def wide(self, e: Expr, tables: bool = False) -> bool:
        """Whether the text of an integer is 64 bits wide; `tables`: or may be, as elements of a table are."""
        match e:
            case _ if fixed(e):
                return False
            case Choose(then=a, other=b):
                return self.wide(a, tables) or self.wide(b, tables)
            case Apply(op="%", args=(_, divisor)):
                return self.wide(divisor, tables)
            case Apply(args=args) if kind(e) == "int" and e.op != "extent":
                return self.overflows(e) or any(self.wide(a, tables) for a in args if kind(a) == "int")
            case Read(tensor) if tensor.name in self.known:
                return self.known[tensor.name][1]
            case Reduce() if fold := folded_of(e):
                return self.wide(fold.value, tables)
            case Read(tensor):
                return tables and tensor.kind == "int" and bool(tensor.indices)
            case _:
                return False


def fixed(e: Expr) -> bool:
    """Whether a value is known when the kernel is compiled."""
    match e:
        case Literal():
            return True
        case Read(tensor):
            return tensor.origin == "static"
        case Apply("extent", (Index(role="feature"),)):
            return True
        case Apply("extent"):
            return False
        case Apply(_, args):
            return all(fixed(a) for a in args)
        case _:
            return False
