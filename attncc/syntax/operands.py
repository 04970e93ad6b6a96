"""A refused line → what is wrong with an expression in it, if that is it."""

from __future__ import annotations

from attncc.diagnostics import Diagnostic, Label
from attncc.source import Span
from attncc.syntax.lines import CLOSING, OPENING, RESERVED, Word
from attncc.syntax.refused import COMPARISONS, OPERATORS, Refused, at


def brackets(r: Refused) -> Diagnostic | None:
    """`exp(S[q,k]`, `S[q,k)`, `a + b)`"""
    waiting: list[Word] = []
    for word in r.line:
        if word.text in OPENING:
            waiting.append(word)
        elif word.text in CLOSING:
            if not waiting:
                return at(
                    word.span, "bracket", f"`{word.text}` closes nothing", "remove it, or open a bracket"
                )
            opening = waiting.pop()
            if CLOSING[word.text] != opening.text:
                labels = (Label(word.span), Label(opening.span, "opened here"))
                message = f"`{word.text}` closes `{opening.text}`"
                return Diagnostic("bracket", message, labels, f"write `{OPENING[opening.text]}`")
    if not waiting:
        return None
    opening = waiting[-1]
    return at(
        opening.span, "bracket", f"`{opening.text}` is never closed", f"write `{OPENING[opening.text]}`"
    )


def chain(r: Refused) -> Diagnostic | None:
    """`0 <= k <= q`"""
    if r.here not in COMPARISONS:
        return None
    apart = ("and", "or", "not", "=", ",", "where", "if", "then", "else")
    earlier = [word for word in r.level() if word.text in (*COMPARISONS, *apart)]
    if not earlier or earlier[-1].text in apart:
        return None
    middle = " ".join(r.text[earlier[-1].span.end : r.span.start].split())
    help = f"write `… {earlier[-1].text} {middle} and {middle} {r.here} …`"
    return r.wrong("chain", "comparisons do not chain", help)


def equals(r: Refused) -> Diagnostic | None:
    """`if q = 0 then 1 else 2`"""
    if r.here == "=" and any(w.text in ("=", "where", "if", "require") for w in r.line[: r.rank]):
        return r.wrong("equals", "`=` does not compare", "write `==`")
    return None


def choice(r: Refused) -> Diagnostic | None:
    """`if c then a`, `a if c else b`, `1 + if c then a else b`"""
    help = "write `if c then a else b`"
    open_choice = _open_choice(r)
    if r.here in ("then", "else") and open_choice is None:
        return r.wrong("choice", f"`{r.here}` without `if`", help)
    if r.here == "if" and "then" in r.rest():
        help = "write `a + (if c then b else d)`"
        return r.wrong("choice", "a choice inside an expression needs brackets", help)
    if r.here == "if" and r.ends_operand():
        return r.wrong("choice", "`if` stands before what it chooses", help)
    if open_choice is None or r.before in OPERATORS:
        return None
    missing = "then" if open_choice.text == "if" else "else"
    stops = r.here in ("", ",", *CLOSING) or r.here in RESERVED or (r.ends_operand() and r.starts_operand())
    if stops and missing not in r.rest():
        message = f"`{missing}` is missing behind this `{open_choice.text}`"
        return at(open_choice.span, "choice", message, help)
    return None


def _open_choice(r: Refused) -> Word | None:
    """The innermost `if` that waits for its `then`, or `then` for its `else`, at the place."""
    waiting: list[Word] = []
    for word in r.level():
        match word.text:
            case "if":
                waiting.append(word)
            case "then" if waiting:
                waiting[-1] = word
            case "else" if waiting:
                waiting.pop()
            case ",":
                waiting.clear()
    return waiting[-1] if waiting else None


def sign(r: Refused) -> Diagnostic | None:
    """`a * -b`, `= +2`, `1 + not c`"""
    if r.here == "+" and not r.ends_operand():
        return r.wrong("sign", "there is no leading plus", "leave it out")
    if r.here == "-" and r.before in OPERATORS:
        help = f"put it in brackets: `a {r.before} (-b)`"
        return r.wrong("sign", "a minus begins a sum, and nothing else", help)
    if r.here == "not" and (r.before in OPERATORS or r.before in CLOSING):
        return r.wrong("sign", "a `not` here needs brackets", "write `(not a)`")
    return None


def where(r: Refused) -> Diagnostic | None:
    """`softmax(k) where k <= q`, `sum(where k <= q)`"""
    if r.here != "where":
        return None
    if any(word.text == "where" for word in r.level()):
        return r.wrong("where", "there is one `where` already", "join the two predicates with `and`")
    help = "write `sum(k where k <= q) x[k]`"
    if r.before == "(":
        return r.wrong("where", "no index stands before this `where`", help)
    return r.wrong("where", "`where` stands in a reduction's brackets, behind its indices", help)


def subscript(r: Refused) -> Diagnostic | None:
    """`T[]`, `T[i][j]`, `T[0:4]`"""
    if r.before == "[" and r.here == "]":
        help = "a tensor without indices is read by its bare name"
        return r.wrong("subscript", "there is no subscript in these brackets", help)
    if r.here == "[" and r.before in CLOSING:
        help = "write `T[i,j]`, or give what is in front an equation of its own"
        return r.wrong("subscript", "only a tensor has subscripts, and all in one bracket", help)
    if r.here == ":" and r.opened() == "[":
        help = "an index runs over its whole extent; write `where` to leave members out"
        return r.wrong("subscript", "there are no slices", help)
    return None


def comma(r: Refused) -> Diagnostic | None:
    """`max(a, b,)`, `max(, b)`"""
    if r.here == "," and r.before in ("(", "[", ","):
        return r.wrong("comma", "nothing stands before this comma", "remove it")
    if r.before == "," and r.here in ("", *CLOSING):
        return at(r.span_before, "comma", "nothing stands behind this comma", "remove it")
    return None


def pair(r: Refused) -> Diagnostic | None:
    """`S = (a, b)`"""
    if r.here == "," and r.ends_operand():
        message = "a comma stands between arguments, indices and subscripts only"
        return r.wrong("comma", message, "an equation has one value: write two equations")
    return None


def bars(r: Refused) -> Diagnostic | None:
    """`|q - k|`, `a | b`"""
    before = [rank for rank, word in enumerate(r.line[: r.rank]) if word.text == "|"]
    if len(before) % 2 and before[-1] >= r.rank - 2:
        help = "`|k|` is the extent of `k`; an absolute value is `abs(x)`, a choice of two conditions is `or`"
        return r.wrong("extent", "one index stands between `|` and `|`", help)
    if r.here == "|" and r.ends_operand():
        help = "`|k|` is the extent of `k`; a choice of two conditions is `or`"
        return r.wrong("extent", "`|` begins an extent", help)
    return None


def operand(r: Refused) -> Diagnostic | None:
    """`a *`, `* a`, `()`: an operator without one of its sides."""
    if r.before == "(" and r.here == ")":
        return r.wrong("operand", "nothing stands in these brackets")
    if r.here in OPERATORS and not r.ends_operand():
        return r.wrong("operand", f"nothing stands before this `{r.here}` for it to apply to")
    ends = r.here in ("", ",", "=", ":", "->", *CLOSING) or r.here in RESERVED
    if ends and r.rank and not r.ends_operand():
        return at(
            r.span_before, "operand", f"nothing stands behind this `{r.before}`", "an expression is expected"
        )
    return None


def juxtaposed(r: Refused) -> Diagnostic | None:
    """`2x`, `a b`, `(a) (b)`: two operands with nothing between them."""
    if not (r.ends_operand() and r.starts_operand()):
        return None
    first, second = r.line[r.rank - 1], r.line[r.rank]
    if first.kind == "number" and first.span.end == second.span.start:
        help = f"write `{first.text} * {second.text}`; a name begins with a letter"
        return at(Span(first.span.start, second.span.end), "juxtaposed", "a number runs into a name", help)
    marks = "mark" in (first.kind, second.kind)
    help = "put an operator between them" if marks else f"write `{first.text} * {second.text}`"
    return r.wrong("juxtaposed", "two expressions stand side by side", help)
