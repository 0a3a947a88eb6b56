"""Guardrails of a ramp: whether the challenger does harm, by what the gateways counted since its share last changed. Pure: the clock's time is an
argument. They fail closed: without a sign of life from a gateway, traffic returns to the champion.

Counts grow and are looked at again and again, so a limit that a count only happens to exceed is not yet exceeded: the tests of errors, latency and
reviews are valid at any look. Of n requests x were bad; H0: the chance of a bad one is p₀ at most. With the uniform mixture over chances above p₀,

    E = ∫_{p₀}^{1} p^x (1 - p)^{n-x} dp / ((1 - p₀) p₀^x (1 - p₀)^{n-x})

each likelihood ratio of p > p₀ is a supermartingale under every chance up to p₀ (it is monotone in the true one), so E exceeds 1/α at any look with a
chance of α at most (Robbins 1970, Ann. Math. Stat. 41; Ville's inequality): a guardrail trips where E ≥ 1/``CHANCE``. What is far beyond
its limit trips within the first ``minimum_requests``; a challenger that is exactly at a limit trips by chance in one of ``1 / CHANCE`` steps at most
(counts begin anew at each step, so over a ramp that adds up), and a healthy one hardly ever (``tests/lifecycle/test_guardrails.py`` measures it).

The test of scores is made for one look: its p-value says nothing of many. What keeps it from crying wolf is its limit, on a distance from which
chance is taken out. The one of the split is valid at any look by itself (``include.lifecycle.sample_ratio``).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from scipy.special import betaincc, betaln, xlog1py, xlogy

from include.lifecycle.day_effects import Days
from include.lifecycle.domain import Guardrails
from include.lifecycle.drift_tests import compare
from include.lifecycle.experiment import LATENCY_BOUNDS_MS, GatewayHealth, VariantCounts
from include.lifecycle.profile import NO_DAY

CHANCE = 1e-3
"""Of a false alarm of one guardrail of errors, latency or reviews, over all looks at one step, by a challenger that is exactly at the limit."""
_SLOW = 0.01
"""The share of requests above a 99th percentile."""
NAMES = ("heartbeat", "errors", "latency", "reviews", "scores", "sample_ratio")


@dataclass(frozen=True)
class Reading:
    """One guardrail's. ``value`` None: it could not be judged, and no share may grow on it. ``tripped``: the limit is exceeded, beyond chance.
    Of "sample_ratio" the value is a p-value, and the limit what it must stay above."""

    name: str
    value: float | None
    limit: float
    tripped: bool
    says: str

    @property
    def beyond(self) -> bool:
        """Whether the value is beyond its limit, be it by chance: no reason to take traffic away, and none to give more."""
        return self.tripped or (self.name != "sample_ratio" and self.value is not None and self.value > self.limit)


def judge(
    guardrails: Guardrails,
    step: int,
    healths: Sequence[GatewayHealth],
    shadow_scores: Sequence[int] | None,
    sample_ratio: Mapping[str, Any] | None,
    now: datetime,
    step_began: datetime | None,
) -> list[Reading]:
    """One reading of each of ``NAMES``, in that order.

    ``healths``: the latest of each gateway; those of other steps than ``step`` are not counted. ``shadow_scores``: counts by twentieths, of the
    scores that the challenger gave in shadow. ``sample_ratio``: {"expected", "observed", "p_value"} of the evidence, None before there is any.
    ``now`` and ``step_began``: the clock's; gateways have a heartbeat's time after a step began to count for it; None: no such grace.
    """
    current = [health for health in healths if health.step == step]
    champion = sum((health.champion for health in current), VariantCounts())
    challenger = sum((health.challenger for health in current), VariantCounts())
    enough = challenger.requests >= guardrails.minimum_requests
    judged = [
        ("errors", guardrails.maximum_error_share, _errors),
        ("latency", guardrails.maximum_p99_latency_ms, _latency),
        ("reviews", guardrails.maximum_review_ratio, _reviews),
    ]
    few = f"not judged: {challenger.requests:,} requests of the challenger, and it takes {guardrails.minimum_requests:,}"
    readings = [_heartbeat(guardrails, current, now, step_began)]
    readings += [
        test(guardrails, champion, challenger) if enough else Reading(name, None, limit, False, few) for name, limit, test in judged
    ]
    distance = guardrails.maximum_score_distance
    readings.append(_scores(guardrails, shadow_scores, challenger) if enough else Reading("scores", None, distance, False, few))
    readings.append(_sample_ratio(guardrails, sample_ratio))
    return [replace(reading, says=f"{reading.says[0].upper()}{reading.says[1:]}.") for reading in readings]


def _heartbeat(guardrails: Guardrails, healths: Sequence[GatewayHealth], now: datetime, step_began: datetime | None) -> Reading:
    """The youngest sign of life counts: a gateway that went away takes its requests with it. One from the future is none: of a clock that is wrong
    nobody can say when it last told the time."""
    limit = guardrails.heartbeat.total_seconds()
    ages = [abs((now - datetime.fromisoformat(health.seen_at)).total_seconds()) for health in healths]
    waited = float("inf") if step_began is None else (now - step_began).total_seconds()
    if ages:
        value, tripped = min(ages), min(ages) > limit
        return Reading(
            "heartbeat", value, limit, tripped, f"the last sign of life of a gateway is {value:,.0f} s old, {_against(limit, 's')}"
        )
    if 0 <= waited <= limit:
        return Reading("heartbeat", None, limit, False, f"no sign of life of a gateway yet, {waited:,.0f} s after the step began")
    return Reading("heartbeat", None, limit, True, f"no gateway gave a sign of life, {_against(limit, 's')}")


def _errors(guardrails: Guardrails, champion: VariantCounts, challenger: VariantCounts) -> Reading:
    """A request that failed and was then answered by the champion is in both counts, or in one of them; it is one request."""
    limit, failed = guardrails.maximum_error_share, max(challenger.errors, challenger.fallbacks)
    others = champion.errors / champion.requests if champion.requests else 0.0
    value = failed / challenger.requests - others
    tripped = exceeds(failed, challenger.requests, others + limit)
    says = (
        f"the challenger failed {failed:,} of {challenger.requests:,} requests, the champion {champion.errors:,} of {champion.requests:,}"
    )
    return Reading(
        "errors", value, limit, tripped, f"{says}: {_points(value)} more, {_against(100 * limit, 'points')}{_luck(value > limit, tripped)}"
    )


def _latency(guardrails: Guardrails, champion: VariantCounts, challenger: VariantCounts) -> Reading:
    """It trips where the 99th percentile is above both limits: a challenger that is slow because everything is slow does no harm of its own, and
    neither does one that takes 6 ms in place of 2.

    Counts do not say where in its cell a request lies, so the limit is the next bound of ``LATENCY_BOUNDS_MS``: what may have kept to it is not
    slow. A limit beyond the last bound (the champion's 99th percentile may be there itself) is none that a request in the last cell can be held to:
    then it is not judged."""
    theirs, value = p99(champion.latencies), p99(challenger.latencies)
    wanted = max(guardrails.maximum_p99_latency_ms, guardrails.maximum_p99_latency_ratio * (theirs or 0.0))
    limit = _bounds()[bisect_left(LATENCY_BOUNDS_MS, wanted)]
    beside = "none was counted of the champion" if theirs is None else f"the champion's is {_at_most(theirs)}"
    # JSON has no infinity: beyond the last bound, twice that bound stands for it
    last = 2 * LATENCY_BOUNDS_MS[-1]
    if value is None:
        return Reading("latency", None, min(limit, last), False, "not judged: no latency of the challenger was counted")
    if np.isinf(limit) and (theirs == limit or value == limit):
        says = f"not judged: the 99th percentile of the challenger's latency is {_at_most(value)}, {beside}"
        return Reading("latency", None, last, False, f"{says}, and nothing is counted by finer bounds there")
    slow = sum(count for count, bound in zip(challenger.latencies, _bounds(), strict=False) if bound > limit)
    tripped = exceeds(slow, sum(challenger.latencies), _SLOW)
    says = f"the 99th percentile of the challenger's latency is {_at_most(value)}, {beside}, {_against(min(limit, last), 'ms')}"
    return Reading("latency", min(value, last), min(limit, last), tripped, says + _luck(value > limit, tripped))


def _reviews(guardrails: Guardrails, champion: VariantCounts, challenger: VariantCounts) -> Reading:
    """Of the reviews that either asked for, the challenger's share is n₁L / (n₁L + n₀) where it asks L times as often a request."""
    limit = guardrails.maximum_review_ratio
    if not champion.requests or not champion.reviews + challenger.reviews:
        return Reading("reviews", None, limit, False, "not judged: there is no review of the champion's to compare with")
    mine, theirs = challenger.reviews, champion.reviews
    odds = challenger.requests / champion.requests
    flood = exceeds(mine, mine + theirs, limit * odds / (limit * odds + 1))
    silence = exceeds(theirs, mine + theirs, limit / (limit + odds))
    ratio = (mine + 0.5) / (theirs + 0.5) / odds  # of no review there is a ratio, too
    value = max(ratio, 1 / ratio)
    tripped = flood or silence
    much = f"{ratio:,.2g} times as many" if ratio >= 1 else f"one for {1 / ratio:,.2g} of the champion's"
    says = (
        f"the challenger asked for {mine:,} reviews in {challenger.requests:,} requests, the champion for {theirs:,} in {champion.requests:,}: "
        f"{much} a request, {_against(limit, 'times, either way')}"
    )
    return Reading("reviews", value, limit, tripped, says + _luck(value > limit, tripped))


def _scores(guardrails: Guardrails, shadow_scores: Sequence[int] | None, challenger: VariantCounts) -> Reading:
    """The distance is that of ``drift_tests``, what chance makes of it at these counts taken out; its p-value has to be small as well."""
    limit = guardrails.maximum_score_distance
    if not shadow_scores or not sum(shadow_scores) or not sum(challenger.scores):
        return Reading("scores", None, limit, False, "not judged: scores are not known of both shadow and ramp")
    then, now = (Days((NO_DAY,), np.asarray(counts, np.int64)[None]) for counts in (shadow_scores, challenger.scores))
    found = compare(then, now, ordered=True)
    tripped = found.effect > limit and found.p_value <= CHANCE
    says = f"the challenger's scores are {found.effect:.2f} (Jensen-Shannon) from those it gave in shadow, {_against(limit, '')}"
    return Reading("scores", found.effect, limit, tripped, says.rstrip() + _luck(found.effect > limit, tripped))


def _sample_ratio(guardrails: Guardrails, found: Mapping[str, Any] | None) -> Reading:
    limit = guardrails.sample_ratio_level
    if found is None:
        return Reading("sample_ratio", None, limit, False, "not judged: no entity was assigned yet")
    p_value = float(found["p_value"])
    says = (
        f"the challenger decides for {100 * found['observed']:.3g} % of the entities, and should for {100 * found['expected']:.3g} %: "
        f"p-value {p_value:.2g}, limit {limit:g}"
    )
    return Reading("sample_ratio", p_value, limit, p_value <= limit, says)


def exceeds(bad: float, of: float, chance: float, level: float = CHANCE) -> bool:
    """Whether more than ``chance`` of all are bad, by ``bad`` of ``of`` (the module docstring's E), at any look."""
    if not 0 < chance < 1 or of <= 0:
        return of > 0 and chance <= 0 < bad
    good = of - bad
    tail = float(betaincc(bad + 1, good + 1, chance))
    if tail == 0:
        return False
    log_e = float(betaln(bad + 1, good + 1)) + np.log(tail) - np.log1p(-chance) - float(xlogy(bad, chance) + xlog1py(good, -chance))
    return bool(log_e >= -np.log(level))


def p99(latencies: Sequence[int]) -> float | None:
    """The upper bound of the cell that the 99th percentile lies in, in milliseconds: it is at most that; infinite in the last cell. Of fewer than 200
    requests all but the slowest: one request, the first of a cold process say, is no percentile. None without a request."""
    total = sum(latencies)
    if not total:
        return None
    rank = max(1, total - max(1, int(_SLOW * total)))
    return float(_bounds()[int(np.searchsorted(np.cumsum(latencies), rank))])


def _bounds() -> tuple[float, ...]:
    return (*LATENCY_BOUNDS_MS, float("inf"))


def _at_most(milliseconds: float) -> str:
    return f"at most {milliseconds:,g} ms" if np.isfinite(milliseconds) else f"more than {LATENCY_BOUNDS_MS[-1]:,g} ms"


def _against(limit: float, unit: str) -> str:
    return f"limit {limit:,g} {unit}".rstrip()


def _points(value: float) -> str:
    return f"{100 * value:.3g} points"


def _luck(above: bool, tripped: bool) -> str:
    return " (above it, but this may be chance)" if above and not tripped else ""
