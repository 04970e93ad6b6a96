"""Patterns with random predicates, on a backend against the reference: this module with BACKEND, the first
seed, and how many.

One line a call: how far the worst number is off, the seed, the shape and the predicates. Numbers, tables and
shapes are drawn, too; tiles are small, so that short sequences have many.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch

import attncc
from attncc.diagnostics import PatternError
from attncc.schedule.tiles import TARGETS, Tile

HEAD = "Q[b,h,q,d], K[b,g,k,d], V[b,g,k,e]"
TEXTS = (
    """pattern drawn({head}) -> O[b,h,q,e], lse[b,h,q]:
    over b, h with g = h // (|h| // |g|)
{said}
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    P[q,k] = softmax(k where {0}) S[q,k]
    O[q,e] = sum(k) P[q,k] * V[k,e]
    lse[q] = logsumexp(k where {0}) S[q,k]
""",
    """pattern drawn({head}) -> O[b,h,q,e], n[b,h,q]:
    over b, h with g = h // (|h| // |g|)
{said}
    S[q,k] = sum(d) Q[q,d] * K[k,d]
    P[q,k] = softmax(k where {0}) S[q,k]
    R[q,k] = softmax(k where {1}) S[q,k] / 2
    n[q] = max(k where {1}) S[q,k]
    O[q,e] = sum(k) (P[q,k] - R[q,k] / 2) * V[k,e]
""",
)
TABLES = {
    "span": "span[h]: int",
    "turn": "turn[h]: int",
    "near": "near[g]: int",
    "gate": "gate[h]: bool",
    "len": "len[b]: int",
    "doc": "doc[b,k]: int",
    "cu": "cu[s]: int",
    "kind": "kind[b,k]: int",
    "keep": "keep[b,k]: bool",
    "own": "own[h,k]: int",
    "group": "group[b,g,k]: int",
    "reach": "reach[b,q]: int",
    "picked": "picked[q]: bool",
    "layout": "layout[h,y,x]: bool",
    "flag": "flag: bool",
    "lo": "lo[h]: int",
    "k_hi": "k_hi[h]: int",
}
SORTED = ("doc", "cu")


@dataclass
class Draw:
    """A random pattern under construction: what it names, and the values of its numbers."""

    random: Random
    names: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def table(self, name: str) -> str:
        self.names[name] = TABLES[name]
        return name

    def n(self, low: int, high: int) -> str:
        """A number in the text, or one of the call."""
        value = self.random.randint(low, high)
        if self.random.random() < 0.5:
            return str(value) if value >= 0 else f"(0 - {-value})"
        name = f"n{len(self.numbers)}"
        self.numbers[name], self.names[name] = value, f"{name}: int"
        return name

    def one(self, *of: str) -> str:
        return self.random.choice(of)

    def block(self) -> str:
        return self.one("4", "8", "16", "16", "32", self.n(16, 16), self.n(8, 8), self.n(1, 40))


def predicate(d: Draw, depth: int) -> str:
    if depth == 0:
        return atom(d)
    a, b = predicate(d, depth - 1), predicate(d, d.random.randint(0, depth - 1))
    match d.random.randint(0, 9):
        case 0 | 1 | 2:
            return f"({a}) and ({b})"
        case 3 | 4 | 5:
            return f"({a}) or ({b})"
        case 6:
            return f"not ({a})"
        case 7:
            return f"(if {d.one('h < ' + d.n(0, 4), d.table('gate'), d.table('flag'))} then {a} else {b})"
        case 8:
            return f"(if {atom(d)} then {a} else {b})"
        case _:
            return f"k <= q and (({a}) or ({b}))"


def atom(d: Draw) -> str:
    return d.random.choice((_bound, _bound, _class, _class, _free, _sorted, _listed, _grid))(d)


def _bound(d: Draw) -> str:
    """Windows, sinks, blocks, lengths, by number or by head."""
    n, block = d.n, d.block()
    return d.random.choice(
        (
            lambda: f"k <= q + {n(-30, 30)}",
            lambda: f"q - k < {n(-3, 60)}",
            lambda: f"q - k < {d.table('span')}",
            lambda: f"abs(q - k) <= {d.table('near')}",
            lambda: f"k < {n(-1, 40)}",
            lambda: f"k // {block} == q // {block}",
            lambda: f"q // {block} - k // {block} < {d.one(n(-1, 4), d.table('near'))}",
            lambda: f"k < {d.table('len')}",
            lambda: f"h >= {n(0, 4)}",
            lambda: f"q < {n(-5, 100)}",
            lambda: f"k * {n(1, 5)} <= q + {n(-9, 9)}",
            lambda: f"k + q < {n(0, 200)}",
            lambda: f"k != q + {n(-3, 3)}",
            lambda: f"q - k < {n(2**29 - 1, 2**29 - 1)} and q - k > {n(1 - 2**29, 1 - 2**29)}",
            lambda: f"k >= max(0, min(q - {n(0, 20)}, |k| - {n(1, 40)}))",
            lambda: f"q - k < {d.table('span')} and k - q < {d.table('near')}",
            lambda: f"|k| - k <= {d.one(n(0, 40), d.table('near'))}",
            lambda: f"(if {d.table('gate')} then q - k < {n(0, 40)} else k < {n(0, 20)})",
        )
    )()


def _class(d: Draw) -> str:
    """Remainders of columns, of blocks of them, with shifts by head."""
    n, block = d.n, d.block()
    shift = d.random.choice(
        (
            lambda: "0",
            lambda: n(-30, 30),
            lambda: "h",
            lambda: f"h * {n(0, 9)}",
            lambda: d.table("turn"),
            lambda: f"g * {block}",
            lambda: f"h * {n(0, 3)} - {n(0, 40)}",
        )
    )()
    rest = f"{d.one(f'(k + {shift}) // {block}', f'(k // {block} + {shift})', f'(k - {shift})')}"
    rest += f" % {n(1, 9)}"
    return d.random.choice(
        (
            lambda: f"{rest} == {n(-1, 4)}",
            lambda: f"{rest} == 0",
            lambda: f"{rest} != 0",
            lambda: f"{rest} >= {n(-1, 5)}",
            lambda: f"{rest} < {d.one(n(-1, 5), d.table('turn'))}",
            lambda: f"{n(0, 5)} > {rest}",
            lambda: f"(k + {n(-9, 9)}) % {n(64, 300)} >= {n(0, 290)}",
            lambda: f"k % {block} >= {block} - {n(0, 9)}",
            lambda: f"k % (h + {n(1, 9)}) == {n(0, 3)}",
            lambda: f"(|k| - k) % {n(1, 9)} == {n(0, 3)}",
            lambda: f"(k + |k| - {n(0, 50)}) // {block} % {n(1, 9)} == {n(0, 3)}",
            lambda: f"(k + h * |q|) % {block} < {n(0, 9)}",
        )
    )()


def _free(d: Draw) -> str:
    """Ends that rise and fall along the rows."""
    return d.random.choice(
        (
            lambda: f"k <= q % {d.n(1, 9)} * {d.n(-3, 20)}",
            lambda: f"q - k < {d.table('reach')}[q] and k <= q",
            lambda: f"k >= {d.table('reach')}[q]",
            lambda: f"{d.table('picked')}[q]",
            lambda: f"not {d.table('picked')}[q]",
            lambda: f"k <= (if {d.table('picked')}[q] then q else {d.n(-3, 50)})",
            lambda: f"q % {d.n(1, 5)} == {d.n(-1, 3)}",
            lambda: f"k <= (if q % {d.n(1, 5)} == 1 then q else q - {d.n(0, 30)})",
            lambda: f"abs(q - k) <= q % {d.n(1, 40)}",
            lambda: f"k % {d.n(1, 9)} <= q % {d.n(1, 9)}",
        )
    )()


def _sorted(d: Draw) -> str:
    doc, cu = (d.table(d.one("doc")), d.table("cu")) if d.random.random() < 0.5 else (d.table("doc"), "")
    count = f"(sum(s where {cu}[s] <= {{}}) 1)"
    if not cu:
        return d.one(
            f"{doc}[k] == {doc}[q]",
            f"{doc}[k] < {doc}[q]",
            f"{doc}[k] >= {doc}[q + {d.n(-3, 3)}]",
            f"{doc}[k] != {doc}[q]",
            f"{doc}[k] == 0",
            f"{doc}[k] <= {d.n(-2, 4)}",
            f"{doc}[q] > {doc}[k] + 1",
        )
    return d.one(
        f"{count.format('k')} == {count.format('q')}",
        f"{count.format('k')} < {count.format('q')}",
        f"{count.format('k')} <= {d.n(-1, 4)}",
        f"{count.format('k')} >= {count.format('q + 9')}",
        f"{count.format('k')} != {count.format('q')}",
        f"k < {cu}[{d.n(0, 3)}]",
    )


def _listed(d: Draw) -> str:
    kind, block = d.table("kind"), d.one("8", "16", "20", "16")
    keep, own, group, layout = (d.random.random() < 0.5 for _ in range(4))
    found = [f"{kind}[k] == {kind}[q]", f"{kind}[k] <= {kind}[q]", f"{kind}[k] > {d.n(-2, 3)}"]
    if keep:
        found = [f"{d.table('keep')}[k]", "not keep[k]", "keep[q] or k == q"]
    elif own:
        found = [f"{d.table('own')}[k] == own[q]", f"own[k] > {d.n(0, 3)}"]
    elif group:
        found = [f"{d.table('group')}[k] != group[q]", f"group[k] == {d.n(0, 3)}", "group[k] < 2"]
    elif layout:
        found = [f"{d.table('layout')}[q // {block}, k // {block}]"]
    return d.one(*found)


def _grid(d: Draw) -> str:
    """Two and three dimensions, and dilation."""
    w, v = d.one(d.n(1, 20), d.n(5, 9), "8", "16", "7"), d.n(1, 6)
    near = lambda: d.one(d.n(-1, 9), d.n(0, 3), d.table("near"), d.table("span"))  # noqa: E731
    return d.random.choice(
        (
            lambda: f"abs(k // {w} - q // {w}) <= {near()} and abs(k % {w} - q % {w}) <= {near()}",
            lambda: f"k // {w} == q // {w} or k % {w} == q % {w}",
            lambda: f"k // {w} <= q // {w} and k % {w} <= q % {w} and q % {w} - k % {w} < {near()}",
            lambda: f"k // {w} // {v} == q // {w} // {v} and k % {w} // {v} == q % {w} // {v}",
            lambda: (
                f"abs(k // ({w} * {v}) - q // ({w} * {v})) <= {near()}"
                f" and abs(k // {w} % {v} - q // {w} % {v}) <= 1 and abs(k % {w} - q % {w}) <= {near()}"
            ),
            lambda: f"(q - k) % {w} == 0",
            lambda: f"(q - k) % {w} == 0 and q - k < {w} * {near()} and k <= q",
            lambda: f"k % {w} == q % {w} and abs(k // {w} - q // {w}) <= {near()}",
            lambda: f"k // {w} == q // {w} and (k % {w}) % 3 == (q % {w}) % 3",
            lambda: (
                f"k % {w} >= max(0, min(q % {w} - 2, {w} - 5)) and k % {w} < q % {w} + 3"
                f" and k // {w} <= q // {w}"
            ),
        )
    )()


@dataclass(frozen=True)
class Drawn:
    """A pattern, its predicates and its numbers."""

    text: str
    predicates: tuple[str, ...]
    numbers: dict[str, int]


FOUND = (
    # two classes in one walk
    ("k // 32 % 8 == 0", "k % 40 >= 9"),
    ("k // 32 % 8 == 0 and k <= q", "k % 5 == 0 and k <= q"),
    # periods that differ between heads, or that are no sums
    ("k % (h + 3) == 1 and k <= q",),
    ("k % (if h < 2 then 4 else 6) == 1 or k == q",),
    # tables with names that the ranges of tiles have
    ("k <= q and (k // 4 % 8 < turn and abs(k - q) < 9 or k % 6 == 0)",),
    ("q - k < k_hi + lo and k <= q and k >= q - 30",),
)
"""Predicates that went wrong once: those of seeds -1, -2, ..."""


def drawn(seed: int) -> Drawn:
    """The pattern of a seed."""
    d = Draw(Random(seed))
    if seed < 0:
        predicates = FOUND[~seed]
        d.names = dict(TABLES)
    else:
        count = d.random.choice((1, 1, 2))
        predicates = tuple(predicate(d, d.random.choice((0, 1, 1, 2, 2, 3))) for _ in range(count))
    text = TEXTS[len(predicates) - 1]
    used = {n for n in d.names if any(re.search(rf"\b{n}\b", p) for p in predicates)}
    along = [i for i, of in (("s", "cu"), ("y, x", "layout")) if of in used]
    said = ["align q to k", *(f"along {i}" for i in along)]
    said += [f"assume sorted {n}" for n in SORTED if n in used]
    head = ", ".join([HEAD, *(d.names[n] for n in d.names if n in used)])
    lines = "\n".join(f"    {line}" for line in said)
    numbers = {n: v for n, v in d.numbers.items() if n in used}
    return Drawn(text.format(*predicates, head=head, said=lines), predicates, numbers)


def argument(tensor: Any, sizes: dict[str, int], r: torch.Generator, drawn: Drawn) -> Any:
    """A tensor or number for a parameter; some tables are of other strides and element types."""
    if tensor.origin in ("scalar", "static"):
        flag = bool(torch.rand((), generator=r) < 0.5)
        return flag if tensor.kind == "bool" else drawn.numbers[tensor.name]
    shape = [sizes[i.name] for i in tensor.indices]
    if tensor.kind == "float":
        return torch.randn(shape, generator=r)

    def ints(low: int, high: int) -> torch.Tensor:
        found = torch.randint(low, high, shape, generator=r)
        if len(shape) and tensor.name in ("kind", "own", "group", "keep"):
            found = found[..., torch.arange(shape[-1]) // 12 * 12] if shape[-1] else found
        return found

    match tensor.name:
        case "keep" | "gate" | "picked" | "layout":
            return ints(0, 2) == 1
        case "span" | "near":
            made = ints(-3, 40)
        case "len":
            made = ints(0, max(1, sizes["k"] + 3))
        case "doc":
            made = ints(0, 5).sort(-1).values
        case "cu":
            made = ints(-2, sizes["k"] + 5).sort(-1).values
        case "turn":
            made = ints(-20, 20)
        case _:
            made = ints(-1, 30) if tensor.name == "reach" else ints(-1, 4)
    if torch.rand((), generator=r) < 0.3 and made.dim() > 1:
        made = made.transpose(0, 1).contiguous().transpose(0, 1)
    return made.to((torch.int32, torch.int64, torch.int32)[int(torch.randint(3, (), generator=r))])


SHAPES = ((100, 100), (130, 130), (33, 90), (70, 33), (1, 120), (64, 64), (0, 20), (20, 0), (17, 128))


def error(made: torch.Tensor, exact: torch.Tensor) -> float:
    if not exact.numel():
        return 0.0 if made.shape == exact.shape else float("inf")
    found = torch.where(made == exact, 0.0, made - exact).abs().max()
    return float(found) if found == found else float("nan")


def main(backend: str, first: int, count: int) -> None:
    for seed in range(first, first + count):
        one = drawn(seed)
        random = Random(seed + 1)
        tile = random.choice((Tile(16, 16, 4, 1), Tile(32, 16, 4, 1), Tile(16, 32, 4, 1), Tile(32, 32, 4, 1)))
        for target in ("cuda:90", "cpu"):
            TARGETS[target] = ((8, 1 << 30, (tile,), (tile,)),)
        try:
            made, plain = (attncc.compile(one.text, backend=b) for b in (backend, "reference"))
            for rows, keys in random.sample(SHAPES, 2):
                generator = torch.Generator().manual_seed(seed)
                h, g = random.choice(((4, 2), (4, 4), (3, 1)))
                sizes = {"b": random.choice((1, 2)), "h": h, "g": g, "q": rows, "k": keys, "d": 16, "e": 16}
                sizes |= {"s": random.choice((1, 4)), "y": 6, "x": 7}
                given = {t.name: argument(t, sizes, generator, one) for t in plain.cascade.inputs}
                exact = {
                    n: x.double() if torch.is_tensor(x) and x.is_floating_point() else x
                    for n, x in given.items()
                }
                pairs = zip(made(**given), plain(**exact), strict=True)
                worst = [error(x, y) for x, y in pairs]
                found = max(worst) if worst == worst else float("nan")
                shape = f"b{sizes['b']} h{h} g{g} {rows}x{keys} {tile.rows}/{tile.columns}"
                print(f"{found:.2e} {seed} {shape} {one.numbers} {one.predicates}", flush=True)
        except PatternError as refused:
            print(f"refused {seed} {one.predicates} {str(refused)[:300]!r}", flush=True)
        except Exception as wrong:
            print(f"raised {seed} {one.predicates} {type(wrong).__name__}: {str(wrong)[:300]!r}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
