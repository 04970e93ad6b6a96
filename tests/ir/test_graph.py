"""Questions to the dataflow of small cascades."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from attncc.ir.cascade import Cascade, Equation, number, reads
from attncc.ir.graph import between, dataflow, live, order, readers, recurrent
from tests.ir import cascades as c
from tests.ir.cascades import at, made, op, over


def with_statistics() -> Cascade:
    """Attention, and two equations that no output needs."""
    peak = Equation(made("peak", c.b, c.h, c.q), over("max", c.k, body=at(c.S)))
    twice = Equation(made("twice", c.b, c.h, c.q), op("*", 2, at(peak.tensor)))
    causal = c.causal()
    return replace(causal, equations=(*causal.equations, peak, twice))


def test_dataflow() -> None:
    graph = dataflow(with_statistics())
    assert sorted(graph.edges) == [
        ("K", "S"),
        ("P", "O"),
        ("Q", "S"),
        ("S", "P"),
        ("S", "peak"),
        ("V", "O"),
        ("peak", "twice"),
    ]
    assert graph.nodes["S"]["tensor"] == c.S and graph.nodes["K"]["tensor"] == c.K
    assert graph.edges["K", "S"]["at"] == (at(c.K, c.b, c.shared, c.k, c.d),)
    assert graph.edges["V", "O"]["at"] == tuple(
        r for r in reads(c.causal().equation("O").body) if r.tensor == c.V
    )


def test_queries() -> None:
    cascade = with_statistics()
    assert order(cascade) == ("S", "P", "O", "peak", "twice")
    assert live(cascade) == ("S", "P", "O")
    assert live(replace(cascade, outputs=(made("twice", c.b, c.h, c.q),))) == ("S", "peak", "twice")
    assert readers(cascade, "S") == ("P", "peak")
    assert readers(cascade, "twice") == ()
    assert between(cascade, "Q", "O") == ("S", "P", "O")
    assert between(cascade, "S", "twice") == ("S", "peak", "twice")
    assert between(cascade, "V", "P") == ()
    assert between(cascade, "P", "P") == ("P",)


def test_recurrent_groups() -> None:
    assert recurrent(c.causal()) == ()
    assert recurrent(c.memory()) == (("S",),)
    assert recurrent(c.pair()) == (("z", "y"),)
    pair, single = c.pair(), Equation(made("s", c.t), number(1.0))
    again = Equation(made("u", c.t), op("+", at(made("u", c.t), op("-", c.t, 1)), at(c.y)))
    both = replace(pair, equations=(single, *pair.equations, again))
    assert recurrent(both) == (("z", "y"), ("u",))


def test_a_cascade_without_recurrence_leaves_networkx_alone() -> None:
    code = (
        "import sys\nfrom tests.ir import cascades\nfrom attncc.ir.verify import verified\n"
        "verified(cascades.causal())\nassert 'networkx' not in sys.modules\n"
        "verified(cascades.memory())\nassert 'networkx' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
