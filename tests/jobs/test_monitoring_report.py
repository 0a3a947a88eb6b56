"""The page of a monitored window: whatever is in report.json, it is whole, safe and small."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitoring_reports import SECTIONS, monitoring_report

from include.jobs.__main__ import main
from include.jobs.html_page import cleaned, metric_value, probability, share, significant, text, threshold
from include.jobs.monitoring_columns import PICTURED, shown_cells, worst_first
from include.jobs.monitoring_method import normal_shift, share_after
from include.jobs.monitoring_report import html_report

_VOID = {"meta", "link", "img", "br", "hr", "input"}
_LOADS = {"src", "href", "xlink:href", "srcset", "action", "poster", "data", "background"}
_MEGABYTE = 1_000_000


class _Page(HTMLParser):
    """Checks that elements are closed in the order they were opened, and gathers what a test asks about."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "title"}:
            self.texts.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.texts).split())


def read(page: str) -> _Page:
    """The page, parsed; it has no script, loads nothing, and its links lead to places of its own."""
    found = _Page(page)
    ids = {attributes.get("id") for _, attributes in found.tags}
    for tag, attributes in found.tags:
        assert tag not in {"script", "iframe", "object", "embed", "link", "form", "img"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in _LOADS & set(attributes):
            assert (attributes[name] or "").startswith("#")
            assert (attributes[name] or "")[1:] in ids
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    return found


def _numbers(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every number that an analysis may leave undefined."""
    for key, each in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(each, (dict, list)):
            yield from _numbers(each)
        elif isinstance(each, float):
            yield value, key


def test_drift_is_said_first_with_its_day_and_what_to_do() -> None:
    words = read(html_report(monitoring_report())).words
    assert words.index("Alarm: something changed") < words.index("What to do.") < words.index("What was found")
    assert "It began on Wednesday 4 March 2026 and was found on Monday 9 March 2026 , 5 days later." in words
    assert "2 false alarms a year" in words
    assert "about a shift by 0.071 standard deviations, or a level that goes from 5% of the rows to 6.7%" in words


def test_no_drift_wants_nothing_done() -> None:
    page = read(html_report(monitoring_report(drift=False)))
    assert "No drift" in page.words
    assert "What to do. Nothing." in page.words
    assert "What was found" not in page.words
    assert "all 96 checks passed" in page.words
    assert "None of 24. The largest change is that of" in page.words


def test_too_few_rows_are_no_all_clear() -> None:
    report = monitoring_report(drift=False)
    report["verdict"] |= {"outcome": "not_enough_data", "headline": "Not enough data for a verdict: the window has 12 rows."}
    words = read(html_report(report)).words
    assert "This is not an all-clear." in words
    assert "The model may go on" not in words


@pytest.mark.parametrize("missing", [*((name,) for name in SECTIONS), SECTIONS])
@pytest.mark.parametrize("drift", [True, False])
def test_a_section_that_does_not_apply_is_named_and_nothing_else_changes(missing: tuple[str, ...], drift: bool) -> None:
    words = read(html_report(monitoring_report(without=missing, drift=drift))).words
    assert ("How good the model is" in words) == (not {"quality", "estimated_quality"} <= set(missing))
    assert ("Bias by facet" in words) == ("bias_drift" not in missing)
    listed = words.split("Not looked at")[1]
    assert ("bias: no facet" in listed) == ("bias_drift" in missing)
    assert ("measured quality: no final labels" in listed) == ("quality" in missing)


def test_known_and_estimated_are_told_apart_in_words_and_marks() -> None:
    page = read(html_report(monitoring_report()))
    assert "known Measured on 18,204 events" in page.words
    assert "estimated From the scores alone, without a look at any label, of 4,873 events of 2 March 2026" in page.words
    marks = [attributes["class"] for tag, attributes in page.tags if tag == "g"]
    assert marks.count("whiskers main") == 5 * 8
    assert marks.count("whiskers other") == 5 * 12


def test_only_the_worst_columns_are_pictured_and_all_are_listed() -> None:
    report = monitoring_report(40)
    for number, column in enumerate(report["features"]):
        column |= {"drifted": number < 30, "effect": 0.031 + 0.001 * number, "name": f"feature_{number}"}
    page = read(html_report(report))
    cards = sum(attributes.get("class") == "column" for _, attributes in page.tags)
    assert cards == PICTURED + 2  # and the score, and the multivariate check
    order = [int(name) for name in re.findall(r"feature_(\d+)", page.words.split("Every column")[-1])]
    assert order == [*range(29, -1, -1), *range(39, 29, -1)]
    assert f"The other {30 - PICTURED} that moved" in page.words


def test_worst_is_measured_by_the_columns_own_floor() -> None:
    columns = monitoring_report(3)["features"]
    columns[0] |= {"effect": 0.2, "minimum_effect": 0.5}
    columns[1] |= {"effect": 0.1, "minimum_effect": 0.01}
    columns[2] |= {"effect": None}
    assert [column["name"] for column in worst_first(columns)] == [columns[1]["name"], columns[0]["name"], columns[2]["name"]]


@pytest.mark.parametrize("features", [0, 1, 200])
def test_any_number_of_features(features: int) -> None:
    report = monitoring_report(features) if features else monitoring_report(1, drift=False) | {"features": []}
    page = html_report(report)
    read(page)
    assert len(page.encode()) < _MEGABYTE


def test_two_hundred_columns_that_all_moved_and_failed_every_check_stay_below_a_megabyte() -> None:
    report = monitoring_report(200)
    for column in report["features"]:
        column |= {"drifted": True, "name": "n" * 5_000 + column["name"], "says": "w" * 20_000}
        column["cells"] = [cell + "c" * 1_000 for cell in column["cells"]]
    for check in report["data_quality"]:
        check |= {"found": True, "severity": "alarm", "says": "w" * 20_000}
    page = html_report(report)
    read(page)
    assert len(page.encode()) < _MEGABYTE


HOSTILE = (
    '<script>alert("x")</script>', "</title></style><img src=http://evil/x onerror=alert(1)>", "\" onmouseover='alert(1)' x=\"", "&amp;&lt;",
    "مبلغ المطالبة", "\u202eevil\u202d", "a\x00b\x07c", "\ud800", "x" * 3_000, "", "{}", "%s",
)  # fmt: skip


def _poisoned(value: Any, poison: str, key: str = "") -> Any:
    """Every free text replaced: names, sentences, levels, sources; not days, nor the words of the schema."""
    fixed = {"kind", "severity", "outcome", "kinds", "type", "day", "first_day", "last_day", "began", "as_of"}
    if isinstance(value, dict):
        return {name: _poisoned(each, poison, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_poisoned(each, poison, key) for each in value]
    return f"{poison}" if isinstance(value, str) and key not in fixed else value


@pytest.mark.parametrize("poison", HOSTILE)
def test_texts_from_data_stay_texts(poison: str) -> None:
    report = _poisoned(monitoring_report(), poison)
    report["quality"]["metrics"] = {poison: report["quality"]["metrics"]["roc_auc"]}
    report["subject"]["left_out"] = {poison: poison}
    page = html_report(report)
    found = read(page)
    page.encode()
    assert "\x00" not in page
    if poison.startswith("<"):
        assert poison in " ".join(found.texts)


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text())
def test_any_name_and_level(name: str, level: str) -> None:
    report = monitoring_report(1)
    column = report["features"][0]
    column["name"], column["says"], column["cells"][0] = name, level, level
    page = html_report(report)
    page.encode()
    read(page)


@pytest.mark.parametrize("undefined", [None, math.nan, math.inf])
def test_undefined_numbers_are_dashes(undefined: float | None) -> None:
    report = monitoring_report()
    for container, key in list(_numbers(report)):
        container[key] = undefined
    words = read(html_report(report)).words.lower()
    assert "nan" not in re.findall(r"[a-z]+", words)
    assert "inf" not in re.findall(r"[a-z]+", words)
    assert "none" not in re.findall(r"[a-z]+", words)


def test_rows_without_days_have_no_chart_of_days() -> None:
    report = monitoring_report()
    for column in (*report["features"], report["score"], report["multivariate"]):
        column |= {"days": [], "began": None}
    for side in ("baseline", "current"):
        report["subject"][side] |= {"first_day": None, "last_day": None, "days": None}
    report["subject"]["as_of"] = None
    report["verdict"]["began"] = None
    page = read(html_report(report))
    assert "The day it began cannot be told: the rows carry no days." in page.words
    assert "Distance of each day" not in page.words


def test_many_levels_are_cut_to_those_that_moved_and_the_rest_is_summed() -> None:
    column = monitoring_report(8)["features"][2]
    assert column["type"] == "text"
    assert len(column["cells"]) == 34
    shown = shown_cells(column)
    assert len(shown) == 13
    assert shown[-1][0] == "22 others, which moved less"
    assert math.fsum(cell[1] for cell in shown) == pytest.approx(1.0)
    assert math.fsum(cell[2] for cell in shown) == pytest.approx(1.0)
    moved = {cell[0]: abs(cell[2] - cell[1]) for cell in shown[:-1]}
    left = [abs(b - a) for label, a, b in zip(column["cells"], column["baseline"], column["current"], strict=True) if label not in moved]
    assert max(left) <= min(moved.values())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0412345, "0.0412"), (12.345, "12.3"), (4321.0, "4,321"), (0.0, "0"), (None, "–"), (math.nan, "–"), (3.21e-7, "3.21×10⁻⁷"), (-0.5, "−0.500"),
     (1_234_567.0, "1,234,567"), (2.5e12, "2.50×10¹²"), (5e-324, "5×10⁻³²⁴")],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: float | None, expected: str) -> None:
    assert significant(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(0.05, "5%"), (0.0123, "1.2%"), (0.456, "45.6%"), (1.0, "100%"), (0.0, "0%"), (2e-6, "<0.01%"), (None, "–")]
)
def test_shares_are_percent(value: float | None, expected: str) -> None:
    assert share(value) == expected


def test_other_forms_of_numbers() -> None:
    assert probability(1e-30) == "<10⁻¹²"
    assert probability(0.0006088) == "0.00061"
    assert threshold(0.03) == "0.03"
    assert metric_value("savings", -0.061, "+") == "−6.1%"
    assert metric_value("expected_cost", 1234.5) == "1,234.50"
    assert metric_value("roc_auc", math.nan) == "–"


def test_a_text_is_isolated_from_the_direction_of_its_surroundings() -> None:
    assert text("\u202e<b>") == "<bdi>\u202e&lt;b&gt;</bdi>"
    assert len(cleaned("x" * 10_000)) == 400


def test_what_an_effect_means() -> None:
    """Against the distances themselves, integrated and summed."""
    shift = normal_shift(0.03)
    assert shift == pytest.approx(0.0706, abs=1e-4)
    step = 0.001
    densities = [
        (math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi), math.exp(-((x - shift) ** 2) / 2) / math.sqrt(2 * math.pi))
        for x in (step * number for number in range(-8_000, 8_001))
    ]
    divergence = math.fsum(step * (p * math.log2(2 * p / (p + q)) + q * math.log2(2 * q / (p + q))) / 2 for p, q in densities)
    assert math.sqrt(divergence) == pytest.approx(0.03, rel=1e-3)
    after = share_after(0.05, 0.03)
    parts = [(0.05, after), (0.95, 1 - after)]
    divergence = math.fsum((p * math.log2(2 * p / (p + q)) + q * math.log2(2 * q / (p + q))) / 2 for p, q in parts)
    assert math.sqrt(divergence) == pytest.approx(0.03, rel=1e-6)


def test_the_page_of_a_real_analysis(tmp_path: Path) -> None:
    """Two files through the command: one column moves on day 5, and the labels no longer follow the score."""
    random = np.random.default_rng(3)
    days = np.repeat(np.arange("2026-03-02", "2026-04-13", dtype="datetime64[D]"), 120)
    moved = days >= np.datetime64("2026-04-10")
    score = random.beta(1, 9, days.size)
    rows = {
        "amount": random.lognormal(6, 1, days.size) * np.where(moved, 3.0, 1.0),
        "<b>channel</b>": random.choice(["web", "phone", "agent"], days.size),
        "score": score,
        "label": (random.uniform(size=days.size) < np.where(moved, 0.1, score)).astype(int),
        "time": days,
    }
    before = days < np.datetime64("2026-04-06")
    for name, part in (("before", before), ("after", ~before)):
        pq.write_table(pa.table({column: values[part] for column, values in rows.items()}), tmp_path / f"{name}.parquet")
    command = ["monitor", "--baseline", f"{tmp_path}/before.parquet", "--current", f"{tmp_path}/after.parquet", "--out", f"{tmp_path}/out"]
    assert main([*command, "--score", "score", "--label", "label", "--time", "time"]) == 1
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page == html_report(json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8")))
    found = read(page)
    assert "It began on Friday 10 April 2026 and is found in data up to Sunday 12 April 2026 , 2 days later." in found.words
    assert "1 of 2, worst first." in found.words
    assert "<b>channel</b>" in found.words
    assert "known Measured on 840 events of 6 April 2026 to 12 April 2026" in found.words
