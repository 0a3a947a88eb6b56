"""Quality before the labels are there, and whether labels, once they are, agree with it.

Confidence-based performance estimation: scores, recalibrated to the baseline's labels, say how likely each event is fraud, and so how well the
scores rank (NannyML, Estimating performance, "CBPE"; Białek, Kuberski, Perrakis & Bifet 2024, Estimating model performance under covariate
shift without labels, arXiv 2401.08348, §3). Two assumptions, which no look at scores can check: the same score means the same probability as
at the baseline (no concept drift), and events that are new are not riskier than their scores say. So an estimate that is good proves nothing,
while measured quality below the estimate is the very sign of concept drift: ``concept_drift`` tests that once labels have matured.

Unlike NannyML's, the recalibration is smooth, the estimate is anchored (what the estimate misses at the baseline itself is taken out, on the
metric's scale) and has an interval of its own: of what will be measured, for the labels are random, and the recalibration is estimated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from include.lifecycle import quality_scale
from include.lifecycle.bootstrap import FloatArray, Interval
from include.lifecycle.clustering import Clusters
from include.lifecycle.domain import Monitoring
from include.lifecycle.evaluation import Economics, Events
from include.lifecycle.influence import AT_PREVALENCE, MEASURES, Scored
from include.lifecycle.label_draws import Draws
from include.lifecycle.quality_reference import NAMES, scored_events
from include.lifecycle.quality_scale import chance_of_less
from include.lifecycle.quality_tests import has_drifted, left_out, nothing, too_few, untested, usable
from include.lifecycle.recalibration import Placed, Recalibration

_NO_ESTIMATE = "The baseline has too little fraud to say what a score means: nothing was estimated."
_NO_SCORE = "No event with a finite score: nothing was estimated."


@dataclass(frozen=True)
class _Guess:
    """A metric of a window as estimated from scores, on its scale: ``scaled`` (anchored, by ``gap``); ``labels``: its variance because labels are
    random; ``gradient``: its derivatives by the values at the knots of the recalibration, shape (knots,); ``influence``: by the weight of each
    event, shape (events,)."""

    value: float
    scaled: float
    gap: float
    labels: float
    gradient: FloatArray
    influence: FloatArray


@dataclass(frozen=True)
class Estimator:
    """What the reference knows about the scores of its model."""

    reference: dict[str, Any]
    curve: Recalibration
    confidence: float

    @classmethod
    def of(cls, reference: dict[str, Any], confidence: float) -> Estimator | None:
        """None where the baseline had too little fraud for a recalibration."""
        document = reference["recalibration"]
        return cls(reference, Recalibration.from_json(document), confidence) if document else None

    def window(self, events: Events, scores: FloatArray, economics: Economics | None, chosen: NDArray[np.bool_]) -> Window:
        placed = self.curve.place(np.asarray(scores, np.float64)[chosen])
        p = np.zeros(chosen.size)
        p[chosen] = placed.probabilities
        return Window(self, *scored_events(events, scores, economics, chosen, p), placed)


@dataclass(frozen=True)
class Window:
    """Events whose labels are the probabilities that the recalibration gives them."""

    estimator: Estimator
    scored: Scored
    clusters: Clusters
    placed: Placed

    @property
    def expected_frauds(self) -> float:
        return self.scored.frauds

    @cached_property
    def guesses(self) -> dict[str, _Guess | None]:
        """Of every metric; None where it is undefined, here or at the baseline."""
        return {name: self._guess(name) for name in NAMES}

    def _guess(self, name: str) -> _Guess | None:
        reference, scored, p = self.estimator.reference, self.scored, self.scored.labels
        then, measured_then = reference["estimated"][name], reference["metrics"][name]["value"]
        found = scored.measure(name, reference["prevalence"])
        if np.isnan(found.value) or then is None or measured_then is None:
            return None
        scale = quality_scale.of(name)
        slope = scale.slope(found.value, scored.frauds)
        gap = scale.forward(measured_then, reference["frauds"]) - then["value"]
        scaled = scale.forward(found.value, scored.frauds) + gap
        sensitive = found.by_probability * slope
        return _Guess(
            value=float(scale.back(scaled)),
            scaled=scaled,
            gap=gap,
            labels=float((p * (1 - p)) @ sensitive**2) * then["design_effect"],
            gradient=self.placed.gradient(sensitive),
            influence=found.influence(p) * slope,
        )

    @cached_property
    def draws(self) -> Draws:
        return Draws.of(self.scored)

    def interval(self, name: str) -> Interval:
        """What will be measured once the labels of these events are known: median and interval of its distribution, on the metric's scale, over
        draws of the labels, widened by the design effect, and over what is uncertain of the recalibration; of a normal distribution for a
        metric that is not drawn."""
        guess = self.guesses[name]
        if guess is None:
            return Interval(np.nan, np.nan, np.nan)
        scale, curve = quality_scale.of(name), self.estimator.curve
        drawn = self.draws.metric(name, self.estimator.reference["prevalence"])
        if drawn is None or np.isnan(drawn).all():
            half = float(student.ppf((1 + self.estimator.confidence) / 2, curve.degrees)) * np.sqrt(guess.labels + self.of_baseline(name, guess))
            return Interval(guess.value, float(scale.back(guess.scaled - half)), float(scale.back(guess.scaled + half)))
        reference = self.estimator.reference["estimated"][name]
        sample = np.array([scale.forward(value, self.expected_frauds) for value in drawn[~np.isnan(drawn)]]) + guess.gap
        middle = float(np.median(sample))
        uncertain = np.random.default_rng(1).standard_t(curve.degrees, sample.size) * np.sqrt(self.of_baseline(name, guess))
        sample = middle + (sample - middle) * np.sqrt(reference["design_effect"]) + uncertain
        tail = (1 - self.estimator.confidence) / 2
        low, high = (float(scale.back(bound)) for bound in np.quantile(sample, (tail, 1 - tail)))
        if scale.margin is not None:  # the ends of the range have no finite place on the scale: with few frauds they are likely values
            low, high = 0.0 if (drawn <= 0).mean() > tail else low, 1.0 if (drawn >= 1).mean() > tail else high
        value = float(scale.back(middle))
        return Interval(value, min(low, value), max(high, value))

    def of_labels(self, foreseen: float, residuals: FloatArray) -> tuple[float, float]:
        """Variance that comes from these events' labels, and its degrees of freedom: as foreseen from the baseline's clusters, and as the clusters
        of the residuals, shape (events,), have it, averaged by their degrees of freedom. A window of few days knows little of its own."""
        own, degrees = self.clusters.variance(residuals)
        all_degrees = degrees + self.estimator.curve.degrees
        return (own * degrees + foreseen * self.estimator.curve.degrees) / all_degrees, all_degrees

    def of_baseline(self, name: str, guess: _Guess) -> float:
        """The part of an anchored estimate's variance that comes from the baseline's labels."""
        gap = self.estimator.reference["estimated"][name]["gap_variance"]
        return float(gap + guess.gradient @ self.estimator.curve.covariance @ guess.gradient)


def estimated_quality(
    reference: dict[str, Any],
    events: Events,
    scores: FloatArray,
    economics: Economics | None,
    monitoring: Monitoring,
    *,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """The section ``estimated_quality`` of a report: from the scores alone, shape (events,); the events' labels are not looked at.

    ``estimated`` is an interval of what will be measured, about its median. ``effect``: the metric of the expected labels minus the one measured
    at the baseline (average precision: at the baseline's share of fraud, ``at_baseline_prevalence``). ``p_value``: the chance of a loss at least
    this large if events came as at the baseline: one-sided, of the difference of the two estimates, which share one recalibration, so that its
    error mostly cancels; labels have no part in it, because none are looked at. ``drifted`` as in ``quality_drift``.
    """
    known = usable(scores)
    section = nothing(events) | {"expected_frauds": None, "metrics": {}, "says": []}
    estimator = Estimator.of(reference, confidence)
    if estimator is None or not known.any():
        return section | {"says": [_NO_ESTIMATE if estimator is None else _NO_SCORE]}
    window = estimator.window(events, scores, economics, known)
    says = left_out(events, window.scored)
    section["expected_frauds"] = window.expected_frauds
    few = too_few(reference, window.expected_frauds, window.scored.size)
    for name in MEASURES:
        section["metrics"][name] = _foreseen(window, name, monitoring, not few)
    return section | {"says": [*says, *few, *untested(section["metrics"], monitoring)]}


def _foreseen(window: Window, name: str, monitoring: Monitoring, enough: bool) -> dict[str, Any]:
    reference = window.estimator.reference
    tested = AT_PREVALENCE if name == "average_precision" else name
    then, guess = reference["metrics"][name], window.guesses[tested]
    found: dict[str, Any] = {
        "baseline": {bound: then[bound] for bound in ("value", "low", "high")},
        "estimated": window.interval(name).as_json(),
        "effect": None,
        "p_value": None,
        "drifted": False,
    }
    if tested != name:
        found["at_baseline_prevalence"] = window.interval(tested).as_json()
    if guess is None:
        return found
    found["effect"] = guess.value - reference["metrics"][tested]["value"]
    if enough:
        found["p_value"] = _chance_of_loss(window, tested, guess)
        found["drifted"] = has_drifted(name, found["effect"], found["p_value"], monitoring)
    return found


def _chance_of_loss(window: Window, name: str, guess: _Guess) -> float:
    reference, curve = window.estimator.reference, window.estimator.curve
    then = reference["estimated"][name]
    moved = guess.gradient - np.array(then["gradient"], np.float64)
    scale = quality_scale.of(name)
    difference = guess.scaled - scale.forward(reference["metrics"][name]["value"], reference["frauds"])
    # events vary in the window as at the baseline, fraud for fraud: the average counts for both
    sizes = np.array([window.expected_frauds, reference["frauds"]])
    events = window.clusters.variance(guess.influence)[0]
    per_fraud = float(np.array([events, then["events_variance"]]) @ sizes**2 / sizes.sum())
    variance = per_fraud * float((1 / sizes).sum()) + float(moved @ curve.covariance @ moved)
    sign = -1 if name in quality_scale.LOWER_IS_BETTER else 1
    return chance_of_less(sign * difference, variance, curve.degrees)


def concept_drift(
    reference: dict[str, Any],
    events: Events,
    scores: FloatArray,
    economics: Economics | None,
    monitoring: Monitoring,
    *,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """The section ``concept_drift`` of a report: what the labels of a matured window say, against what the scores alone had said.

    ``effect``: measured minus estimated, and ``p_value``: the chance of a measured value as far below the estimate (costs: above) if a score
    still means what it meant. Labels are then independent draws with the recalibrated probabilities but for their clusters
    (``Window.of_labels``), and the recalibration is as uncertain as the baseline left it. ``frauds_p_value``:
    two-sided, of the number of frauds against ``expected_frauds``, for the report; it decides nothing, because more fraud at the same
    ranking is no worse model. ``drifted`` as in ``quality_drift``.
    """
    known = usable(scores, events.labels)
    section = nothing(events) | {"frauds": None, "expected_frauds": None, "frauds_p_value": None, "metrics": {}, "says": []}
    estimator = Estimator.of(reference, confidence)
    if estimator is None or not known.any():
        return section | {"says": [_NO_ESTIMATE if estimator is None else _NO_SCORE]}
    window = estimator.window(events, scores, economics, known)
    measured = Scored(np.asarray(events.labels, np.float64)[known], window.scored.scores, window.scored.amounts, window.scored.days, economics)
    says = left_out(events, measured)
    section |= {"frauds": round(measured.frauds), "expected_frauds": window.expected_frauds, "frauds_p_value": _frauds(window, measured)}
    few = too_few(reference, window.expected_frauds, window.scored.size)
    for name in MEASURES:
        section["metrics"][name] = _gap(window, measured, name, monitoring, not few)
    return section | {"says": [*says, *few, *untested(section["metrics"], monitoring)]}


def _frauds(window: Window, measured: Scored) -> float:
    """On the scale of square roots, where counts have about the same variance whatever their size (Bartlett 1936)."""
    p, curve = window.scored.labels, window.estimator.curve
    expected = window.expected_frauds
    independent = float((p * (1 - p)).sum()) * window.estimator.reference["expected_frauds"]["design_effect"]
    gradient = window.placed.gradient(np.ones(p.size))
    variance, degrees = window.of_labels(independent, measured.labels - p)
    variance += float(gradient @ curve.covariance @ gradient)
    difference = 2 * (np.sqrt(measured.frauds) - np.sqrt(expected))
    below = chance_of_less(-abs(float(difference)), variance / max(expected, 1e-12), degrees)
    return min(1.0, 2 * below)


def _gap(window: Window, measured: Scored, name: str, monitoring: Monitoring, enough: bool) -> dict[str, Any]:
    guess, found_now = window.guesses[name], measured.measure(name)
    realised = None if np.isnan(found_now.value) else found_now.value
    found: dict[str, Any] = {
        "estimated": window.interval(name).as_json(),
        "realised": realised,
        "effect": None,
        "p_value": None,
        "drifted": False,
    }
    if guess is None or realised is None:
        return found
    found["effect"] = realised - guess.value
    if enough:
        scale = quality_scale.of(name)
        # the derivatives are taken at what was measured: where labels have changed, those at the estimate are far off
        sensitive = found_now.by_probability * scale.slope(realised, measured.frauds)
        variance, degrees = window.of_labels(guess.labels, (measured.labels - window.scored.labels) * sensitive)
        variance += window.of_baseline(name, guess)
        sign = -1 if name in quality_scale.LOWER_IS_BETTER else 1
        difference = sign * (scale.forward(realised, measured.frauds) - guess.scaled)
        found["p_value"] = chance_of_less(difference, variance, degrees)
        found["drifted"] = has_drifted(name, found["effect"], found["p_value"], monitoring)
    return found
