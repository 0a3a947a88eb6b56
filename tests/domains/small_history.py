"""A few weeks of any domain as ``ingest`` leaves them, with what makes time hard: corrected events, some of them moved to another day, events
at the same instant, labels that come late and are withdrawn, reference rows with several versions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from include import domains
from include.lifecycle.domain import LABELS_TABLE, Domain, Table

FIRST_DAY = date(2026, 1, 1)
DAY = pd.Timedelta(days=1)
_TYPES = {"string": "VARCHAR", "integer": "BIGINT", "float": "DOUBLE", "timestamp": "TIMESTAMP"}
_TIMES = ("event_time", "available_at", "delivered_at")


@dataclass(frozen=True)
class History:
    """``tables``: table → all curated rows; ``files``: table → day → the partition that ``ingest`` would have left, one day for a reference
    table; ``whole``: the same rows, one file a table; ``end``: when nothing more became known."""

    domain: Domain
    tables: dict[str, pd.DataFrame]
    files: dict[str, dict[date, Path]]
    whole: dict[str, list[Path]]
    end: datetime

    def paths(self, first: date, last: date) -> dict[str, list[Path]]:
        """What a job downloads: of the event tables and labels only the days asked for."""
        always = {table.name for table in self.domain.tables if table.kind == "reference"}
        return {
            table: [path for day, path in files.items() if table in always or first <= day <= last] for table, files in self.files.items()
        }

    @property
    def event_days(self) -> list[date]:
        events = self.tables[self.domain.event_table]
        return sorted(set(events["event_time"].dt.date))

    @property
    def midnights(self) -> list[datetime]:
        """The midnight after each day from the first event to the end."""
        first = datetime.combine(self.event_days[0], datetime.min.time(), UTC)
        return [first + timedelta(days=day) for day in range(1, (self.end - first).days + 1)]


def small_history(name: str, folder: Path, days: int, events: int) -> History:
    """``days`` of about ``events`` simulated events of a domain, made harder, and written as curated files."""
    domain = domains.get(name)
    tables = _simulated(domain, days, events)
    happened = tables[domain.event_table].sort_values(["event_time", domain.event_id], ignore_index=True)
    happened = pd.concat([happened, _at_the_same_instant(domain, happened)], ignore_index=True)
    tables[LABELS_TABLE] = _labels(domain, happened)
    tables[domain.event_table] = pd.concat([happened, _corrected(domain, happened)], ignore_index=True)
    for table in domain.tables:
        if table.kind == "reference":
            tables[table.name] = pd.concat([tables[table.name], _new_versions(table, tables[table.name], days)], ignore_index=True)
    last = max(rows["available_at"].max() for rows in tables.values())
    whole = {name: [_write(rows, folder / f"{name}.parquet")] for name, rows in tables.items()}
    return History(domain, tables, _partitions(domain, tables, folder), whole, (last + DAY).to_pydatetime())


def _simulated(domain: Domain, days: int, events: int) -> dict[str, pd.DataFrame]:
    simulator = domains.part(domain.name, "simulator")
    simulation = simulator.simulate(days, events, FIRST_DAY, 5)
    found: dict[str, list[pd.DataFrame]] = {table.name: [] for table in domain.tables}
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for file in simulator.deliveries(simulation, history_until=None, until=simulation.last_day, damaged_share=0.0):
            if file.table in found:
                found[file.table].append(_typed(connection, domain.table(file.table), file.rows, file.day))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}


def _typed(connection: duckdb.DuckDBPyConnection, table: Table, rows: pd.DataFrame, day: date) -> pd.DataFrame:
    """A landed file's rows with their types and times, as the domain's expressions say."""
    columns = ", ".join(
        f"""CAST(NULLIF(CAST("{column.name}" AS VARCHAR), '') AS {_TYPES[column.type]}) AS "{column.name}\"""" for column in table.columns
    )
    delivered = f"TIMESTAMP '{day + timedelta(days=1)}' AS delivered_at, CAST(NULL AS INTEGER) AS delivery_year"
    beginning = "TIMESTAMP '1970-01-01'"
    event_time = f"CAST(({table.event_time or beginning}) AS TIMESTAMP) AS event_time"
    available_at = f"CAST(({table.available_at or beginning}) AS TIMESTAMP) AS available_at"
    query = (
        f"SELECT *, {available_at}, 'file' AS source FROM (SELECT *, {event_time} FROM (SELECT {columns}, {delivered} FROM landed))"
    )
    connection.register("landed", rows)
    curated = connection.execute(query).df().drop(columns=["delivery_year"])
    for column in _TIMES:
        curated[column] = curated[column].astype("datetime64[us]").dt.tz_localize("UTC")
    return curated


def _at_the_same_instant(domain: Domain, events: pd.DataFrame) -> pd.DataFrame:
    copies = events.iloc[::13].copy()
    copies[domain.event_id] = copies[domain.event_id] + 1_000_000
    return copies


def _corrected(domain: Domain, events: pd.DataFrame) -> pd.DataFrame:
    """Later versions with another amount; every other one says that the event happened a day later."""
    changed = events.iloc[::11].copy()
    number = next(column.name for column in domain.table(domain.event_table).columns if column.type == "float")
    changed[number] = changed[number].fillna(0) + 1000
    changed.loc[changed.index[::2], "event_time"] += DAY
    return changed.assign(available_at=changed["available_at"] + 2 * DAY, delivered_at=changed["delivered_at"] + 3 * DAY, source="later")


def _labels(domain: Domain, events: pd.DataFrame) -> pd.DataFrame:
    """A fifth are frauds, known after two to nine days; half of these are withdrawn five days later. Some are found genuine."""
    known = events["available_at"] + (events.index % 8 + 2) * DAY
    rows = pd.DataFrame({
        "event_id": events[domain.event_id].astype("string"), "label": (events.index % 5 == 0).astype("int32"),
        "event_time": events["event_time"], "available_at": known, "delivered_at": known, "source": "labels",
    })  # fmt: skip
    reported = rows[(events.index % 5 == 0) | (events.index % 7 == 1)]
    withdrawn = reported[reported.index % 10 == 0]
    withdrawn = withdrawn.assign(label=0, available_at=withdrawn["available_at"] + 5 * DAY, delivered_at=withdrawn["delivered_at"] + 5 * DAY)
    return pd.concat([reported, withdrawn.astype({"label": "int32"})], ignore_index=True)


def _new_versions(table: Table, rows: pd.DataFrame, days: int) -> pd.DataFrame:
    """Every third entity changes twice, a third and two thirds through the history."""
    number = next(column.name for column in table.columns if column.type in {"float", "integer"} and column.name not in table.key)
    versions = []
    for nth, part in enumerate((1, 2), start=1):
        changed = pd.Timestamp(FIRST_DAY, tz="UTC") + DAY * (days * part // 3)
        versions.append(rows.iloc[::3].assign(**{number: rows[number].iloc[::3] + nth}, available_at=changed, delivered_at=changed))
    return pd.concat(versions, ignore_index=True)


def _partitions(domain: Domain, tables: Mapping[str, pd.DataFrame], folder: Path) -> dict[str, dict[date, Path]]:
    """One file a day, in which each event that has a version on that day has all of its versions and labels; one of a reference table."""
    events = tables[domain.event_table]
    ids = events[domain.event_id].astype("string")
    days_of = events["event_time"].dt.date.groupby(ids).agg(lambda days: sorted(set(days)))
    files: dict[str, dict[date, Path]] = {}
    for name, rows in tables.items():
        kind = "event" if name == LABELS_TABLE else domain.table(name).kind
        if kind == "reference":
            partitions = {FIRST_DAY: rows}
        else:
            key = rows["event_id"] if name == LABELS_TABLE else ids
            placed = [(day, position) for position, event in enumerate(key) for day in days_of[event]]
            grouped = itertools.groupby(sorted(placed), key=lambda place: place[0])
            partitions = {day: rows.iloc[[position for _, position in places]] for day, places in grouped}
        files[name] = {}
        for day, found in partitions.items():
            files[name][day] = _write(found, folder / name / f"dt={day}.parquet")
    return files


def _write(rows: pd.DataFrame, path: Path) -> Path:
    table = pa.Table.from_pandas(rows, preserve_index=False)
    for name in _TIMES:
        position = table.schema.get_field_index(name)
        table = table.set_column(position, name, table[name].cast(pa.timestamp("us", "UTC")))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path

