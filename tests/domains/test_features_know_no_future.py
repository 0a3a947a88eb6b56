"""For every domain: features as of each day equal those computed at the end, a day alone equals the day of the whole, planted faults are caught
by name, and the order in which rows come changes nothing."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from small_history import History, small_history
from time_checks import leaks, looks_back_too_far

from include import domains
from include.lifecycle import features, portable_sql
from include.lifecycle.domain import LABELS_TABLE

LEAKS = {
    # a label before it is available
    "leak_label_of_the_event": "own.label",
    "leak_label_by_event_time": "recent.frauds",
    "leak_labels_never_withdrawn": "standing.labels",
    # a join on the future
    "leak_later_event": "later.amount",
    "leak_reference_versions": "versions.number",
    # windows that reach beyond the row
    "leak_next_amount": "LEAD(h.amount) OVER (PARTITION BY LENGTH(h.entity_id) ORDER BY h.event_time, h.event_id)",
    "leak_following_frame": (
        "COUNT(*) OVER (PARTITION BY LENGTH(h.entity_id) ORDER BY h.event_time RANGE BETWEEN CURRENT ROW AND INTERVAL 1 DAY FOLLOWING)"
    ),
    "leak_whole_partition": "AVG(h.amount) OVER (PARTITION BY LENGTH(h.entity_id))",
    "leak_count_of_all": "COUNT(*) OVER ()",
}
BACKWARDS = {"events_so_far": "COUNT(*) OVER (ORDER BY h.event_time, h.event_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"}


@pytest.fixture(scope="module", params=domains.catalogue().domains)
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> History:
    days = domains.get(request.param).feature_history // timedelta(days=1) + 12
    return small_history(request.param, tmp_path_factory.mktemp(request.param), days, 14 * days)


def planted(history: History, columns: dict[str, str]) -> str:
    """The domain's SQL with more columns."""
    domain = history.domain
    honest = portable_sql.parse(domains.features_sql(domain.name), [table.name for table in domain.landing_tables]).sql("duckdb")
    reference = next((table.name for table in domain.tables if table.kind == "reference"), LABELS_TABLE)
    return f"""
        WITH honest AS ({honest}),
        own AS (SELECT event_id, MAX(label) AS label FROM labels GROUP BY event_id),
        recent AS (
            SELECT e.event_id, COUNT(*) AS frauds
            FROM honest AS e
            JOIN labels AS l ON l.label = 1 AND l.event_time < e.event_time AND l.event_time >= e.event_time - INTERVAL 2 DAY
            GROUP BY e.event_id
        ),
        standing AS (
            SELECT e.event_id, COUNT(*) AS labels
            FROM honest AS e
            JOIN labels AS l ON l.label = 1 AND l.available_at <= e.event_time AND l.superseded_at = TIMESTAMP '9999-12-31'
            GROUP BY e.event_id
        ),
        later AS (
            SELECT e.event_id, MAX(o.amount) AS amount
            FROM honest AS e JOIN honest AS o ON o.event_time > e.event_time AND o.event_time <= e.event_time + INTERVAL 2 DAY
            GROUP BY e.event_id
        ),
        versions AS (SELECT COUNT(*) AS number FROM {reference})
        SELECT h.*, {", ".join(f"{expression} AS {column}" for column, expression in columns.items())}
        FROM honest AS h
        LEFT JOIN own ON own.event_id = h.event_id
        LEFT JOIN recent ON recent.event_id = h.event_id
        LEFT JOIN standing ON standing.event_id = h.event_id
        LEFT JOIN later ON later.event_id = h.event_id
        CROSS JOIN versions
    """


def test_features_as_of_each_day_equal_those_computed_at_the_end(history: History, tmp_path: Path) -> None:
    """Each midnight, and the very instants at which some events became known."""
    events = history.tables[history.domain.event_table]
    known = [instant.to_pydatetime() for instant in events["available_at"].drop_duplicates().sort_values().iloc[5::60]]
    instants = [*history.midnights, *known]
    assert len(known) >= 3
    assert leaks(history, domains.features_sql(history.domain.name), instants, tmp_path) == {}


def test_planted_leaks_are_caught_by_name(history: History, tmp_path: Path) -> None:
    assert leaks(history, planted(history, LEAKS), history.midnights[::3], tmp_path).keys() == LEAKS.keys()


def test_a_day_alone_equals_the_day_of_the_whole(history: History, tmp_path: Path) -> None:
    days = [day for day in history.event_days if (day - history.event_days[0]) > history.domain.feature_history]
    assert len(days) >= 5
    assert looks_back_too_far(history, domains.features_sql(history.domain.name), days, tmp_path) == {}


@pytest.mark.parametrize("processors", [2, 3])
def test_the_same_bytes_however_many_processors_compute(
    history: History, processors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The days' files are read at once, so that rows arrive in another order each time; many happened at the same instant."""
    days = history.event_days
    files = history.paths(days[0], days[-1])
    sql = domains.features_sql(history.domain.name)
    tables = []
    for count in (1, *[processors] * 3):
        monkeypatch.setattr(features, "usable_processors", partial(int, count))
        with features.open_database(tmp_path / "spill") as connection:
            tables.append(features.compute_features(connection, history.domain, sql, files, history.end, days[0], days[-1]))
    assert all(table.equals(tables[0]) for table in tables)


def test_a_feature_that_looks_back_further_than_the_domain_says_is_caught_by_name(history: History, tmp_path: Path) -> None:
    assert looks_back_too_far(history, planted(history, BACKWARDS), history.event_days[-2:], tmp_path).keys() == BACKWARDS.keys()
