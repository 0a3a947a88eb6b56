"""What metrics would be, label by label: seeded draws of labels from probabilities of fraud.

The distribution of a metric of few frauds is skewed, and bounded where the normal one is not. So the interval of an estimate comes from draws.
An event is fraud in a draw with its probability p, independently of the others; drawn as the events that a Poisson process of intensity
-log(1 - p) hits at least once, which costs as much as there is fraud, however many events there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from include.lifecycle import costs, metrics
from include.lifecycle.bootstrap import FloatArray
from include.lifecycle.influence import AT_PREVALENCE, Scored

_DRAWS = 500
_FRAUDS = 500_000
_FEWEST = 100
_CERTAIN = 1e-6


@dataclass(frozen=True)
class Draws:
    """The frauds of ``count`` draws of labels: ``draw`` and ``event`` of each, shape (frauds of all draws,), by draw and then by score from the
    highest; ``frauds`` of each draw, shape (count,)."""

    scored: Scored
    draw: NDArray[np.intp]
    event: NDArray[np.intp]
    frauds: FloatArray

    @classmethod
    def of(cls, scored: Scored, seed: int = 0) -> Draws:
        """``scored``: with probabilities for labels. 500 draws, or 100 at least where there are very many frauds."""
        intensity = -np.log1p(-np.minimum(scored.labels, 1 - _CERTAIN))
        ranked = scored.ranked
        reached = np.cumsum(intensity[ranked.order])
        count = int(np.clip(_FRAUDS / max(reached[-1], 1.0), _FEWEST, _DRAWS))
        generator = np.random.default_rng(seed)
        hits = generator.poisson(reached[-1], count)
        place = np.searchsorted(reached, generator.random(int(hits.sum())) * reached[-1], side="right")
        drawn = np.sort(np.repeat(np.arange(count), hits) * scored.size + np.minimum(place, scored.size - 1))
        drawn = drawn[np.diff(drawn, prepend=-1) != 0]  # several hits are one fraud
        draw = drawn // scored.size
        return cls(scored, draw, ranked.order[drawn % scored.size], np.bincount(draw, minlength=count).astype(np.float64))

    def metric(self, name: str, prevalence: float) -> FloatArray | None:
        """The metric in each draw, shape (draws,), NaN where it is undefined; None for a metric that is not drawn."""
        defined = (self.frauds > 0) & (self.frauds < self.scored.size)
        frauds = np.where(defined, self.frauds, np.nan)
        if name in ("roc_auc", "average_precision", AT_PREVALENCE):
            return self._of_ranking(name, prevalence, frauds)
        if self.scored.economics is None:
            return None
        if name in ("recall_at_capacity", "precision_at_capacity"):
            reviewed = metrics.reviewed_share(self.scored.scores, self.scored.days, self.scored.economics.review)
            found = self._sum(reviewed)
            return found / (frauds if name == "recall_at_capacity" else max(float(reviewed.sum()), 1.0))
        if name in ("expected_cost", "savings"):
            return self._of_money(name)
        return None

    def _sum(self, values: FloatArray) -> FloatArray:
        """Σ over the frauds of each draw."""
        return np.asarray(np.bincount(self.draw, values[self.event], self.frauds.size), np.float64)

    @cached_property
    def _cells(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
        """Draw, number of the score from the highest, and how many frauds there are of both."""
        scores = int(self.scored.ranked.tie.max()) + 1
        cell, counted = np.unique(self.draw * scores + self.scored.ranked.tie[self.event], return_counts=True)
        return cell // scores, cell % scores, counted

    def _of_ranking(self, name: str, prevalence: float, frauds: FloatArray) -> FloatArray:
        """By (draw, score): how many frauds have it, and how many frauds and events have it or a higher one."""
        ranked, events, draws = self.scored.ranked, self.scored.size, self.frauds.size
        alike = np.bincount(ranked.tie).astype(np.float64)
        draw, tie, counted = self._cells
        before = np.cumsum(self.frauds) - self.frauds
        found, flagged = np.cumsum(counted) - before[draw], np.cumsum(alike)[tie]
        of_draw = frauds[draw]
        if name == "roc_auc":
            genuine_below = (events - flagged) - (of_draw - found) + (alike[tie] - counted) / 2
            return np.asarray(np.bincount(draw, counted * genuine_below, draws) / (frauds * (events - frauds)), np.float64)
        if name == AT_PREVALENCE:
            recall, fallout = found / of_draw, (flagged - found) / (events - of_draw)
            precision = prevalence * recall / (prevalence * recall + (1 - prevalence) * fallout)
        else:
            precision = found / flagged
        return np.asarray(np.bincount(draw, counted * precision, draws) / frauds, np.float64)

    def _of_money(self, name: str) -> FloatArray | None:
        scored = self.scored
        if scored.economics is None or not scored.priced.any():
            return None
        money, amounts = scored.economics.costs, np.where(scored.priced, scored.amounts, 0.0)
        reviewed = costs.reviewed_for_benefit(scored.scores, amounts, money)
        loss = money.missed_share * amounts
        cost = float(reviewed[scored.priced].sum()) * money.review + self._sum((1 - reviewed) * loss)
        if name == "expected_cost":
            return np.asarray(cost / int(scored.priced.sum()), np.float64)
        without = self._sum(loss)
        return np.asarray(1 - np.divide(cost, without, out=np.full(cost.size, np.nan), where=without > 0), np.float64)
