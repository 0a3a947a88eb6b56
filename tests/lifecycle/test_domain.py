"""A domain that contradicts itself is refused where it is written, with the field and the mend."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from include.domains import get
from include.lifecycle.domain import Approval, Column, DomainError, Label, ReviewCapacity, Table, TrainingWindow

GOOD = get("auto_claims")
CLAIMS = GOOD.table("claims")


def claims(**changes: object) -> tuple[Table, ...]:
    return (replace(CLAIMS, **changes), *GOOD.tables[1:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Auto-Claims"}, "name: wants lower-case letters"),
        ({"name": "auto_claims_history"}, "must not end in '_history': the models of 'auto_claims' from backfills"),
        ({"tables": (CLAIMS, CLAIMS)}, "tables: names must differ"),
        ({"tables": claims(name="labels"), "event_table": "labels"}, "which every domain has"),
        ({"tables": claims(columns=(*CLAIMS.columns, Column("source", "string")))}, "adds a column 'source' of its own"),
        ({"tables": claims(columns=(*CLAIMS.columns, Column("fraud", "integer")))}, "declared twice"),
        ({"tables": claims(columns=(*CLAIMS.columns, Column("Bad Name", "integer")))}, "lower-case letters"),
        ({"tables": claims(key=("fraud",))}, "never null"),
        ({"tables": claims(available_at="")}, "has event_time and available_at"),
        ({"event_table": "customers"}, "must be one of the event tables"),
        ({"event_id": "incident_hour"}, "must be the one key column"),
        ({"label": Label("incident_hour", "event_time", timedelta(1))}, "a label is unknown at first"),
        ({"review": ReviewCapacity()}, "exactly one"),
        ({"approval": Approval()}, "at least one approver"),
        ({"training": TrainingWindow(timedelta(90), 0.6, 0.5)}, "between 0 and 1"),
    ],
)
def test_refused_with_the_field_and_the_mend(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DomainError, match=message) as refused:
        replace(GOOD, **changes)
    assert "domain " in str(refused.value)


def test_every_domain_takes_late_labels() -> None:
    labels = GOOD.table("labels")
    assert labels.column_names == (GOOD.event_id, "label", "decided_at")
    with pytest.raises(KeyError, match="it has claims, customers, labels"):
        GOOD.table("policies")
