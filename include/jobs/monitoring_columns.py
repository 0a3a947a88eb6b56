"""Columns in a monitoring report: those that moved with their shares then and now and their distance by day, all of them in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date
from operator import itemgetter
from typing import Any

from include.jobs.html_page import ABSENT, P_VALUE, cleaned, probability, sentence, share, significant, table, text, threshold
from include.jobs.svg import bar, day_bars, pair_of_bars

PICTURED = 12
_NUMERIC_CELLS, _LEVELS = 24, 12
_DAYS = 120
STYLE = """
.column { border-top: 1px solid var(--edge); padding: .8rem 0 1.2rem; break-inside: avoid }
.column h3 { margin: 0 0 .2rem; font-size: 1.08em; overflow-wrap: anywhere } .column p { margin: .2rem 0 .6rem }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem 2rem; align-items: start }
.plots figure { max-width: 34rem } .plots svg:not(.pair) { width: 100%; height: auto; max-width: 30rem; display: block }
.cells { width: 100%; font-size: .87em; line-height: 1.25 } .cells td, .cells th { padding: .12rem .35rem; border: 0; vertical-align: middle }
.cells td:first-child { width: 37%; overflow-wrap: anywhere } .cells td:nth-child(2) { width: 39% } .cells td:nth-child(n+3) { white-space: nowrap }
.cells th { border-bottom: 1px solid var(--rule) } .cells th:nth-child(2) { text-align: left } .cells .moved { font-weight: 600 }
.pair { width: 100%; height: 1.25em; display: block } rect.then { fill: var(--grey) } rect.now { fill: var(--blue) }
.key-then { color: var(--grey) } .key-now { color: var(--blue) }
rect.main { fill: var(--blue) } rect.other { fill: var(--orange) } line.axis { stroke: var(--edge) }
line.floor { stroke: var(--bad); stroke-dasharray: 5 3; stroke-width: 1.3 } line.began { stroke: var(--ink); stroke-dasharray: 2 3 }
svg text.on-top { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 3px }
.all td { white-space: nowrap } .all td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 9rem; max-width: 20rem }
.all .bar { width: 5rem; vertical-align: middle } .moved-row td { background: var(--panel) }
@media print { .all { font-size: .9em } .all .bar { width: 2.5rem } .all td:first-child { min-width: 6rem } }
"""

Json = Mapping[str, Any]


def size(column: Json) -> float:
    """What columns are ordered by: the effect over its floor; 0 where there is none."""
    effect, floor = column["effect"], column["minimum_effect"]
    return float(effect / floor if effect and floor else effect or 0.0)


def worst_first(columns: Sequence[Json]) -> list[Json]:
    """Those that drifted before the others, each part with the largest effect, measured by its floor, first."""
    return sorted(columns, key=lambda column: (not column["drifted"], -size(column), column["name"]))


def card(column: Json, heading: str | None = None, cells_title: str = "Share of rows") -> str:
    """One column: its sentence, the shares of its cells then and now, and, where it drifted, its distance by day (otherwise
    that is how single days scatter). ``heading``: instead of its name."""
    facts = " · ".join(
        part
        for part in (
            f"effect {significant(column['effect'])} (floor {threshold(column['minimum_effect'])})",
            f"{P_VALUE} {probability(column['p_value'])} (level {probability(column['level'])})" if column["p_value"] is not None else "",
            f"missing {share(column['missing']['baseline'])} → {share(column['missing']['current'])}" if _is_missing(column) else "",
            f"{column['rows']:,} rows" if column["rows"] is not None else "",
        )
        if part
    )
    plots = [plot for plot in (_cells(column, cells_title), _days(column) if column["drifted"] else "") if plot]
    return (
        f'<div class="column"><h3>{text(column["name"]) if heading is None else heading}</h3><p>{sentence(column["says"])}</p>'
        f'<p class="note">{facts}</p><div class="plots">{"".join(f"<figure>{plot}</figure>" for plot in plots)}</div></div>'
    )


def _is_missing(column: Json) -> bool:
    return any(column["missing"][side] for side in ("baseline", "current"))


def _cells(column: Json, title: str) -> str:
    if not column["baseline"] or not column["current"]:
        return ""  # one of the sides has no known value
    cells = shown_cells(column)
    largest = max(max(then, now) for _, then, now, single in cells if single) or 1.0
    moves = sorted((abs(now - then) for _, then, now, _ in cells), reverse=True)
    notable = moves[min(2, len(moves) - 1)]
    rows = []
    for label, then, now, single in cells:
        current = f'<span class="moved">{_percent(now)}</span>' if abs(now - then) >= notable > 0 else _percent(now)
        rows.append([text(label), pair_of_bars(then / largest, now / largest) if single else "", _percent(then), current])
    keys = '<span class="key-then">■</span> then <span class="key-now">■</span> now'
    return table([title, keys, "then", "now"], rows, "cells")


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%" if value >= 0.0005 or value <= 0 else "<0.1%"


def shown_cells(column: Json) -> list[tuple[str, float, float, bool]]:
    """(label, share then, share now, True): bins in their order; of many levels those that moved most, in their order, and the rest in one last
    line, with False."""
    pairs = zip(column["cells"], column["baseline"], column["current"], strict=True)
    cells = [(str(label), then or 0.0, now or 0.0, True) for label, then, now in pairs]
    most = _NUMERIC_CELLS if column["type"] == "numeric" else _LEVELS
    if len(cells) <= most + 1:
        return cells
    kept = set(sorted(range(len(cells)), key=lambda number: (-abs(cells[number][2] - cells[number][1]), number))[:most])
    rest = [cell for number, cell in enumerate(cells) if number not in kept]
    others = (f"{len(rest):,} others, which moved less", math.fsum(cell[1] for cell in rest), math.fsum(cell[2] for cell in rest), False)
    return [*(cells[number] for number in sorted(kept)), others]


def _days(column: Json) -> str:
    days = [(date.fromisoformat(each["day"]), each["distance"]) for each in sorted(column["days"], key=itemgetter("day"))][-_DAYS:]
    if len(days) < 2 or all(distance is None for _, distance in days):
        return ""
    began = date.fromisoformat(column["began"]) if column["began"] else None
    chart = day_bars(days, f"distance from the baseline by day: {cleaned(column['name'])}", floor=column["minimum_effect"], began=began)
    caption = "Distance of each day from the baseline; single days scatter more than the whole window, which is what is tested."
    return f"{chart}<figcaption>{caption}</figcaption>"


def all_columns(columns: Sequence[Json]) -> str:
    """Every column on a line of its own, worst first."""
    largest = max((column["effect"] for column in columns if column["effect"] is not None), default=0.0) or 1.0
    heads = ["Column", "Moved", "", "Effect", "Floor", P_VALUE, "Level", "Missing then", "now", "Began"]
    rows = ""
    for column in worst_first(columns):
        style = ' class="moved-row"' if column["drifted"] else ""
        rows += f"<tr{style}>" + "".join(f"<td>{cell}</td>" for cell in _line(column, largest)) + "</tr>\n"
    head = "".join(f"<th>{cell}</th>" for cell in heads)
    return f'<div class="scroll"><table class="all"><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>'


def _line(column: Json, largest: float) -> list[str]:
    effect = column["effect"]
    return [
        text(column["name"]),
        "<b>yes</b>" if column["drifted"] else "no",
        bar(effect / largest) if effect is not None else "",
        significant(effect),
        threshold(column["minimum_effect"]),
        probability(column["p_value"]),
        probability(column["level"]),
        share(column["missing"]["baseline"]),
        share(column["missing"]["current"]),
        text(column["began"]) if column["began"] else ABSENT,
    ]
