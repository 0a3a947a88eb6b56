"""Charts as inline SVG, for reports that must open anywhere without a script or a second file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 20, 12, 44
_TICKS = 5


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
