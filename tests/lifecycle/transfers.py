"""A small fraud problem for tests of features: transfers between accounts, features over history, over a reference table and over labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from include.lifecycle.domain import Approval, Column, Costs, Domain, Facet, Label, Owner, ReviewCapacity, Table, TrainingWindow

DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

DOMAIN = Domain(
    name="transfers",
    title="Transfers",
    description="",
    owner=Owner("a", "a@example.com"),
    tables=(
        Table(
            "transfers",
            key=("transfer_id",),
            event_time="sent_at",
            available_at="sent_at",
            columns=(
                Column("transfer_id", "integer"),
                Column("account", "string"),
                Column("money", "float"),
                Column("fraud", "integer", nullable=True),
            ),
        ),
        Table("accounts", key=("account",), kind="reference", columns=(Column("account", "string"), Column("risk", "integer"))),
    ),
    event_table="transfers",
    event_id="transfer_id",
    entity="account",
    leakage_group="account",
    label=Label("fraud", "event_time", maturity=7 * DAY),
    costs=Costs("EUR", 1),
    review=ReviewCapacity(share=0.1),
    training=TrainingWindow(60 * DAY),
    feature_history=3 * DAY,
    facets=(Facet("segment", "a"),),
    approval=Approval(automatic=True),
)

SQL = """
WITH known_frauds AS (
    SELECT t.transfer_id, COUNT(l.event_id) AS n
    FROM transfers AS t
    LEFT JOIN transfers AS earlier ON earlier.account = t.account AND earlier.event_time < t.event_time
    LEFT JOIN labels AS l ON l.event_id = CAST(earlier.transfer_id AS VARCHAR) AND l.label = 1
        AND l.available_at <= t.event_time AND t.event_time < l.superseded_at
    GROUP BY t.transfer_id
)
SELECT
    CAST(t.transfer_id AS VARCHAR) AS event_id, t.event_time, t.account AS entity_id, t.account AS group_id, t.money AS amount,
    COALESCE(a.account, 'none') AS facet_segment,
    a.risk AS risk,
    SUM(t.money) OVER past AS money_3d,
    COUNT(*) OVER past AS transfers_3d,
    f.n AS known_frauds
FROM transfers AS t
LEFT JOIN accounts AS a ON a.account = t.account AND a.available_at <= t.event_time AND t.event_time < a.superseded_at
JOIN known_frauds AS f ON f.transfer_id = t.transfer_id
WINDOW past AS (PARTITION BY t.account ORDER BY t.event_time RANGE BETWEEN INTERVAL 3 DAY PRECEDING AND CURRENT ROW)
-- a comment, and a semicolon, as people end their files
;
"""


def at(days: float) -> datetime:
    """An instant, in days after the start."""
    return START + timedelta(days=days)


def transfer(
    transfer_id: int, days: float, account: str = "x", money: float = 1.0, known: float | None = None, **more: Any
) -> dict[str, Any]:
    """A curated row; ``known``: days after the start at which it became available (None: at once)."""
    row = {"transfer_id": transfer_id, "account": account, "money": money, "event_time": at(days)}
    return {**row, **_versions(at(days if known is None else known)), **more}


def account(name: str, risk: int, known: float | None = None) -> dict[str, Any]:
    """A version of an account; ``known`` None: the first one, which holds from the beginning of time."""
    return {"account": name, "risk": risk, **_versions(EPOCH if known is None else at(known))}


def label(transfer_id: int, days: float, value: int, known: float) -> dict[str, Any]:
    return {"event_id": str(transfer_id), "label": value, "event_time": at(days), **_versions(at(known))}


def _versions(available_at: datetime) -> dict[str, Any]:
    return {"available_at": available_at, "delivered_at": max(available_at, START), "source": "f"}


def write(folder: Path, tables: Mapping[str, Iterable[dict[str, Any]]], known_by: datetime | None = None) -> dict[str, list[Path]]:
    """Each table without what became available after ``known_by``, laid out as ``ingest`` does it: one file a day, in which each event that has
    a version on that day has all of its versions and labels (reference tables: one file)."""
    known = {name: [row for row in rows if known_by is None or row["available_at"] <= known_by] for name, rows in tables.items()}
    event_days: dict[str, set[str]] = {}
    for row in known.get("transfers", ()):
        event_days.setdefault(str(row["transfer_id"]), set()).add(f"{row['event_time']:%Y-%m-%d}")
    paths: dict[str, list[Path]] = {}
    for name, rows in known.items():
        days: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            event = str(row.get("transfer_id", row.get("event_id")))
            for day in event_days.get(event, {f"{row.get('event_time', START):%Y-%m-%d}"}):
                days.setdefault(day, []).append(row)
        paths[name] = []
        for day, found in sorted(days.items()):
            path = folder / name / f"dt={day}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_pylist(found)
            times = [i for i, field in enumerate(table.schema) if pa.types.is_timestamp(field.type)]
            schema = table.schema
            for i in times:
                schema = schema.set(i, pa.field(schema.field(i).name, pa.timestamp("us", "UTC")))
            pq.write_table(table.cast(schema), path)
            paths[name].append(path)
    return paths
