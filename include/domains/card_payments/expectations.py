"""What payments, customers, terminals and their features must look like. Critical: the row is quarantined. Warning: counted and shown.

Types, missing columns and empty cells are declared in ``domain.py``; here are the values. A rule is critical only where no true payment can
break it, because a quarantined payment is scored by nobody. There are few rules: they are read against millions of rows.
"""

from __future__ import annotations

import great_expectations.expectations as gxe

from include.domains.expecting import CRITICAL, between, median_between, never_null, one_of, usually_between


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
        between("amount", 0, None),
        # a payment is itself one of its customer's within the day
        *(between(f"customer_id_nb_tx_{days}day_window", 1, None) for days in windows),
        *(between(f"customer_id_avg_amount_{days}day_window", 0, None) for days in windows),
        *(between(f"terminal_id_nb_tx_{days}day_window", 0, None) for days in windows),
        *(between(f"terminal_id_risk_{days}day_window", 0, 1) for days in windows),
        between("distance_from_home", 0, 142),  # the square's diagonal; unknown where customers and terminals did not land
    ]
