"""Whether data arrive as they used to: structure, and shares of cells that hold no usable value, window against baseline.

What either is or is not (a column that is gone, a score of 1.3) is found as such. What occurs by chance too (a missing cell, a level never seen)
wants significance and a size of at least its floor in ``domain.Monitoring``. The tests of all columns are one family, Bonferroni-corrected; a test
that could not come out significant, because the event occurs on neither side, is none of it (Tarone 1990, Biometrics 46).

As JSON, each check: {"check", "column" (null: of all rows), "found", "severity": "alarm" | "warn" | "note", "baseline", "current" (shares of rows,
rows a day, or null), "effect" (their difference; for "row_count" their ratio), "minimum_effect", "p_value" (null: nothing was left to chance),
"level" (of this test), "began" (day | null), "says"}.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.special import stdtr

from include.lifecycle.day_effects import LEAST_DAYS, Days
from include.lifecycle.domain import FindingKind, Monitoring
from include.lifecycle.drift import Count, ShareDrift, column_level, compare_counts, share_drift
from include.lifecycle.profile import NO_DAY, Counts, Profile
from include.lifecycle.profile_schema import NumericCells, plain

CheckName = Literal[
    "missing_column",
    "extra_column",
    "type",
    "missing",
    "not_a_number",
    "infinite",
    "out_of_range",
    "unseen_level",
    "constant",
    "row_count",
    "score_range",
    "labels",
]
Severity = Literal["alarm", "warn", "note"]
_ASIDE: Mapping[CheckName, tuple[Count, str]] = {
    "missing": ("missing", "cells are missing"),
    "not_a_number": ("invalid", "cells hold text that is no number"),
    "infinite": ("infinite", "values are infinite"),
    "unseen_level": ("unseen", "rows have a level that the baseline never had"),
}


@dataclass(frozen=True)
class Check:
    """One comparison; the fields are those of the JSON."""

    check: CheckName
    column: str | None
    found: bool
    severity: Severity
    says: str
    baseline: float | None = None
    current: float | None = None
    effect: float | None = None
    minimum_effect: float | None = None
    p_value: float | None = None
    level: float | None = None
    began: str | None = None

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def severity_of(monitoring: Monitoring, kind: FindingKind) -> Severity:
    """What the policy does about such a finding."""
    return "alarm" if kind in monitoring.alarm_on else "warn" if kind in monitoring.warn_on else "note"


def structure(monitoring: Monitoring, missing: Sequence[str], extra: Sequence[str], types: Mapping[str, tuple[str, str]]) -> list[Check]:
    """Columns of the baseline that the window lacks, columns of the window that the baseline lacks (only noted: nothing reads them), and those
    whose type changed: then and now, in words."""
    severity = severity_of(monitoring, "data_quality")
    found = [Check("missing_column", name, True, severity, f"{name}: the column is gone; the baseline has it.") for name in missing]
    found += [Check("type", name, True, severity, f"{name}: was {then}, is {now}.") for name, (then, now) in types.items()]
    return found + [Check("extra_column", name, True, "note", f"{name}: the baseline does not have this column.") for name in extra]


def data_quality(
    monitoring: Monitoring,
    baseline: Profile,
    window: Profile,
    *,
    absent: Sequence[str] = (),
    score: str | None = None,
    days: float | None = None,
) -> list[Check]:
    """Every check of two profiles of one schema.

    :param absent: columns that the window does not have at all, which ``structure`` tells
    :param score: the column whose values must lie in 0..1
    :param days: how many days the window covers, and less where it is a sample of them; None: from its first to its last
    """
    severity = severity_of(monitoring, "data_quality")
    tested: list[Check] = []
    for name in baseline.schema.columns:
        if name not in absent:
            tested += [replace(check, severity=severity) for check in _of_column(monitoring, baseline, window, name)]
    possible = [check for check in tested if check.baseline or check.current]
    level = column_level(monitoring.level, len(possible) + 1)
    checks = [_noted(baseline, replace(check, found=_is_found(check, level), level=level)) for check in tested]
    checks.append(_row_count(monitoring, baseline, window, days, level))
    if score is not None and score not in absent:
        checks.append(_score_range(monitoring, window, score))
    return checks


def _is_found(check: Check, level: float) -> bool:
    p_value, effect, floor = (math.nan if number is None else number for number in (check.p_value, check.effect, check.minimum_effect))
    return p_value <= level and abs(effect) >= floor


def _noted(baseline: Profile, check: Check) -> Check:
    """Of a column of few values, a value beyond them all is worth a note even where it is in few rows: its cell is that of the nearest known one."""
    noted = check.check == "out_of_range" and not check.found and _few_values(baseline, check.column or "")
    return replace(check, found=True, severity="note") if noted else check


def _few_values(baseline: Profile, name: str) -> bool:
    cells = baseline.schema.columns[name]
    return isinstance(cells, NumericCells) and bool(cells.values)


def _of_column(monitoring: Monitoring, baseline: Profile, window: Profile, name: str) -> Iterator[Check]:
    numeric = isinstance(baseline.schema.columns[name], NumericCells)
    for check, (what, words) in _ASIDE.items():
        if check == "missing" or numeric == (check != "unseen_level"):
            yield _share(monitoring, check, name, share_drift(baseline, window, name, what), words)
    if numeric:
        yield from _out_of_range(monitoring, baseline, window, name)
    yield from _constant(monitoring, baseline, window, name)


def _share(monitoring: Monitoring, check: CheckName, name: str, found: ShareDrift, words: str) -> Check:
    then, now = found.baseline or 0.0, found.current or 0.0
    says = f"{name}: {_percent(now)} of {words}; at the baseline {_percent(then)}."
    return Check(check, name, False, "note", says, then, now, found.effect, monitoring.minimum_missing, found.p_value, began=found.began)


def _out_of(profile: Profile, count: Counts) -> Days:
    return Days(profile.days, np.stack([count, profile.rows - count], axis=1))


def _out_of_range(monitoring: Monitoring, baseline: Profile, window: Profile, name: str) -> Iterator[Check]:
    """Values beyond the smallest or largest of the baseline: all of them; or some, by more than the baseline's whole range, and the outermost cell,
    which they fall in, grown. A somewhat larger extreme is only what more rows bring, or drift."""
    before, now = baseline.columns[name], window.columns[name]
    width = before.maximum - before.minimum
    few = _few_values(baseline, name)
    for cell, sign, side, then, extreme, other in (
        (0, 1, "below", before.minimum, now.minimum, now.maximum),
        (-1, -1, "above", -before.maximum, -now.maximum, -now.minimum),
    ):
        words = f"{name}: values {side} {sign * then:.6g}, which the baseline does not have, now {sign * extreme:.6g}"
        if other < then:
            chance = _all_apart(int(before.counts.sum()), int(now.counts.sum()))
            yield Check("out_of_range", name, False, "note", f"{words}; all are.", 0.0, 1.0, 1.0, monitoring.minimum_missing, chance)
        elif extreme < (then if few else then - width):
            outermost = compare_counts(_out_of(baseline, before.counts[:, cell]), _out_of(window, now.counts[:, cell]))
            check = _share(monitoring, "out_of_range", name, outermost, "")
            shares = f"{_percent(check.current or 0)} of rows; at the baseline {_percent(check.baseline or 0)}"
            yield replace(check, says=f"{words}; the outermost cell has {shares}.")


def _all_apart(before: int, now: int) -> float:
    """Probability that every value of one sample is beyond every value of the other, on a given side, if both are of one distribution: one over
    the ways to choose the places of the one among both."""
    return math.exp(math.lgamma(before + 1) + math.lgamma(now + 1) - math.lgamma(before + now + 1))


def _constant(monitoring: Monitoring, baseline: Profile, window: Profile, name: str) -> Iterator[Check]:
    """One value only, where the baseline has several. The chance of that is at most the share of the value's cell to the power of the rows."""
    before, now = baseline.columns[name].counts.sum(axis=0), window.columns[name].counts.sum(axis=0)
    column, cells = window.columns[name], baseline.schema.columns[name]
    varied = (
        baseline.columns[name].minimum < baseline.columns[name].maximum if isinstance(cells, NumericCells) else np.count_nonzero(before) > 1
    )
    single = column.minimum == column.maximum if isinstance(cells, NumericCells) else np.count_nonzero(now) == 1 and not cells.buckets
    if not (varied and single and before.sum()):
        return
    share = float(before[int(np.argmax(now))] / before.sum())
    chance = math.exp(float(now.sum()) * math.log(share)) if share > 0 else 0.0
    value = plain(column.minimum, 6) if isinstance(cells, NumericCells) else cells.labels[int(np.argmax(now))]
    says = f"{name}: every row has the value {value}; at the baseline {_percent(1 - share)} have another."
    yield Check("constant", name, False, "note", says, 1 - share, 0.0, share - 1, monitoring.minimum_missing, chance)


def _row_count(monitoring: Monitoring, baseline: Profile, window: Profile, days: float | None, level: float) -> Check:
    """Rows a day against those of the baseline: a t-test, the standard error from how the baseline's days differ. Without days, or with few of
    the baseline, only no row at all is found."""
    severity = severity_of(monitoring, "data_quality")
    total = int(window.rows.sum())
    floor = monitoring.minimum_row_count_ratio
    if NO_DAY in baseline.days or NO_DAY in window.days or len(baseline.days) < LEAST_DAYS:
        return Check("row_count", None, total == 0, severity, f"The window has {total:,} rows.", current=float(total), minimum_effect=floor)
    covered = days or _span(window.days)
    then, now = float(baseline.rows.mean()), total / covered if covered else 0.0
    spread = float(baseline.rows.std(ddof=1)) * math.sqrt(1 / len(baseline.days) + 1 / max(covered, 1))
    p_value = 2 * float(stdtr(len(baseline.days) - 1, -abs(now - then) / spread)) if spread > 0 else float(now == then)
    ratio = now / then
    found = total == 0 or (p_value <= level and not floor < ratio < (1 / floor if floor else math.inf))
    says = f"{now:,.0f} rows a day; at the baseline {then:,.0f}."
    return Check("row_count", None, found, severity, says, then, now, ratio, floor, p_value, level=level)


def _span(days: Sequence[str]) -> int:
    return int(np.diff(np.array([days[0], days[-1]], "datetime64[D]"))[0].astype(int)) + 1 if days else 0


def _score_range(monitoring: Monitoring, window: Profile, score: str) -> Check:
    column = window.columns[score]
    low, high = column.minimum, column.maximum
    outside = bool(low < 0 or high > 1)
    says = f"{score}: values from {plain(low)} to {plain(high)}" + (", and a score is a probability, from 0 to 1." if outside else ".")
    return Check("score_range", score, outside, severity_of(monitoring, "data_quality"), says)


def labels(monitoring: Monitoring, column: str, rows: int, wrong: int, contradicting: int | None) -> Check:
    """``wrong``: labels that are neither 0 nor 1, nor missing; ``contradicting``: ids that have both, None where rows have no id."""
    says = f"{column}: {wrong:,} of {rows:,} labels are neither 0 nor 1"
    if contradicting is not None:
        says += f", and {contradicting:,} ids are labelled both"
    severity = severity_of(monitoring, "data_quality")
    return Check("labels", column, wrong + (contradicting or 0) > 0, severity, f"{says}.", current=wrong / rows if rows else None)


def without_day(monitoring: Monitoring, column: str, undated: int, dated: int) -> Check:
    """Rows whose ``column`` is no date, and which were left out of all else."""
    share = undated / (undated + dated)
    severity = severity_of(monitoring, "data_quality") if share >= monitoring.minimum_missing else "note"
    says = f"{column}: {undated:,} rows have no date here, and were left out."
    return Check("missing", column, True, severity, says, 0.0, share, share, monitoring.minimum_missing)


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
