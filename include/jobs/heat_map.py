"""A heat map as inline SVG: a matrix with its numbers in the cells, in colours that those who confuse red and green tell apart as well."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from html import escape

Colour = tuple[int, int, int]

_CELL_WIDTH, _CELL_HEIGHT = 62, 26
_LEFT, _TOP, _LINE = 118, 40, 18
_WHITE, _BLUE, _ORANGE = (250, 251, 253), (31, 95, 168), (208, 118, 12)
_DARK = 0.45


class Colours(Enum):
    """SEQUENTIAL: white to blue, the lowest to the highest value. DIVERGING: blue below zero, orange above, white at zero, as far on both
    sides; LOW_IS_BAD: the other way round."""

    SEQUENTIAL = (_WHITE, _BLUE)
    DIVERGING = (_BLUE, _ORANGE)
    DIVERGING_LOW_IS_BAD = (_ORANGE, _BLUE)

    def of(self, value: float, low: float, high: float) -> tuple[Colour, bool]:
        """The colour of a value between ``low`` and ``high``, and whether it wants white text on it."""
        below, above = self.value
        if self is Colours.SEQUENTIAL:
            share = (value - low) / (high - low) if high > low else 0.5
            colour = _between(below, above, share)
        else:
            reach = max(-low, high, 0.0) or 1.0
            colour = _between(_WHITE, above if value > 0 else below, abs(value) / reach)
        luminance = sum(weight * part / 255 for weight, part in zip((0.2126, 0.7152, 0.0722), colour, strict=True))
        return colour, luminance < _DARK


@dataclass(frozen=True)
class HeatMap:
    """``rows``, ``columns``: their names; ``below``: lines of text under the columns. ``form`` writes a value."""

    rows: Sequence[str]
    columns: Sequence[str]
    rows_title: str
    columns_title: str
    below: Mapping[str, Sequence[str]]
    form: Callable[[float], str]
    colours: Colours

    def svg(self, values: Mapping[tuple[int, int], tuple[float, str]], title: str) -> str:
        """``values``: (row, column) → value and what is shown when the cell is pointed at; other cells stay blank."""
        width = _LEFT + _CELL_WIDTH * len(self.columns) + 4
        bottom = _TOP + _CELL_HEIGHT * len(self.rows)
        height = bottom + _LINE * (len(self.below) + 1)
        parts = [
            f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
            _text(_LEFT - 8, _TOP - 6, self.rows_title, "end"),
            _text(_LEFT, _TOP - 24, self.columns_title, "start"),
            *(_text(self._middle(number), _TOP - 6, name) for number, name in enumerate(self.columns)),
            *(_text(_LEFT - 8, _TOP + _CELL_HEIGHT * number + 17, name, "end") for number, name in enumerate(self.rows)),
        ]
        numbers = [value for value, _ in values.values()]
        for (row, column), (value, said) in sorted(values.items()):
            (red, green, blue), dark = self.colours.of(value, min(numbers), max(numbers))
            x, y = _LEFT + _CELL_WIDTH * column, _TOP + _CELL_HEIGHT * row
            parts += [
                f'<g><title>{escape(said)}</title><rect x="{x + 1}" y="{y + 1}" width="{_CELL_WIDTH - 2}" height="{_CELL_HEIGHT - 2}" '
                f'fill="rgb({red},{green},{blue})" stroke="#d5dbe3"/>',
                _text(self._middle(column), y + 17, self.form(value), style="value on-dark" if dark else "value"),
                "</g>",
            ]
        for line, (name, texts) in enumerate(self.below.items()):
            y = bottom + _LINE * (line + 1)
            parts += [_text(_LEFT - 8, y, name, "end"), *(_text(self._middle(number), y, text) for number, text in enumerate(texts))]
        return "".join([*parts, "</svg>"])

    def _middle(self, column: int) -> float:
        return _LEFT + _CELL_WIDTH * (column + 0.5)


def _between(low: Colour, high: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * min(max(share, 0.0), 1.0)) for a, b in zip(low, high, strict=True))
    return red, green, blue


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> str:
    named = f' class="{style}"' if style else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{named}>{escape(text)}</text>'
