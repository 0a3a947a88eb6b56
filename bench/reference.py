"""Published data that benches and tests compare with, where they are: in the folder that FRAUD_REFERENCE_DATA names, or beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

_BESIDE = Path(__file__).resolve().parents[1].parent / "shared" / "data"

INPUTS = (
    "tx_amount", "tx_during_weekend", "tx_during_night",
    *(f"customer_id_{what}_{days}day_window" for days in (1, 7, 30) for what in ("nb_tx", "avg_amount")),
    *(f"terminal_id_{what}_{days}day_window" for days in (1, 7, 30) for what in ("nb_tx", "risk")),
)  # fmt: skip
"""The fifteen inputs of the Fraud Detection Handbook (Le Borgne et al. 2022, §3.3), as features.sql of card payments names them."""


def claims() -> Path | None:
    """The folder ``auto_claims`` with claims.csv and customers.csv, or None."""
    folder = _folder() / "auto_claims"
    return folder if (folder / "claims.csv").is_file() else None


def payments() -> Path | None:
    """The Parquet file of transactions in the folder ``card_payments``, or None."""
    files = sorted((_folder() / "card_payments").glob("transactions_*.parquet"))
    return files[0] if files else None


def _folder() -> Path:
    return Path(os.environ.get("FRAUD_REFERENCE_DATA", _BESIDE))
