"""``rollout-report``: pages of rollouts as they really go (``rollout_histories``), and histories that are none."""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from html import unescape
from typing import Any, get_args
from xml.etree import ElementTree

import pytest
from claims_store import DOMAIN, run
from rollout_histories import Kind, history

from include.jobs import rollout_chart
from include.jobs.__main__ import JOBS
from include.jobs.context import JobError
from include.jobs.rollout_page import headline, price
from include.jobs.rollout_report import _entry
from include.lifecycle.experiment import Entry, Experiment
from include.stores.objects import ObjectStore

ENDS = {
    "promoted": "The challenger was promoted on",
    "fails_live": "The challenger was rolled back on",
    "worse": "The challenger was rolled back on",
    "in_ramp": "The challenger is in the ramp, since",
    "stopped": "The rollout was stopped, and the champion stays on",
    "in_shadow": "The challenger is in shadow, since",
}


@cache
def _kept(kind: Kind) -> str:
    return json.dumps(history(kind))


def content(kind: Kind) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(_kept(kind))
    return kept


def report(objects: ObjectStore, of: Any) -> tuple[dict[str, Any], str]:
    uri = objects.put_json(f"{DOMAIN}/experiments/e/history.json", of)
    found = run("rollout_report", objects, "--history", uri)
    return found, objects.get(objects.key(found["reports"]["page"])).decode()


def plain(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html.partition("</style>")[2])).split())


def parts(of: dict[str, Any]) -> tuple[Experiment, list[Entry]]:
    return Experiment.of_json(of["experiment"]), [_entry(each) for each in of["entries"]]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_page_has_the_outcome_one_figure_and_one_table_with_every_decision(bucket: ObjectStore, kind: Kind) -> None:
    of = content(kind)
    found, html = report(bucket, of)
    assert found["headline"].startswith(ENDS[kind])
    assert plain(html).index(found["headline"]) < plain(html).index("Every decision")
    assert (html.count("<figure>"), html.count("<table"), html.count("<script")) == (1, 1, 0)
    assert html.count("<tr>") == len(of["entries"]) + 1
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b|http", plain(html))
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ElementTree.fromstring(svg)  # noqa: S314 -- it is our own
    assert report(bucket, of)[1] == html


def test_a_promotion_says_what_it_saved(bucket: ObjectStore) -> None:
    of = content("promoted")
    saved = of["evidence"]["ramp"]["extra_cost"]
    assert saved < 0
    text = plain(report(bucket, of)[1])
    assert f"its decisions cost {-saved:,.0f} USD less than the champion's would have" in text
    assert re.search(r"In the ramp, an event cost [\d.]+ USD less than under the champion, [\d.]+% of its cost \(−", text)


def test_a_guardrail_that_tripped_is_in_verdict_figure_and_table(bucket: ObjectStore) -> None:
    of = content("fails_live")
    _, html = report(bucket, of)
    tripped = [reading for entry in of["entries"] for reading in entry["evidence"].get("readings", ()) if reading["tripped"]]
    assert [reading["name"] for reading in tripped] == ["errors"]
    assert plain(html).count(tripped[0]["says"]) >= 3
    assert html.count('class="tripped"') == 2  # for the two widths


def test_who_stopped_it_and_why_is_told(bucket: ObjectStore) -> None:
    text = plain(report(bucket, content("stopped"))[1])
    assert text.count("Stopped by r.meyer: the call centre is closed") >= 2


def test_what_comes_from_people_cannot_change_the_page(bucket: ObjectStore) -> None:
    of = content("stopped")
    evil = '</td><script>alert("1")</script>'
    of["entries"][-1] |= {"says": evil, "who": evil}
    of["experiment"] |= {"why": evil, "id": evil}
    of["entries"][-1]["evidence"]["readings"] = [{"name": evil, "value": 2.0, "limit": 1.0, "tripped": True, "says": evil}]
    _, html = report(bucket, of)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5


def test_what_was_never_live_cost_nothing_and_what_nobody_knows_is_not_nought() -> None:
    _, shadow = parts(content("in_shadow"))
    assert price(shadow, {"shadow": None, "ramp": None}, "EUR") == "It never decided for anybody, so it cost nothing."
    _, live = parts(content("in_ramp"))
    unknown = [
        Entry(e.version, e.as_of, e.stage, e.share, e.cap, e.says, e.who, {**e.evidence, "events": 0, "extra_cost": 0.0}) for e in live
    ]
    assert "is not known" in price(unknown, {"ramp": None}, "EUR")
    assert "cost 12.5 EUR more than" in price(live, {"ramp": {"extra_cost": 12.5, "events": 9}}, "EUR")


def test_the_day_of_the_end_is_that_of_the_end_not_of_the_last_word() -> None:
    experiment, entries = parts(content("stopped"))
    later = Entry(99, "2026-12-24T00:00:00Z", "stopped", 0.0, 0.0, "Not done (promote).", "r.meyer")
    assert headline(experiment, [*entries, later]) == headline(experiment, entries)


def test_the_figure_shows_each_look_in_the_stage_that_it_was_of() -> None:
    experiment, entries = parts(content("promoted"))
    what = rollout_chart.drawn(experiment, entries)
    began = next(at for at, stage in what.stages if stage == "ramp")
    shadow, ramp = what.differences
    assert shadow
    assert ramp
    assert shadow[-1].at <= began < ramp[0].at
    assert [at for at, _ in what.margins] == [bound.at for bound in ramp]
    assert set(what.readings) == {"heartbeat", "errors", "latency", "reviews", "scores", "sample_ratio"}
    assert [stage for _, stage in what.stages] == ["shadow", "ramp", "promoted"]  # of two at one instant the last


def test_a_reading_is_1_at_its_limit_and_a_p_value_too() -> None:
    assert rollout_chart.relative("errors", 0.03, 0.02) == pytest.approx(1.5)
    assert rollout_chart.relative("sample_ratio", 0.001, 0.001) == pytest.approx(1)
    assert rollout_chart.relative("sample_ratio", 1e-6, 0.001) == pytest.approx(2)
    assert rollout_chart.relative("sample_ratio", 1.0, 0.001) == 0
    assert rollout_chart.relative("sample_ratio", 0.0, 0.001) > 10
    assert rollout_chart.relative("errors", None, 0.02) is None


def test_one_endless_interval_does_not_flatten_the_rest() -> None:
    usual = [rollout_chart.Bound(float(at), -1.0, -2.0, 0.5) for at in range(5)]
    what = rollout_chart.Drawn(0, 5, [(0, 0, 0)], [(0, "shadow")], [[rollout_chart.Bound(0, -1.0, -1e6, 1e6), *usual]], [])
    low, high = rollout_chart.cost_range(what)
    assert -5 < low < -2
    assert 0.5 < high < 5


def test_a_rollout_of_one_look_is_drawn(bucket: ObjectStore) -> None:
    of = content("in_shadow")
    of["entries"] = of["entries"][:1]
    report(bucket, of)


def broken(change: Any) -> Any:
    of = copy.deepcopy(content("in_shadow"))
    change(of)
    return of


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (broken(lambda of: of.update(entries=[])), "has no entry"),
        (broken(lambda of: of["experiment"].update(domain="card_payments")), "is one of domain 'card_payments', not 'auto_claims'"),
        (broken(lambda of: of["experiment"].pop("champion")), "KeyError: 'champion'"),
        (broken(lambda of: of["entries"][0].pop("as_of")), "is no history of an experiment"),
        (broken(lambda of: of["entries"][0].update(as_of="soon")), "is no history of an experiment"),
        (broken(lambda of: of["entries"][2].update(evidence={"difference": {"value": "much"}})), "is no history of an experiment"),
        ([], "is no history of an experiment"),
        (None, "is no history of an experiment"),
    ],
)
def test_what_is_no_history_is_refused_in_words(bucket: ObjectStore, of: Any, says: str) -> None:
    with pytest.raises(JobError, match=re.escape(says)):
        report(bucket, of)


def test_a_history_that_is_not_there_or_no_json_is_refused(bucket: ObjectStore) -> None:
    with pytest.raises(JobError, match="does not exist"):
        run("rollout_report", bucket, "--history", bucket.uri("nowhere.json"))
    bucket.put("bad.json", b"{")
    with pytest.raises(JobError, match="is no JSON"):
        run("rollout_report", bucket, "--history", bucket.uri("bad.json"))


def test_the_job_has_its_name() -> None:
    assert JOBS["rollout-report"] == "include.jobs.rollout_report"
