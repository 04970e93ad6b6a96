"""Cascade → graph: which tensor is read by which, and the questions one asks of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attncc.ir.cascade import Cascade, Read, reads

if TYPE_CHECKING:
    import networkx as nx


def dataflow(cascade: Cascade) -> nx.DiGraph[str]:
    """Tensor names with their `tensor`; edges from what is read to what is written, with their reads."""
    import networkx as nx  # slow to load, and not always needed

    graph: nx.DiGraph[str] = nx.DiGraph()
    for tensor in (*cascade.inputs, *(e.tensor for e in cascade.equations)):
        graph.add_node(tensor.name, tensor=tensor)
    for equation in cascade.equations:
        found: dict[str, list[Read]] = {}
        for read in reads(equation.body):
            found.setdefault(read.tensor.name, []).append(read)
        for name, at in found.items():
            graph.add_edge(name, equation.tensor.name, at=tuple(at))
    return graph


def recurrent(cascade: Cascade) -> tuple[tuple[str, ...], ...]:
    """Groups of equations that read each other, or themselves; groups and members in the cascade's order."""
    place = {name: n for n, name in enumerate(order(cascade))}
    if all(
        place.get(r.tensor.name, -1) < place[e.tensor.name] for e in cascade.equations for r in reads(e.body)
    ):
        return ()  # and networkx stays unloaded
    import networkx as nx

    graph = dataflow(cascade)
    groups = [
        tuple(sorted(group, key=place.__getitem__))
        for group in nx.strongly_connected_components(graph)
        if len(group) > 1 or any(graph.has_edge(name, name) for name in group)
    ]
    return tuple(sorted(groups, key=lambda group: place[group[0]]))


def order(cascade: Cascade) -> tuple[str, ...]:
    """Names of the equations, as they stand."""
    return tuple(e.tensor.name for e in cascade.equations)


def live(cascade: Cascade) -> tuple[str, ...]:
    """Equations that an output or a demand is, or needs; in the cascade's order."""
    import networkx as nx

    graph = dataflow(cascade)
    needed = {t.name for t in cascade.outputs}
    needed |= {
        r.tensor.name for d in cascade.demands for r in reads(d.value) if r.tensor.origin == "equation"
    }
    needed = needed.union(*(nx.ancestors(graph, name) for name in needed))
    return tuple(name for name in order(cascade) if name in needed)


def readers(cascade: Cascade, name: str) -> tuple[str, ...]:
    """Equations that read a tensor, in the cascade's order."""
    return tuple(
        e.tensor.name for e in cascade.equations if any(r.tensor.name == name for r in reads(e.body))
    )


def between(cascade: Cascade, first: str, last: str) -> tuple[str, ...]:
    """Equations on a path from one tensor to another, ends included, in the cascade's order."""
    import networkx as nx

    graph = dataflow(cascade)
    inside = ({first} | nx.descendants(graph, first)) & ({last} | nx.ancestors(graph, last))
    return tuple(name for name in order(cascade) if name in inside)
