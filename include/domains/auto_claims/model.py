"""How the claims model is trained. Standard library only. Measured by ``python -m bench.auto_claims``."""

from __future__ import annotations

# A few hundred frauds carry little more than main effects: on the reference claims the inner folds chose depth 1 or 2, never 3, in all 20
# outer folds. Log loss stops the rounds, because the scores are used as probabilities.
HYPERPARAMETERS: dict[str, str | int | float] = {
    "objective": "binary:logistic",
    "eval_metric": "logloss",
    "tree_method": "hist",
    "max_depth": 2,
    "eta": 0.05,
    "min_child_weight": 1,
    "subsample": 0.7,
    "colsample_bytree": 0.5,
    "reg_lambda": 1,
    "num_boost_round": 600,
    "early_stopping_rounds": 40,
    "seed": 7,
}

TUNING_RANGES: dict[str, tuple[float, float]] = {
    "max_depth": (1, 4),
    "eta": (0.02, 0.2),
    "min_child_weight": (1, 20),
    "subsample": (0.5, 1.0),
    "colsample_bytree": (0.3, 1.0),
    "reg_lambda": (0.1, 50),
}
"""Bounds of a search, inclusive, by XGBoost's parameter names."""
