"""What payments, customers, terminals and their features must look like. Critical: the row is quarantined. Warning: counted and shown.

Types, missing columns and empty cells are declared in ``domain.py``; here are the values. A rule is critical only where no true payment can
break it, because a quarantined payment is scored by nobody. There are few rules: they are read against millions of rows.
"""

from __future__ import annotations

import great_expectations.expectations as gxe

from include.domains.expecting import CRITICAL, between, median_between, never_null, one_of, usually_between

_AMOUNTS = ("customer_id_avg_amount_matured", "terminal_id_smallest_fraud_known_21day")
_RATIOS = (
    "amount_to_avg_matured", "amount_to_avg_earlier_30day", "amount_to_avg_7day", "amount_to_largest_earlier_30day",
    "largest_earlier_7day_to_avg_matured",
)  # fmt: skip
_COUNTS = ("customer_id_nb_tx_matured", "terminal_id_matured_frauds_since_genuine")
_DAYS_SINCE = {
    "terminal_id_days_since_last_matured_genuine": (7, 37),
    "terminal_id_days_since_fraud_run_began": (7, 30),
    "terminal_id_days_since_last_known_fraud": (0, 37),
}
"""Feature → least and most, by the windows of ``features.sql``. All may be unknown."""
_ROUNDING = 0.001
"""Days are differences of fractions: seven of them may be a trifle less than 7."""


def raw_expectations() -> dict[str, list[gxe.Expectation]]:
    """By landing table, over its declared columns. No row of the published data is critical, and none warns: their amounts are 0 to 1,108.85."""
    return {
        "transactions": [
            between("transaction_id", 0, None),
            between("customer_id", 0, None),
            between("terminal_id", 0, None),
            between("tx_amount", 0, None),
            one_of("tx_fraud", 0, 1),
            usually_between("tx_amount", None, 5_000, "tx_amount is at most 5,000 EUR"),
            # The median of the published payments is 45 EUR. Of a dozen such payments it lies outside of this range on two of a
            # million days: it is a change of unit (cents for euros) before it is a change of payments.
            median_between("tx_amount", 5, 250, "the median tx_amount is between 5 and 250 EUR"),
        ],
        "customers": [between("customer_id", 0, None), between("x_customer_id", 0, 100), between("y_customer_id", 0, 100)],
        "terminals": [between("terminal_id", 0, None), between("x_terminal_id", 0, 100), between("y_terminal_id", 0, 100)],
        "labels": [between("transaction_id", 0, None), one_of("label", 0, 1)],
    }


def feature_expectations() -> list[gxe.Expectation]:
    """Over the columns of ``features.sql``. Critical ones stop the partition; nothing is written."""
    windows = (1, 7, 30)
    return [
        gxe.ExpectColumnValuesToBeUnique(column="event_id", severity=CRITICAL),
        never_null("event_time"),
        never_null("entity_id"),
        never_null("amount"),
        *(between(column, 0, None) for column in ("amount", "tx_amount")),
        *(one_of(column, 0, 1) for column in ("tx_during_weekend", "tx_during_night")),
        # a payment is itself one of its customer's within the day
        *(between(f"customer_id_nb_tx_{days}day_window", 1, None) for days in windows),
        *(between(f"customer_id_avg_amount_{days}day_window", 0, None) for days in windows),
        *(between(f"terminal_id_nb_tx_{days}day_window", 0, None) for days in windows),
        *(between(f"terminal_id_risk_{days}day_window", 0, 1) for days in windows),
        *(between(column, 0, None) for column in (*_AMOUNTS, *_RATIOS, *_COUNTS)),
        # of n payments, one lies at most the root of n - 1 deviations from their mean: of a million, 1,000
        between("amount_zscore_30day", -1_000, 1_000),
        # without a bound: two amounts a cent apart have a deviation of half a cent. So far out, it says no more than that
        usually_between("amount_zscore_matured", -1e6, 1e6, "amount_zscore_matured is between -1,000,000 and 1,000,000"),
        *(between(column, low - _ROUNDING, high + _ROUNDING) for column, (low, high) in _DAYS_SINCE.items()),
        between("distance_from_home", 0, 142),  # the square's diagonal; unknown where customers and terminals did not land
    ]
