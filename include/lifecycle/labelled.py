"""The labelled events of an interval, as known at an instant: what models are trained, tested and, later, judged on.

SQL over the views that ``features.create_views`` made as of the instant, into narrow temporary tables of the same DuckDB connection, which may
be larger than memory.
"""

# ruff: noqa: S608 -- the statements are put together from times and from names of our own

from __future__ import annotations

from datetime import UTC, datetime

import duckdb

from include.lifecycle.domain import LABELS_TABLE, Label
from include.lifecycle.features import FEATURES

LABELLED = "labelled_events"
"""Temporary table, one row an event: ``event_id``, ``event_time``, ``group_id``, ``label`` (TINYINT, 0 or 1) and ``label_known_at`` (null: it
was never reported, and counts as genuine)."""

KNOWN_FRAUDS = "known_frauds"
"""Temporary table: ``group_id`` of an event of the interval, and from when (``known_from``) until when (``known_until``, exclusive;
9999-12-31: for good) that event was known to be fraud."""


def label_events(connection: duckdb.DuckDBPyConnection, label: Label, after: datetime, until: datetime, events: str = FEATURES) -> int:
    """Leaves ``LABELLED`` and ``KNOWN_FRAUDS`` of the events with ``after < event_time <= until``; returns how many of these have no known
    label. They count as genuine where only fraud is reported (``Label.unreported_is_genuine``), and are left out where not: it is the
    caller's part to end the interval a label's maturity before the instant.

    ``events``: a relation with the columns event_id, event_time, group_id, one row an event. The view ``labels`` must be there, as of the
    instant.
    """
    chosen = f"""SELECT event_id, event_time, group_id FROM {events}
        WHERE event_time > {sql_timestamp(after)} AND event_time <= {sql_timestamp(until)}"""
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE label_versions AS
        SELECT e.*, l.label, l.available_at AS known_from, l.superseded_at AS known_until
        FROM ({chosen}) AS e LEFT JOIN {LABELS_TABLE} AS l USING (event_id)
    """)
    latest = "(label IS NULL OR known_until = TIMESTAMP '9999-12-31')"
    [[unlabelled]] = connection.execute("SELECT count(*) FROM label_versions WHERE label IS NULL").fetchall()
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE {LABELLED} AS
        SELECT event_id, event_time, group_id, CAST(coalesce(label, 0) AS TINYINT) AS label, known_from AS label_known_at
        FROM label_versions WHERE {latest if label.unreported_is_genuine else f"{latest} AND label IS NOT NULL"}
    """)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE {KNOWN_FRAUDS} AS SELECT group_id, known_from, known_until FROM label_versions WHERE label = 1
    """)
    connection.execute("DROP TABLE label_versions")
    return int(unlabelled)


def group_was_blocked(event: str, frauds: str = KNOWN_FRAUDS) -> str:
    """SQL condition on a row ``event`` (an alias with the columns event_time, group_id): at the midnight (UTC) that begins the event's day, a
    fraud of its group among ``frauds`` was known.

    With labels that come a delay of d days after their events, these are the frauds of the days up to d + 1 before the event's, which the
    Fraud Detection Handbook takes out of its test sets (Le Borgne et al. 2022, §5.2, ``get_train_test_set``). A fraud that was withdrawn
    before the midnight blocks no longer.
    """
    midnight = f"date_trunc('day', {event}.event_time)"
    return (
        f"EXISTS (SELECT 1 FROM {frauds} AS f WHERE f.group_id = {event}.group_id"
        f" AND f.known_from <= {midnight} AND {midnight} < f.known_until)"
    )


def sql_timestamp(moment: datetime) -> str:
    """An instant as a literal of DuckDB's TIMESTAMP, which is in UTC here."""
    return f"TIMESTAMP '{moment.astimezone(UTC).replace(tzinfo=None).isoformat(sep=' ')}'"
