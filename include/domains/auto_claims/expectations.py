"""What claims, policies and their features must look like. Critical: the row is quarantined. Warning: counted and shown.

Types, missing columns and empty cells are declared in ``domain.py``; here are the values. A rule is critical only where no true claim can
break it, because a quarantined claim is scored by nobody.
"""

from __future__ import annotations

from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.row_conditions import Column

_CRITICAL = "critical"
_WARNING = "warning"


def _one_of(column: str, *values: Any) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=list(values), severity=_CRITICAL)


def _usually_one_of(column: str, *values: Any) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeInSet(
        column=column, value_set=list(values), severity=_WARNING, description=f"{column} is one of {', '.join(map(str, values))}"
    )


def _between(column: str, low: float | None, high: float | None, where: Any = None) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=low, max_value=high, severity=_CRITICAL, row_condition=where)


def _never(column: str, where: Any, description: str, severity: str) -> gxe.Expectation:
    """No row may meet the condition ``where``. Such a row's value of ``column`` is what the report shows."""
    # Great Expectations' condition objects know no arithmetic: what needs it is a pandas query.
    parser = {"condition_parser": "pandas"} if isinstance(where, str) else {}
    return gxe.ExpectColumnValuesToBeNull(column=column, severity=severity, description=description, row_condition=where, **parser)


def _claims() -> list[gxe.Expectation]:
    return [
        _between("policy_id", 1, None),
        _one_of("driver_relationship", "Self", "Spouse", "Child", "Other", "N/A"),
        _one_of("incident_type", "Collision", "Break-in", "Theft"),
        _one_of("collision_type", "Front", "Rear", "Side", "N/A"),
        _one_of("incident_severity", "Minor", "Major", "Totaled"),
        _one_of("authorities_contacted", "Police", "Ambulance", "Fire", "None"),
        _one_of("police_report_available", "Yes", "No"),
        _between("num_vehicles_involved", 1, 100),
        _between("num_injuries", 0, 100),
        _between("num_witnesses", 0, 100),
        _between("incident_month", 1, 12),
        _between("incident_day", 1, 31),
        _between("incident_day", None, 30, where=Column("incident_month").is_in([4, 6, 9, 11])),
        _between("incident_day", None, 29, where=Column("incident_month") == 2),
        _between("incident_dow", 0, 6),
        _between("incident_hour", 0, 23),
        _between("injury_claim", 0, None),
        _between("vehicle_claim", 0, None),
        _never(
            "total_claim_amount",
            where="(total_claim_amount - injury_claim - vehicle_claim > 0.01) or (total_claim_amount - injury_claim - vehicle_claim < -0.01)",
            description="total_claim_amount is injury_claim + vehicle_claim, to a cent",
            severity=_CRITICAL,
        ),
        _one_of("fraud", 0, 1),
        _never(
            "injury_claim",
            where=(Column("num_injuries") == 0) & (Column("injury_claim") > 0),
            description="no injury_claim where num_injuries is 0",
            severity=_WARNING,
        ),
        _never(
            "collision_type",
            where=((Column("incident_type") == "Collision") & (Column("collision_type") == "N/A"))
            | ((Column("incident_type") != "Collision") & (Column("collision_type") != "N/A")),
            description="collision_type is N/A for break-ins and thefts, and only for them",
            severity=_WARNING,
        ),
        _never(
            "police_report_available",
            where=(Column("authorities_contacted") != "Police") & (Column("police_report_available") == "Yes"),
            description="no police report where the police was not contacted",
            severity=_WARNING,
        ),
        _never(
            "total_claim_amount",
            where=Column("total_claim_amount") > 1_000_000,
            description="total_claim_amount is at most 1,000,000 USD",
            severity=_WARNING,
        ),
        # The median of the reference claims is 14,600 USD. A dozen such claims have a median outside of this range on four of a
        # million days: it is a change of unit (cents for dollars) before it is a change of claims.
        gxe.ExpectColumnMedianToBeBetween(
            column="injury_claim",
            min_value=3_000,
            max_value=75_000,
            severity=_WARNING,
            description="the median injury_claim is between 3,000 and 75,000 USD",
        ),
    ]


def _customers() -> list[gxe.Expectation]:
    return [
        _between("policy_id", 1, None),
        _between("customer_age", 15, 120),
        _between("months_as_customer", 0, 1200),
        _between("num_claims_past_year", 0, 100),
        _between("num_insurers_past_5_years", 1, 60),
        gxe.ExpectColumnValuesToMatchRegex(column="policy_state", regex="^[A-Z]{2}$", severity=_CRITICAL),
        _between("policy_deductable", 0, None),
        _between("policy_annual_premium", 0, None),
        gxe.ExpectColumnValuesToMatchRegex(column="policy_liability", regex=r"^\d{1,4}/\d{1,4}$", severity=_CRITICAL),
        _between("auto_year", 1900, 2100),
        _usually_one_of("customer_gender", "Female", "Male", "Other", "Unkown"),
        _usually_one_of("policy_state", "AZ", "CA", "ID", "NV", "OR", "WA"),
        _usually_one_of("policy_liability", "15/30", "25/50", "30/60", "100/200"),
        _usually_one_of("customer_education", "Below High School", "High School", "Associate", "Bachelor", "Advanced Degree"),
    ]


def raw_expectations() -> dict[str, list[gxe.Expectation]]:
    """By landing table, over its declared columns. On the 5,000 reference claims no row is critical; 3,371 warn of an injury claim
    without an injury."""
    return {
        "claims": _claims(),
        "customers": _customers(),
        "labels": [_between("policy_id", 1, None), _one_of("label", 0, 1)],
    }


def feature_expectations() -> list[gxe.Expectation]:
    """Over the columns of ``features.sql``. Critical ones stop the partition; nothing is written."""
    return [
        gxe.ExpectColumnValuesToBeUnique(column="event_id", severity=_CRITICAL),
        gxe.ExpectColumnValuesToNotBeNull(column="event_time", severity=_CRITICAL),
        gxe.ExpectColumnValuesToNotBeNull(column="amount", severity=_CRITICAL),
        _between("amount", 0, None),
        gxe.ExpectColumnValuesToNotBeNull(column="severity", severity=_CRITICAL),
        _between("injury_claim", 0, None),
        _between("vehicle_claim", 0, None),
        # A claim whose policy has not been delivered is scored on the claim alone; more than a few mean that deliveries are out of step.
        gxe.ExpectColumnValuesToNotBeNull(
            column="customer_age", severity=_WARNING, description="the claim's policy was known when the incident happened"
        ),
        _usually_one_of("facet_age_band", "18-29", "30-44", "45-59", "60+"),
        gxe.ExpectColumnValuesToBeInSet(
            column="weekday_contradicts_date",
            value_set=[0],
            severity=_WARNING,
            description="the stated day of the week is that of the date; where most rows break it, the delivery's year is wrong",
        ),
    ]
