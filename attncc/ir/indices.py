"""Statements → Known indices: roles, spaces, alignments and splits, each contradiction reported once."""

from __future__ import annotations

from dataclasses import replace

from attncc.diagnostics import Label
from attncc.ir.cascade import Role
from attncc.ir.said import Mistakes, extents, listed, names, near
from attncc.ir.scope import Known, Scope, Statements
from attncc.ir.sizes import sized
from attncc.source import Span
from attncc.syntax import ast


def scope_of(said: Statements, words: frozenset[str], mistakes: Mistakes) -> Scope:
    """Everything a pattern names, and what contradicts itself; `words` are what may stand before brackets."""
    said = sized(said, mistakes)
    said = _splits(said, mistakes)
    said = replace(said, aligns=_aligns(said, mistakes))
    said = replace(said, declares=_declares(said, mistakes))
    tree = _Tree(said)
    sources, unknown = said.sources(), _unknown(said, mistakes)
    values = _values(said, tree, mistakes)
    shown = said.shown()
    indices = {}
    for name, span in {**{i.name: i.span for i, _ in said.derived}, **sources, **unknown}.items():
        role = tree.role(name)
        indices[name] = Known(
            name=name,
            span=span,
            role=role,
            space=tree.space(name),
            related="" if role == "batch" else tree.related(name),
            shown=name in shown or name in unknown,
            unknown=name in unknown,
            align=tree.aligns.get(name),
            declare=tree.declares.get(name),
            parent=tree.parents.get(name),
            splits=tuple(s for s in said.splits if s.index.name == name),
            value=values.get(name),
        )
    batch = dict.fromkeys(
        (*(i.name for i in said.over), *values, *(n for n in indices if tree.role(n) == "batch"))
    )
    equations = {e.tensor.name: e for e in said.equations}
    scope = Scope({p.name: p for p in said.params}, indices, equations, tuple(batch), said.lone(), words)
    _displaced(scope, said, mistakes)
    return scope


class _Tree:
    """How the indices of a pattern hang together; every chain in it ends."""

    def __init__(self, said: Statements):
        self.aligns = {a.index.name: a for a in said.aligns}
        self.parents = {i.name: s for s in said.splits for i in (s.outer, s.inner)}
        self.declares = {d.index.name: d for d in said.declares}
        self.batched = {i.name for i in said.over} | {i.name for i, _ in said.derived}
        self.along = {i.name for i in said.along} | {i.name for a in said.aligns for i in (a.index, a.to)}

    def role(self, name: str, inside: tuple[str, ...] = ()) -> Role:
        """Batched by `over`, a sequence by `align`, `along` or its extent; parts are what the whole is."""
        if name in self.batched:
            return "batch"
        if name in self.along:
            return "sequence"
        if name in inside:
            return "feature"
        inside = (*inside, name)
        if name in self.parents:
            return self.role(self.parents[name].index.name, inside)
        if name in self.declares:
            sizes = [self.role(n, inside) for n, _ in extents(self.declares[name].extent)]
            return "sequence" if "sequence" in sizes else "feature"
        return "feature"

    def space(self, name: str) -> str:
        return self.space(self.aligns[name].to.name) if name in self.aligns else name

    def related(self, name: str) -> str:
        """What an index goes back to by alignments and splits; "" where that is a declared index."""
        if name in self.aligns:
            return self.related(self.aligns[name].to.name)
        if name in self.parents:
            return self.related(self.parents[name].index.name)
        return "" if name in self.declares else name


def _aligns(said: Statements, mistakes: Mistakes) -> tuple[ast.Align, ...]:
    """Alignments that say of each index at most once, and in no circle, where it stands."""
    found: dict[str, ast.Align] = {}
    children = {i.name: s for s in said.splits for i in (s.outer, s.inner)}
    batched = {i.name for i in said.over} | {i.name for i, _ in said.derived}
    for align in said.aligns:
        name, end = align.index.name, align.to.name
        while end != name and (end in found or end in children):
            end = found[end].to.name if end in found else children[end].index.name
        if name in found:
            message = f"`{name}` is aligned twice"
            mistakes.add(
                "bad-align", message, align.span, "again here", "", Label(found[name].span, "first here")
            )
        elif end == name:
            what = "itself" if align.to.name == name or align.to.name in found else "a part of itself"
            message = f"`{name}` is aligned to {what}"
            mistakes.add(
                "bad-align", message, align.span, "", "align it to the index whose positions it counts"
            )
        elif name in children:
            message = f"`{name}` has its positions from a split"
            label = Label(children[name].span, "the split")
            mistakes.add(
                "bad-align", message, align.span, "aligned here", "align the index that is split", label
            )
        elif batched & {name, align.to.name}:
            message = (
                f"`{name if name in batched else align.to.name}` is batched, and an alignment is of sequences"
            )
            mistakes.add("bad-align", message, align.span, "", "take it out of `over`")
        else:
            found[name] = align
    return tuple(found.values())


def _splits(said: Statements, mistakes: Mistakes) -> Statements:
    """Without the splits whose parts are no new indices; a whole of which a part is batched is batched."""
    found: list[ast.Split] = []
    batched: list[ast.Name] = []
    parents: dict[str, ast.Split] = {}
    over = {i.name for i in said.over}
    for split in said.splits:
        children = (split.outer, split.inner)
        ends = {split.index.name}
        whole = split.index.name
        while whole in parents:
            whole = parents[whole].index.name
            ends.add(whole)
        again = next((i for i in children if i.name in parents), None)
        below = next((i for i in children if i.name in ends), None)
        if split.outer.name == split.inner.name:
            message = "the two parts of a split have one name"
            mistakes.add("bad-split", message, split.inner.span, "", "`split k into n, i by block`")
        elif below is not None:
            mistakes.add(
                "bad-split", f"`{below.name}` is a part of itself", below.span, "", "name the parts anew"
            )
        elif again is not None:
            message = f"`{again.name}` is a part of two splits"
            label = Label(parents[again.name].span, "first here")
            mistakes.add("bad-split", message, again.span, "again here", "name the parts anew", label)
        elif over & {i.name for i in children} and whole not in over:
            message = f"a part of `{split.index.name}` is batched, and `{split.index.name}` is not"
            mistakes.add("bad-split", message, split.span, "", f"batch the whole: `over {whole}`")
            batched.append(ast.Name(whole, split.index.span))
        if not {split.outer.name, split.inner.name} & (ends | parents.keys()) and len(set(children)) == 2:
            found.append(split)
            parents |= {i.name: split for i in children}
    return replace(said, splits=tuple(found), over=(*said.over, *batched))


def _declares(said: Statements, mistakes: Mistakes) -> tuple[ast.Declare, ...]:
    """Declarations of indices that have no extent yet."""
    known = said.shown()
    for split in said.splits:
        known |= {i.name: split.span for i in (split.outer, split.inner)}
    found = []
    for declare in said.declares:
        name = declare.index.name
        if name in known:
            message = f"`{name}` has an extent already"
            label = Label(known[name], "from here")
            mistakes.add("two-definitions", message, declare.index.span, "declared here", "", label)
        else:
            found.append(declare)
            known[name] = declare.index.span
    return tuple(found)


def _unknown(said: Statements, mistakes: Mistakes) -> dict[str, Span]:
    """Indices that have no extent: nothing shows or declares them."""
    sources = said.sources()
    others = {p.name for p in said.params} | {e.tensor.name for e in said.equations}
    found: dict[str, Span] = {}
    for index in said.mentions():
        if index.name in sources or index.name in found:
            continue
        found[index.name] = index.span
        if index.name not in others:
            message = f"`{index.name}` is no index: no input shows it, and nothing declares it"
            help = near(index.name, sources) or (
                f"`index {index.name}: …` declares it, `align {index.name} to …` gives it another's extent"
            )
            mistakes.add("unknown-index", message, index.span, "", help)
    return found


def _values(said: Statements, tree: _Tree, mistakes: Mistakes) -> dict[str, ast.Expr]:
    """What batched indices are in terms of others: by `with`, or as the parts of a split."""
    found: dict[str, ast.Expr] = {}
    over, equations = {i.name for i in said.over}, {e.tensor.name for e in said.equations}
    # what stands for a value with a mistake in it
    anyhow = said.over[-1] if said.over else ast.Number(0)
    tensors = {p.name: p.indices for p in said.params if isinstance(p, ast.TensorParam)}
    for index, value in said.derived:
        bases = {n for n, _ in names(value)}
        bases |= {i.name for n in bases if n in tensors for i in tensors[n]}
        if index.name in over or index.name in found or index.name in tree.parents:
            mistakes.add("two-definitions", f"`{index.name}` is batched twice", index.span, "again here")
        elif strange := sorted(bases & (said.sources().keys() | equations) - over - found.keys()):
            message = f"`{index.name}` must follow from batched indices, and {listed(strange)} is none"
            mistakes.add("bad-over", message, index.span, "", f"name {listed(strange)} under `over`")
            found[index.name] = anyhow
        elif not bases & (over | found.keys()):
            message = f"`{index.name}` does not follow from a batched index"
            mistakes.add("bad-over", message, index.span, "", "`over b, h with g = h // (|h| // |g|)`")
            found[index.name] = anyhow
        else:
            found[index.name] = value
    for split in said.splits:
        if tree.role(split.index.name) == "batch":
            for part, op in ((split.outer, "//"), (split.inner, "%")):
                if part.name not in over:
                    found[part.name] = ast.Binary(
                        op, ast.Name(split.index.name, split.span), split.by, split.span
                    )
    return found


def _displaced(scope: Scope, said: Statements, mistakes: Mistakes) -> None:
    """What cannot be: an index both batched and a sequence, a split of an index that does not begin at 0."""
    batched = set(scope.batch)
    for index in (*said.along, *(i for a in said.aligns for i in (a.index, a.to))):
        if index.name in batched:
            message = f"`{index.name}` is batched, and a sequence here"
            mistakes.add(
                "role-clash", message, index.span, "", "take it out of `over`, or write of another index here"
            )
    for split in said.splits:
        known = scope.indices[split.index.name]
        if known.align is not None and scope.displaced(known.name):
            name, to, start = known.name, known.align.to.name, known.space
            message = (
                f"`{name}` does not begin at position 0, so that its blocks would not be those of `{to}`"
            )
            width = _written(split.by)
            help = f"split `{start}`, and write `{name} // {width}` for the block that `{name}` is in"
            mistakes.add(
                "split-aligned", message, split.index.span, "", help, Label(known.align.span, "aligned")
            )


def _written(size: ast.Expr) -> str:
    match size:
        case ast.Name():
            return size.name
        case ast.Number():
            return str(size.value)
        case _:
            return "block"
