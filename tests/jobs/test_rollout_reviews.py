"""Where only reviewed events get a label: the reviews that a rollout's lots draw, from the queue through analysts' hands to the evidence."""

from __future__ import annotations

import argparse
import csv
import io
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pandas as pd
import pytest
from claims_store import DOMAIN, LAYOUT, land, run
from rollout_histories import history
from rollout_lab import (
    AS_OF,
    CONFIGURATION,
    Truth,
    capture_all,
    copy_of,
    decisions,
    experiment,
    put_challenger,
    put_experiment,
    ship,
    truth,
)

from include import domains
from include.jobs import rollout_evidence
from include.jobs.context import JobContext, JobError
from include.jobs.ingest import ingest
from include.jobs.rollout_page import html_report
from include.jobs.rollout_report import _entry
from include.lifecycle.assignment import disagreement_review, random_review
from include.lifecycle.domain import Domain, Rollout
from include.lifecycle.experiment import CHALLENGER, CHAMPION, Experiment
from include.stores.objects import ObjectStore

POLICY = Rollout(random_review_share=0.05, disagreement_review_share=0.4)
YOUNG = "2026-04-07T00:00:00Z"
"""Every event has happened, none has matured."""
REVIEWED, KNOWN = "2026-04-08T10:00:00Z", "2026-04-09T00:00:00Z"


@pytest.fixture(scope="module")
def decided(trained_claims: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """With the labels of all events. The challenger asks for reviews of what the champion asks for, and of a hundred events more."""
    objects = copy_of(trained_claims, "rollout-reviews-decided")
    put_challenger(objects, tmp_path_factory.mktemp("challenger"), slope=0.5, intercept=-0.5)
    return objects


@pytest.fixture(scope="module")
def found(decided: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return truth(decided, tmp_path_factory.mktemp("truth"))


@pytest.fixture
def store(trained_claims: ObjectStore, tmp_path: Path) -> ObjectStore:
    """With the labels that were early; nobody has scored a batch."""
    buckets = len(boto3.client("s3").list_buckets()["Buckets"])
    objects = copy_of(trained_claims, f"rollout-reviews-{buckets}", decided=False)
    put_challenger(objects, tmp_path / "challenger", slope=0.5, intercept=-0.5)
    return objects


def evidence(objects: ObjectStore, as_of: str, **changes: Any) -> dict[str, Any]:
    domain = domains.get(DOMAIN)
    context = JobContext(replace(domain, label=replace(domain.label, known_for="reviewed_events")))
    context.__dict__["objects"] = objects
    described = put_experiment(objects, **{"policy": POLICY} | changes)
    places = ["--output", objects.uri(f"{LAYOUT.domain}/reports/rollout/1/"), "--captured", objects.uri(LAYOUT.captured(CONFIGURATION))]
    parser = argparse.ArgumentParser()
    rollout_evidence.add_arguments(parser)
    return rollout_evidence.run(parser.parse_args(["--experiment", described, "--as-of", as_of, *places]), context)


def queue(objects: ObjectStore, result: dict[str, Any]) -> list[dict[str, str]]:
    assert result["reports"]["reviews"] == objects.uri(LAYOUT.experiment("exp-1", "reviews.csv"))
    rows = list(csv.DictReader(io.StringIO(objects.get(objects.key(result["reports"]["reviews"])).decode("utf-8-sig"), newline="")))
    assert len(rows) == result["reviews_waiting"]
    return rows


def lots(found: Truth) -> np.ndarray:
    """Whether a lot draws each event."""
    among = np.array([disagreement_review("exp-1", event, 0.4) for event in found.ids])
    return np.array([random_review(DOMAIN, event, 0.05) for event in found.ids]) | (
        among & (found.wants(CHAMPION) != found.wants(CHALLENGER))
    )


def labelled(found: Truth, as_of: str) -> np.ndarray:
    """Whether each event's label is known in ``store`` then."""
    simulator = domains.part(DOMAIN, "simulator")
    decided = simulator.simulate(37, 1300, date(2026, 3, 1), 5).labels
    known = set(decided["policy_id"][decided["decided_at"] <= pd.Timestamp(as_of)].astype(str))
    return np.array([event in known for event in found.ids])


def test_only_labels_of_reviews_that_somebody_asked_for_count(decided: ObjectStore, found: Truth) -> None:
    capture_all(decided, found)
    champion, challenger, costs = found.wants(CHAMPION), found.wants(CHALLENGER), domains.get(DOMAIN).costs
    known, chance = champion | lots(found), np.where(champion, 1.0, np.where(challenger, 0.05 + 0.95 * 0.4, 0.05))
    only_challenger = found.labels * (~champion & challenger)
    assert 0 < (only_challenger * known).sum() < only_challenger.sum()
    loss = known * found.labels * costs.missed_share * found.amounts / chance
    cost = {slot: np.where(wants, costs.review, loss).mean() for slot, wants in ((CHAMPION, champion), (CHALLENGER, challenger))}
    result = evidence(decided, AS_OF)
    assert result["cost"][CHAMPION] == pytest.approx(cost[CHAMPION])
    assert result["difference"]["value"] == pytest.approx(cost[CHALLENGER] - cost[CHAMPION])
    assert (result["events"], result["unlabelled"], result["reviews_missing"]) == (len(found.ids), 0, 0)


def test_without_reviews_of_all_events_by_lot_nothing_can_be_said(decided: ObjectStore) -> None:
    with pytest.raises(JobError, match="known of reviewed events only, and its random_review_share is 0"):
        evidence(decided, AS_OF, policy=replace(POLICY, random_review_share=0.0))


def test_reviews_by_lot_wait_until_analysts_have_made_them_and_then_tell_the_difference(
    store: ObjectStore, found: Truth, tmp_path: Path
) -> None:
    capture_all(store, found)
    champion, challenger = found.wants(CHAMPION), found.wants(CHALLENGER)
    due = ~champion & challenger & lots(found)
    asked = due & ~labelled(found, YOUNG)
    first = evidence(store, YOUNG)
    rows = queue(store, first)
    assert [row["policy_id"] for row in rows] == [event for event, chosen in zip(found.ids, asked, strict=True) if chosen], "oldest first"
    assert len(rows) > 30
    assert {(row["reasons"], row["label"]) for row in rows} == {("only the challenger asks for a review", "")}
    assert [float(row["score"]) for row in rows] == pytest.approx(found.scores[CHALLENGER][asked], abs=1e-6)
    assert (first["events"], first["reviews_drawn"], first["reviews_missing"]) == (0, 0, 0)
    before = store.get(LAYOUT.experiment("exp-1", "reviews.csv"))
    evidence(store, YOUNG)
    assert store.get(LAYOUT.experiment("exp-1", "reviews.csv")) == before

    late = evidence(store, AS_OF)
    assert late["reviews_drawn"] == due.sum()
    assert late["reviews_missing"] == len(queue(store, late)) > 0.1 * due.sum()

    fraud = dict(zip(found.ids, found.labels, strict=True))
    path = tmp_path / "reviews.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": "fraud" if fraud[row["policy_id"]] else "genuine"} for row in rows)
    recorded = run("record_decisions", store, "--queue", str(path), "--decided-by", "Ann", "--decided-at", REVIEWED, "--land")
    assert recorded["decisions"] == len(rows)
    manifest = {"domain": DOMAIN, "year": None, "files": [{"table": "labels", "key": store.key(recorded["landed"])}]}
    assert ingest(domains.get(DOMAIN), store, manifest, {})["tables"]["labels"]["quarantined"] == 0
    assert queue(store, evidence(store, KNOWN)) == []

    wanted = [event for event, wants in zip(found.ids, champion & ~labelled(found, YOUNG), strict=True) if wants]
    by_champion = pd.DataFrame({"policy_id": wanted, "label": [int(fraud[event]) for event in wanted], "decided_at": REVIEWED})
    land(store, [("labels", date(2026, 4, 9), by_champion)], "champion.csv")
    told = evidence(store, AS_OF)
    assert (told["events"], told["reviews_missing"], told["reviews_waiting"], told["unlabelled"]) == (len(found.ids), 0, 0, 0)
    costs = domains.get(DOMAIN).costs
    loss = found.labels * costs.missed_share * found.amounts
    assert (due & (found.labels == 1)).any()
    gain = np.where(~champion & challenger, costs.review - due * loss / (0.05 + 0.95 * 0.4), 0.0)
    assert not (champion & ~challenger).any()
    assert told["difference"]["value"] == pytest.approx(gain.mean())


@pytest.mark.parametrize("exchanged", [False, True])
def test_in_the_ramp_reviews_are_drawn_where_the_deciding_model_asks_for_none(store: ObjectStore, found: Truth, exchanged: bool) -> None:
    both = experiment(store)
    contenders = {CHAMPION: both.champion, CHALLENGER: both.challenger}
    asks, other = CHALLENGER, CHAMPION
    if exchanged:
        found = replace(found, scores={CHAMPION: found.scores[CHALLENGER], CHALLENGER: found.scores[CHAMPION]})
        contenders, (asks, other) = {CHAMPION: both.challenger, CHALLENGER: both.champion}, (CHAMPION, CHALLENGER)
    rows = decisions(found, share=0.5)
    ship(store, rows)
    result = evidence(store, YOUNG, stage="ramp", stage_since="2026-03-30T00:00:00Z", **contenders)
    decided_by_other = np.array([row["assigned"] == other for row in rows])
    due = decided_by_other & found.wants(asks) & ~found.wants(other) & lots(found) & ~labelled(found, YOUNG)
    waiting = queue(store, result)
    assert {row["policy_id"] for row in waiting} == {event for event, chosen in zip(found.ids, due, strict=True) if chosen}
    assert len(waiting) > 15
    assert {row["reasons"] for row in waiting} == {f"only the {asks} asks for a review"}


def test_the_page_says_which_reviews_a_lot_draws_and_how_many_were_not_made() -> None:
    told = history("in_shadow")
    state, entries = Experiment.of_json(told["experiment"]), [_entry(each) for each in told["entries"]]
    every_event = domains.get(DOMAIN)
    selective = replace(every_event, label=replace(every_event.label, known_for="reviewed_events"))

    def page(domain: Domain, missing: int) -> str:
        shadow = {**told["evidence"]["shadow"], "reviews_drawn": 50, "reviews_missing": missing}
        return html_report(domain, state, entries, {"shadow": shadow, "ramp": None})

    assert "<dd>0.5% of all events</dd>" in page(every_event, 0)
    assert "0.5% of all events, and 20% of those about which the models disagree" in page(selective, 0)
    assert "reviews that a lot drew" not in page(selective, 0)
    assert "Of 50 reviews that a lot drew, 5 have no label.</p>" in page(selective, 5)
    assert "Of 50 reviews that a lot drew, 6 have no label; nothing is concluded while so many are missing." in page(selective, 6)
