"""What a trial found: what was tried, the worst row, and the smallest call that is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attncc.diagnostics import PatternError

if TYPE_CHECKING:
    from attncc.verify.drawn import Case


@dataclass(frozen=True)
class Row:
    """One row of an output: its position by index, and its error over its bound."""

    output: str
    position: Mapping[str, int]
    ratio: float
    case: Case

    def data(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "output": self.output,
            "position": dict(self.position),
            "ratio": self.ratio,
            "case": self.case.data(),
        }

    def __str__(self) -> str:
        at = ", ".join(f"{name} = {n}" for name, n in self.position.items())
        return f"{self.output} at {at}: {self.ratio:.2f} of its bound"


class Wrong(Exception):
    """A call whose output is not right, or that raises: the case, and what is wrong with it."""

    def __init__(self, case: Case, said: str):
        self.case, self.said = case, said
        super().__init__(said)


@dataclass
class Certificate:
    """The operator of a pass over an index: how often it was tried on parts, and how far off its states and
    the outputs were at worst, next to the magnitudes of what they are sums of.
    """

    index: str
    states: tuple[str, ...]
    tried: int = 0
    errors: dict[str, float] = field(default_factory=dict)

    @property
    def worst(self) -> float:
        """The largest error of all."""
        return max(self.errors.values(), default=0.0)

    def enter(self, errors: Mapping[str, float]) -> None:
        """Counts one call that is right."""
        self.tried += 1
        self.errors |= {name: max(error, self.errors.get(name, 0.0)) for name, error in errors.items()}

    def data(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        return {
            "index": self.index,
            "states": list(self.states),
            "tried": self.tried,
            "worst": self.worst,
            "errors": dict(self.errors),
        }

    def __str__(self) -> str:
        return (
            f"{', '.join(self.states)} over {self.index}: {self.tried} calls, {self.worst:.1e} off at worst"
        )


@dataclass
class Report:
    """What was tried, and what came out. `failure` is what failed, shrunk; None if nothing did. `refused` is
    the rule by which there is no kernel to try, `ungraded` that by which there is none of the gradients.
    `worst_of` is the worst row of every gradient, next to its bound.
    """

    pattern: str
    device: str
    seed: int
    outputs: tuple[str, ...]
    tried: int = 0
    rows: int = 0
    meaningless: int = 0
    said: str = ""
    unbounded: int = 0
    sensitive: int = 0
    graded: int = 0
    unsteady: int = 0
    worst_of: dict[str, float] = field(default_factory=dict)
    values: dict[str, set[Any]] = field(default_factory=dict)
    worst: Row | None = None
    failure: Wrong | None = None
    certificates: tuple[Certificate, ...] = ()
    refused: PatternError | None = None
    ungraded: PatternError | None = None

    @property
    def right(self) -> bool:
        """Whether every call that was tried is right, and there was a row to try."""
        tried = self.rows > 0 and all(c.tried for c in self.certificates)
        return self.failure is None and self.refused is None and tried

    def enter(self, case: Case, worst: Row, rows: int) -> None:
        """Counts one call that is right."""
        self.tried += 1
        self.rows += rows
        for name, value in {"dtype": case.dtype, **case.extents, **case.numbers}.items():
            self.values.setdefault(name, set()).add(value)
        self.values.setdefault("layout", set()).update(made.layout for made in case.made.values())
        if rows and (self.worst is None or worst.ratio > self.worst.ratio):
            self.worst = worst

    def grade(self, worst: Mapping[str, float]) -> None:
        """Counts the gradients of one call, which are right."""
        self.graded += 1
        for name, ratio in worst.items():
            self.worst_of[name] = max(self.worst_of.get(name, 0.0), ratio)

    def data(self) -> dict[str, Any]:
        """Plain data with stable keys."""
        return {
            "pattern": self.pattern,
            "device": self.device,
            "seed": self.seed,
            "outputs": list(self.outputs),
            "right": self.right,
            "tried": self.tried,
            "rows": self.rows,
            "set_aside": {
                "meaningless": self.meaningless,
                "not_finite": self.unbounded,
                "sensitive": self.sensitive,
            },
            "values": {name: sorted(found) for name, found in self.values.items()},
            "worst": self.worst and self.worst.data(),
            "gradients": {
                "calls": self.graded,
                "set_aside": self.unsteady,
                "worst": dict(self.worst_of),
                "refused": self.ungraded and [d.message for d in self.ungraded.diagnostics],
            },
            "certificates": [certificate.data() for certificate in self.certificates],
            "refused": self.refused and [d.message for d in self.refused.diagnostics],
            "failure": self.failure and {"case": self.failure.case.data(), "said": self.failure.said},
        }

    def text(self) -> str:
        """The same in words."""
        lines = [*(self._tried() if self.refused is None else ()), *self._certified()]
        if self.failure is not None:
            lines += ["", f"WRONG: {self.failure.said}", f"  smallest call that fails: {self.failure.case}"]
        elif self.refused is not None:
            lines.append(f"{self.pattern}: no kernel to try")
        elif not self.right:
            lines += ["", "NOTHING TRIED: no call that was drawn has rows with a finite result"]
        else:
            lines.append("right")
        return "\n".join(lines)

    def _tried(self) -> Iterator[str]:
        """The calls of the kernel."""
        rows = f"{self.rows:,} rows of {', '.join(self.outputs)}"
        yield f"{self.pattern} on {self.device}: {self.tried} calls, {rows}; seed {self.seed}"
        yield from (f"  {name}: {_range(found)}" for name, found in self.values.items())
        if self.meaningless:
            yield f"set aside: {self.meaningless} that have no meaning ({self.said})"
        if self.unbounded or self.sensitive:
            yield f"set aside: {self.unbounded} where PyTorch's result is not finite, {self.sensitive} where"
            yield "  it is as far off at arguments nearby; `assume x in [low, high]` keeps one in its range"
        if self.worst is not None:
            yield f"worst row: {self.worst}"
            yield f"  in {self.worst.case}"

        yield from self._graded()

    def _graded(self) -> Iterator[str]:
        """The gradients of these calls."""
        if self.ungraded is not None:
            yield f"no gradients: {'; '.join(d.message for d in self.ungraded.diagnostics)}"
        if self.graded:
            yield f"gradients of {self.graded} calls, the worst row of each next to its bound:"
            yield from (f"  {name}: {ratio:.2f}" for name, ratio in self.worst_of.items())
        if self.unsteady:
            yield f"set aside: the gradients of {self.unsteady} calls, whose terms cancel or are not finite"

    def _certified(self) -> Iterator[str]:
        """What was tried of parts, on any device."""
        if self.certificates:
            yield f"{self.pattern} in float64: parts merged in any order and tree give what all gives at once"
            yield from (f"  {certificate}" for certificate in self.certificates)


def _range(found: set[Any]) -> str:
    values = sorted(found)
    if len(values) <= 4 or not isinstance(values[0], int | float):
        return ", ".join(map(str, values))
    return f"{values[0]:.4g} to {values[-1]:.4g}, {len(values)} of them"
