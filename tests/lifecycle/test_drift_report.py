"""What stands in report.json: findings by the policy, and the verdict over them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from include.lifecycle.data_quality import Check
from include.lifecycle.domain import FINDING_KINDS, Monitoring
from include.lifecycle.drift_report import MINIMUM_ROWS, SECTIONS, analyse, day_in_words, drift_report, side
from include.lifecycle.profile import Counter, Profile, Schema

POLICY = Monitoring()
SUBJECT = {
    "domain": None, "title": "t", "model_package": None, "as_of": None,
    "baseline": {"source": "b", "rows": 9000, "days": None, "first_day": None, "last_day": None},
    "current": {"source": "c", "rows": 1000, "days": 7, "first_day": "2026-04-01", "last_day": "2026-04-07"},
}  # fmt: skip


def column(name: str, drifted: bool = False, began: str | None = None, effect: float = 0.1) -> dict[str, Any]:
    return {
        "name": name, "type": "numeric", "drifted": drifted, "effect": effect, "minimum_effect": 0.03, "p_value": 1e-9 if drifted else 0.4,
        "says": f"{name} moved", "began": began,
    }  # fmt: skip


def assembled(policy: Monitoring = POLICY, **parts: Any) -> dict[str, Any]:
    given = {"features": [column("a"), column("b")], "score": column("score"), "multivariate": None, "checks": [], "sections": {}} | parts
    return drift_report(policy, given.pop("subject", SUBJECT), **given)


def everything() -> dict[str, Any]:
    """One finding of every kind."""
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    loss = {"effect": -0.2, "p_value": 1e-6, "drifted": True}
    metrics = {"roc_auc": loss | dict.fromkeys(("baseline", "current", "estimated"), interval) | {"realised": 0.3}}
    bias = {"facet": "gender", "level": "F", "reference": "M", "metric": "share", "baseline": 0.1, "current": 0.3} | loss
    return assembled(
        features=[column("a", True, "2026-04-03"), column("b")],
        score=column("score", True, "2026-04-02"),
        multivariate=column("multivariate", True),
        checks=[Check("missing", "a", True, "alarm", "a: 5 % missing", 0.0, 0.05, 0.05, 0.01, 1e-9), Check("missing", "b", False, "alarm", "")],
        sections={
            "quality": {"metrics": metrics}, "estimated_quality": {"metrics": metrics}, "concept_drift": {"metrics": metrics},
            "bias_drift": {"rows": [bias]},
            "attribution_drift": {"ndcg": 0.7, "minimum_ndcg": 0.9, "p_value": 1e-6, "drifted": True, "ranking": []},
        },
    )  # fmt: skip


def test_every_kind_is_found_worst_first() -> None:
    found = everything()
    assert [finding["kind"] for finding in found["findings"]] == [
        *(kind for kind in FINDING_KINDS if kind in POLICY.alarm_on), *(kind for kind in FINDING_KINDS if kind in POLICY.warn_on)
    ]  # fmt: skip
    verdict = found["verdict"]
    assert (verdict["outcome"], verdict["severity"], verdict["began"]) == ("drift", "alarm", "2026-04-02")
    assert set(verdict["kinds"]) == set(FINDING_KINDS)
    assert verdict["headline"].startswith("1 of 2 features (a), the score and how features go together moved since 2 April 2026; ")
    for words in (
        "data came in otherwise",
        "measurably worse (roc auc)",
        "expected to have got worse",
        "no longer looks",
        "groups are reviewed",
    ):
        assert words in verdict["headline"]
    assert all(finding["says"] and 0 < finding["level"] <= POLICY.level for finding in found["findings"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_policy_says_what_a_finding_does() -> None:
    for alarm_on, warn_on, outcome, severity in (
        (("feature_drift",), (), "drift", "alarm"),
        (("quality",), ("feature_drift",), "drift", "warn"),
        (("quality",), (), "no_drift", "none"),
    ):
        policy = replace(POLICY, alarm_on=alarm_on, warn_on=warn_on)
        found = assembled(policy, features=[column("a", True)])
        assert (found["verdict"]["outcome"], found["verdict"]["severity"]) == (outcome, severity)
        assert found["findings"][0]["severity"] == ("note" if severity == "none" else severity)
        assert found["calibration"]["families"] == len({*alarm_on, *warn_on})


def test_no_drift_says_what_was_looked_at() -> None:
    verdict = assembled()["verdict"]
    assert verdict == {
        "outcome": "no_drift", "severity": "none", "began": None, "kinds": [],
        "headline": "No drift in 1,000 rows from 1 April 2026 to 7 April 2026: none of 2 features, not the score moved.",
    }  # fmt: skip


@pytest.mark.parametrize("rows", [0, 1, MINIMUM_ROWS - 1, MINIMUM_ROWS])
def test_too_few_rows_are_never_a_good_verdict(rows: int) -> None:
    checks = [Check("row_count", None, rows == 0, "alarm", "The window has 0 rows.")]
    found = assembled(subject=SUBJECT | {"current": SUBJECT["current"] | {"rows": rows}}, checks=checks)  # type: ignore[operator]
    assert found["verdict"]["outcome"] == ("no_drift" if rows >= MINIMUM_ROWS else "not_enough_data")
    assert ("number of rows" in found["verdict"]["headline"]) == (rows == 0)


def test_undefined_numbers_are_null_and_unknown_sections_are_refused() -> None:
    found = assembled(features=[column("a", effect=float("nan"))], sections={"quality": {"metrics": {}, "events": 0, "x": [float("inf")]}})
    assert found["features"][0]["effect"] is None
    assert found["quality"]["x"] == [None]
    assert [found[name] for name in SECTIONS if name != "quality"] == [None] * 4
    with pytest.raises(KeyError, match="qualities"):
        assembled(sections={"qualities": {}})


def test_analysis_of_two_profiles() -> None:
    """The families: features without the score and what is apart, the score, all numeric columns together."""
    generator = np.random.default_rng(1)

    def table(rows: int, shift: float) -> pa.Table:
        return pa.table({
            "a": generator.normal(size=rows) + shift, "b": generator.normal(size=rows), "score": generator.random(rows),
            "facet": generator.choice(["x", "y"], rows),
        })  # fmt: skip

    rows = table(5000, 0)
    schema = Schema.of({name: rows[name] for name in rows.column_names}, apart=["score"])
    baseline, window = Profile.of(schema, rows), Profile.of(schema, table(5000, 0.3))
    subject = SUBJECT | {"baseline": side(baseline, "b"), "current": side(window, "c")}
    found = analyse(POLICY, baseline, window, subject, score="score", apart=["facet"])
    assert [(each["name"], each["drifted"]) for each in found["features"]] == [("a", True), ("b", False)]
    assert found["score"]["name"] == "score"
    assert found["multivariate"]["name"] == "multivariate"
    assert {check["column"] for check in found["data_quality"]} == {"a", "b", "score", "facet", None}
    assert found["subject"]["current"] == {"source": "c", "rows": 5000, "days": None, "first_day": None, "last_day": None}
    narrower = analyse(POLICY, baseline, window, subject, score="score", absent=["a", "score"])
    assert [each["name"] for each in narrower["features"]] == ["b", "facet"]
    assert narrower["score"] is None
    empty = Counter(schema).profile()
    nothing = analyse(POLICY, baseline, empty, subject | {"current": side(empty, "c")}, score="score")
    assert nothing["verdict"]["outcome"] == "not_enough_data"
    assert json.dumps(nothing, allow_nan=False)


def test_days_in_words() -> None:
    assert day_in_words("2026-12-01") == "1 December 2026"
