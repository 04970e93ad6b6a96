"""Random patterns that mean something, as trees, each with inputs small enough to evaluate in no time.

Numbers stay tame: values are of modest size, what divides is positive, and what may be infinite is only an
output. So that two ways to compute a pattern agree to within rounding, or one of them is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from attncc.ops import Kind
from attncc.syntax import ast
from attncc.syntax.printer import show
from tests.strategies_exprs import Known, Page, binary, call, name, num, read

Values = dict[str, Any]


@dataclass(frozen=True)
class Drawn:
    """A pattern, and values for its inputs."""

    file: ast.File
    values: Values

    @property
    def text(self) -> str:
        """The pattern as it is written."""
        return show(self.file)

    def __repr__(self) -> str:
        shapes = {k: v.shape if isinstance(v, np.ndarray) else v for k, v in self.values.items()}
        return f"{self.text}{shapes}"


# What equations say


def _scores(page: Page) -> Known:
    """`S[q,k] = sum(d) Q[q,d] * K[k,d] / sqrt(|d|)`, with something besides."""
    Q, K = page.params["Q"][0], page.params["K"][0]
    key: ast.Expr = name("k")
    if page.odds(8) and not page.plain:
        key = binary("-", key, num(1))
    where = binary("<", name("d"), num(2)) if page.odds(8) else None
    body = binary("*", page.at(Q, "q", "d"), binary("/", page.at(K, key, "d"), call("sqrt", ast.Extent("d"))))
    e = page.reduced("sum", "d", body, where)
    match page.draw(st.integers(0, 5)):
        case 0:
            e = binary("+", e, page.value("qk", 1))
        case 1:
            e = binary("*", num(2), call("tanh", e))
        case 2 if page.heads:
            page.touched.add("h")
            e = binary("-", e, binary("*", num(0.1), binary("*", name("h"), name("k"))))
    return page.define("qk", e)


def _score(page: Page) -> ast.Expr:
    known = [k for k in page.made.values() if k.own == ("q", "k") and k.kind == "float" and k.tame]
    return page.at(page.one(known) if known and not page.odds(4) else _scores(page))


def _mixed(page: Page) -> ast.Expr:
    """What weights multiply: values, or a number for every key."""
    if page.odds(4):
        return page.leaf("k")
    return page.at(page.params["V"][0], "k", "e")


def _mask(page: Page) -> ast.Expr | None:
    return None if page.odds(5) else page.predicate("qk")


def _attended(page: Page) -> Known:
    """A weighted mean of values: weights over their own sum, with a sink or none, at once or in steps."""
    score, where = _score(page), _mask(page)
    match page.draw(st.integers(0, 4)):
        case 0 | 1:
            sink = {"sink": page.at(page.param(""))} if page.odds(4) else {}
            weights = page.reduced("softmax", "k", score, where, **sink)
            touched = set(page.touched)
            P = page.define("qk", weights)
            page.touched |= touched
            return page.define("qe", page.reduced("sum", "k", binary("*", page.at(P), _values(page))))
        case 2:
            top = page.reduced("max", "k", score, where)
            weight: ast.Expr = call("exp", binary("-", score, top))
        case _:
            weight = page.weight("qk", score)
    below = page.reduced("sum", "k", weight, where)
    if page.odds(3):
        below = binary("+", call("exp", page.at(page.param(""))), below)
    if page.odds(3):
        # a formula for the weights by itself, read where it is normalised
        share = ast.If(where, binary("/", weight, below), num(0)) if where else binary("/", weight, below)
        P = page.define("qk", share)
        return page.define("qe", page.reduced("sum", "k", binary("*", page.at(P), _values(page))))
    above = page.reduced("sum", "k", binary("*", weight, _values(page)), where)
    return page.define("qe", binary("/", above, below))


def _values(page: Page) -> ast.Expr:
    return page.at(page.params["V"][0], "k", "e")


def _summed(page: Page) -> Known:
    """`sum(k where c) w * V`, as it stands: no normaliser, or that of a row."""
    weight = page.weight("qk", _score(page)) if page.odds(2) else page.value("qk")
    return page.define("qe", page.reduced("sum", "k", binary("*", weight, _values(page)), _mask(page)))


def _row(page: Page) -> Known:
    """One number a row: a reduction of anything. Of nothing, the extremes are infinite."""
    op = page.one(("sum", "mean", "max", "min", "sum", "mean"))
    if not page.plain:
        op = page.one((op, op, "prod", "any", "all", "argmax", "logsumexp"))
    where = _mask(page)
    if op in ("any", "all"):
        return page.define("q", page.reduced(op, "k", page.predicate("qk", 1), where), "bool")
    body = page.value("qk") if op != "argmax" else _score(page)
    kind: Kind = "int" if op == "argmax" else "float"
    # a row's number may be said of every feature, too
    left = "qe" if not page.plain and page.odds(8) else "q"
    tame = op not in ("max", "min", "logsumexp", "prod")
    return page.define(left, page.reduced(op, "k", body, where), kind, tame)


def _followed(page: Page) -> Known:
    """A sum whose terms read another reduction over the same keys: a factor, a divisor, an exponent."""
    where = page.predicate("qk")
    score = _score(page)
    total = page.reduced("sum", "k", call("exp", score), where)
    match page.draw(st.integers(0, 4)):
        case 0:
            lse = page.reduced("logsumexp", "k", score, where)
            weight = call("exp", binary("-", score, lse))
        case 1:
            weight = binary("/", call("exp", score), binary("+", num(1), total))
        case 2:
            weight = binary("*", binary("*", score, page.value("qk", 1)), call("tanh", total))
        case 3:
            length = page.reduced("sum", "k", binary("*", score, score), where)
            weight = binary("/", score, call("sqrt", binary("+", length, num(0.5))))
        case _:
            mean = page.reduced("mean", "k", call("abs", score), where)
            weight = call("exp", binary("*", num(0.5), binary("-", score, mean)))
    if page.odds(2):
        share = page.define("qk", ast.If(where, weight, num(0)))
        return page.define("qe", page.reduced("sum", "k", binary("*", page.at(share), _values(page))))
    return page.define("qe", page.reduced("sum", "k", binary("*", weight, _values(page)), where))


def _output_of_rows(page: Page) -> Known:
    """A number a row that may be infinite: a maximum, a logsumexp, a logarithm of a sum with a sink."""
    score, where = _score(page), _mask(page)
    match page.draw(st.integers(0, 2)):
        case 0:
            return page.define("q", page.reduced("logsumexp", "k", score, where), tame=False)
        case 1:
            return page.define("q", page.reduced(page.one(("max", "min")), "k", score, where), tame=False)
        case _:
            below = binary(
                "+", call("exp", page.at(page.param(""))), page.reduced("sum", "k", call("exp", score), where)
            )
            return page.define("q", call("log", below))


def _pointwise(page: Page) -> Known:
    scope = page.one(("qk", "k", "q"))
    if page.odds(3):
        return page.define(scope, page.predicate(scope), "bool")
    return page.define(scope, page.value(scope))


def _gated(page: Page) -> Known:
    """Branches added up, each with its gate, or two sums multiplied."""
    known = [k for k in page.made.values() if k.own == ("q", "e") and k.tame]
    if len(known) < 2:
        return _attended(page)
    first, second = (page.at(page.one(known)) for _ in range(2))
    if page.odds(3):
        return page.define("qe", binary("*", first, second))
    gate = call("sigmoid", page.leaf("q"))
    return page.define("qe", binary("+", binary("*", gate, first), second))


def _scan(page: Page) -> Known:
    """`C[k] = sum(j where j <= k) g[j]`"""
    page.scans = True
    op = page.one(("sum", "sum", "mean"))
    where = binary(page.one(("<=", "<")), name("j"), name("k"))
    if page.odds(3):
        where = binary("and", where, page.predicate("jk", 1))
    body = page.at(page.param("k"), "j")
    return page.define("k", page.reduced(op, "j", body, where))


def _recurrence(page: Page) -> Known:
    """A state that decays, or one that each position corrects by what stands before it."""
    page.scans = True
    word = f"{'BCDEFGHIJKLMNOPRSTUW'[len(page.equations)]}{len(page.equations)}"
    K, V = (page.at(page.params[t][0], "k", i) for t, i in (("K", num(0)), ("V", "e")))
    before = read(word, binary("-", name("k"), num(1)), "e")
    match page.draw(st.integers(0, 3)):
        case 0 | 1:
            decay = call("sigmoid", page.value("k", 1))
            first = binary("*", decay, before)
            if not page.odds(4):
                start = binary(page.one(("==", "<")), name("k"), num(page.one((0, 1))))
                first = ast.If(start, num(0), first)
            body = binary("+", first, binary("*", K, V))
        case 2:
            behind = binary("*", page.value("kj", 1), read(word, "j", "e"))
            sum = page.reduced("sum", "j", binary("*", num(0.3), behind), binary("<", name("j"), name("k")))
            body = binary("-", V, sum)
        case _:
            body = binary("+", binary("*", num(0.5), V), ast.If(page.where("k"), before, K))
    return page.define("ke", body)


def _blocks(page: Page) -> Known:
    """Blocks pooled, scored, chosen and attended to; or one softmax within them and one over them."""
    K, Q = page.params["K"][0], page.params["Q"][0]
    M = page.define("nd", page.reduced(page.one(("mean", "sum")), "i", page.at(K, "n", "i", "d")))
    R = page.define("qn", page.reduced("sum", "d", binary("*", page.at(Q, "q", "d"), page.at(M, "n", "d"))))
    if page.odds(3):
        S = _score(page)
        assert isinstance(S, ast.Subscript)
        inner = page.define(
            "qni", page.reduced("softmax", "i", read(S.tensor, "q", "n", "i"), page.where("n"))
        )
        gate = page.define("qn", page.reduced("softmax", "n", page.at(R), page.predicate("qn", 1)))
        block, rest = (binary(op, name("k"), page.block) for op in ("//", "%"))
        share = binary("*", page.at(gate, "q", block), page.at(inner, "q", block, rest))
        return page.define("qe", page.reduced("sum", "k", binary("*", share, _values(page)), _mask(page)))
    amount = {"count": num(page.one((1, 2)))} if page.odds(2) else {"mass": num(0.6)}
    where = page.predicate("qn", 1) if page.odds(2) else None
    score = page.at(R) if "count" in amount else call("exp", page.at(R))
    C = page.define("qn", page.reduced("top", "n", score, where, **amount), "bool")
    chosen: ast.Expr = page.at(C, "q", binary("//", name("k"), page.block))
    if page.odds(3):
        chosen = ast.Unary("not", chosen)
    if page.odds(2):
        chosen = binary(page.one(("and", "or")), chosen, page.predicate("qk", 1))
    P = page.define("qk", page.reduced("softmax", "k", _score(page), chosen))
    return page.define("qe", page.reduced("sum", "k", binary("*", page.at(P), _values(page))))


def _ranked(page: Page) -> Known:
    body = page.at(page.param("k"), "k")
    where = page.predicate("k") if page.odds(2) else None
    op = page.one(("rank", "ahead"))
    if page.odds(2):
        return page.define("k", page.reduced(op, "k", body, where), "int" if op == "rank" else "float")
    few = binary("<", page.reduced(op, "k", body, where), num(2))
    return page.define("k", ast.Unary("not", few) if page.odds(3) else few, "bool")


def _columns(page: Page) -> Known:
    """What a key receives from all queries."""
    return page.define(
        "k", page.reduced(page.one(("sum", "mean")), "q", page.value("qk", 1), page.predicate("qk"))
    )


def _shared(page: Page) -> Known:
    """What the heads of a group have in common: heads split into groups and places in them."""
    known = [k for k in page.made.values() if "h" in k.batch and k.kind == "float" and k.own[:1] == ("q",)]
    if not known:
        return _attended(page)
    page.grouped = True
    one = page.one(known)
    op = page.one(("sum", "mean", "max"))
    page.touched |= (one.batch - {"h"}) | {"g"}
    return page.define("g" + "".join(one.own), page.reduced(op, "r", read(one.name, "g", "r", *one.own)))


PLAIN = (_attended, _attended, _followed, _summed, _row, _output_of_rows, _gated, _pointwise)
"""What one kernel can do."""

EVERY = (*PLAIN, _scan, _recurrence, _blocks, _ranked, _columns, _shared)


# Whole patterns


@st.composite
def patterns(draw: st.DrawFn, plain: bool = False) -> Drawn:
    """A pattern and its inputs; `plain` ones keep to what a single kernel may do, so that most have one."""
    heads = draw(st.sampled_from(((), ("h",), ("b", "h"), ("b", "g", "h"))))
    aligned = draw(st.integers(0, 4)) > 0
    size = {i: draw(st.integers(1, n)) for i, n in {"b": 2, "g": 2, "d": 3, "e": 2, "q": 4, "k": 6}.items()}
    size["h"] = size["g"] * draw(st.integers(1, 2))
    blocks = not plain and draw(st.booleans())
    scalars = {"block": 2} if blocks and draw(st.booleans()) else {}
    page = Page(draw, heads, aligned, blocks, plain, size, name("block") if scalars else num(2), scalars)
    for word, own in (("Q", "qd"), ("K", "kd"), ("V", "ke")):
        batch = frozenset(heads) - {"h" if word != "Q" and "g" in heads else "g"}
        page.params[word] = (Known(word, tuple(own), batch), "float")
    forms = [f for f in (PLAIN if plain else EVERY) if blocks or f is not _blocks]
    forms = [f for f in forms if aligned or f not in (_scan, _recurrence)]
    forms = [f for f in forms if "g" in heads or f is not _shared]
    for _ in range(draw(st.integers(1, 3))):
        made = page.one(forms)(page)
        page.touched.clear()
    chosen = [made, *(k for k in page.made.values() if k.own[:1] == ("q",) and page.odds(6))]
    if plain:
        # the first output reads all there is to read, the others what they like
        chosen = [_attended(page), *(k for k in chosen if "k" not in k.own and k.kind == "float")]
    outputs = list(dict.fromkeys(chosen))
    seed = draw(st.integers(0, 2**16))
    start = page.param("", "int", frozenset()) if aligned and page.odds(8) else None
    return Drawn(ast.File("", (), _pattern(page, outputs, start)), _inputs(page, seed))


def _pattern(page: Page, outputs: list[Known], start: Known | None) -> ast.Pattern:
    params: list[ast.TensorParam | ast.ScalarParam] = [
        ast.TensorParam(k.name, _named([*_batched(k, page), *k.own]), sort)
        for k, sort in page.params.values()
    ]
    params += [ast.ScalarParam(word, "int", value) for word, value in page.scalars.items()]
    return ast.Pattern(
        name="drawn",
        doc="",
        params=tuple(params),
        outputs=tuple(ast.OutputParam(k.name, _named(_ordered(k, page))) for k in outputs),
        statements=(*_statements(page, start), *page.equations),
    )


def _statements(page: Page, start: Known | None) -> list[ast.Statement]:
    said: list[ast.Statement] = []
    shared = binary("//", name("h"), binary("//", ast.Extent("h"), ast.Extent("g")))
    if page.heads:
        derived = ((name("g"), shared),) if "g" in page.heads and not page.grouped else ()
        said.append(ast.OverStatement(_named([i for i in page.heads if i != "g"]), derived))
    if page.grouped:
        size = binary("//", ast.Extent("h"), ast.Extent("g"))
        said.append(ast.Split(name("h"), name("g"), name("r"), size))
    if page.aligned:
        said.append(ast.Align(name("q"), name("k"), name(start.name) if start else None))
    else:
        said.append(ast.Along(_named(["q", "k"])))
    if page.scans:
        said.append(ast.Align(name("j"), name("k"), None))
    if page.blocks:
        said.append(ast.Split(name("k"), name("n"), name("i"), page.block))
    return said


def _named(letters: list[str]) -> tuple[ast.Name, ...]:
    return tuple(map(name, letters))


def _batched(known: Known, page: Page) -> list[str]:
    return [i for i in page.heads if i in known.batch]


def _ordered(known: Known, page: Page) -> list[str]:
    """An output's indices: its own, mostly in their own order."""
    own = [*_batched(known, page), *known.own]
    return page.draw(st.permutations(own)) if page.odds(8) else own


def _inputs(page: Page, seed: int) -> Values:
    rng = np.random.default_rng(seed)
    found: Values = {}
    for known, sort in page.params.values():
        shape = [page.sizes[i] for i in [*_batched(known, page), *known.own]]
        match sort:
            case "int":
                found[known.name] = rng.integers(-1, 4, shape)
            case "bool":
                found[known.name] = rng.random(shape) < 0.7
            case _:
                found[known.name] = rng.uniform(-1.5, 1.5, shape)
    return found
