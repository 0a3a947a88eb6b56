"""Automobile-insurance claims: two tables with one row a policy, and a label that is known after an investigation. See README.md."""

from __future__ import annotations

from datetime import timedelta

from include.lifecycle.domain import (
    Approval,
    Column,
    Costs,
    Domain,
    Facet,
    Gate,
    Guardrails,
    Label,
    Monitoring,
    Owner,
    ReviewCapacity,
    Rollout,
    Table,
    TrainingWindow,
)

# Incidents carry month, day and hour, but no year. Without a `year` parameter it is the latest year in which the incident lies before the
# file's delivery. A date that does not exist in that year (29 February) gives NULL, never an error: the row cannot be placed in time.
# Hours are checked here because DuckDB reads hour 24 as the next midnight.
_INCIDENT_YEAR = """
    coalesce(delivery_year, year(delivered_at) - CASE
        WHEN (incident_month, incident_day, incident_hour) >= (month(delivered_at), day(delivered_at), hour(delivered_at)) THEN 1 ELSE 0 END)
"""
_EVENT_TIME = f"""
    CASE WHEN incident_hour BETWEEN 0 AND 23 THEN TRY_CAST(format('{{:04d}}-{{:02d}}-{{:02d}} {{:02d}}:00:00',
        CAST({_INCIDENT_YEAR} AS BIGINT), incident_month, incident_day, incident_hour) AS TIMESTAMP) END
"""
_REPORTING_DELAY = "INTERVAL 3 DAY"
_INVESTIGATION = timedelta(days=30)

CLAIMS = Table(
    name="claims",
    key=("policy_id",),
    kind="event",
    event_time=_EVENT_TIME,
    available_at=f"{_EVENT_TIME} + {_REPORTING_DELAY}",
    description="One claim a policy, as reported by the policyholder and the adjuster.",
    columns=(
        Column("policy_id", "integer", description="The policy, and, as a policy has one claim here, the claim."),
        Column(
            "driver_relationship", "string", description='Who drove: Self, Spouse, Child, Other; "N/A" where nobody did (break-in, theft).'
        ),
        Column("incident_type", "string", description="Collision, Break-in or Theft."),
        Column("collision_type", "string", description='Front, Rear or Side; "N/A" where there was no collision.'),
        Column("incident_severity", "string", description="Minor, Major or Totaled."),
        Column("authorities_contacted", "string", description='Police, Ambulance, Fire or "None".'),
        Column("num_vehicles_involved", "integer", description="Vehicles involved, the policyholder's own among them."),
        Column("num_injuries", "integer", description="People injured."),
        Column("num_witnesses", "integer", description="Witnesses named."),
        Column("police_report_available", "string", description="Yes or No."),
        Column("injury_claim", "float", description="Claimed for injuries, USD."),
        Column("vehicle_claim", "float", description="Claimed for the vehicle, USD."),
        Column("total_claim_amount", "float", description="injury_claim + vehicle_claim, USD."),
        Column("incident_month", "integer", description="1 to 12."),
        Column("incident_day", "integer", description="1 to 31."),
        Column("incident_dow", "integer", description="Day of the week as stated, 0 is Monday."),
        Column("incident_hour", "integer", description="0 to 23."),
        Column("fraud", "integer", nullable=True, description="1 fraud, 0 not, empty while undecided."),
    ),
)

CUSTOMERS = Table(
    name="customers",
    key=("policy_id",),
    kind="reference",
    description="The policy and its holder.",
    columns=(
        Column("policy_id", "integer"),
        Column("customer_age", "integer", description="Years."),
        Column("months_as_customer", "integer"),
        Column("num_claims_past_year", "integer"),
        Column("num_insurers_past_5_years", "integer", description="Insurers, this one among them."),
        Column("policy_state", "string", description="Two-letter state code."),
        Column("policy_deductable", "integer", description="Deductible, USD (spelt as in the source)."),
        Column("policy_annual_premium", "integer", description="USD."),
        Column(
            "policy_liability",
            "string",
            description="Limits per person / per accident in thousands of USD: 15/30, 25/50, 30/60 or 100/200.",
        ),
        Column("customer_zip", "string"),
        Column("customer_gender", "string", description='Female, Male, Other or "Unkown" (spelt as in the source).'),
        Column("customer_education", "string"),
        Column("auto_year", "integer", description="Model year of the insured vehicle."),
    ),
)

DOMAIN = Domain(
    name="auto_claims",
    title="Automobile-insurance claims",
    description="Flags fraudulent automobile claims when they are reported, for the special investigation unit to review before payment.",
    owner=Owner(name="Claims fraud analytics", email="claims-fraud@example.com"),
    tables=(CLAIMS, CUSTOMERS),
    event_table="claims",
    event_id="policy_id",
    entity="policy_id",
    leakage_group="policy_id",
    label=Label(
        column="fraud",
        available_at=f"event_time + INTERVAL {_INVESTIGATION.days} DAY",
        maturity=_INVESTIGATION,
        description="Fraud as decided by the special investigation unit, 5 to 30 days after the incident.",
    ),
    # A desk investigation (recorded statements, an inspection of the vehicle, an adjuster's two days) costs about this much; a missed fraud
    # costs half of the claim, because part of it is a true loss or is refused anyway. Both are assumptions: set your own.
    costs=Costs(currency="USD", review=1000.0, missed_share=0.5),
    review=ReviewCapacity(share=0.05),
    training=TrainingWindow(window=timedelta(days=365), minimum_events=1000, minimum_positives=30),
    facets=(
        Facet("gender", reference="Male", description="The policyholder's gender as recorded."),
        Facet("age_band", reference="30-44", description="The policyholder's age in bands."),
    ),
    gate=Gate(
        # about a hundred frauds in the test part: savings of models that differ only by their seed differ by .02 either way
        non_inferiority_margin=0.05,
    ),
    approval=Approval(automatic=False, approvers=("claims_lead",)),
    monitoring=Monitoring(reporting_delay=timedelta(days=2)),  # claims are reported within two days of the incident
    rollout=Rollout(
        # after a drift most of the window is of before it: the parts that measure are kept short, so that training sees what is new
        training=TrainingWindow(
            window=timedelta(days=365), validation=timedelta(days=6), test=timedelta(days=7), minimum_events=1000, minimum_positives=30
        ),
        wanted_frauds=500,
        # two hundred claims a day: with less than this, a week would not show whether the new model answers at all
        caps=(0.05, 0.25, 0.5),
        minimum_share=0.05,
        guardrails=Guardrails(minimum_requests=20),
        random_review_share=0.002,
    ),
)
