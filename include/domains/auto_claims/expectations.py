"""What claims, policies and their features must look like. Critical: the row is quarantined. Warning: counted and shown.

Types, missing columns and empty cells are declared in ``domain.py``; here are the values. A rule is critical only where no true claim can
break it, because a quarantined claim is scored by nobody.
"""

from __future__ import annotations

import great_expectations.expectations as gxe
from great_expectations.expectations.row_conditions import Column

from include.domains.expecting import (
    CRITICAL,
    WARNING,
    between,
    median_between,
    never,
    never_null,
    one_of,
    usually_known,
    usually_one_of,
)


def _claims() -> list[gxe.Expectation]:
    return [
        between("policy_id", 1, None),
        one_of("driver_relationship", "Self", "Spouse", "Child", "Other", "N/A"),
        one_of("incident_type", "Collision", "Break-in", "Theft"),
        one_of("collision_type", "Front", "Rear", "Side", "N/A"),
        one_of("incident_severity", "Minor", "Major", "Totaled"),
        one_of("authorities_contacted", "Police", "Ambulance", "Fire", "None"),
        one_of("police_report_available", "Yes", "No"),
        between("num_vehicles_involved", 1, 100),
        between("num_injuries", 0, 100),
        between("num_witnesses", 0, 100),
        between("incident_month", 1, 12),
        between("incident_day", 1, 31),
        between("incident_day", None, 30, where=Column("incident_month").is_in([4, 6, 9, 11])),
        between("incident_day", None, 29, where=Column("incident_month") == 2),
        between("incident_dow", 0, 6),
        between("incident_hour", 0, 23),
        between("injury_claim", 0, None),
        between("vehicle_claim", 0, None),
        never(
            "total_claim_amount",
            where="(total_claim_amount - injury_claim - vehicle_claim > 0.01) or (total_claim_amount - injury_claim - vehicle_claim < -0.01)",
            description="total_claim_amount is injury_claim + vehicle_claim, to a cent",
            severity=CRITICAL,
        ),
        one_of("fraud", 0, 1),
        never(
            "injury_claim",
            where=(Column("num_injuries") == 0) & (Column("injury_claim") > 0),
            description="no injury_claim where num_injuries is 0",
            severity=WARNING,
        ),
        never(
            "collision_type",
            where=((Column("incident_type") == "Collision") & (Column("collision_type") == "N/A"))
            | ((Column("incident_type") != "Collision") & (Column("collision_type") != "N/A")),
            description="collision_type is N/A for break-ins and thefts, and only for them",
            severity=WARNING,
        ),
        never(
            "police_report_available",
            where=(Column("authorities_contacted") != "Police") & (Column("police_report_available") == "Yes"),
            description="no police report where the police was not contacted",
            severity=WARNING,
        ),
        never(
            "total_claim_amount",
            where=Column("total_claim_amount") > 1_000_000,
            description="total_claim_amount is at most 1,000,000 USD",
            severity=WARNING,
        ),
        # The median of the reference claims is 14,600 USD. A dozen such claims have a median outside of this range on four of a
        # million days: it is a change of unit (cents for dollars) before it is a change of claims.
        median_between("injury_claim", 3_000, 75_000, "the median injury_claim is between 3,000 and 75,000 USD"),
    ]


def _customers() -> list[gxe.Expectation]:
    return [
        between("policy_id", 1, None),
        between("customer_age", 15, 120),
        between("months_as_customer", 0, 1200),
        between("num_claims_past_year", 0, 100),
        between("num_insurers_past_5_years", 1, 60),
        gxe.ExpectColumnValuesToMatchRegex(column="policy_state", regex="^[A-Z]{2}$", severity=CRITICAL),
        between("policy_deductable", 0, None),
        between("policy_annual_premium", 0, None),
        gxe.ExpectColumnValuesToMatchRegex(column="policy_liability", regex=r"^\d{1,4}/\d{1,4}$", severity=CRITICAL),
        between("auto_year", 1900, 2100),
        usually_one_of("customer_gender", "Female", "Male", "Other", "Unkown"),
        usually_one_of("policy_state", "AZ", "CA", "ID", "NV", "OR", "WA"),
        usually_one_of("policy_liability", "15/30", "25/50", "30/60", "100/200"),
        usually_one_of("customer_education", "Below High School", "High School", "Associate", "Bachelor", "Advanced Degree"),
    ]


def raw_expectations() -> dict[str, list[gxe.Expectation]]:
    """By landing table, over its declared columns. On the 5,000 reference claims no row is critical; 3,371 warn of an injury claim
    without an injury."""
    return {
        "claims": _claims(),
        "customers": _customers(),
        "labels": [between("policy_id", 1, None), one_of("label", 0, 1)],
    }


def feature_expectations() -> list[gxe.Expectation]:
    """Over the columns of ``features.sql``. Critical ones stop the partition; nothing is written."""
    return [
        gxe.ExpectColumnValuesToBeUnique(column="event_id", severity=CRITICAL),
        never_null("event_time"),
        never_null("amount"),
        between("amount", 0, None),
        never_null("severity"),
        between("injury_claim", 0, None),
        between("vehicle_claim", 0, None),
        # A claim whose policy has not been delivered is scored on the claim alone; more than a few mean that deliveries are out of step.
        usually_known("customer_age", "the claim's policy was known when the incident happened"),
        usually_one_of("facet_age_band", "18-29", "30-44", "45-59", "60+"),
        gxe.ExpectColumnValuesToBeInSet(
            column="weekday_contradicts_date",
            value_set=[0],
            severity=WARNING,
            description="the stated day of the week is that of the date; where most rows break it, the delivery's year is wrong",
        ),
    ]
