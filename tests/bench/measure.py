"""What a measure found, and how all of them are shown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Measure:
    """One figure. `bar` is None for what is measured for the record only.

    `at_most`: the value may not be above the bar; otherwise it may not be below it. `ours` and `reference` are the raw
    figures that the value was made of, of every run.
    """

    name: str
    value: float
    unit: str
    bar: float | None = None
    aim: float | None = None
    at_most: bool = False
    ours: Mapping[str, object] = field(default_factory=dict)
    reference: Mapping[str, object] = field(default_factory=dict)

    @property
    def holds(self) -> bool | None:
        """Whether the value keeps the bar; None without one."""
        return None if self.bar is None else self._within(self.bar)

    def _within(self, limit: float) -> bool:
        return self.value <= limit if self.at_most else self.value >= limit

    def row(self) -> list[str]:
        """The cells of the table."""
        sign = "≤" if self.at_most else "≥"
        colour = "" if self.holds is None else "[green]" if self.holds else "[red]"
        reached = " ✓" if self.aim is not None and self._within(self.aim) else ""
        return [
            self.name,
            f"{colour}{self.value:.4g} {self.unit}",
            "" if self.bar is None else f"{sign} {self.bar:g}",
            "" if self.aim is None else f"{sign} {self.aim:g}{reached}",
            {None: "", True: "[green]yes", False: "[red]NO"}[self.holds],
            _brief(self.ours),
            _brief(self.reference),
        ]


def _brief(figures: Mapping[str, object]) -> str:
    return "\n".join(f"{name} {_number(value)}" for name, value in figures.items())


def _number(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_number, value))
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def show(measures: Sequence[Measure], console: Console) -> None:
    """Print the table."""
    table = Table("measure", "value", "bar", "aim", "holds", "ours", "reference")
    for measure in measures:
        table.add_row(*measure.row())
    console.print(table)


def save(measures: Sequence[Measure], machine: dict[str, object], file: Path) -> None:
    """Write everything as JSON."""
    rows = [{**asdict(measure), "holds": measure.holds} for measure in measures]
    file.write_text(json.dumps({"machine": machine, "measures": rows}, indent=1, default=str) + "\n")
