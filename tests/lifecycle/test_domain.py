"""A domain that contradicts itself is refused where it is written, with the field and the mend."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from include.domains import get
from include.lifecycle.domain import Approval, Column, DomainError, Label, Monitoring, ReviewCapacity, Rollout, Table, TrainingWindow

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
        ({"rollout": Rollout(error_rate=0.5)}, "error_rate"),
        ({"rollout": Rollout(caps=(0.5, 0.25))}, "caps want growing shares"),
        ({"rollout": Rollout(caps=(0.5, 1.0))}, "the whole traffic is the promotion's"),
        ({"rollout": Rollout(minimum_share=0.0)}, "nothing is learned of the challenger"),
        ({"rollout": Rollout(epoch=timedelta(minutes=5))}, "an epoch wants an hour"),
        ({"rollout": Rollout(shadow_at_most=timedelta(days=1))}, "must leave time"),
        ({"rollout": Rollout(discount_per_day=0.0)}, "discount_per_day"),
        ({"rollout": Rollout(random_review_share=1.0)}, "random_review_share and disagreement_review_share"),
        ({"rollout": Rollout(disagreement_review_share=1.0)}, "random_review_share and disagreement_review_share"),
        ({"rollout": Rollout(disagreement_review_share=-0.1)}, "random_review_share and disagreement_review_share"),
        ({"rollout": Rollout(non_inferiority_margin=0.0)}, "can never be shown"),
        ({"rollout": Rollout(approve_ramp=True), "approval": Approval(automatic=True)}, "approval.approvers names nobody"),
        ({"rollout": Rollout(approve_promotion=True), "approval": Approval(automatic=True)}, "approval.approvers names nobody"),
        ({"rollout": Rollout(training=TrainingWindow(timedelta(90), 0.6, 0.5))}, "rollout.training: validation and test"),
        (
            {"rollout": Rollout(random_review_share=0.0), "label": replace(GOOD.label, known_for="reviewed_events")},
            "nothing else tells what no model flags",
        ),
        ({"monitoring": Monitoring(window=timedelta(hours=12))}, "windows want a day at least"),
        ({"monitoring": Monitoring(windows_in_a_row=0)}, "windows_in_a_row one"),
        ({"monitoring": Monitoring(reporting_delay=-timedelta(1))}, "reporting_delay must not be negative"),
        ({"monitoring": Monitoring(false_alarms_per_year=0)}, "false_alarms_per_year must be above 0"),
        ({"monitoring": Monitoring(alarm_on=("quality",), warn_on=("quality",))}, "'quality' is in alarm_on and in warn_on"),
        ({"monitoring": Monitoring(alarm_on=("drift",))}, "no finding is called 'drift'"),  # type: ignore[arg-type]
        ({"monitoring": Monitoring(alarm_on=(), warn_on=())}, "then nothing is watched"),
        ({"monitoring": Monitoring(capture_percentage=0)}, "capture_percentage wants 1 to 100"),
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
