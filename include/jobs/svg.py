"""Charts as inline SVG, for reports that must open anywhere without a script or a second file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from html import escape

_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 20, 12, 44
_TICKS = 5
_SMALL_WIDTH, _SMALL_HEIGHT = 340, 190  # at the width of a telephone, 11 pixels of text are still 11 pixels
_SMALL_LEFT, _SMALL_RIGHT, _SMALL_TOP, _SMALL_BOTTOM = 48, 22, 20, 24
_LABEL_WIDTH = 44
Bounded = tuple[float, float | None, float | None]
"""A value with its lower and upper bound, where it has them."""


@dataclass(frozen=True)
class Series:
    """A line (or, with ``marks``, its points only). ``style``: a CSS class: "main", "other" or "faint"."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "main"
    marks: bool = False


def percent(value: float) -> str:
    """Of a share: 0.05 → "5%", 0.0123 → "1.2%"."""
    return f"{100 * value:.2g}%" if abs(value) < 0.1 else f"{100 * value:.0f}%"


def round_range(low: float, high: float) -> tuple[float, float]:
    """A range that holds both values, and whose ticks are round numbers, 0 among them where it lies inside."""
    step = 10.0 ** math.floor(math.log10((high - low) / _TICKS or 1.0))
    for each in (step * factor for factor in (1, 2, 2.5, 3, 4, 5, 10, 20)):
        first = math.floor(low / each)
        if (first + _TICKS) * each >= high:
            return first * each, (first + _TICKS) * each
    raise AssertionError("twenty times the step of a range spans it")


def line_chart(
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    *,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_format: Callable[[float], str] = percent,
    y_format: Callable[[float], str] = percent,
) -> str:
    """An SVG element. Points outside the ranges are cut off; a name that is not empty is shown when pointed at."""
    (x_low, x_high), (y_low, y_high) = x_range, y_range

    def across(value: float) -> float:
        return _LEFT + (value - x_low) / ((x_high - x_low) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - y_low) / ((y_high - y_low) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)} by {escape(x_label)}">']
    for step in range(_TICKS + 1):
        x, y = x_low + (x_high - x_low) * step / _TICKS, y_low + (y_high - y_low) * step / _TICKS
        parts += [
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{up(y):.1f}" y2="{up(y):.1f}"/>',
            f'<text x="{_LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{escape(y_format(y))}</text>',
            f'<text x="{across(x):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{escape(x_format(x))}</text>',
        ]
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    parts += [
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
    ]
    for line in series:
        inside = [(x, y) for x, y in zip(line.x, line.y, strict=True) if x_low <= x <= x_high and y_low <= y <= y_high]
        title = f"<title>{escape(line.name)}</title>"
        if line.marks:
            parts += [f'<circle class="{line.style}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="4">{title}</circle>' for x, y in inside]
        elif inside:
            points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in inside)
            parts.append(f'<polyline class="{line.style}" points="{points}">{title}</polyline>')
    return "".join([*parts, "</svg>"])


def bar(share: float) -> str:
    """A horizontal bar for a table cell, ``share`` (0 to 1) of its width."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{width:.1f}" height="10"/></svg>'
    )


def pair_of_bars(then: float, now: float) -> str:
    """Two horizontal bars for a table cell, one above the other, ``then`` and ``now`` (0 to 1) of its width."""
    first, second = (100 * min(max(value, 0.0), 1.0) for value in (then, now))
    return (
        '<svg class="pair" viewBox="0 0 100 18" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="then" width="{first:.1f}" y="1" height="7"/><rect class="now" width="{second:.1f}" y="9" height="7"/></svg>'
    )


def round_ticks(low: float, high: float) -> list[float]:
    """The multiples of a round number between two values, 3 to 6 of them; ``low`` < ``high``."""
    decade = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    for step in (decade * factor for factor in (1, 2, 2.5, 5, 10)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first <= _TICKS:
            return [step * number for number in range(first, last + 1)]
    raise AssertionError("ten times a fifth of a range, rounded down to a decade, has six multiples in it at most")


def tick_texts(ticks: Sequence[float], *, as_percent: bool = False) -> list[str]:
    """Ticks at equal steps, each with as many decimals as all of them need."""
    values = [(100.0 if as_percent else 1.0) * tick for tick in ticks]
    step = abs(values[1] - values[0]) if len(values) > 1 else abs(values[0]) or 1.0
    decimals = next((places for places in range(8) if all(abs(round(value, places) - value) <= 1e-6 * step for value in values)), 8)
    return [minus(f"{round(value, decimals) + 0.0:,.{decimals}f}{'%' if as_percent else ''}") for value in values]


def minus(number: str) -> str:
    """With the sign that typography has for it, as wide as a plus."""
    return number.replace("-", "−")


class _SmallChart:
    """A frame for small multiples: a vertical axis with ticks from ``low`` to ``high`` (above it), and places 0 to ``places`` - 1 across, each in
    the middle of its slot."""

    def __init__(self, label: str, low: float, high: float, places: int, *, as_percent: bool = False) -> None:
        self.low, self.high = low, high
        self.slot = (_SMALL_WIDTH - _SMALL_LEFT - _SMALL_RIGHT) / max(places, 1)
        self.parts = [f'<svg viewBox="0 0 {_SMALL_WIDTH} {_SMALL_HEIGHT}" role="img" aria-label="{escape(label)}">']
        ticks = round_ticks(low, high)
        for tick, text in zip(ticks, tick_texts(ticks, as_percent=as_percent), strict=True):
            y = self.up(tick)
            self.parts.append(f'<line class="grid" x1="{_SMALL_LEFT}" x2="{_SMALL_WIDTH - _SMALL_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.parts.append(_text(_SMALL_LEFT - 6, y + 4, text, "end"))

    def across(self, place: float) -> float:
        return _SMALL_LEFT + (place + 0.5) * self.slot

    def up(self, value: float) -> float:
        height = _SMALL_HEIGHT - _SMALL_TOP - _SMALL_BOTTOM
        return _SMALL_TOP + height * (1 - (value - self.low) / (self.high - self.low))

    def days(self, days: Sequence[date]) -> None:
        """The days below the places, as many as there is room for, the last one always."""
        each = math.ceil(_LABEL_WIDTH / self.slot)
        for place in range(len(days) - 1, -1, -each):
            self.parts.append(_text(self.across(place), _SMALL_HEIGHT - 8, f"{days[place].day} {days[place]:%b}", "middle"))

    def across_all(self, value: float, style: str) -> None:
        y = self.up(value)
        self.parts.append(f'<line class="{style}" x1="{_SMALL_LEFT}" x2="{_SMALL_WIDTH - _SMALL_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')

    def element(self) -> str:
        return "".join([*self.parts, "</svg>"])


def day_bars(values: Sequence[tuple[date, float | None]], label: str, *, floor: float | None = None, began: date | None = None) -> str:
    """A bar a day, ``floor`` as a dashed line. Days that are left out between two others leave a gap.

    ``values``: at least one day, in order; None where there is no value. ``began``: that day is marked, if it is among them, and the bars from it
    on have the colour of "other".
    """
    first, last = values[0][0], values[-1][0]
    calendar = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    known = [value for _, value in values if value is not None]
    chart = _SmallChart(label, min(0.0, *known, 0.0), 1.04 * max(1.2 * (floor or 0.0), *known, 1e-9), len(calendar))
    width = min(0.7 * chart.slot, 26.0)
    for day, value in values:
        if value is not None:
            x, style = chart.across((day - first).days), "other" if began is not None and day >= began else "main"
            top, bottom = sorted((chart.up(value), chart.up(0.0)))
            chart.parts.append(
                f'<rect class="{style}" x="{x - width / 2:.1f}" width="{width:.1f}" y="{top:.1f}" height="{bottom - top:.1f}">'
                f"<title>{day}: {value:.4f}</title></rect>"
            )
    chart.across_all(0.0, "axis")
    chart.days(calendar)
    if floor is not None:
        chart.across_all(floor, "floor")
        chart.parts.append(_text(_SMALL_LEFT + 3, chart.up(floor) - 4, f"floor {floor:g}", "start", "on-top"))
    if began is not None and first <= began <= last:
        x = chart.across((began - first).days) - chart.slot / 2
        anchor, aside = ("start", x + 3) if x < _SMALL_WIDTH * 0.7 else ("end", x - 3)
        chart.parts.append(f'<line class="began" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{_SMALL_HEIGHT - _SMALL_BOTTOM}"/>')
        chart.parts.append(_text(aside, 12, f"began {began.day} {began:%b}", anchor, "on-top"))
    return chart.element()


@dataclass(frozen=True)
class Intervals:
    """A value with its bounds for each place, None where there is none. ``style``: "main" is drawn as dots with whiskers, "other" as open
    dots with dashed whiskers, a little to the right. Whiskers much longer than the others are cut off at the edge."""

    name: str
    values: Sequence[Bounded | None]
    style: str = "main"


def interval_chart(
    series: Sequence[Intervals], days: Sequence[date], label: str, *, band: Bounded | None = None, as_percent: bool = False
) -> str:
    """Values with whiskers over time, ``days`` naming the places. ``band``: what they are compared with, as a line and its bounds."""
    low, high = _reach([each for line in series for each in line.values if each is not None], band)
    chart = _SmallChart(label, low, high, len(days), as_percent=as_percent)
    if band:
        value, lower, upper = band
        if lower is not None and upper is not None:
            chart.parts.append(
                f'<rect class="band" x="{_SMALL_LEFT}" width="{_SMALL_WIDTH - _SMALL_LEFT - _SMALL_RIGHT}" y="{chart.up(upper):.1f}" '
                f'height="{chart.up(lower) - chart.up(upper):.1f}"/>'
            )
        chart.across_all(value, "floor")
    aside = min(0.16 * chart.slot, 7.0)
    for line in series:
        for place, each in enumerate(line.values):
            if each is not None:
                x = chart.across(place) + (aside if line.style == "other" else -aside) * (len(series) > 1)
                chart.parts.append(_whiskers(line, chart, x, days[place], each))
    chart.days(days)
    return chart.element()


def _reach(points: Sequence[Bounded], band: Bounded | None) -> tuple[float, float]:
    """A range for the values, the band, and whiskers of usual length: one of a few events may be so long that nothing else could be seen."""
    core = [value for value, _, _ in points] + [number for number in band or () if number is not None]
    bounds = [(low, high) for _, low, high in points if low is not None and high is not None]
    lengths = sorted(high - low for low, high in bounds)
    usual = max(max(core, default=0.0) - min(core, default=0.0), lengths[(len(lengths) - 1) // 2] if lengths else 0.0)
    least, most = min(core, default=0.0) - usual, max(core, default=0.0) + usual
    numbers = core + [min(max(number, least), most) for pair in bounds for number in pair]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return (low - room if low < 0 or low >= room else low), high + room


def _whiskers(line: Intervals, chart: _SmallChart, x: float, day: date, each: Bounded) -> str:
    value, low, high = each
    said, whisker = f"{line.name}, {day}: {value:.4g}", ""
    if low is not None and high is not None:
        said += f" ({low:.4g} to {high:.4g})"
        top, bottom = (chart.up(min(max(bound, chart.low), chart.high)) for bound in (high, low))
        whisker = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>'
    dot = f'<circle cx="{x:.1f}" cy="{chart.up(value):.1f}" r="3.5"/>'
    return f'<g class="whiskers {line.style}"><title>{escape(said)}</title>{whisker}{dot}</g>'


def _text(x: float, y: float, text: str, anchor: str, style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(text)}</text>'
