"""Card payments: a stream of transactions at terminals, where fraud moves and becomes known a week late. See README.md."""

from __future__ import annotations

from datetime import timedelta

from include.lifecycle.domain import (
    Approval,
    Column,
    Costs,
    Domain,
    Gate,
    Label,
    Owner,
    ReviewCapacity,
    Rollout,
    Schedules,
    Table,
    TrainingWindow,
)

CHARGEBACK_DELAY = timedelta(days=7)

TRANSACTIONS = Table(
    name="transactions",
    key=("transaction_id",),
    kind="event",
    event_time="tx_datetime",
    available_at="tx_datetime",  # a payment is scored while the terminal waits
    description="One payment with a card at a terminal.",
    columns=(
        Column("transaction_id", "integer"),
        Column("tx_datetime", "timestamp", description="When the terminal asked, UTC."),
        Column("customer_id", "integer", description="The customer, and, as a customer has one card here, the card."),
        Column("terminal_id", "integer"),
        Column("tx_amount", "float", description="EUR."),
        Column("tx_fraud", "integer", nullable=True, description="1 fraud, 0 not, empty while unknown. Live sources leave it empty."),
    ),
)

CUSTOMERS = Table(
    name="customers",
    key=("customer_id",),
    kind="reference",
    required=False,
    description="Where a customer lives, on a square of 100 by 100.",
    columns=(
        Column("customer_id", "integer"),
        Column("x_customer_id", "float", description="0 to 100."),
        Column("y_customer_id", "float", description="0 to 100."),
    ),
)

TERMINALS = Table(
    name="terminals",
    key=("terminal_id",),
    kind="reference",
    required=False,
    description="Where a terminal stands, on the same square.",
    columns=(
        Column("terminal_id", "integer"),
        Column("x_terminal_id", "float", description="0 to 100."),
        Column("y_terminal_id", "float", description="0 to 100."),
    ),
)

DOMAIN = Domain(
    name="card_payments",
    title="Card payments",
    description="Scores card payments as they happen, and ranks each day's for the fraud desk, which calls the cardholders.",
    owner=Owner(name="Card fraud analytics", email="card-fraud@example.com"),
    tables=(TRANSACTIONS, CUSTOMERS, TERMINALS),
    event_table="transactions",
    event_id="transaction_id",
    entity="customer_id",
    leakage_group="customer_id",
    label=Label(
        column="tx_fraud",
        available_at=f"event_time + INTERVAL {CHARGEBACK_DELAY.days} DAY",
        maturity=CHARGEBACK_DELAY,
        unreported_is_genuine=True,
        description="Fraud as reported by the cardholder (chargeback) or found by the fraud desk, a week after the payment at the latest.",
    ),
    # An analyst's call costs about this much; a missed fraud costs its amount. Assumptions: set your own.
    costs=Costs(currency="EUR", review=5.0, missed_share=1.0),
    review=ReviewCapacity(per_day=100),
    training=TrainingWindow(
        window=timedelta(days=42),
        validation=timedelta(days=7),
        test=timedelta(days=7),
        test_delay=CHARGEBACK_DELAY,
        groups="known_fraud_removed",
        minimum_events=5000,
        minimum_positives=50,
    ),
    feature_history=timedelta(days=38),
    schedules=Schedules(train="0 6 * * 3"),
    # Models here reach 50 to 130 times the share of fraud, the order of the amounts alone 20 to 40. Not as much is asked for: the most there can be
    # is one over the share, so that in a wave of fraud, at 5 %, nothing could pass more than 20, and retraining is wanted just then.
    gate=Gate(minimum_average_precision_lift=10),
    approval=Approval(automatic=False, approvers=("card_fraud_lead",)),
    # a customer stays with a model for three days: long enough not to meet both in one evening, short enough to meet both in a ramp
    rollout=Rollout(wanted_frauds=300, shadow_at_least=timedelta(days=5), epoch=timedelta(days=3), epochs_per_step=1, ramp_at_least=3),
)
