"""What a case of a pattern is, and the extents that patterns are tried at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """One call of a pattern: the extents of its inputs' indices, and the scalars not at their defaults."""

    pattern: str
    extents: Mapping[str, int]
    scalars: Mapping[str, int | float] = field(default_factory=dict)

    def __str__(self) -> str:
        sizes = "".join(f"{name}{n}" for name, n in self.extents.items())
        return "-".join([self.pattern, sizes, *(f"{name}{value}" for name, value in self.scalars.items())])


GROUPED = {"Q": "bhqd", "K": "bgkd", "V": "bgke"}
"""Query heads share key heads."""

PAIRED = {"Q": "bhqd", "K": "bhkd", "V": "bhke"}
"""Every query head has its key head."""


def extents(q: int, k: int, *, b: int = 1, h: int = 2, g: int = 2, d: int = 8, e: int = 8) -> dict[str, int]:
    return {"b": b, "h": h, "g": g, "q": q, "k": k, "d": d, "e": e}


SHAPES = (
    extents(1, 1, b=2, h=3, g=1),
    extents(1, 65, b=2, h=3, g=1, e=5),
    extents(15, 15, h=6, g=2, d=16, e=12),
    extents(15, 63, h=6, g=2, d=16, e=24),
    extents(63, 63, b=2, e=12),
    extents(65, 127, h=3, g=1, e=5),
    extents(127, 129, h=3, g=3, d=7),
    # the first 64 queries stand before the first key
    extents(129, 65, h=3, g=1, d=7, e=12),
)
"""Decode, prefill and chunks; odd lengths; groups of 1 and 3; D and E equal and not."""

ALONE = tuple({i: n for i, n in {**s, "h": min(s["h"], 3)}.items() if i != "g"} for s in SHAPES)
"""The same for patterns without groups."""


FOLDED = tuple({**s, "m": 1 + i % 3} for i, s in enumerate(ALONE))
"""The same for alignments of 1 to 3 sequences."""

TABLED = tuple({**s, "r": r} for s, r in zip(SHAPES, (1, 65, 4, 63, 16, 1, 130, 33), strict=True))
"""The same with tables of distances, some of which all pairs fit into."""

SQUARES = tuple(
    {**s, "y": y, "x": x}
    for s, y, x in zip(SHAPES, (1, 9, 15, 4, 8, 65, 16, 17), (1, 9, 15, 8, 4, 70, 16, 9), strict=True)
)
"""The same with tables over rows and columns of their own."""

TRIPLES = tuple(
    {"b": b, "h": h, "q": q, "j": j, "k": k, "d": d, "e": e}
    for b, h, q, j, k, d, e in (
        (2, 3, 1, 1, 1, 8, 8),
        (1, 2, 15, 7, 9, 4, 5),
        (2, 1, 16, 17, 5, 16, 12),
        (1, 3, 31, 32, 29, 7, 24),
    )
)
"""Queries and two sequences of keys."""

EVEN = tuple({**s, "d": s["d"] + s["d"] % 2} for s in SHAPES)
"""The same for patterns that pair features."""


def cases(
    pattern: str, shapes: tuple[dict[str, int], ...], *scalars: Mapping[str, int | float]
) -> tuple[Case, ...]:
    """Every shape, under each choice of scalars in turn, and one shape under all of them."""
    choices = scalars or ({},)
    turns = [Case(pattern, shape, choices[i % len(choices)]) for i, shape in enumerate(shapes)]
    return tuple(turns) + tuple(
        Case(pattern, shapes[3], s) for s in choices if Case(pattern, shapes[3], s) not in turns
    )
