"""An experiment: two models on one endpoint, which of them decides for whom, and how far its rollout has come.

The experiment store keeps one document for each experiment (``Experiment``) and the history of what was decided about it (``Entry``). Whoever
changes it writes the next version, so that of two writers one is told to look again. The gateways only read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import timedelta
from typing import Any, Final, Literal, get_args

from include.lifecycle.domain import Guardrails, Rollout

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
"""The production variants: fixed slots, whatever models fill them."""

Slot = Literal["champion", "challenger"]
Stage = Literal["shadow", "proven", "ramp", "safe", "promoted", "rolled_back", "undecided", "stopped"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""shadow → proven → ramp → safe → promoted; each may end as rolled_back (the challenger is worse, or a guardrail tripped), undecided (its time is
up) or stopped (by a person). "proven" and "safe" wait: for the approval where the domain asks, and for the endpoint to be changed."""
ENDED: frozenset[Stage] = frozenset({"promoted", "rolled_back", "undecided", "stopped"})

Action = Literal["stop", "promote", "roll_back", "set_share"]
ACTIONS: tuple[Action, ...] = get_args(Action)
"""What a person may ask of a rollout."""


@dataclass(frozen=True)
class Contender:
    """One of the two models. ``model``: S3 URI of its archive. ``review_threshold``: an event is reviewed when its expected benefit
    (``include.lifecycle.costs.expected_benefit``) is above it; money."""

    model_package: str
    model: str
    review_threshold: float


@dataclass(frozen=True)
class Experiment:
    """Two models and how far the rollout of the second has come.

    - ``share``: of the entities, those that the challenger decides for; 0 in shadow. ``cap``: what it may be at most now;
    - ``step``: how many times share or stage have changed: what gateways count, they count by step. ``step_began``: the clock's instant since which
      a gateway may know of it; ``ramp_began``: that of the ramp's first step. ``version``: of this document, from 1 on;
    - in the time of the data, ISO 8601, UTC: ``opened`` (nothing before it is evidence), ``stage_since``, ``cap_since``, ``as_of`` (up to where
      evidence was looked at);
    - ``endpoint_config``: what the endpoint carries in this stage;
    - ``shadow_scores``: counts of the challenger's scores in shadow, by twentieths of [0, 1]; empty until known;
    - ``policy``: the domain's as it was when the experiment began: changing it later changes no experiment that runs.
    """

    id: str
    domain: str
    endpoint: str
    champion: Contender
    challenger: Contender
    opened: str
    stage: Stage = "shadow"
    stage_since: str = ""
    cap_since: str = ""
    as_of: str = ""
    share: float = 0.0
    cap: float = 0.0
    step: int = 0
    step_began: str = ""
    ramp_began: str = ""
    version: int = 0
    endpoint_config: str = ""
    why: str = ""
    shadow_scores: tuple[int, ...] = ()
    policy: Rollout = field(default_factory=Rollout)

    @property
    def ended(self) -> bool:
        return self.stage in ENDED

    def but(self, **changes: Any) -> Experiment:
        """The same with some fields changed."""
        return replace(self, **changes)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"shadow_scores": list(self.shadow_scores), "policy": _policy_as_json(self.policy)}

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Experiment:
        """KeyError or TypeError for what ``as_json`` did not write."""
        contenders = {slot: Contender(**content[slot]) for slot in (CHAMPION, CHALLENGER)}
        policy = _policy_of_json(content["policy"])
        return cls(**{**content, **contenders, "shadow_scores": tuple(content["shadow_scores"]), "policy": policy})


@dataclass(frozen=True)
class Command:
    """What a person asks of a rollout: ``who``, ``why``, and for "set_share" the ``share``. ``id``: a command given twice is one."""

    id: str
    action: Action
    who: str
    why: str
    share: float | None = None


@dataclass(frozen=True)
class Entry:
    """One line of an experiment's history: what was decided as of an instant, on which evidence. ``version``: the experiment's after it.
    ``evidence``: what was looked at, small. ``command``: id of the command that was done or refused; None: of none, and in lines that were stored
    before there were ids in them."""

    version: int
    as_of: str
    stage: Stage
    share: float
    cap: float
    says: str
    who: str
    evidence: Mapping[str, Any] = field(default_factory=dict, hash=False)
    command: str | None = None


@dataclass(frozen=True)
class VariantCounts:
    """What gateways counted of one slot's requests. ``requests``: assigned to it; ``errors``: of them, those that it failed;
    ``fallbacks``: answered by the champion instead; ``reviews``: asked for because of the score. ``latencies``: counts by
    ``LATENCY_BOUNDS_MS``; ``scores``: by twentieths of [0, 1]. Counts of several gateways add."""

    requests: int = 0
    errors: int = 0
    fallbacks: int = 0
    reviews: int = 0
    latencies: tuple[int, ...] = ()
    scores: tuple[int, ...] = ()

    def __add__(self, other: VariantCounts) -> VariantCounts:
        return VariantCounts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.fallbacks + other.fallbacks,
            self.reviews + other.reviews,
            _sum(self.latencies, other.latencies),
            _sum(self.scores, other.scores),
        )


LATENCY_BOUNDS_MS = (1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0)
"""Upper bounds of the latencies' cells; one more cell holds what is above the last."""
SCORE_CELLS = 20


@dataclass(frozen=True)
class GatewayHealth:
    """What one gateway has counted since an experiment's step began for it. ``seen_at``: the clock's instant of this sign of life, ISO 8601, UTC."""

    gateway: str
    step: int
    seen_at: str
    champion: VariantCounts
    challenger: VariantCounts


def _policy_as_json(policy: Rollout) -> dict[str, Any]:
    """Lengths of time in seconds. Without ``training``: that is over when an experiment begins."""
    content = asdict(policy) | {"training": None, "guardrails": asdict(policy.guardrails)}
    return {name: _seconds(value) for name, value in content.items()}


def _seconds(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {name: _seconds(item) for name, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _policy_of_json(content: Mapping[str, Any]) -> Rollout:
    content = {"disagreement_review_share": 0.0, **content}  # nobody drew such reviews for experiments that were stored without it
    return Rollout(**{**_typed(Rollout, content), "guardrails": Guardrails(**_typed(Guardrails, content["guardrails"]))})


def _typed(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON has as numbers and lists as the fields' types."""
    types = {item.name: str(item.type) for item in fields(kind)}
    return {
        name: timedelta(seconds=value) if types[name] == "timedelta" else tuple(value) if isinstance(value, list) else value
        for name, value in content.items()
    }


def _sum(left: tuple[int, ...], right: tuple[int, ...]) -> tuple[int, ...]:
    if not left or not right:
        return left or right
    return tuple(a + b for a, b in zip(left, right, strict=True))
