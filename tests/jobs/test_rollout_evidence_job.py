"""What the evidence job makes of captures and of decisions, against the same found by hand."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from capture_files import line, put_file, seconds
from claims_store import LAYOUT, run
from rollout_lab import (
    AS_OF,
    CHALLENGER_KEY,
    CONFIGURATION,
    PACKAGES,
    Truth,
    capture_all,
    copy_of,
    decisions,
    only,
    put_challenger,
    put_experiment,
    serve_both,
    ship,
    truth,
)

from include.jobs.context import JobError
from include.jobs.rollout_events import same_features
from include.lifecycle.experiment import CHALLENGER, CHAMPION, Entry
from include.stores.objects import ObjectStore

OUTPUT = "reports/rollout/1/"


@pytest.fixture(scope="module")
def claims(trained_claims: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    objects = copy_of(trained_claims, "rollout-claims")
    put_challenger(objects, tmp_path_factory.mktemp("challenger"))
    return objects


@pytest.fixture(scope="module")
def found(claims: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return truth(claims, tmp_path_factory.mktemp("truth"))


@pytest.fixture
def store(claims: ObjectStore) -> Iterator[ObjectStore]:
    """Without captures and decisions, before and after."""
    yield claims
    for prefix in (LAYOUT.captured(""), LAYOUT.shipped_decisions()):
        for info in list(claims.list(prefix)):
            claims.delete(info.key)


def evidence(
    objects: ObjectStore, *more: str, as_of: str = AS_OF, configuration: str | None = CONFIGURATION, **changes: Any
) -> dict[str, Any]:
    """The file that the job wrote; what it returned is checked against it."""
    described = put_experiment(objects, **changes)
    captured = ["--captured", objects.uri(LAYOUT.captured(configuration))] if configuration else []
    output = objects.uri(LAYOUT.domain + "/" + OUTPUT)
    result = run("rollout_evidence", objects, "--experiment", described, "--as-of", as_of, "--output", output, *captured, *more)
    written: dict[str, Any] = objects.get_json(objects.key(result["reports"]["evidence"]))
    assert result == {key: value for key, value in written.items() if key != "over_time"} | {
        "reports": {"evidence": f"{output}evidence.json"}
    }
    return written


def ramp(objects: ObjectStore, *more: str, as_of: str = AS_OF, **changes: Any) -> dict[str, Any]:
    return evidence(objects, *more, as_of=as_of, configuration=None, stage="ramp", stage_since="2026-03-30T00:00:00Z", **changes)


# --- shadow


def test_shadow_compares_both_answers_to_each_matured_event(store: ObjectStore, found: Truth) -> None:
    capture_all(store, found)
    written = evidence(store)
    assert (written["version"], written["experiment"], written["stage"], written["as_of"]) == (1, "exp-1", "shadow", AS_OF)
    costs = {slot: found.cost(found.wants(slot)) for slot in (CHAMPION, CHALLENGER)}
    assert (found.wants(CHAMPION) != found.wants(CHALLENGER)).sum() > 10, "else nothing is compared"
    assert written["events"] == len(found.ids)
    assert written["frauds"] == found.labels.sum() > 0
    assert written["units"] == len(found.ids), "a policy claims once"
    assert written["cost"][CHAMPION] == pytest.approx(costs[CHAMPION].mean())
    assert written["difference"]["value"] == pytest.approx((costs[CHALLENGER] - costs[CHAMPION]).mean())
    ends = [written["difference"][end] for end in ("low", "high")]
    assert all(
        end is None or (end < written["difference"]["value"]) == (name == "low") for name, end in zip(("low", "high"), ends, strict=True)
    )
    assert (written["first_day"], written["last_day"]) == ("2026-03-30", "2026-04-06")
    assert [entry["day"] for entry in written["over_time"]] == [f"2026-03-{day}" for day in (30, 31)] + [
        f"2026-04-0{day}" for day in range(1, 7)
    ]
    assert written["shadow_scores"] == np.histogram(found.scores[CHALLENGER], 20, (0, 1))[0].tolist()
    assert (written["unmatured"], written["unpaired"], written["left_out"]) == (0, 0, {"damaged": 0, "unknown_event": 0})
    before = store.get(f"{LAYOUT.domain}/{OUTPUT}evidence.json")
    evidence(store)
    assert store.get(f"{LAYOUT.domain}/{OUTPUT}evidence.json") == before


def test_each_look_writes_the_page_anew_with_what_it_found(store: ObjectStore, found: Truth, monkeypatch: pytest.MonkeyPatch) -> None:
    for least in ("DIFFERING", "FRAUDS", "DAYS"):  # there are few events here
        monkeypatch.setattr(f"include.lifecycle.confidence_sequence.LEAST_{least}", 1)
    capture_all(store, found)
    described = put_experiment(store)
    content = store.get_json(store.key(described))
    entry = asdict(Entry(1, content["opened"], "shadow", 0.0, 0.0, "In shadow, because it moved", "policy"))
    history = {"experiment": content, "entries": [entry], "evidence": {"shadow": None, "ramp": None}}
    asked = ["--experiment", described, "--as-of", AS_OF, "--captured", store.uri(LAYOUT.captured(CONFIGURATION))]
    output = store.uri(f"{LAYOUT.domain}/{OUTPUT}")
    told = run("rollout_evidence", store, *asked, "--output", output, "--history", store.put_json(LAYOUT.experiment("exp-1", "h.json"), history))
    assert told["reports"]["page"] == store.uri(LAYOUT.experiment("exp-1", "rollout.html"))
    page = store.get(LAYOUT.experiment("exp-1", "rollout.html")).decode()
    assert "In shadow, because it moved" in page
    assert f"{told['events']:,} events, {told['frauds']:,} of them fraud" in page


def test_a_threshold_of_its_own_decides_for_each_model(store: ObjectStore, found: Truth) -> None:
    capture_all(store, found)
    from rollout_lab import experiment

    both = experiment(store)
    written = evidence(store, challenger=replace(both.challenger, review_threshold=1e9))
    nothing = found.cost(np.zeros(len(found.ids), bool))
    assert written["cost"][CHALLENGER] == pytest.approx(nothing.mean())


def test_young_events_wait_and_unknown_labels_are_those_of_the_as_of(store: ObjectStore, found: Truth) -> None:
    capture_all(store, found)
    as_of = "2026-05-03T12:00:00Z"  # 30 days of maturity
    old = found.table["event_time"].to_numpy() <= np.datetime64("2026-04-03T12:00")
    assert 0 < old.sum() < len(found.ids)
    written = evidence(store, as_of=as_of)
    assert (written["events"], written["unmatured"]) == (old.sum(), (~old).sum())
    expected = only(found, old)
    costs = {slot: expected.cost(expected.wants(slot)) for slot in (CHAMPION, CHALLENGER)}
    assert written["difference"]["value"] == pytest.approx((costs[CHALLENGER] - costs[CHAMPION]).mean())
    assert sum(written["shadow_scores"]) == len(found.ids), "scores need no label"


def test_nothing_matured_is_no_evidence_and_no_error(store: ObjectStore, found: Truth) -> None:
    capture_all(store, found)
    for written in (evidence(store, as_of="2026-04-10T00:00:00Z"), evidence(store, opened="2026-06-01T00:00:00Z")):
        assert (written["events"], written["frauds"], written["units"]) == (0, 0, 0)
        assert [written["difference"][end] for end in ("value", "low", "high")] == [None, None, None]
        assert (written["better"], written["worse"], written["not_worse"]) == (False, False, False)
        assert (written["first_day"], written["over_time"]) == (None, [])
    assert written["unmatured"] == 0, "events before the experiment are none of its"


def test_the_first_answer_of_a_slot_stands_and_what_one_slot_answered_is_unpaired(store: ObjectStore, found: Truth) -> None:
    capture_all(store, found)
    values = [None if np.isnan(value) else float(value) for value in found.matrix[0]]
    moment = found.table["event_time"].to_pylist()[0]
    more = {"attributes": f"event_time={moment.isoformat()}"}
    later = line(values, found.ids[0], 0.999, asked=seconds(10**6), **more)
    put_file(store, [later], "00-00-001-b", variant=CHALLENGER, configuration=CONFIGURATION)
    alone = [line(values, f"alone-{number}", 0.5, **more) for number in range(3)]
    put_file(store, [*alone, b"{damaged", line(values, None)], "00-00-001-b", variant=CHAMPION, configuration=CONFIGURATION)
    put_file(store, [line(values, found.ids[0], 0.999, asked=moment, **more)], variant=CHALLENGER, configuration="another")
    put_file(store, [line(values, "unknown", 0.5, attributes=None)], "00-00-001-c", variant=CHAMPION, configuration=CONFIGURATION)
    written = evidence(store)
    assert (written["events"], written["unpaired"]) == (len(found.ids), 3)
    assert written["left_out"] == {"damaged": 2, "unknown_event": 1}
    costs = {slot: found.cost(found.wants(slot)) for slot in (CHAMPION, CHALLENGER)}
    assert written["difference"]["value"] == pytest.approx((costs[CHALLENGER] - costs[CHAMPION]).mean())


def test_an_event_whose_time_no_caller_said_is_found_by_its_id(store: ObjectStore, found: Truth) -> None:
    serve_both(store)
    values = [None if np.isnan(value) else float(value) for value in found.matrix[0]]
    for slot in (CHAMPION, CHALLENGER):
        put_file(store, [line(values, found.ids[0], 0.5, attributes=None)], variant=slot, configuration=CONFIGURATION)
    assert (evidence(store)["events"], evidence(store)["first_day"]) == (1, "2026-03-30")


# --- ramp


def test_the_ramp_scores_both_models_on_the_features_that_were_sent(store: ObjectStore, found: Truth) -> None:
    rows = decisions(found)
    ship(store, rows[:100])
    ship(store, rows[90:], "gateway-2", day=date(2026, 11, 24))  # ten were shipped twice
    written = ramp(store)
    costs = {slot: found.cost(found.wants(slot)) for slot in (CHAMPION, CHALLENGER)}
    assert (written["stage"], written["events"], written["unpaired"], written["shadow_scores"]) == ("ramp", len(found.ids), 0, None)
    assert written["left_out"] == {"damaged": 0, "another_experiment": 0, "overridden": 0, "repeated": 10, "no_lot": 0}
    assert written["difference"]["value"] == pytest.approx((costs[CHALLENGER] - costs[CHAMPION]).mean())
    challenger = np.array([row["assigned"] == CHALLENGER for row in rows])
    assert 0 < challenger.sum() < len(rows)
    extra = (costs[CHALLENGER] - costs[CHAMPION])[challenger].sum()
    assert written["extra_cost"] == pytest.approx(extra)
    assert sum(day["events"] for day in written["arms"][CHALLENGER]) == challenger.sum()
    assert sum(day["events"] for day in written["arms"][CHAMPION]) == (~challenger).sum()
    assert written["sample_ratio"]["units"] == len(rows)
    assert written["sample_ratio"]["observed"] == pytest.approx(challenger.mean())
    assert written["sample_ratio"]["expected"] == pytest.approx(0.3)
    assert not written["sample_ratio"]["mismatch"]


def test_what_is_no_evidence_of_the_ramp_is_left_out_and_counted(store: ObjectStore, found: Truth) -> None:
    rows = decisions(found)
    others = [
        rows[0] | {"inference_id": "a", "experiment": "exp-2"},
        rows[0] | {"inference_id": "b", "experiment": None},
        rows[0] | {"inference_id": "c", "override": True},
        rows[0] | {"inference_id": "d", "share": 0.0, "assigned": CHAMPION},
        rows[0] | {"wanted": not rows[0]["wanted"], "decided_at": "2027-01-01T00:00:00Z"},
    ]
    damaged: list[Any] = [
        rows[0] | {"inference_id": "f", "features": rows[0]["features"][1:]},
        rows[0] | {"inference_id": "g", "assigned": "nobody"},
        rows[0] | {"inference_id": "h", "amount": None},
        rows[0] | {"inference_id": "i", "event_time": "yesterday"},
        rows[0] | {"inference_id": 7},
        rows[0] | {"inference_id": "j", "wanted": "no"},
        [1, 2],
    ]
    ship(store, [*rows, *others, *damaged], tail=b'{"inference_id": "cut')
    store.put(LAYOUT.shipped_decisions(date(2026, 11, 22), "broken.jsonl.gz"), gzip.compress(b"x" * 1000)[:20])
    clean = {key: ramp(store)[key] for key in ("events", "difference", "extra_cost", "sample_ratio")}
    written = ramp(store)
    assert written["left_out"] == {"damaged": 9, "another_experiment": 2, "overridden": 1, "repeated": 1, "no_lot": 1}
    assert written["events"] == len(rows)
    ship(store, rows)
    again = ramp(store)
    assert clean == {key: again[key] for key in clean}
    assert ramp(store, "--decided-since", "2026-11-24")["events"] == 0


def test_what_the_live_answers_did_otherwise_shows(store: ObjectStore, found: Truth) -> None:
    """The challenger's slot fails, and nothing that it was to decide is reviewed: the paired scores alone would not show it."""
    rows = decisions(found, share=0.5)
    for row in rows:
        if row["assigned"] == CHALLENGER:
            row["wanted"] = False
    ship(store, rows)
    costs = {slot: found.cost(found.wants(slot)) for slot in (CHAMPION, CHALLENGER)}
    paired = float((costs[CHALLENGER] - costs[CHAMPION]).mean())
    challenger = np.array([row["assigned"] == CHALLENGER for row in rows])
    surprise = np.where(challenger, (found.cost(np.zeros(len(rows), bool)) - costs[CHALLENGER]) / 0.5, 0).mean()
    assert abs(surprise) > 1
    assert ramp(store)["difference"]["value"] == pytest.approx(paired + surprise)


def test_a_split_that_is_off_is_found(store: ObjectStore, found: Truth) -> None:
    ship(store, [row | {"share": 0.02} for row in decisions(found, share=0.6)])
    mismatch = ramp(store)["sample_ratio"]
    assert mismatch["mismatch"] is True
    assert mismatch["p_value"] < 0.001


def test_a_ramp_without_decisions_is_no_error(store: ObjectStore) -> None:
    written = ramp(store)
    assert (written["events"], written["sample_ratio"], written["difference"]["value"]) == (0, None, None)


# --- what cannot be


def test_what_cannot_be_is_said(store: ObjectStore, found: Truth, tmp_path: Path) -> None:
    capture_all(store, found)
    uri = put_experiment(store)
    arguments = ["--as-of", AS_OF, "--output", store.uri("o/"), "--captured", store.uri(LAYOUT.captured(CONFIGURATION))]

    def refused(message: str, experiment: str = uri, *more: str) -> None:
        with pytest.raises(JobError, match=message):
            run("rollout_evidence", store, "--experiment", experiment, *arguments, *more)

    refused("does not exist", store.uri("nowhere.json"))
    refused("outside the bucket", "s3://other/experiment.json")
    content = store.get_json(store.key(uri))
    for changes, message in (
        ({"opened": "yesterday"}, "is no experiment"),
        ({"policy": {}}, "is no experiment"),
        ({"surprising": 1}, "is no experiment"),
        ({"domain": "card_payments"}, "is one of domain 'card_payments'"),
        ({"stage": "rolled_back"}, "is rolled_back: there is evidence in shadow, proven, ramp, safe only"),
    ):
        refused(message, store.put_json("x.json", content | changes))
    store.put("y.json", b"[]")
    refused("is no experiment", store.uri("y.json"))
    refused("--captured is 's3://", uri, "--captured", store.uri("elsewhere/"))
    refused("--captured is", uri, "--captured", store.uri(LAYOUT.captured("")))
    refused(f"served nothing as champion, not {PACKAGES[CHAMPION]}", uri, "--captured", store.uri(LAYOUT.captured("unserved")))
    store.put(f"{LAYOUT.captured('broken')}/variants.json", json.dumps({"champion": 1}).encode())
    refused("variants.json is not", uri, "--captured", store.uri(LAYOUT.captured("broken")))
    store.delete(CHALLENGER_KEY)
    refused("challenger/output/model.tar.gz does not exist")
    put_challenger(store, tmp_path / "others", features=tuple(reversed(found.features)))
    refused("another order")


def test_same_features() -> None:
    assert same_features(("a", "b"), ["a", "b"]) is None
    assert "another order" in str(same_features(("a", "b"), ("b", "a")))
    assert "lacks b and wants c, d beside them" in str(same_features(("a", "b"), ("a", "c", "d")))
    assert "it lacks b" in str(same_features(("a", "b"), ("a",)))
