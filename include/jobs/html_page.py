"""What the reports have in common: one HTML file without script or second file, in light and dark, on a screen, a telephone and paper.

Every text that comes from data passes through ``text``, every number through ``significant``, ``share`` or ``probability``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from html import escape
from typing import Any

from include.jobs.svg import minus, percent

ABSENT = "–"
P_VALUE = "p\u2011value"
"""With a hyphen at which no line is broken."""
_LONGEST_TEXT = 400
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_CONTROL = dict.fromkeys((*range(9), 11, 12, *range(14, 32), *range(127, 160)), "\ufffd")
_SHARES = {"precision_at_capacity", "recall_at_capacity", "card_precision_at_capacity", "savings", "savings_at_capacity"}
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --muted: #5c6773; --paper: #fff; --panel: #f5f7fa; --rule: #e1e6ec; --edge: #b9c2cd;
  --blue: #1f5fa8; --orange: #b86e0c; --grey: #9aa5b1; --good: #2f7d4f; --bad: #b3372f; --warm: #fdf6ec }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e9f0; --muted: #a3adba; --paper: #14181e; --panel: #1e242d; --rule: #2c343f;
  --edge: #4a5563; --blue: #6ea8ec; --orange: #e0a04c; --grey: #6d7885; --good: #62b987; --bad: #ef7f76; --warm: #33281a } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto; max-width: 66rem; padding: 0 1rem }
h1 { font-size: 1.6em; margin-bottom: .2rem } h2 { font-size: 1.23em; margin: 2.2rem 0 .6rem } a { color: var(--blue) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--rule); vertical-align: top }
th { font-weight: 600; border-bottom: 2px solid var(--edge) } th:first-child, td:first-child { text-align: left }
.note, figcaption { color: var(--muted); font-size: .95em } .scroll { overflow-x: auto; font-size: .93em }
.scroll th, .scroll td { padding-inline: .35rem }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1rem }
figure { margin: 0 } .charts svg { width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: var(--muted) }
svg .grid { stroke: var(--rule) } polyline { fill: none; stroke-width: 2 }
polyline.main { stroke: var(--blue) } polyline.other { stroke: var(--orange) } polyline.faint { stroke: var(--grey); stroke-dasharray: 4 3 }
circle.main { fill: var(--blue) } circle.other { fill: var(--orange) } .bar { height: .6rem; width: 8rem } .bar rect { fill: var(--blue) }
thead { display: table-header-group } tr { break-inside: avoid }
@media print { body { margin: 0; max-width: none } h2 { break-after: avoid } .scroll { overflow: visible } @page { margin: 12mm } }
"""


def page(title: str, body: Iterable[str], style: str = "") -> str:
    """The file. ``title``: plain text; ``body``: pieces of HTML; ``style``: CSS after the common one."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(cleaned(title))}</title><style>{_STYLE}{style}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """``heads`` and cells are HTML; without any head there is no head row. ``style``: a CSS class."""
    head = "".join(f"<th>{cell}</th>" for cell in heads) if any(heads) else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    named = f' class="{style}"' if style else ""
    return f"<table{named}><thead>{f'<tr>{head}</tr>' if head else ''}</thead><tbody>{body}</tbody></table>"


def defined(value: Any) -> Any:
    """A JSON document with null instead of NaN and infinities, so that a page asks for None alone."""
    if isinstance(value, Mapping):
        return {key: defined(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [defined(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cleaned(value: object) -> str:
    """As text that UTF-8 and HTML can hold: lone surrogates and control characters become U+FFFD or ?, and what is very long is cut."""
    found = str(value).encode("utf-8", "replace").decode().translate(_CONTROL)
    return found if len(found) <= _LONGEST_TEXT else found[: _LONGEST_TEXT - 1] + "…"


def text(value: object) -> str:
    """HTML of a text from data. ``bdi`` keeps one that is written right to left from turning its surroundings round."""
    return f"<bdi>{escape(cleaned(value))}</bdi>"


def sentence(value: object) -> str:
    """``text`` of a sentence, ended by a full stop where it has no end of its own."""
    found = cleaned(value).rstrip()
    return text(found if found.endswith((".", "!", "?", "…")) else f"{found}.")


def significant(value: float | None, digits: int = 3, sign: str = "") -> str:
    """3 significant digits, no exponent between .0001 and a million: 0.0412, 12.3, 4,321. "–" where there is no finite number."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent > 8:
        factor = f"{value / 10.0**exponent:{sign}.{digits - 1}f}" if exponent > -300 else f"{value:{sign}.0e}".split("e")[0]
        return minus(f"{factor}×10{str(exponent).translate(_SUPERSCRIPTS)}")
    return minus(f"{value:{sign},.{max(0, digits - 1 - exponent)}f}")


def threshold(value: float | None) -> str:
    """A number that somebody set, as it was set: 0.03, 1.5."""
    return ABSENT if value is None or not math.isfinite(value) else minus(f"{value:.6g}")


def share(value: float | None) -> str:
    """0.05 → "5%", 0.0123 → "1.2%"; what is not nought never reads as 0%. "–" where there is no finite number."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return "<0.01%" if 0 < value < 1e-4 else percent(value) if value < 0.1 or value >= 0.9995 else f"{100 * value:.3g}%"


def probability(value: float | None) -> str:
    """A p-value or level: two digits, and nothing below 10⁻¹², where digits mean nothing."""
    if value is None or not math.isfinite(value):
        return ABSENT
    return "<10⁻¹²" if value < 1e-12 else significant(value, 2)


def metric_value(name: str, value: float | None, sign: str = "") -> str:
    """A metric of ``include.lifecycle.evaluation.METRICS`` in its unit: shares as percent, costs as money, the rest to 4 decimals."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if is_share(name):
        return minus(f"{100 * value:{sign}.1f}%")
    return minus(f"{value:{sign},.2f}" if name == "expected_cost" else f"{value:{sign}.4f}")


def is_share(metric: str) -> bool:
    """Whether the metric is written as percent."""
    return metric in _SHARES


def day_in_words(day: str | None, weekday: bool = False) -> str:
    """Of a day or an instant in ISO 8601: "2026-03-04" → "4 March 2026"."""
    try:
        found = date.fromisoformat((day or "")[:10])
    except ValueError:
        return text(day) if day else ABSENT
    return f"{f'{found:%A} ' if weekday else ''}{found.day} {found:%B} {found.year}"
