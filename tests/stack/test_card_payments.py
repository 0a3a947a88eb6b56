"""Card payments on the local stack: the main job, a backfill and what it says, the review queue and the decisions that come back."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from include import domains
from include.laptop.backfill import Backfill
from include.laptop.demo import Demo
from include.laptop.stack import Stack
from include.stores.layout import Layout
from include.stores.registry import ModelRegistry

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]
NAME = "card_payments"
WEEKS = (date(2026, 2, 18), date(2026, 2, 25))


@pytest.fixture(scope="module")
def payments(stack: Stack) -> Demo:
    demo = Demo(stack, domains.get(NAME), history={"days": 75, "events": 80_000})
    demo.summary = demo.run()
    return demo


@pytest.fixture(scope="module")
def backfill(payments: Demo) -> Backfill:
    backfill = Backfill(payments.stack, payments.domain, *WEEKS)
    backfill.made = backfill.run()
    return backfill


def test_the_same_dags_carry_payments_to_a_live_endpoint(payments: Demo) -> None:
    rows = payments.summary["rows"]
    assert rows["landed"] == rows["curated"] + rows["quarantined"] > 80_000
    assert rows["quarantined"] > 0
    assert payments.summary["metrics"]["average_precision"]["value"] > 0.4
    assert payments.summary["metrics"]["card_precision_at_capacity"]["value"] > 0
    live = ModelRegistry(payments.stack.client("sagemaker")).live(NAME)
    assert live is not None
    assert live.model_package == payments.summary["model_package"]


def test_a_backfill_says_how_its_models_aged(payments: Demo, backfill: Backfill) -> None:
    registry = ModelRegistry(payments.stack.client("sagemaker"))
    assert [model.metadata["as_of"] for model in registry.history(NAME)] == [f"{day}T06:00:00Z" for day in WEEKS]
    assert registry.live(NAME).model_package == payments.summary["model_package"], "a backfill touches nothing live"
    dag_id = f"{NAME}.evaluate_history"
    found = next(result for run in payments.api.runs(dag_id) if (result := payments.api.xcom(dag_id, run["dag_run_id"], "history")))
    assert found["models"] == 2
    ageing = payments.objects.get_json(payments.objects.key(found["reports"]["ageing"]))
    assert {(cell["as_of"][:10], cell["first_day"], cell["age"]) for cell in ageing["cells"]} == {
        ("2026-02-18", "2026-02-19", 0),
        ("2026-02-18", "2026-02-26", 1),
        ("2026-02-25", "2026-02-26", 0),
    }


def test_the_same_backfill_again_adopts_what_is_done(payments: Demo, backfill: Backfill) -> None:
    def outcome(runs: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
        tasks = ("build_dataset", "train", "evaluate", "register")
        return {
            (run["dag_run_id"], task): payments.api.xcom(backfill.dag_id, run["dag_run_id"], task)  # with the job's name
            for run in runs
            for task in tasks
        }

    before = outcome(backfill.made)
    assert outcome(Backfill(payments.stack, payments.domain, *WEEKS, again=True).run()) == before


def test_decisions_on_the_review_queue_come_back_as_labels(payments: Demo, tmp_path: Path) -> None:
    day = date(2026, 3, 15)
    layout = Layout(NAME)
    body = payments.objects.get(layout.review_queue(day, "queue.csv")).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(body)))
    assert 0 < len(rows) <= payments.domain.review.per_day
    benefits = [float(row["expected_benefit"]) for row in rows]
    assert benefits == sorted(benefits, reverse=True)

    rows[0]["label"] = "fraud"
    filled = tmp_path / "queue.csv"
    with filled.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    command = ["record-decisions", "--domain", NAME, "--queue", str(filled), "--decided-by", "ana", "--decided-at", "2026-03-17T10:00:00Z"]
    recorded = subprocess.run(
        [sys.executable, "-m", "include.jobs", *command, "--land"],
        env=payments.stack.job_environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(recorded.stdout)["decisions"] == 1

    dag_id = f"{NAME}.ingest_data"
    run = payments.api.trigger(dag_id, {"first_day": "2026-03-17", "last_day": "2026-03-17"})
    assert payments.api.follow(dag_id, run, 300, lambda _: None) == "success"
    labels = pq.read_table(io.BytesIO(payments.objects.get(f"{layout.labels}/dt={day}/data.parquet"))).to_pylist()
    [decided] = [label for label in labels if label["event_id"] == rows[0]["transaction_id"]]
    assert decided["label"] == 1
    assert decided["available_at"].isoformat() == "2026-03-17T10:00:00+00:00"
