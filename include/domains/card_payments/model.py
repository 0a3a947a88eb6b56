"""How the card-payments model is trained. Standard library only. Measured by ``python -m bench.handbook``."""

from __future__ import annotations

# Chosen on test weeks that end before 8 August 2018, each trained on one week (``python -m bench.handbook --choose``). Depth 3 to 5, leaf weight,
# penalty and sampling differ there by .003 of average precision at most, less than one week from the next; what counts is the number of bins, as
# ratios have their frauds far out in a tail: .752 with 256, .762 with 1024, .764 with 4096, .764 exact, which takes longer. From 75 to 150 trees
# it is flat, for three weeks of training too (.770).
HYPERPARAMETERS: dict[str, str | int | float] = {
    "objective": "binary:logistic",
    "eval_metric": "aucpr",
    "tree_method": "hist",
    "max_bin": 4096,
    "base_score": 0.5,
    "max_depth": 4,
    "eta": 0.08,
    "min_child_weight": 5,
    "subsample": 0.8,
    "colsample_bytree": 0.5,
    "reg_lambda": 5,
    "num_boost_round": 100,
    "early_stopping_rounds": 30,
    "seed": 7,
}

TUNING_RANGES: dict[str, tuple[float, float]] = {
    "max_depth": (2, 6),
    "eta": (0.02, 0.3),
    "min_child_weight": (1, 20),
    "subsample": (0.5, 1.0),
    "colsample_bytree": (0.3, 1.0),
    "reg_lambda": (0.1, 50),
}
"""Bounds of a search, inclusive, by XGBoost's parameter names."""
