"""What a gateway counts: for the guardrails of its experiments, by step; and for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from include.lifecycle.as_of import iso
from include.lifecycle.experiment import CHALLENGER, CHAMPION, LATENCY_BOUNDS_MS, SCORE_CELLS, GatewayHealth, VariantCounts

LATENCY_CELLS = len(LATENCY_BOUNDS_MS) + 1


def latency_cell(milliseconds: float) -> int:
    """Bounds are upper ones, and belong to their cell."""
    return bisect_left(LATENCY_BOUNDS_MS, milliseconds)


@dataclass
class SlotCounts:
    """See ``VariantCounts``."""

    requests: int = 0
    errors: int = 0
    fallbacks: int = 0
    reviews: int = 0
    latencies: list[int] = field(default_factory=lambda: [0] * LATENCY_CELLS)
    scores: list[int] = field(default_factory=lambda: [0] * SCORE_CELLS)

    def answered(self, milliseconds: float, score: float, wanted: bool) -> None:
        self.requests += 1
        self.reviews += wanted
        self.latencies[latency_cell(milliseconds)] += 1
        self.scores[min(int(max(score, 0.0) * SCORE_CELLS), SCORE_CELLS - 1)] += 1

    def failed(self, milliseconds: float | None, fell_back: bool) -> None:
        """``milliseconds`` None: the variant was not asked, so it took no time, not even little."""
        self.requests += 1
        self.errors += 1
        self.fallbacks += fell_back
        if milliseconds is not None:
            self.latencies[latency_cell(milliseconds)] += 1

    def frozen(self) -> VariantCounts:
        return VariantCounts(self.requests, self.errors, self.fallbacks, self.reviews, tuple(self.latencies), tuple(self.scores))


@dataclass
class StepCounts:
    """Of one step of one experiment, since it began for this gateway."""

    experiment: str
    step: int
    slots: dict[str, SlotCounts] = field(default_factory=lambda: {CHAMPION: SlotCounts(), CHALLENGER: SlotCounts()})

    def health(self, gateway: str, now: datetime) -> GatewayHealth:
        return GatewayHealth(gateway, self.step, iso(now), self.slots[CHAMPION].frozen(), self.slots[CHALLENGER].frozen())


@dataclass
class Metrics:
    """``requests``: scored, by (domain, variant, decision, fallback, override). ``refused``: by HTTP status. ``outcomes``: by (domain, state).
    ``latencies``: from a request's headers to the end of its answer, whatever it was, by (path, status); ``invocations``: of those that were scored,
    in the endpoint, by (domain, variant)."""

    requests: Counter[tuple[str, ...]] = field(default_factory=Counter)
    refused: Counter[tuple[str, ...]] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, ...]] = field(default_factory=Counter)
    latencies: defaultdict[tuple[str, ...], Histogram] = field(default_factory=lambda: defaultdict(Histogram))
    invocations: defaultdict[tuple[str, ...], Histogram] = field(default_factory=lambda: defaultdict(Histogram))


@dataclass
class Histogram:
    cells: list[int] = field(default_factory=lambda: [0] * LATENCY_CELLS)
    total: float = 0.0

    def observe(self, milliseconds: float) -> None:
        self.cells[latency_cell(milliseconds)] += 1
        self.total += milliseconds


# --------------------------------------------------------------------------- Prometheus' text format, version 0.0.4


def exposition(metrics: Metrics, gauges: Mapping[str, tuple[str, Mapping[tuple[tuple[str, str], ...], float]]]) -> str:
    """``gauges``: name → (help, value by labels). Written by hand: it is a page of text, and the client library would be one more to install
    in the jobs' image."""
    lines: list[str] = []
    prefix = "fraud_gateway"
    for name, help_, labels, counter in (
        ("requests_total", "Scored events.", ("domain", "variant", "decision", "fallback", "override"), metrics.requests),
        ("refused_total", "Requests answered with an error.", ("status",), metrics.refused),
        ("outcomes_total", "Outcomes received.", ("domain", "state"), metrics.outcomes),
    ):
        lines += [f"# HELP {prefix}_{name} {help_}", f"# TYPE {prefix}_{name} counter"]
        lines += [f"{prefix}_{name}{_labels(zip(labels, key, strict=True))} {count}" for key, count in sorted(counter.items())]
    for name, help_, labels, histograms in (
        ("request_seconds", "From a request's headers to the end of its answer.", ("path", "status"), metrics.latencies),
        ("invocation_seconds", "Of a scored event's, in the endpoint.", ("domain", "variant"), metrics.invocations),
    ):
        lines += [f"# HELP {prefix}_{name} {help_}", f"# TYPE {prefix}_{name} histogram"]
        for key, histogram in sorted(histograms.items()):
            lines += _histogram(f"{prefix}_{name}", list(zip(labels, key, strict=True)), histogram)
    for name, (help_, values) in gauges.items():
        lines += [f"# HELP {prefix}_{name} {help_}", f"# TYPE {prefix}_{name} gauge"]
        lines += [f"{prefix}_{name}{_labels(key)} {value:g}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _histogram(name: str, labels: list[tuple[str, str]], histogram: Histogram) -> list[str]:
    lines, below = [], 0
    for bound, count in zip([*(f"{bound / 1000:g}" for bound in LATENCY_BOUNDS_MS), "+Inf"], histogram.cells, strict=True):
        below += count
        lines.append(f"{name}_bucket{_labels([*labels, ('le', bound)])} {below}")
    return [*lines, f"{name}_sum{_labels(labels)} {histogram.total / 1000:.6f}", f"{name}_count{_labels(labels)} {below}"]


def _labels(pairs: Iterable[tuple[str, str]]) -> str:
    shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs)
    return f"{{{shown}}}" if shown else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
