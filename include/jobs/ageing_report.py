"""What ``ageing.json`` says (``include.jobs.history`` has its schema), for people: a page with heat maps, one file without script; a table for
the terminal; and a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from html import escape
from typing import Any

from include.jobs.heat_map import Colours, HeatMap
from include.jobs.html_page import ABSENT, page, table
from include.jobs.svg import Series, line_chart, round_range
from include.lifecycle.domain import Domain
from include.lifecycle.evaluation import METRICS

_STYLE = """
body { max-width: 70rem } .note, figcaption { max-width: 56rem } th, td { padding: .25rem .9rem } td { white-space: nowrap }
.answer { border-left: .5rem solid var(--blue); padding: .8rem 1.2rem; margin: 1.2rem 0; background: var(--panel); font-size: 1.1rem }
.metrics input { position: absolute; opacity: 0 }
.metrics label { display: inline-block; padding: .2rem .7rem; margin: 0 .25rem .35rem 0; border: 1px solid var(--edge); border-radius: 1rem }
.metrics label { cursor: pointer }
.metrics input:checked + label { background: var(--blue); border-color: var(--blue); color: var(--paper) }
.metrics input:focus-visible + label { outline: 3px solid var(--orange) }
.metrics figure { display: none; margin: .5rem 0 }
svg .value { font-size: 12px; fill: #1c2430 } svg .value.on-dark { fill: #fff } polyline.other { stroke: var(--grey) }
"""


@dataclass(frozen=True)
class _Shown:
    """A heat map: its title, how a cell's value is found and written, and its colours."""

    title: str
    caption: str
    value: Callable[[Mapping[str, Any]], Mapping[str, float | None]]
    form: str
    colours: Colours


def _heat_maps(content: Mapping[str, Any]) -> dict[str, _Shown]:
    money, measured = content["currency"], {name for cell in content["cells"] for name in cell["metrics"]}

    def metric(name: str) -> Callable[[Mapping[str, Any]], Mapping[str, float | None]]:
        return lambda cell: cell["metrics"][name]

    def difference(name: str) -> Callable[[Mapping[str, Any]], Mapping[str, float | None]]:
        return lambda cell: cell["versus_freshest"][name]

    newest = "Each model against the newest one there was, on the same events."
    shown = {
        "cost_above": _Shown(
            "Cost of the model's age",
            f"{newest} {money} that the events of the period cost more under its decisions; orange: a newer model would have paid.",
            difference("cost"),
            "{:+,.0f}",
            Colours.DIVERGING,
        ),
        "precision_below": _Shown(
            "Average precision against the newest",
            f"{newest} Difference in average precision; orange: worse than the newest.",
            difference("average_precision"),
            "{:+.3f}",
            Colours.DIVERGING_LOW_IS_BAD,
        ),
        "cost": _Shown(
            "Cost", f"{money} that the events of the period cost under its decisions.", metric("cost"), "{:,.0f}", Colours.SEQUENTIAL
        ),
    }
    for name in (
        "average_precision", "savings_at_capacity", "roc_auc", "precision_at_capacity", "recall_at_capacity", "card_precision_at_capacity",
        "expected_calibration_error",
    ):  # fmt: skip
        if name in measured:
            form = "{:.4f}" if name == "expected_calibration_error" else "{:.3f}"
            shown[name] = _Shown(METRICS[name], f"{METRICS[name]}, darker is higher.", metric(name), form, Colours.SEQUENTIAL)
    return shown


def html_report(domain: Domain, content: Mapping[str, Any]) -> str:
    """The page. The answer comes first, then the heat maps, what age does, and what each policy would have cost."""
    maps = _heat_maps(content)
    rules = "".join(f"#show-{name}:checked ~ #map-{name} {{ display: block }}\n" for name in maps)
    events, frauds = (sum(period[what] for period in content["periods"]) for what in ("events", "positives"))
    periods = content["periods"]
    blank: dict[str, list[str]] = {}
    for each in content["as_ofs"]:
        if each["note"]:
            blank.setdefault(each["note"], []).append(_instant(each["as_of"]))
    notes = [f"{' and '.join(as_ofs)}: {note}" for note, as_ofs in blank.items()]
    body = [
        f"<h1>{escape(domain.title)}: how models aged</h1>",
        f'<p class="note">{len(content["as_ofs"])} models, measured on {len(periods)} periods of {content["period_days"]} days from '
        f"{periods[0]['first_day']} to {periods[-1]['last_day']}: {events:,} events, {frauds:,} of them fraud, labels as known at "
        f"{_instant(content['as_of'])} UTC. A model is measured only on periods that begin after its as-of.</p>",
        f'<p class="answer">{escape(_answer(content))}</p>',
        "<h2>Every model on every later period</h2>",
        '<div class="metrics">',
        *(
            f'<input type="radio" name="metric" id="show-{name}"{"" if number else " checked"}>'
            f'<label for="show-{name}">{escape(shown.title)}</label>'
            for number, (name, shown) in enumerate(maps.items())
        ),
        *(_heat_map(name, shown, content) for name, shown in maps.items()),
        "</div>",
        *([f'<p class="note">Blank rows. {escape("; ".join(notes))}.</p>'] if notes else []),
        _by_age(content),
        _policies(content),
        _method(domain, content),
    ]
    return page(f"Ageing: {domain.title}", body, _STYLE + rules)


def _answer(content: Mapping[str, Any]) -> str:
    return content["sentence"] or "There are too few models and periods to tell whether training more often would have paid."


def _heat_map(name: str, shown: _Shown, content: Mapping[str, Any]) -> str:
    row = {each["as_of"]: number for number, each in enumerate(content["as_ofs"])}
    column = {period["first_day"]: number for number, period in enumerate(content["periods"])}
    chart = HeatMap(
        rows=[_instant(each["as_of"]) for each in content["as_ofs"]],
        columns=[_day(period["first_day"]) for period in content["periods"]],
        rows_title="as of",
        columns_title="period from",
        below={
            "events": [f"{period['events']:,}" for period in content["periods"]],
            "frauds": [f"{period['positives']:,}" for period in content["periods"]],
        },
        form=lambda value: shown.form.format(value) if value else "0",
        colours=shown.colours,
    )
    values = {}
    for cell in content["cells"]:
        at, found = (row[cell["as_of"]], column[cell["first_day"]]), shown.value(cell)
        if found["value"] is not None:
            bounds = "" if found["low"] is None else f" ({_bounds(found, shown.form)})"
            said = f"as of {_instant(cell['as_of'])}, period from {cell['first_day']}, age {cell['age']}: {shown.form.format(found['value'])}{bounds}"
            values[at] = (found["value"], said)
    return (
        f'<figure id="map-{name}"><div class="scroll">{chart.svg(values, shown.title)}</div>'
        f"<figcaption>{escape(shown.caption)} Point at a cell for its interval.</figcaption></figure>"
    )


def _by_age(content: Mapping[str, Any]) -> str:
    money, ages = content["currency"], content["by_age"]
    heads = ["Age", "Cells", "Average precision", "against the newest", "interval"]
    heads += [f"Cost, {money}", "against the newest", "interval", "Cheaper than it in"]
    rows = [
        [
            _age(each["age"], content["period_days"]),
            str(each["cells"]),
            _shown(each["mean"]["average_precision"], "{:.3f}"),
            *_with_bounds(each["versus_freshest"]["average_precision"], "{:+.4f}"),
            _shown(each["mean"]["cost"], "{:,.0f}"),
            *_with_bounds(each["versus_freshest"]["cost"], "{:+,.0f}"),
            f"{each['cheaper_than_freshest_in']} of {each['cells']}",
        ]
        for each in ages
    ]
    charts = "".join(
        f"<figure>{chart}</figure>"
        for chart in (
            _age_chart(ages, "average_precision", "average precision against the newest", "{:+.3f}"),
            _age_chart(ages, "cost", f"{money} a period against the newest", "{:+,.0f}"),
        )
    )
    return (
        "<h2>What a model's age does</h2>"
        + (f'<div class="charts">{charts}</div>' if len(ages) > 1 else "")
        + f'<div class="scroll">{table([escape(head) for head in heads], rows)}</div>'
        '<p class="note">Means over the cells of an age. Those of different ages are of different periods; the differences to the newest model are '
        "on the same events, and may be compared. The dashed lines are the bounds of their intervals. High ages are known of "
        "few models, the earliest: what looks like age there may also be what there was to learn from at the time.</p>"
    )


def _age_chart(ages: Sequence[Mapping[str, Any]], name: str, label: str, form: str) -> str:
    found = [(each["age"], each["versus_freshest"][name]) for each in ages if each["versus_freshest"][name]["low"] is not None]
    if not found:
        return ""
    x = [float(age) for age, _ in found]
    lines = {part: [each[part] for _, each in found] for part in ("value", "low", "high")}
    return line_chart(
        [
            Series("the newest model", [0.0, max(x)], [0.0, 0.0], "other"),
            Series("lower bound", x, lines["low"], "faint"),
            Series("upper bound", x, lines["high"], "faint"),
            Series("mean difference", x, lines["value"]),
            Series("", x, lines["value"], marks=True),
        ],
        "age, in periods", label, x_range=(0, -(-max(x) // 5) * 5), y_range=round_range(min(0.0, *lines["low"]), max(0.0, *lines["high"])),
        x_format="{:.0f}".format, y_format=form.format,
    )  # fmt: skip


def _policies(content: Mapping[str, Any]) -> str:
    money = content["currency"]
    most = content["policies"][0]["retraining"]
    heads = [
        "Training again",
        "Models",
        f"Cost of all periods, {money}",
        "interval",
        f"Saved by training {most}",
        "interval",
        "for each model more",
    ]
    rows = [
        [
            escape(each["retraining"]),
            str(each["models"]),
            *_with_bounds(each["cost"], "{:,.0f}"),
            *(_with_bounds(each["saved_by_most_frequent"], "{:+,.0f}") if number else ("", "")),
            _shown(each["each_retraining"], "{:+,.0f}") if number else "",
        ]
        for number, each in enumerate(content["policies"])
    ]
    without = [period["cost_without_model"] for period in content["periods"] if period["cost_without_model"] is not None]
    return (
        "<h2>What training more or less often would have cost</h2>" + f'<div class="scroll">{table([escape(head) for head in heads], rows)}</div>'
        '<p class="note">Always the newest model there was at the last training. The last column is what a training may cost for it to pay. Without '
        f"any model the same events would have cost {sum(without):,.0f} {escape(money)}.</p>"
    )


def _method(domain: Domain, content: Mapping[str, Any]) -> str:
    review, costs, money = domain.review, domain.costs, escape(content["currency"])
    capacity = f"{review.per_day} a day" if review.share is None else f"{review.share:.0%} of each day's"
    return (
        "<h2>How this was measured</h2>"
        f'<p class="note">Cost: each day, within the review capacity ({capacity}), the events are reviewed whose review is expected to save the '
        f"most, if anything. A review costs {costs.review:,.2f} {money}, a fraud that is not reviewed {costs.missed_share:.0%} of its amount. What "
        f"a training itself costs is not counted. Intervals ({content['confidence']:.0%}) are from {content['resamples']} resamples of whole groups "
        f"({escape(domain.leakage_group)}): they say how much is due to those who happened to be there, and nothing about periods to come.</p>"
    )


def text_table(domain: Domain, content: Mapping[str, Any]) -> str:
    """For a terminal: average precision of every cell, what each policy would have cost, and the answer."""
    value = {(cell["as_of"], cell["first_day"]): cell["metrics"]["average_precision"]["value"] for cell in content["cells"]}
    days = [period["first_day"] for period in content["periods"]]
    lines = [f"{domain.title}: average precision by as-of (rows) and period of {content['period_days']} days (columns, first day)", ""]
    lines.append(f"{'as of':<17}" + "".join(f"{_day(day):>8}" for day in days))
    for each in content["as_ofs"]:
        cells = (value.get((each["as_of"], day)) for day in days)
        lines.append(f"{_instant(each['as_of']):<17}" + "".join(f"{'' if found is None else format(found, '.3f'):>8}" for found in cells))
    lines += ["", f"{'training again':<17}{'models':>8}{'cost, ' + content['currency']:>14}{'saved by the most frequent':>40}"]
    for each in content["policies"]:
        saved, bounds = _with_bounds(each["saved_by_most_frequent"], "{:+,.0f}")
        lines.append(f"{each['retraining']:<17}{each['models']:>8}{each['cost']['value']:>14,.0f}{f'{saved} ({bounds})':>40}")
    return "\n".join([*lines, "", _answer(content), ""])


def csv_table(content: Mapping[str, Any]) -> str:
    """One row a cell; ``<metric>_low`` and ``_high`` for the metrics that have an interval."""
    period = {each["first_day"]: each for each in content["periods"]}
    names = sorted({name for cell in content["cells"] for name in cell["metrics"]})
    resampled = sorted(content["cells"][0]["versus_freshest"])
    head = ["as_of", "first_day", "last_day", "age", "events", "positives"]
    for name in names:
        head += [name, *([f"{name}_low", f"{name}_high"] if name in resampled else [])]
    head += [f"{name}_versus_freshest" for name in resampled]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(head)
    for cell in content["cells"]:
        its = period[cell["first_day"]]
        row = [cell["as_of"], cell["first_day"], its["last_day"], cell["age"], its["events"], its["positives"]]
        for name in names:
            found = cell["metrics"].get(name, {"value": None})
            row += [found["value"], *([found["low"], found["high"]] if name in resampled else [])]
        table.writerow([*row, *(cell["versus_freshest"][name]["value"] for name in resampled)])
    return text.getvalue()


def _age(age: int, days: int) -> str:
    first, last = age * days, (age + 1) * days
    return f"{first // 7} to {last // 7} weeks" if days % 7 == 0 else f"{first} to {last} days"


def _instant(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return f"{moment:%Y-%m-%d}" if f"{moment:%H:%M}" == "00:00" else f"{moment:%Y-%m-%d %H:%M}"


def _day(text: str) -> str:
    day = date.fromisoformat(text)
    return f"{day.day} {day:%b}"


def _shown(value: float | None, form: str) -> str:
    return ABSENT if value is None else form.format(value)


def _bounds(found: Mapping[str, float | None], form: str) -> str:
    return f"{_shown(found['low'], form)} to {_shown(found['high'], form)}"


def _with_bounds(found: Mapping[str, float | None], form: str) -> tuple[str, str]:
    return _shown(found["value"], form), _bounds(found, form)
