"""report.json as an analysis writes it, made up: every section filled, or left null by name; with any number of features."""

from __future__ import annotations

from collections.abc import Collection
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import numpy as np

FIRST_DAY = date(2026, 3, 2)
LEVEL = 2 / 365 / 9
SECTIONS = ("score", "multivariate", "quality", "estimated_quality", "concept_drift", "bias_drift", "attribution_drift")


def monitoring_report(features: int = 24, *, drift: bool = True, without: Collection[str] = (), seed: int = 7) -> dict[str, Any]:
    """``without``: sections that are null. With ``drift`` the first three features, the score and what rests on it have moved since day 3."""
    random = np.random.default_rng(seed)
    moved = min(3, features) if drift else 0
    columns = [_column(random, number, moved=number < moved) for number in range(features)]
    report: dict[str, Any] = {
        "version": 1,
        "verdict": _verdict(columns, drift),
        "subject": {
            "domain": "auto_claims",
            "title": "Motor insurance claims",
            "model_package": "arn:aws:sagemaker:eu-west-1:000000000000:model-package/fraud-auto-claims/7",
            "as_of": str(FIRST_DAY + timedelta(days=7)),
            "baseline": {"source": "s3://fraud/models/7/profile.json", "rows": 48_211, "days": 60, "first_day": "2025-12-01",
                         "last_day": "2026-01-29"},
            "current": {"source": "s3://fraud/predictions/", "rows": 4_873, "days": 7, "first_day": "2026-03-02", "last_day": "2026-03-08"},
            "left_out": {"policy_number": "identifies a row"},
            "currency": "EUR",
        },
        "calibration": {
            "false_alarms_per_year": 2.0, "windows_per_year": 365, "families": 9, "level": LEVEL, "minimum_effect": 0.03, "confidence": 0.95,
        },
        "findings": [],
        "features": columns,
        "score": _column(random, 0, moved=drift) | {"name": "score"},
        "multivariate": _column(random, 0, moved=drift) | {"name": "multivariate", "says": "Columns go together differently than before."},
        "data_quality": _checks(columns, drift),
        "quality": _quality(random, drift),
        "estimated_quality": {
            "first_day": "2026-03-02", "last_day": "2026-03-08", "events": 4_873, "expected_frauds": 233.4,
            "metrics": {
                name: {"baseline": _interval(value, 0.02), "estimated": _interval(value - 0.03 * drift, 0.03), "effect": -0.03 * drift,
                       "p_value": 0.012, "drifted": False} for name, value in (("roc_auc", 0.842), ("average_precision", 0.412))
            },
        },
        "concept_drift": {
            "first_day": "2026-01-05", "last_day": "2026-02-01", "events": 18_204, "frauds": 1_012, "expected_frauds": 771.6,
            "metrics": {"roc_auc": {"estimated": _interval(0.84, 0.01), "realised": 0.781, "effect": -0.059, "p_value": 3.2e-7, "drifted": drift}},
        },
        "bias_drift": {
            "rows": [
                {"facet": "age_band", "level": level, "reference": "30-59", "metric": "review_share_difference", "baseline": 0.021, "current": now,
                 "effect": now - 0.021, "p_value": 0.0004 if now > 0.1 else 0.41, "drifted": now > 0.1}
                for level, now in (("under 30", 0.113), ("60 and over", 0.019))
            ]
        },
        "attribution_drift": {
            "ndcg": 0.874, "minimum_ndcg": 0.9, "p_value": 0.0002, "drifted": drift,
            "ranking": [
                {"feature": column["name"], "baseline": 0.9 / (number + 1), "current": 0.8 / ((number + 3) % features + 1),
                 "baseline_rank": number + 1, "current_rank": (number + 3) % features + 1} for number, column in enumerate(columns)
            ],
        },
    }  # fmt: skip
    for name in ("quality", "estimated_quality"):
        report[name]["metrics"]["average_precision"]["at_baseline_prevalence"] = _interval(0.391, 0.03)
    report["estimated_quality"]["says"] = ["12 events without a finite amount were left out of costs and savings."]
    report["concept_drift"]["frauds_p_value"] = 1.1e-5
    for name in without:
        report[name] = None
    report["findings"] = _findings(report) if drift else []
    return report


def _verdict(columns: list[dict[str, Any]], drift: bool) -> dict[str, Any]:
    if not drift:
        headline = f"No drift in 4,873 rows from 2 March 2026 to 8 March 2026: none of {len(columns)} features, not the score moved."
        return {"outcome": "no_drift", "severity": "none", "headline": headline, "began": None, "kinds": []}
    names = ", ".join(column["name"] for column in columns if column["drifted"])
    headline = f"3 of {len(columns)} features ({names}) and the score moved since 4 March 2026; the model got measurably worse (ROC AUC)."
    return {
        "outcome": "drift", "severity": "alarm", "headline": headline, "began": "2026-03-04",
        "kinds": ["data_quality", "feature_drift", "score_drift", "multivariate_drift", "quality", "concept_drift", "bias_drift",
                  "attribution_drift"],
    }  # fmt: skip


_NAMES = ("claim_amount", "days_to_report", "repair_shop", "vehicle_age", "witnesses", "region", "hour_of_accident", "premium")


def _column(random: np.random.Generator, number: int, *, moved: bool) -> dict[str, Any]:
    text = number % 8 in (2, 5)
    base = _NAMES[number % 8]
    name = base if number < 8 else f"{base}_{number}"
    if text:
        cells = [f"workshop {level + 1}" if base == "repair_shop" else f"region {level + 1}" for level in range(34 if number == 2 else 6)]
        baseline = random.dirichlet(np.full(len(cells), 2.0))
    else:
        edges = np.round(np.cumsum(random.exponential(300.0, 19)), 1)
        cells = [f"below {edges[0]:,}", *(f"{low:,} to {high:,}" for low, high in pairwise(edges)), f"{edges[-1]:,} and above"]
        baseline = np.full(20, 0.05)
    tilt = np.linspace(-0.5, 0.9, len(cells)) if moved else random.normal(0, 0.05, len(cells))
    current = baseline * np.exp(tilt)
    current /= current.sum()
    effect = float(0.11 - 0.02 * number) if moved else float(abs(random.normal(0, 0.006)))
    days = [FIRST_DAY + timedelta(days=day) for day in range(7)]
    distances = [max(float(random.normal(0.12 if moved and day >= 2 else 0.008, 0.008)), 0.0) for day in range(7)]
    says = (
        f"{name}: values of the upper part are more common than at the baseline, since 4 March 2026."
        if moved
        else f"{name}: as at the baseline."
    )
    return {
        "name": name,
        "type": "text" if text else "numeric",
        "drifted": moved,
        "effect": effect,
        "minimum_effect": 0.03,
        "p_value": 1e-19 if moved else float(random.uniform()),
        "level": LEVEL,
        "rows": 4_873,
        "missing": {"baseline": 0.0 if number % 3 else 0.021, "current": 0.0 if number % 3 else 0.024},
        "says": says,
        "cells": cells,
        "baseline": baseline.tolist(),
        "current": current.tolist(),
        "days": [{"day": str(day), "distance": distance} for day, distance in zip(days, distances, strict=True)],
        "began": "2026-03-04" if moved else None,
    }


def _interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def _checks(columns: list[dict[str, Any]], drift: bool) -> list[dict[str, Any]]:
    checks = [
        {"check": check, "column": column["name"], "found": False, "severity": "note", "baseline": 0.0, "current": 0.0, "effect": 0.0,
         "minimum_effect": 0.01, "p_value": 1.0, "says": "as at the baseline"}
        for column in columns for check in ("missing", "not_a_number", "infinite", "unseen_level")
    ]  # fmt: skip
    if drift:
        checks[0] |= {"found": True, "severity": "alarm", "baseline": 0.021, "current": 0.114, "effect": 0.093, "p_value": 3e-40}
        checks[0]["says"] = "claim_amount is missing in 11.4% of rows; it was in 2.1%."
    return checks


def _quality(random: np.random.Generator, drift: bool) -> dict[str, Any]:
    values = {
        "roc_auc": 0.842,
        "average_precision": 0.412,
        "recall_at_capacity": 0.533,
        "savings": 0.281,
        "expected_calibration_error": 0.011,
    }
    over_time = []
    for week in range(12):
        first = date(2025, 12, 15) + timedelta(days=7 * week)
        known = {name: _interval(value + random.normal(0, 0.02 * value), 0.06 * value) for name, value in values.items()}
        lost = 0.07 if drift and week > 9 else 0.0
        estimated = {name: _interval((1 - lost) * value + random.normal(0, 0.01 * value), 0.09 * value) for name, value in values.items()}
        over_time.append(
            {"first_day": str(first), "last_day": str(first + timedelta(days=6)), "events": 4_500,
             "known": known if week < 8 else None, "estimated": estimated}
        )  # fmt: skip
    return {
        "first_day": "2026-01-05",
        "last_day": "2026-02-01",
        "events": 18_204,
        "frauds": 1_012,
        "unlabelled": 211,
        "metrics": {
            name: {"baseline": _interval(value, 0.02), "current": _interval(value - 0.061 * drift, 0.03), "effect": -0.061 * drift,
                   "p_value": 0.00013, "drifted": drift and name == "roc_auc"} for name, value in values.items()
        },
        "over_time": over_time,
    }  # fmt: skip


def _findings(report: dict[str, Any]) -> list[dict[str, Any]]:
    severities = {"estimated_quality": "warn", "bias_drift": "warn", "attribution_drift": "warn"}
    found = [("data_quality", check["column"], check["says"]) for check in report["data_quality"] if check["found"]]
    found += [("feature_drift", column["name"], column["says"]) for column in report["features"] if column["drifted"]]
    for name, kind in (("score", "score_drift"), ("multivariate", "multivariate_drift")):
        if report[name]:
            found.append((kind, name, report[name]["says"]))
    for kind, says in (
        (
            "quality",
            "ROC AUC: 0.781 (0.751 to 0.811) on the events whose labels are known, against 0.842 (0.822 to 0.862) at the baseline.",
        ),
        ("concept_drift", "ROC AUC: 0.781 measured, against 0.840 (0.830 to 0.850) expected from the scores."),
        ("bias_drift", "age_band: under 30 against 30-59, DPPL is 0.113; it was 0.021."),
        ("attribution_drift", "Scores rest on other features than at the baseline: the rankings agree to 0.874 (1: the same)."),
    ):
        if report[kind]:
            found.append((kind, kind, says))
    return [
        {"kind": kind, "name": name, "severity": severities.get(kind, "alarm"), "effect": 0.1, "minimum_effect": 0.03, "p_value": 1e-9,
         "level": LEVEL, "says": says, "began": "2026-03-04"} for kind, name, says in found
    ]  # fmt: skip
