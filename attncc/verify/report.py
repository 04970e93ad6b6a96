"""What a trial found: what was tried, the worst row, and the smallest call that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
class Report:
    """What was tried, and what came out. `failure` is what failed, shrunk; None if nothing did."""

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
    values: dict[str, set[Any]] = field(default_factory=dict)
    worst: Row | None = None
    failure: Wrong | None = None

    @property
    def right(self) -> bool:
        """Whether every call that was tried is right, and there was a row to try."""
        return self.failure is None and self.rows > 0

    def enter(self, case: Case, worst: Row, rows: int) -> None:
        """Counts one call that is right."""
        self.tried += 1
        self.rows += rows
        for name, value in {"dtype": case.dtype, **case.extents, **case.numbers}.items():
            self.values.setdefault(name, set()).add(value)
        self.values.setdefault("layout", set()).update(made.layout for made in case.made.values())
        if rows and (self.worst is None or worst.ratio > self.worst.ratio):
            self.worst = worst

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
            "failure": self.failure and {"case": self.failure.case.data(), "said": self.failure.said},
        }

    def text(self) -> str:
        """The same in words."""
        lines = [
            f"{self.pattern} on {self.device}: {self.tried} calls, {self.rows:,} rows of"
            f" {', '.join(self.outputs)}; seed {self.seed}"
        ]
        lines += [f"  {name}: {_range(found)}" for name, found in self.values.items()]
        if self.meaningless:
            lines.append(f"set aside: {self.meaningless} that have no meaning ({self.said})")
        if self.unbounded or self.sensitive:
            lines += [
                f"set aside: {self.unbounded} where PyTorch's result is not finite, {self.sensitive} where",
                "  it is as far off at arguments nearby; `assume x in [low, high]` keeps one in its range",
            ]
        if self.worst is not None:
            lines += [f"worst row: {self.worst}", f"  in {self.worst.case}"]
        if self.failure is not None:
            lines += ["", f"WRONG: {self.failure.said}", f"  smallest call that fails: {self.failure.case}"]
        elif not self.rows:
            lines += ["", "NOTHING TRIED: no call that was drawn has rows with a finite result"]
        else:
            lines.append("right")
        return "\n".join(lines)


def _range(found: set[Any]) -> str:
    values = sorted(found)
    if len(values) <= 4 or not isinstance(values[0], int | float):
        return ", ".join(map(str, values))
    return f"{values[0]:.4g} to {values[-1]:.4g}, {len(values)} of them"
