"""The figure of a rollout as inline SVG: three panels over the data's time, one above the other. Share and cap; the difference in cost with its
confidence sequence, and the margin; the guardrails' readings, each relative to its limit.

Text keeps its size, so a chart is drawn for a width: once for screens and paper, once for telephones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import escape
from itertools import pairwise

from include.jobs.svg import round_ticks, tick_texts
from include.lifecycle.as_of import utc
from include.lifecycle.experiment import Entry, Experiment
from include.lifecycle.guardrails import NAMES

WIDE, NARROW = 760, 350
STYLE = """
svg .frame { stroke: var(--edge) } svg .began { stroke: var(--edge); stroke-dasharray: 2 3 } svg .axis { stroke: var(--muted) }
svg .limit { stroke: var(--bad); stroke-dasharray: 5 3 } polyline.margin { stroke: var(--orange); stroke-dasharray: 5 3 }
svg .band { fill: var(--blue); opacity: .18 } svg .tripped { fill: var(--bad) } svg text.head { fill: var(--ink); font-weight: 600 }
polyline.cap { stroke: var(--orange); stroke-dasharray: 5 3 } polyline.guard { stroke-width: 1.6 } .guard-1 { stroke-dasharray: 6 2 }
.guard-0 { stroke: #1f77b4 } .guard-1 { stroke: #d95f02 } .guard-2 { stroke: #7570b3 } .guard-3 { stroke: #1b9e77; stroke-dasharray: 6 2 }
.guard-4 { stroke: #c2378a; stroke-dasharray: 2 2 } .guard-5 { stroke: #8a7a1f; stroke-dasharray: 8 2 2 2 }
svg .dot { fill: var(--paper); stroke-width: 1.5 }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; padding: 0; margin: .3rem 0; font-size: .9em; color: var(--muted) }
.legend svg { width: 26px; height: 8px; margin-right: .35rem } .legend line { stroke-width: 2 }
.narrow { display: none } figure > svg { width: 100%; height: auto; display: block }
@media screen and (max-width: 34rem) { .wide { display: none !important } .narrow { display: block !important } }
"""
SHOWN = {
    "heartbeat": "age of the last heartbeat", "errors": "errors", "latency": "p99 latency", "reviews": "reviews",
    "scores": "distance of scores", "sample_ratio": "split of the entities (logarithm of its p-value)",
}  # fmt: skip

_LEFT, _RIGHT, _TOP, _BOTTOM, _PANEL, _BETWEEN = 54, 12, 44, 24, 118, 34
_DAY = timedelta(days=1)
_HIGHEST = 2.0
"""Of a reading relative to its limit: more is drawn at the edge."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Bound:
    """A point of a confidence sequence; an end is None where there is none."""

    at: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Relative:
    """A guardrail's reading over its limit: from 1 on it is beyond. ``value`` None: not judged."""

    at: float
    value: float | None
    tripped: bool
    says: str


@dataclass(frozen=True)
class Drawn:
    """What the panels show. Instants are days since 1970. ``stages``: from when on. ``differences``: what was looked at, one sequence in shadow, one
    in the ramp; ``margins``: of the looks in the ramp."""

    first: float
    last: float
    shares: Sequence[tuple[float, float, float]]
    stages: Sequence[tuple[float, str]]
    differences: Sequence[Sequence[Bound]]
    margins: Sequence[Point]
    readings: Mapping[str, Sequence[Relative]] = field(default_factory=dict)


def drawn(experiment: Experiment, entries: Sequence[Entry]) -> Drawn:
    """``entries``: in order, one at least."""
    times = [_days(entry.as_of) for entry in entries]
    first, last = min(_days(experiment.opened), *times), max(times)
    stages = {times[0]: entries[0].stage}
    stages |= {at: now.stage for at, (then, now) in zip(times[1:], pairwise(entries), strict=True) if now.stage != then.stage}
    shares = [(at, entry.share, entry.cap) for at, entry in zip(times, entries, strict=True)]
    shadow, ramp, margins = _differences(entries, times)
    last = max(first + 1, last + 0.01 * (last - first))  # what the last look found is not on the edge
    return Drawn(first, last, shares, list(stages.items()), [shadow, ramp], margins, _readings(entries, times))


def _differences(entries: Sequence[Entry], times: Sequence[float]) -> tuple[list[Bound], list[Bound], list[Point]]:
    """In shadow, in the ramp, and the ramp's margins. An entry's evidence is of the stage before it; of several at one instant the last counts."""
    shadow: dict[float, Bound] = {}
    ramp: dict[float, Bound] = {}
    margins: dict[float, float] = {}
    for at, before, entry in zip(times, [entries[0], *entries], entries, strict=False):
        found = entry.evidence.get("difference") or {}
        if found.get("value") is None:
            continue
        in_shadow = before.stage in {"shadow", "proven"}
        (shadow if in_shadow else ramp)[at] = Bound(at, found["value"], found.get("low"), found.get("high"))
        if not in_shadow and entry.evidence.get("margin") is not None:
            margins[at] = entry.evidence["margin"]
    return list(shadow.values()), list(ramp.values()), list(margins.items())


def _readings(entries: Sequence[Entry], times: Sequence[float]) -> dict[str, list[Relative]]:
    found: dict[str, dict[float, Relative]] = {}
    for at, entry in zip(times, entries, strict=True):
        for reading in entry.evidence.get("readings") or ():
            its = Relative(at, relative(reading["name"], reading["value"], reading["limit"]), reading["tripped"], reading["says"])
            before = found.setdefault(reading["name"], {}).get(at)
            if before is None or not before.tripped:  # of several looks at one instant the last, or the one that tripped
                found[reading["name"]][at] = its
    return {name: list(found[name].values()) for name in sorted(found, key=lambda name: (*NAMES, name).index(name))}


def relative(name: str, value: float | None, limit: float) -> float | None:
    """A reading over its limit; of a p-value, which must stay above it, the logarithms'. 1 is the limit either way."""
    if value is None or not limit:
        return None
    if name == "sample_ratio":
        return math.log(max(value, 1e-300)) / math.log(limit) if 0 < limit < 1 else None
    return value / limit


def chart(what: Drawn, currency: str, width: int) -> str:
    """The SVG element, for a width in pixels."""
    canvas = _Canvas(what.first, what.last, width, 3)
    _share_panel(canvas, what)
    _cost_panel(canvas, what, currency)
    _guard_panel(canvas, what)
    canvas.days()
    canvas.stages(what.stages)
    return canvas.element("Share, cost difference and guardrails over the data's time")


def legend(what: Drawn) -> str:
    """HTML. Of the guardrails that were read."""
    items = [(f"guard-{_number(name)}", SHOWN.get(name, name)) for name in what.readings]
    line = '<svg viewBox="0 0 26 8" aria-hidden="true"><line class="guard {}" x1="0" x2="26" y1="4" y2="4"/></svg>'
    return f'<ul class="legend">{"".join(f"<li>{line.format(style)}{escape(name)}</li>" for style, name in items)}</ul>' if items else ""


def _number(name: str) -> int:
    return NAMES.index(name) if name in NAMES else 0


def _share_panel(canvas: _Canvas, what: Drawn) -> None:
    top = max([0.01, *(max(share, cap) for _, share, cap in what.shares)])
    canvas.panel(0, 0.0, 1.05 * top, "Share of the entities (line), cap (dashes)", as_percent=True)
    for style, place in (("main", 1), ("cap", 2)):
        held = [(one[0], one[place]) for one in what.shares] + [(what.last, what.shares[-1][place])]
        steps: list[Point] = [held[0]]
        for (_, before), (at, value) in pairwise(held):
            steps += [(at, before), (at, value)]
        canvas.line(steps, style, "cap" if style == "cap" else "share")


def _cost_panel(canvas: _Canvas, what: Drawn, currency: str) -> None:
    low, high = cost_range(what)
    canvas.panel(1, low, high, f"Challenger − champion, {currency} an event")
    canvas.across_all(0.0, "axis")
    for line in what.differences:
        known = [bound for bound in line if bound.low is not None and bound.high is not None]
        canvas.area([(bound.at, bound.low or 0.0) for bound in known], [(bound.at, bound.high or 0.0) for bound in known])
        canvas.line([(bound.at, bound.value) for bound in line], "main", "difference in cost", dots=len(line) == 1)
    if what.margins:
        canvas.line(what.margins, "margin", "margin", dots=len(what.margins) == 1)


def cost_range(what: Drawn) -> tuple[float, float]:
    """Holds every value and margin, and of the sequences' ends what is of usual length: the first ones may be so wide that nothing else were seen."""
    points = [bound for line in what.differences for bound in line]
    core = [0.0, *(bound.value for bound in points), *(margin for _, margin in what.margins)]
    lengths = sorted(bound.high - bound.low for bound in points if bound.low is not None and bound.high is not None)
    usual = lengths[len(lengths) // 2] if lengths else 0.0
    least, most = min(core) - usual, max(core) + usual
    ends = [min(max(end, least), most) for bound in points for end in (bound.low, bound.high) if end is not None]
    low, high = min([*core, *ends]), max([*core, *ends])
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _guard_panel(canvas: _Canvas, what: Drawn) -> None:
    values = [each.value for line in what.readings.values() for each in line if each.value is not None]
    canvas.panel(2, min(0.0, *values, 0.0), min(_HIGHEST, max([1.2, *values])) * 1.04, "Guardrails: reading ÷ limit")
    canvas.across_all(1.0, "limit")
    canvas.text(_LEFT + 3, canvas.up(1.0) - 4, "limit", "start")
    for name, line in what.readings.items():
        style = f"guard guard-{_number(name)}"
        for run in _runs(line):
            canvas.line([(each.at, min(each.value or 0.0, _HIGHEST)) for each in run], style, SHOWN.get(name, name), dots=len(run) == 1)
    for line in what.readings.values():
        for each in (each for each in line if each.tripped):
            canvas.dot(each.at, 1.0 if each.value is None else min(each.value, _HIGHEST), each.says)


def _runs(line: Sequence[Relative]) -> list[list[Relative]]:
    """Readings next to each other that were judged."""
    runs: list[list[Relative]] = [[]]
    for each in line:
        if each.value is None:
            runs.append([])
        else:
            runs[-1].append(each)
    return [run for run in runs if run]


class _Canvas:
    """Panels of one width on one time axis."""

    def __init__(self, first: float, last: float, width: int, panels: int) -> None:
        self.first, self.last, self.width = first, last, width
        self.height = _TOP + panels * _PANEL + (panels - 1) * _BETWEEN + _BOTTOM
        self.parts: list[str] = []
        self.bottom, self.low, self.high = 0.0, 0.0, 1.0
        self.clip = ""

    def panel(self, number: int, low: float, high: float, title: str, *, as_percent: bool = False) -> None:
        top = _TOP + number * (_PANEL + _BETWEEN)
        self.low, self.high, self.bottom = low, high, float(top + _PANEL)
        self.clip = f"panel-{self.width}-{number}"
        right = self.width - _RIGHT
        self.parts.append(f'<clipPath id="{self.clip}"><rect x="{_LEFT}" y="{top}" width="{right - _LEFT}" height="{_PANEL}"/></clipPath>')
        ticks = round_ticks(low, high)
        for tick, shown in zip(ticks, tick_texts(ticks, as_percent=as_percent), strict=True):
            y = self.up(tick)
            self.parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.text(_LEFT - 6, y + 4, shown, "end")
        self.parts.append(f'<line class="frame" x1="{_LEFT}" x2="{right}" y1="{self.bottom:.1f}" y2="{self.bottom:.1f}"/>')
        self.text(_LEFT, top - 7, title, "start", "head")

    def across(self, at: float) -> float:
        return _LEFT + (at - self.first) / (self.last - self.first) * (self.width - _LEFT - _RIGHT)

    def up(self, value: float) -> float:
        return self.bottom - (value - self.low) / (self.high - self.low) * _PANEL

    def line(self, points: Sequence[Point], style: str, name: str, *, dots: bool = False) -> None:
        shown, title = self._points(points), f"<title>{escape(name)}</title>"
        self.parts.append(f'<polyline class="{style}" clip-path="url(#{self.clip})" points="{shown}">{title}</polyline>')
        if dots:
            for at, value in points:
                self.parts.append(
                    f'<circle class="dot {style}" cx="{self.across(at):.1f}" cy="{self.up(value):.1f}" r="2.5">{title}</circle>'
                )

    def area(self, lower: Sequence[Point], upper: Sequence[Point]) -> None:
        """Between two lines over the same instants; over one, a line."""
        if len(lower) == 1:
            self.line([lower[0], upper[0]], "main", "both ends of the confidence sequence")
            return
        points = self._points([*lower, *reversed(upper)])
        self.parts.append(f'<polygon class="band" clip-path="url(#{self.clip})" points="{points}"/>')

    def _points(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.across(at):.1f},{self.up(value):.1f}" for at, value in points)

    def dot(self, at: float, value: float, says: str) -> None:
        title = f"<title>{escape(says)}</title>"
        self.parts.append(f'<circle class="tripped" cx="{self.across(at):.1f}" cy="{self.up(value):.1f}" r="4.5">{title}</circle>')

    def across_all(self, value: float, style: str) -> None:
        y = self.up(value)
        self.parts.append(f'<line class="{style}" x1="{_LEFT}" x2="{self.width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')

    def text(self, x: float, y: float, shown: str, anchor: str, style: str = "") -> None:
        named = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(shown)}</text>')

    def days(self) -> None:
        """Below the last panel, as many as there is room for."""
        room = max(1, (self.width - _LEFT - _RIGHT) // 62)
        step = max(1, math.ceil((self.last - self.first) / room))
        for day in range(math.ceil(self.first), math.floor(self.last) + 1, step):
            when = datetime.fromtimestamp(0, UTC) + day * _DAY
            x = self.across(day)
            self.text(x, self.height - 7, f"{when.day} {when:%b}", "end" if x > self.width - 30 else "middle")

    def stages(self, stages: Sequence[tuple[float, str]]) -> None:
        """A line through all panels where a stage began, its name above, in two rows so that neighbours do not cover each other."""
        for number, (at, stage) in enumerate(stages):
            x = self.across(at)
            if number:
                self.parts.append(f'<line class="began" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 18}" y2="{self.height - _BOTTOM}"/>')
            late = x > self.width - 80
            self.text(x - 3 if late else x + 3 * bool(number), 11 + 13 * (number % 2), stage.replace("_", " "), "end" if late else "start")

    def element(self, label: str) -> str:
        return f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(label)}">{"".join(self.parts)}</svg>'


def _days(instant: str) -> float:
    """Since 1970, UTC."""
    return utc(instant).timestamp() / _DAY.total_seconds()
