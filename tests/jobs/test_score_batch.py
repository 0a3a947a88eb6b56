from __future__ import annotations

import argparse
import csv
import io
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from claims_store import LAYOUT, contents, run
from dataset_parts import events, train_in, without
from scored_claims import AS_OF, MODEL_KEY, packed, predictions, queue, score

from include import domains
from include.jobs import model_archive, score_batch
from include.jobs.context import JobContext, JobError
from include.jobs.dataset_file import DatasetFile
from include.jobs.ingest import ingest
from include.jobs.review_page import queue_page
from include.jobs.score_batch import REASONS, KnownFrauds
from include.lifecycle.as_of import Days
from include.lifecycle.domain import Domain
from include.lifecycle.explain import reasons
from include.lifecycle.features import open_database
from include.lifecycle.review_queue import QueuedEvent
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions
from include.stores.stale_features import StaleFeatures

DOMAIN = domains.get("auto_claims")
DAY = date(2026, 4, 2)
FEATURES = LAYOUT.features


def written(objects: ObjectStore) -> dict[str, bytes]:
    return contents(objects, f"{LAYOUT.batch_predictions}/") | contents(objects, LAYOUT.review_queue(DAY))


def features_of(objects: ObjectStore, day: date) -> pa.Table:
    rows = Partitions(objects, FEATURES).read(day)
    assert rows is not None
    return rows


def take(domain: Domain, objects: ObjectStore, files: list[tuple[str, int, pd.DataFrame]]) -> None:
    """Lands the files (table, day of March, rows) and ingests them."""
    manifest: dict[str, Any] = {"domain": domain.name, "year": None, "files": []}
    for table, day, rows in files:
        key = Layout(domain.name).landing(table, date(2026, 3, day), "file.csv")
        objects.put(key, rows.to_csv(index=False).encode())
        manifest["files"].append({"table": table, "key": key})
    ingest(domain, objects, manifest, {})


def test_every_event_has_the_models_score_and_the_queue_holds_the_most_worthwhile(trained_claims: ObjectStore, tmp_path: Path) -> None:
    result = score(trained_claims, DAY, "--model-package", "arn:package/1")
    features = features_of(trained_claims, DAY)
    model = model_archive.open_model(trained_claims, trained_claims.uri(MODEL_KEY), tmp_path, DOMAIN)
    rows = DatasetFile("features", features).matrix(model.features)
    scores = model.scores(rows).astype(float)
    benefit = scores * 0.5 * features["amount"].to_numpy() - 1000

    found = predictions(trained_claims, DAY)
    for column in ("event_id", "event_time", "entity_id", "amount"):
        assert found[column].equals(features[column]), column
    assert found["score"].to_pylist() == scores.tolist()
    assert found["expected_benefit"].to_numpy() == pytest.approx(benefit)
    assert set(found["model"].to_pylist()) == {trained_claims.uri(MODEL_KEY)}
    assert set(found["model_package"].to_pylist()) == {"arn:package/1"}
    assert set(found["as_of"].to_pylist()) == {datetime.fromisoformat(AS_OF)}
    why = reasons(model.features, rows, model.contributions(rows), REASONS)
    assert found["reasons"].to_pylist() == [[reason.as_json() for reason in each] for each in why]

    capacity = -(-features.num_rows // 20)  # 5 %, rounded up
    ranked = [row for row in np.argsort(-benefit, kind="stable") if benefit[row] > 0][:capacity]
    assert ranked, "or the test shows nothing"
    ids = features["event_id"].to_pylist()
    listed = queue(trained_claims, DAY)
    assert [row["policy_id"] for row in listed] == [ids[row] for row in ranked]
    assert [row["rank"] for row in listed] == [str(rank) for rank in range(1, len(ranked) + 1)]
    ranks = dict(zip(ids, found["review_rank"].to_pylist(), strict=True))
    assert {event: rank for event, rank in ranks.items() if rank is not None} == {ids[row]: n for n, row in enumerate(ranked, start=1)}

    [day] = result["days"]
    assert (day["rows"], day["queued"], day["capacity"]) == (features.num_rows, len(ranked), capacity)
    assert day["expected_benefit"] == result["expected_benefit"] == pytest.approx(benefit[ranked].sum())
    assert (day["score_quantiles"]["0"], day["score_quantiles"]["1"]) == (scores.min(), scores.max())
    assert not day["model_has_seen_the_day"]
    page = trained_claims.get(trained_claims.key(result["reports"]["queue"])).decode()
    positions = [page.index(f'<td class="id">{row["policy_id"]}') for row in listed]
    assert positions == sorted(positions)


def test_a_day_of_very_many_events_has_reasons_for_its_queue_only(own_claims: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    score(own_claims, DAY)
    everywhere = predictions(own_claims, DAY)
    monkeypatch.setattr(score_batch, "EXPLAINED_ROWS", 10)
    score(own_claims, DAY)
    found = predictions(own_claims, DAY)
    assert found.drop_columns("reasons").equals(everywhere.drop_columns("reasons"))
    queued = [rank is not None for rank in found["review_rank"].to_pylist()]
    assert 0 < sum(queued) < len(queued)
    wanted = [why if chosen else None for why, chosen in zip(everywhere["reasons"].to_pylist(), queued, strict=True)]
    assert found["reasons"].to_pylist() == wanted


def test_a_day_whose_features_are_older_than_its_events_says_so(own_claims: ObjectStore) -> None:
    before = score(own_claims, DAY - timedelta(days=1), "--last-day", str(DAY))
    assert before["days_with_stale_features"] == []
    warning = "after the features of this day were computed"
    assert warning not in own_claims.get(LAYOUT.review_queue(DAY, "queue.html")).decode()
    StaleFeatures(own_claims, LAYOUT).add([Days(DAY, DAY + timedelta(days=3))])
    after = score(own_claims, DAY - timedelta(days=1), "--last-day", str(DAY))
    assert after["days_with_stale_features"] == [str(DAY)]
    assert [day["features_are_stale"] for day in after["days"]] == [False, True]
    assert warning in own_claims.get(LAYOUT.review_queue(DAY, "queue.html")).decode()
    assert warning not in own_claims.get(LAYOUT.review_queue(DAY - timedelta(days=1), "queue.html")).decode()


def test_the_same_inputs_give_the_same_bytes(own_claims: ObjectStore) -> None:
    score(own_claims, DAY)
    first = written(own_claims)
    assert set(first) == {f"dt={DAY}/data.parquet", "queue.csv", "queue.html"}
    for info in list(own_claims.list(LAYOUT.review_queue(DAY))):
        own_claims.delete(info.key)
    score(own_claims, DAY - timedelta(days=1), "--last-day", str(DAY))
    again = written(own_claims)
    assert {name: again[name] for name in first} == first


def test_a_day_without_events_is_told_not_scored(own_claims: ObjectStore) -> None:
    own_claims.delete(f"{FEATURES}/dt={DAY}/data.parquet")
    result = score(own_claims, DAY - timedelta(days=1), "--last-day", str(DAY + timedelta(days=1)))
    assert result["days_without_features"] == [str(DAY)]
    assert [day["day"] for day in result["days"]] == ["2026-04-01", "2026-04-03"]
    assert result["rows"] == sum(features_of(own_claims, date(2026, 4, day)).num_rows for day in (1, 3))
    assert result["reports"]["queue"].endswith("review/dt=2026-04-03/queue.html")


def test_what_cannot_be_scored_is_refused_and_nothing_is_written(own_claims: ObjectStore) -> None:
    def results() -> dict[str, bytes]:
        return contents(own_claims, f"{LAYOUT.domain}/predictions") | contents(own_claims, f"{LAYOUT.domain}/review")

    before = results()

    def refused(message: str, day: date = DAY, *more: str, as_of: str = AS_OF, model: str = MODEL_KEY) -> None:
        with pytest.raises(JobError, match=message):
            run("score_batch", own_claims, "--day", str(day), "--model", own_claims.uri(model), "--as-of", as_of, *more)
        assert results() == before

    refused("holds no features from 2030-01-01 to 2030-01-01: land that day's events", date(2030, 1, 1), as_of="2031-01-01T00:00:00Z")
    refused("lies before the end of 2026-04-02: score a day when it is over", as_of="2026-04-02T23:59:59Z")
    refused("the last day, 2026-04-01, lies before the first", DAY, "--last-day", "2026-04-01")
    refused("nowhere.tar.gz does not exist", model="nowhere.tar.gz")
    rows = features_of(own_claims, DAY)
    partitions = Partitions(own_claims, FEATURES)
    partitions.write(DAY, rows.drop_columns(["injury_claim", "is_theft"]))
    refused("dt=2026-04-02/data.parquet lacks 2 of the model's .* features: .*injury_claim")
    amounts = rows["amount"].to_numpy().copy()
    amounts[3] = np.nan
    partitions.write(DAY, rows.set_column(rows.schema.get_field_index("amount"), "amount", pa.array(amounts)))
    refused(f"1 of {rows.num_rows} events have no finite amount")


def test_scores_of_days_that_the_model_was_trained_on_are_marked(trained_claims: ObjectStore) -> None:
    result = score(trained_claims, date(2026, 3, 20))
    assert result["days"][0]["model_has_seen_the_day"]
    page = trained_claims.get(trained_claims.key(result["reports"]["queue"])).decode()
    assert "The model was trained on events of this day" in page


def test_entities_with_a_known_fraud_are_marked_in_the_queue_and_the_capacity_is_a_number(bucket: ObjectStore, tmp_path: Path) -> None:
    """Hand-made features with a model of their own: what is scored is the feature store, whatever filled it."""
    domain = domains.get("card_payments")
    layout, context = Layout(domain.name), JobContext(domain)
    context.__dict__["objects"] = bucket
    model = train_in(tmp_path / "ml", rows=1_200, domain=domain.name)
    bucket.put("model.tar.gz", packed(model))
    today = events(1_000, 5, days=1, first_day=np.datetime64("2026-03-20"))
    entities = [f"{number}" for number in range(500)]  # customers of the payments below
    numbered = today.set_column(today.schema.get_field_index("entity_id"), "entity_id", pa.array(entities * 2))
    Partitions(bucket, layout.features).write(date(2026, 3, 20), without(numbered, "label", "facet_gender", "facet_age_band"))
    payments = pd.DataFrame({"transaction_id": range(500), "tx_datetime": "2026-03-10T10:00:00Z", "customer_id": range(500)})
    payments = payments.assign(terminal_id=1, tx_amount=10.0, tx_fraud=None)
    labels = pd.DataFrame({"transaction_id": range(0, 500, 2), "label": 1, "decided_at": "2026-03-17T10:00:00Z"})
    take(domain, bucket, [("transactions", 10, payments), ("labels", 17, labels)])

    parser = argparse.ArgumentParser()
    score_batch.add_arguments(parser)
    command = ["--day", "2026-03-20", "--model", bucket.uri("model.tar.gz"), "--as-of", "2026-03-21T00:00:00Z"]
    result = score_batch.run(parser.parse_args(command), context)
    assert (result["queued"], result["days"][0]["capacity"]) == (100, 100)
    text = bucket.get(layout.review_queue(date(2026, 3, 20), "queue.csv")).decode("utf-8-sig")
    listed = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(listed) == 100
    assert {row["known_fraud_since"] for row in listed if int(row["entity_id"]) % 2 == 0} == {"2026-03-17T10:00:00Z"}
    assert {row["known_fraud_since"] for row in listed if int(row["entity_id"]) % 2 == 1} == {""}
    marked = sum(row["known_fraud_since"] != "" for row in listed)
    assert bucket.get(bucket.key(result["reports"]["queue"])).decode().count("known fraud since 2026-03-17") == marked > 0


def test_a_known_fraud_marks_its_entity_from_when_it_was_known_until_it_is_withdrawn_or_old(bucket: ObjectStore, tmp_path: Path) -> None:
    domain = domains.get("card_payments")
    payments = pd.DataFrame({
        "transaction_id": [1, 2, 3, 4, 5],
        "tx_datetime": [
            "2026-03-01T10:00:00Z",
            "2026-03-02T10:00:00Z",
            "2026-03-03T10:00:00Z",
            "2026-03-04T10:00:00Z",
            "2026-03-20T10:00:00Z",
        ],
        "customer_id": [7, 7, 8, 9, 7],
        "terminal_id": [1, 1, 1, 1, 1],
        "tx_amount": [10.0] * 5,
        "tx_fraud": [None] * 5,
    })
    labels = pd.DataFrame({
        "transaction_id": [1, 2, 3, 4],
        "label": [1, 1, 1, 0],
        "decided_at": ["2026-03-05T00:00:00Z", "2026-03-06T12:00:00Z", "2026-03-06T00:00:00Z", "2026-03-05T00:00:00Z"],
    })
    withdrawn = pd.DataFrame({"transaction_id": [3], "label": [0], "decided_at": ["2026-03-08T00:00:00Z"]})
    take(domain, bucket, [("transactions", 20, payments), ("labels", 6, labels), ("labels", 8, withdrawn)])
    context = JobContext(domain)
    context.__dict__["objects"] = bucket
    with open_database(tmp_path / "spill") as connection:
        known = KnownFrauds(context, connection, Days(date(2026, 3, 4), date(2026, 5, 1)), tmp_path)

        def at(day: date) -> dict[str, datetime]:
            return known.at_the_end_of(day, {"7", "8", "9"})

        assert at(date(2026, 3, 4)) == {"7": datetime(2026, 3, 5, tzinfo=UTC)}, "known at the very midnight that ends the day"
        assert at(date(2026, 3, 3)) == {}
        assert at(date(2026, 3, 6)) == {"7": datetime(2026, 3, 5, tzinfo=UTC), "8": datetime(2026, 3, 6, tzinfo=UTC)}
        assert at(date(2026, 3, 8)) == {"7": datetime(2026, 3, 5, tzinfo=UTC)}, "the report on 8's payment was withdrawn"
        assert known.at_the_end_of(date(2026, 3, 8), {"9"}) == {}
        assert known.at_the_end_of(date(2026, 3, 8), set()) == {}, "as on a day with nothing to review"
        assert at(date(2026, 4, 12)) == {"7": datetime(2026, 3, 6, 12, tzinfo=UTC)}, "the first fraud is older than the training window"
        assert at(date(2026, 4, 13)) == {}


def test_a_sources_texts_cannot_become_part_of_the_page() -> None:
    event = QueuedEvent(
        1, "<script>x</script>", datetime(2026, 3, 12, tzinfo=UTC), "<b>", 5.0, 0.5, 1.0, (), datetime(2026, 3, 1, tzinfo=UTC)
    )
    facts = {
        "day": "2026-03-12",
        "rows": 1,
        "capacity": 1,
        "expected_benefit": 1.0,
        "model_has_seen_the_day": False,
        "features_are_stale": False,
    }
    for domain in (DOMAIN, replace(DOMAIN, entity="customer")):
        page = queue_page(domain, [event], facts, "<i>model", "<u>as of")
        assert not any(text in page for text in ("<script", "<b>", "<i>model", "<u>as"))
        assert "&lt;script&gt;x" in page
        assert "known fraud since 2026-03-01" in page
    assert "No event of the day is worth a review" in queue_page(DOMAIN, [], facts, "model", "as of")
