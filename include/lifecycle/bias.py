"""Bias by facet, under the names of Amazon SageMaker Clarify (Hardt et al. 2021, Amazon SageMaker Clarify: Machine Learning Bias Detection
and Explainability in the Cloud, KDD; definitions in the developer guide, "Measure pre-training bias" and "post-training").

Two groups are compared: facet *a* (the reference group) and facet *d* (the other one). The positive outcome, 1 in the formulas, is the
favourable one: in labels, that the event was genuine; in predictions, that it was not sent to review. With n_a, n_d events; n_a¹, n_a⁰ of
them with the favourable and unfavourable label, n̂_a¹, n̂_a⁰ with the favourable and unfavourable prediction (and so for d), and
q = n¹/n, q̂ = n̂¹/n.

A metric is None where it is undefined: on a division by zero, where Clarify reports infinity (or 0, if both groups are infinite: nobody
reviewed would look like nobody wronged), or where a group is empty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from include.lifecycle.bootstrap import FloatArray

BiasMetrics = dict[str, float | None]

NAMES = {
    "CI": "class imbalance",
    "DPL": "difference in proportions of labels",
    "KL": "Kullback-Leibler divergence",
    "JS": "Jensen-Shannon divergence",
    "LP": "L2 norm",
    "TVD": "total variation distance",
    "KS": "Kolmogorov-Smirnov",
    "DPPL": "difference in positive proportions in predicted labels",
    "DI": "disparate impact",
    "DCA": "difference in conditional acceptance",
    "DCR": "difference in conditional rejection",
    "RD": "recall difference",
    "SD": "specificity difference",
    "DAR": "difference in acceptance rates",
    "DRR": "difference in rejection rates",
    "AD": "accuracy difference",
    "TE": "treatment equality",
    "FT": "counterfactual flip test",
}
_NEIGHBOURS, _FEW = 5, 10
_FLIP_TEST_ROWS = 5_000


@dataclass(frozen=True)
class Group:
    """The counts of one facet: ``tp`` genuine and not reviewed, ``fp`` fraud and not reviewed, ``tn`` fraud and reviewed, ``fn`` genuine
    and reviewed."""

    tp: int
    fp: int
    tn: int
    fn: int

    @classmethod
    def of(cls, favourable: NDArray[np.bool_], predicted: NDArray[np.bool_], members: NDArray[np.bool_]) -> Group:
        def count(label: bool, prediction: bool) -> int:
            return int((members & (favourable == label) & (predicted == prediction)).sum())

        return cls(tp=count(True, True), fp=count(False, True), tn=count(False, False), fn=count(True, False))

    @property
    def events(self) -> int:
        return self.tp + self.fp + self.tn + self.fn


def pre_training(labels: ArrayLike, facet_a: ArrayLike, facet_d: ArrayLike) -> BiasMetrics:
    """What the labels hold before any model. labels: 1 is fraud; facet_a, facet_d: boolean members of the groups; all of shape (events,).

    - CI = (n_a - n_d) / (n_a + n_d)
    - DPL = q_a - q_d
    - KL = Σ_y P_a(y) ln(P_a(y) / P_d(y)), over the two labels
    - JS = ½ KL(P_a, P) + ½ KL(P_d, P), P = ½ (P_a + P_d) (the demo run on record took P over all events)
    - LP = √Σ_y (P_a(y) - P_d(y))²
    - TVD = ½ Σ_y |P_a(y) - P_d(y)|
    - KS = max_y |P_a(y) - P_d(y)|
    """
    favourable = np.asarray(labels) == 0
    members = [np.asarray(facet, bool) for facet in (facet_a, facet_d)]
    n_a, n_d = (int(facet.sum()) for facet in members)
    if not n_a or not n_d:
        return dict.fromkeys(("CI", "DPL", "KL", "JS", "LP", "TVD", "KS"))
    q_a, q_d = (float(favourable[facet].mean()) for facet in members)
    p_a, p_d = np.array([q_a, 1 - q_a]), np.array([q_d, 1 - q_d])
    distance = np.abs(p_a - p_d)
    return {
        "CI": (n_a - n_d) / (n_a + n_d),
        "DPL": q_a - q_d,
        "KL": _divergence(p_a, p_d),
        "JS": _jensen_shannon(p_a, p_d),
        "LP": float(np.sqrt((distance**2).sum())),
        "TVD": float(distance.sum() / 2),
        "KS": float(distance.max()),
    }


def post_training(labels: ArrayLike, reviewed: ArrayLike, facet_a: ArrayLike, facet_d: ArrayLike) -> BiasMetrics:
    """What the decisions do. labels: 1 is fraud; reviewed: boolean, sent to review; facets as in ``pre_training``.

    - DPPL = q̂_a - q̂_d
    - DI = q̂_d / q̂_a
    - DCA = n_a¹/n̂_a¹ - n_d¹/n̂_d¹;  DCR = n_d⁰/n̂_d⁰ - n_a⁰/n̂_a⁰
    - RD = TP_a/n_a¹ - TP_d/n_d¹;  SD = TN_d/n_d⁰ - TN_a/n_a⁰
    - DAR = TP_a/n̂_a¹ - TP_d/n̂_d¹;  DRR = TN_d/n̂_d⁰ - TN_a/n̂_a⁰
    - AD = (TP_a + TN_a)/n_a - (TP_d + TN_d)/n_d
    - TE = FN_d/FP_d - FN_a/FP_a
    """
    favourable, predicted = np.asarray(labels) == 0, ~np.asarray(reviewed, bool)
    a = Group.of(favourable, predicted, np.asarray(facet_a, bool))
    d = Group.of(favourable, predicted, np.asarray(facet_d, bool))
    if not a.events or not d.events:
        return dict.fromkeys(("DPPL", "DI", "DCA", "DCR", "RD", "SD", "DAR", "DRR", "AD", "TE"))
    share_a, share_d = (a.tp + a.fp) / a.events, (d.tp + d.fp) / d.events
    return {
        "DPPL": share_a - share_d,
        "DI": _quotient(share_d, share_a),
        "DCA": _difference(_quotient(a.tp + a.fn, a.tp + a.fp), _quotient(d.tp + d.fn, d.tp + d.fp)),
        "DCR": _difference(_quotient(d.fp + d.tn, d.tn + d.fn), _quotient(a.fp + a.tn, a.tn + a.fn)),
        "RD": _difference(_quotient(a.tp, a.tp + a.fn), _quotient(d.tp, d.tp + d.fn)),
        "SD": _difference(_quotient(d.tn, d.tn + d.fp), _quotient(a.tn, a.tn + a.fp)),
        "DAR": _difference(_quotient(a.tp, a.tp + a.fp), _quotient(d.tp, d.tp + d.fp)),
        "DRR": _difference(_quotient(d.tn, d.tn + d.fn), _quotient(a.tn, a.tn + a.fn)),
        "AD": (a.tp + a.tn) / a.events - (d.tp + d.tn) / d.events,
        "TE": _difference(_quotient(d.fn, d.fp), _quotient(a.fn, a.fp)),
    }


def flip_test(features: ArrayLike, reviewed: ArrayLike, facet_a: ArrayLike, facet_d: ArrayLike) -> float | None:
    """FT = (F⁺ - F⁻) / n_d: F⁺ events of facet d that are reviewed while most of their nearest neighbours in facet a are not, F⁻ the
    other way round; above 0, facet d is treated worse than its like in facet a (Black, Yeom & Fredrikson 2020, FlipTest, as Clarify
    approximates it: 5 nearest neighbours, 1 where facet a has 10 events or fewer).

    features: shape (events, features), NaN is missing. Unlike Clarify, each is standardised (a sum of money would drown all others), with
    missing values at the mean. Groups of more than 5,000 events are thinned evenly. None where a group is empty.
    """
    a, d = (np.flatnonzero(np.asarray(facet, bool)) for facet in (facet_a, facet_d))
    if not a.size or not d.size:
        return None
    a, d = (rows[:: -(-rows.size // _FLIP_TEST_ROWS)] for rows in (a, d))
    from sklearn.neighbors import NearestNeighbors  # its import takes a second, and only this test needs it

    values = _standardised(np.asarray(features, np.float64))
    unfavourable = np.asarray(reviewed, bool)
    neighbours = _NEIGHBOURS if a.size > _FEW else 1
    nearest = NearestNeighbors(n_neighbors=neighbours).fit(values[a]).kneighbors(values[d], return_distance=False)
    as_if_a = unfavourable[a][nearest].mean(axis=1) > 0.5
    worse = (unfavourable[d] & ~as_if_a).sum()
    better = (~unfavourable[d] & as_if_a).sum()
    return float((worse - better) / d.size)


def _standardised(values: FloatArray) -> FloatArray:
    known = ~np.isnan(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0).sum(axis=0) / count
    centred = np.where(known, values - mean, 0)
    spread = np.sqrt((centred**2).sum(axis=0) / count)
    return np.asarray(centred / np.where(spread > 0, spread, 1.0), np.float64)


def _divergence(p: FloatArray, q: FloatArray) -> float | None:
    """Σ p ln(p/q); None where q is 0 and p is not."""
    if ((q == 0) & (p > 0)).any():
        return None
    here = p > 0
    return float((p[here] * np.log(p[here] / q[here])).sum())


def _jensen_shannon(p: FloatArray, q: FloatArray) -> float:
    middle = (p + q) / 2
    return ((_divergence(p, middle) or 0.0) + (_divergence(q, middle) or 0.0)) / 2


def _quotient(part: float, whole: float) -> float | None:
    """Clarify's rule: 0/0 is 0; anything else over 0 is infinite, here None."""
    if whole == 0:
        return 0.0 if part == 0 else None
    return part / whole


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
