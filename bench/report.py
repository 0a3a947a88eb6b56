"""What every benchmark ends with: a table on the terminal and ``.local/bench/NAME.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / ".local" / "bench"


@dataclass(frozen=True)
class Figure:
    """One measured value. ``at_least`` says which side of ``goal`` is good: True, the value must reach it; False, it must not exceed it.
    Without a goal the figure is only shown (``at_least`` is None)."""

    value: float
    goal: float | None = None
    at_least: bool | None = None

    def __post_init__(self) -> None:
        if (self.goal is None) != (self.at_least is None):
            raise ValueError("a figure has a goal and its side (at_least), or neither")

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal. NaN meets no goal."""
        if self.goal is None or math.isnan(self.value):
            return None if self.goal is None else False
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    @property
    def wanted(self) -> str:
        return "" if self.goal is None else f"{'≥' if self.at_least else '≤'} {self.goal:g}"


def publish(name: str, figures: Mapping[str, Figure]) -> None:
    """Prints the figures as a table and writes them to ``.local/bench/<name>.json``: {figure: {"value", "goal", "met"}}."""
    width = max(len(figure) for figure in figures)
    print(f"\n{name}\n{'figure':<{width}}  {'value':>10}  {'goal':>10}  met")
    for figure, measured in figures.items():
        verdict = {None: "", True: "yes", False: "NO"}[measured.met]
        print(f"{figure:<{width}}  {measured.value:>10.4g}  {measured.wanted:>10}  {verdict}".rstrip())
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    content = {
        figure: {"value": None if math.isnan(measured.value) else measured.value, "goal": measured.goal, "met": measured.met}
        for figure, measured in figures.items()
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written to {path}")
