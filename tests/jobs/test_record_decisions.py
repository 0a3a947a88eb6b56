from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from claims_store import LAYOUT, contents, run
from scored_claims import queue, score

from include import domains
from include.jobs.context import JobError
from include.jobs.ingest import ingest
from include.lifecycle.domain import LABELS_TABLE
from include.lifecycle.features import create_views, open_database
from include.stores.objects import ObjectStore
from include.stores.partitions import Partitions

DOMAIN = domains.get("auto_claims")
FIRST, LAST = date(2026, 4, 1), date(2026, 4, 3)
DECIDED = "2026-04-14T09:00:00Z"
WITHOUT_S3 = ("--decided-by", "A. Analyst", "--decided-at", DECIDED)


@pytest.fixture
def scored(own_claims: ObjectStore) -> ObjectStore:
    score(own_claims, FIRST, "--last-day", str(LAST))
    return own_claims


def filled(objects: ObjectStore, path: Path, answers: dict[int, dict[str, str]]) -> tuple[Path, list[dict[str, str]]]:
    """The queues of all days in one file, as analysts hand it in; ``answers``: row from 0 → cells."""
    rows = [row for day in (1, 2, 3) for row in queue(objects, date(2026, 4, day))]
    for row, cells in answers.items():
        rows[row].update(cells)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    return path, rows


def record(objects: ObjectStore, path: Path, *more: str) -> dict[str, Any]:
    return run("record_decisions", objects, "--queue", str(path), "--decided-by", "A. Analyst", "--decided-at", DECIDED, *more)


def landed(objects: ObjectStore) -> dict[str, bytes]:
    return {name: body for name, body in contents(objects, f"{LAYOUT.domain}/raw/labels/").items() if "decisions_" in name}


def test_decisions_become_labels_that_features_and_training_see(scored: ObjectStore, tmp_path: Path) -> None:
    answers = {
        0: {"label": "fraud", "note": "staged"},
        1: {"label": "genuine", "decided_at": "2026-04-13T16:00Z", "decided_by": "B. Second"},
        2: {"label": "1", "decided_at": "2026-04-15T10:00:00Z"},
    }
    path, rows = filled(scored, tmp_path / "queue.csv", answers)
    result = record(scored, path, "--land")
    assert (result["decisions"], result["fraud"], result["undecided"]) == (3, 2, len(rows) - 3)
    [(name, body)] = landed(scored).items()
    assert name.startswith("dt=2026-04-15/decisions_")
    assert result["landed"] == scored.uri(f"{LAYOUT.domain}/raw/labels/{name}")
    ids = [row["policy_id"] for row in rows]
    assert body.decode().splitlines() == [
        "policy_id,label,decided_at",
        f"{ids[1]},0,2026-04-13T16:00:00Z",
        f"{ids[0]},1,{DECIDED}",
        f"{ids[2]},1,2026-04-15T10:00:00Z",
    ]
    kept = scored.get_json(scored.key(result["record"]))["decisions"]
    assert [(each["event_id"], each["decided_by"], each["note"]) for each in kept] == [
        (ids[1], "B. Second", ""), (ids[0], "A. Analyst", "staged"), (ids[2], "A. Analyst", ""),
    ]  # fmt: skip

    key = scored.key(result["landed"])
    found = ingest(DOMAIN, scored, {"domain": DOMAIN.name, "year": None, "files": [{"table": "labels", "key": key}]}, {})
    assert found["tables"]["labels"]["curated"] == 3
    assert found["tables"]["labels"]["quarantined"] == 0
    assert labels_at(scored, tmp_path, datetime(2026, 4, 14, 8, 59, tzinfo=UTC), ids[:3]) == {ids[1]: 0}
    assert labels_at(scored, tmp_path, datetime(2026, 4, 14, 9, tzinfo=UTC), ids[:3]) == {ids[1]: 0, ids[0]: 1}
    assert labels_at(scored, tmp_path, datetime(2026, 4, 15, 10, tzinfo=UTC), ids[:3]) == {ids[1]: 0, ids[0]: 1, ids[2]: 1}

    score(scored, FIRST, "--last-day", str(LAST))
    corrected, _ = filled(scored, tmp_path / "again.csv", {0: {"label": "0", "decided_at": "2026-04-20T10:00Z"}})
    again = record(scored, corrected, "--land")
    ingest(DOMAIN, scored, {"domain": DOMAIN.name, "year": None, "files": [{"table": "labels", "key": scored.key(again["landed"])}]}, {})
    assert labels_at(scored, tmp_path, datetime(2026, 4, 20, tzinfo=UTC), ids[:1]) == {ids[0]: 1}, "what was known before stays known"
    assert labels_at(scored, tmp_path, datetime(2026, 4, 21, tzinfo=UTC), ids[:1]) == {ids[0]: 0}


def labels_at(objects: ObjectStore, folder: Path, as_of: datetime, events: list[str]) -> dict[str, int]:
    """The labels of these events as the views of features and data sets show them at an instant."""
    paths = Partitions(objects, LAYOUT.labels).download(folder / f"labels-{as_of:%d%H%M}", FIRST, LAST)
    with open_database(folder / "spill") as connection:
        create_views(connection, DOMAIN, {LABELS_TABLE: paths}, as_of, {LABELS_TABLE})
        query = "SELECT event_id, label FROM labels WHERE superseded_at = TIMESTAMP '9999-12-31' AND event_id IN (SELECT unnest($events))"
        return dict(connection.execute(query, {"events": events}).fetchall())


def test_the_same_file_is_the_same_object_and_another_is_another(scored: ObjectStore, tmp_path: Path) -> None:
    path, _ = filled(scored, tmp_path / "queue.csv", {0: {"label": "1"}, 1: {"label": "0"}})
    first = record(scored, path, "--land")
    before = landed(scored)
    assert record(scored, path, "--land") == first
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], *reversed(lines[1:])]))
    assert record(scored, path, "--land") == first, "the order of the rows says nothing"
    assert landed(scored) == before
    path, _ = filled(scored, path, {0: {"label": "1"}, 1: {"label": "1"}})
    assert record(scored, path, "--land")["landed"] != first["landed"]
    assert len(landed(scored)) == 2


def test_without_being_told_to_land_it_only_checks(scored: ObjectStore, tmp_path: Path) -> None:
    path, rows = filled(scored, tmp_path / "queue.csv", {0: {"label": "1"}})
    result = record(scored, path)
    assert (result["decisions"], result["undecided"], result["landed"], result["record"]) == (1, len(rows) - 1, None, None)
    assert not landed(scored)


def test_a_file_with_any_fault_is_refused_whole(scored: ObjectStore, tmp_path: Path) -> None:
    def refused(message: str, answers: dict[int, dict[str, str]]) -> None:
        path, _ = filled(scored, tmp_path / "queue.csv", answers)
        with pytest.raises(JobError, match=message) as error:
            record(scored, path, "--land")
        assert str(path) in str(error.value)
        assert not landed(scored)
        assert not list(scored.list(LAYOUT.decisions("")))

    good = {"label": "1"}
    refused("line 3: label 'perhaps' is unknown", {0: good, 1: {"label": "perhaps"}})
    refused("line 3: event 999999 is not among the .* events scored of 2026-04-01", {0: good, 1: {**good, "policy_id": "999999"}})
    far = {**good, "event_time": "2031-01-01T00:00:00Z", "decided_at": "2031-02-01T00:00Z"}
    refused("line 3: no event of 2031-01-01 was ever scored", {0: good, 1: far})
    refused("line 2: decided at 2026-03-30T00:00:00Z, before the event", {0: {**good, "decided_at": "2026-03-30T00:00Z"}, 1: good})
    late = {**good, "decided_at": "2062-04-14T09:00Z"}
    refused("line 3: decided at 2062-04-14T09:00:00Z, more than 366 days after the event was scored", {0: good, 1: late})
    refused("the label of all .* events is empty", {})
    with pytest.raises(JobError, match=r"nowhere\.csv: No such file"):
        record(scored, tmp_path / "nowhere.csv", "--land")


def test_a_queue_scored_anew_does_not_invalidate_what_analysts_hold(scored: ObjectStore, tmp_path: Path) -> None:
    path, rows = filled(scored, tmp_path / "queue.csv", {0: {"label": "1"}})
    scored.put(LAYOUT.review_queue(FIRST, "queue.csv"), b"another queue")
    assert record(scored, path)["decisions"] == 1
    assert rows[0]["policy_id"]


def test_into_a_folder_without_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from include.jobs.__main__ import main

    monkeypatch.delenv("FRAUD_BUCKET", raising=False)
    file = tmp_path / "queue.csv"
    file.write_text("policy_id,event_time,label\n5,2026-04-12T10:00:00Z,1\n6,2026-04-12T11:00:00Z,\n")
    command = ["record-decisions", "--domain", "auto_claims", "--queue", str(file), *WITHOUT_S3]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    [path] = (tmp_path / "out" / "labels").rglob("*.csv")
    assert path.parent.name == "dt=2026-04-14"
    assert path.read_text() == f"policy_id,label,decided_at\n5,1,{DECIDED}\n"
    assert str(path) in capsys.readouterr().out
    assert main([*command, "--land"]) == 2
    assert "FRAUD_BUCKET is not set" in capsys.readouterr().err
