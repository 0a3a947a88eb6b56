from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include import domains
from include.lifecycle.decisions import LONGEST_REVIEW, Decision, DecisionsError, ScoredDay, check_scored, read_decisions
from include.lifecycle.domain import Column
from include.lifecycle.review_queue import QueuedEvent, queue_csv

DOMAIN = domains.get("auto_claims")
NOON = datetime(2026, 3, 31, 12, tzinfo=UTC)
LATER = datetime(2026, 4, 1, 9, tzinfo=UTC)
HEADER = "policy_id,event_time,label,decided_at,decided_by,note"


def file(*lines: str, header: str = HEADER, encoding: str = "utf-8") -> bytes:
    return "".join(f"{line}\n" for line in (header, *lines)).encode(encoding)


def read(body: bytes, decided_at: datetime | None = LATER) -> list[Decision]:
    return read_decisions(body, DOMAIN, "A. Analyst", decided_at)[0]


def refused(body: bytes, decided_at: datetime | None = LATER) -> str:
    with pytest.raises(DecisionsError) as error:
        read_decisions(body, DOMAIN, "A. Analyst", decided_at)
    return str(error.value)


def test_what_analysts_write_is_read() -> None:
    decisions, undecided = read_decisions(
        file(
            "1,2026-03-31T12:00:00Z,1,,,",
            "2,2026-03-31T12:00:00Z, Fraud ,2026-03-31T14:30Z,B. Second,called the holder",
            "3,2026-03-31T12:00:00Z,0,2026-03-31 16:00:00+02:00,,",
            "4,2026-03-31T12:00:00Z,genuine,2026-03-31 14:30,,",
            "5,2026-03-31T12:00:00Z,,,,not reached",
            ",,,,,",
        ),
        DOMAIN,
        "A. Analyst",
        LATER,
    )
    assert undecided == 1
    assert [(d.event_id, d.label, d.decided_at, d.decided_by, d.note) for d in decisions] == [
        ("1", 1, LATER, "A. Analyst", ""),
        ("2", 1, datetime(2026, 3, 31, 14, 30, tzinfo=UTC), "B. Second", "called the holder"),
        ("3", 0, datetime(2026, 3, 31, 14, tzinfo=UTC), "A. Analyst", ""),
        ("4", 0, datetime(2026, 3, 31, 14, 30, tzinfo=UTC), "A. Analyst", ""),
    ]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_separators_and_byte_order_marks_that_spreadsheets_put_there(separator: str, encoding: str) -> None:
    body = file("1,2026-03-31T12:00:00Z,1,,,".replace(",", separator), header=HEADER.replace(",", separator), encoding=encoding)
    assert [(d.event_id, d.label) for d in read(body)] == [("1", 1)]


def test_each_fault_names_its_line_and_the_mend() -> None:
    message = refused(
        file(
            "1,2026-03-31T12:00:00Z,1,,,",
            "2,2026-03-31T12:00:00Z,maybe,,,",
            "3,2026-03-31T12:00:00Z,1,2026-03-31T11:59:59Z,,",
            '4,2026-03-31T12:00:00Z,,,,"two\nlines"',
            "1,2026-03-31T12:00:00Z,0,,,",
            "1.23E+15,2026-03-31T12:00:00Z,0,,,",
            "7,31/03/2026 12:00,0,,,",
            "8,2026-03-31T12:00:00Z,0,2026-04-01,,",
            "9,2026-03-31T12:00:00Z,,2026-04-01T08:00Z,,",
            "10,2026-03-31T12:00:00Z,1,,",
        )
    )
    lines = {line.strip().partition(":")[0]: line for line in message.splitlines()[1:]}
    assert set(lines) == {f"line {number}" for number in (3, 4, 7, 8, 9, 10, 11, 12)}, "the fifth record spans lines 5 and 6, and is no fault"
    assert "label 'maybe' is unknown: write 1 or fraud, 0 or genuine" in lines["line 3"]
    assert "decided at 2026-03-31T11:59:59Z, before the event, which happened at 2026-03-31T12:00:00Z" in lines["line 4"]
    assert "event 1 is decided on line 2 already" in lines["line 7"]
    assert "'1.23E+15' is no whole number: did a spreadsheet shorten it?" in lines["line 8"]
    assert "event_time '31/03/2026 12:00' is no date and time of the form" in lines["line 9"]
    assert "decided_at '2026-04-01' is no date and time" in lines["line 10"]
    assert "decided_at is filled in, and label is empty" in lines["line 11"]
    assert "5 cells where the header has 6" in lines["line 12"]


def test_without_an_instant_for_all_rows_each_must_say() -> None:
    body = file("1,2026-03-31T12:00:00Z,1,,,", "2,2026-03-31T12:00:00Z,1,2026-04-01T08:00Z,,")
    assert "line 2: decided_at is empty" in refused(body, decided_at=None)
    assert "line 3" not in refused(body, decided_at=None)
    assert len(read(body)) == 2


def test_many_faults_are_cut_short() -> None:
    message = refused(file(*(f"{number},2026-03-31T12:00:00Z,x,,," for number in range(50))))
    assert message.count("line ") == 20
    assert message.endswith("and 30 more")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the file is empty"),
        (file(header="policy_id,event_time,verdict"), "the header lacks label; it is policy_id, event_time, verdict"),
        (file(header="policy_id,event_time,label,label"), "the header has label twice"),
        (file("1,2026-03-31T12:00:00Z,1,,,Stra\xdfe", encoding="latin-1"), "line 2 is not UTF-8"),
        (file('1,2026-03-31T12:00:00Z,1,,,"never closed'), "from line 2 on this is no CSV"),
    ],
)
def test_files_that_cannot_be_read(body: bytes, message: str) -> None:
    assert message in refused(body)


def test_decisions_are_on_events_that_were_scored() -> None:
    decisions = read(file("1,2026-03-31T12:00:00Z,1,,,", "2,2026-03-31T12:00:00Z,1,,,", "3,2026-03-31T12:00:00Z,0,,,", "4,2026-03-30T12:00:00Z,0,,,"))
    scored = {date(2026, 3, 31): ScoredDay({"1": NOON, "3": NOON.replace(hour=13)}, LATER)}
    with pytest.raises(DecisionsError) as error:
        check_scored(decisions, scored.get)
    said = str(error.value).splitlines()[1:]
    assert len(said) == 3
    assert "line 3: event 2 is not among the 2 events scored of 2026-03-31" in said[0]
    assert "line 4: event 3 happened at 2026-03-31T13:00:00Z, the file says 2026-03-31T12:00:00Z" in said[1]
    assert "line 5: no event of 2026-03-30 was ever scored" in said[2]
    check_scored(decisions[:1], scored.get)


@pytest.mark.parametrize(("after", "taken"), [(timedelta(days=-1), True), (LONGEST_REVIEW, True), (LONGEST_REVIEW + timedelta(seconds=1), False)])
def test_a_decision_long_after_the_scoring_is_a_mistyped_date(after: timedelta, taken: bool) -> None:
    decisions = read(file("1,2026-03-31T12:00:00Z,1,,,"))
    scored = {date(2026, 3, 31): ScoredDay({"1": NOON}, decisions[0].decided_at - after)}
    if taken:
        check_scored(decisions, scored.get)
    else:
        with pytest.raises(DecisionsError, match=r"line 2: decided at .*, more than 366 days after the event was scored"):
            check_scored(decisions, scored.get)


TEXT_IDS = replace(
    DOMAIN,
    tables=tuple(
        replace(table, columns=tuple(Column(c.name, "string") if c.name == "policy_id" else c for c in table.columns)) for table in DOMAIN.tables
    ),
)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), min_size=1, max_size=4, unique=True))
def test_every_event_id_comes_back_from_the_queue_as_it_went(ids: list[str]) -> None:
    queue = [QueuedEvent(rank, event_id, NOON, event_id, 10.0, 0.5, 1.0, (), None) for rank, event_id in enumerate(ids, start=1)]
    rows = list(csv.reader(io.StringIO(queue_csv(TEXT_IDS, queue).decode("utf-8-sig"), newline="")))
    for row in rows[1:]:
        row[rows[0].index("label")] = "fraud"
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    decisions, _ = read_decisions(text.getvalue().encode(), TEXT_IDS, "A. Analyst", LATER)
    assert [decision.event_id for decision in decisions] == ids
