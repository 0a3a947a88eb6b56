"""What clients send and get: the bodies of the API's requests and answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from include.lifecycle.experiment import Action, Slot, Stage

LARGEST_FEATURE = 3.4028234663852886e38
"""Models work in 32 bits: beyond this, a feature would be infinite."""
MOST_FEATURES = 2_000
MOST_OUTCOMES = 1_000


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("lies outside of time") from error


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]
InferenceId = Annotated[
    str,
    Field(
        pattern=r"^[!-~]([ -~]{0,62}[!-~])?$", description="the event's id: 1 to 64 printable ASCII characters, as InvokeEndpoint wants it"
    ),
]
Number = Annotated[float, Field(allow_inf_nan=False)]
Feature = Annotated[float, Field(ge=-LARGEST_FEATURE, le=LARGEST_FEATURE, allow_inf_nan=False)] | None
Share = Annotated[float, Field(ge=0, le=1)]
DomainName = Annotated[str, Field(min_length=1, max_length=24, examples=["card_payments"])]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ScoreRequest(_Strict):
    """One event to be judged."""

    domain: DomainName
    event_id: InferenceId
    entity_id: Annotated[str, Field(min_length=1, max_length=128, description="who it is about: in a ramp, the assignment sticks to it")]
    event_time: Annotated[Instant, Field(description="ISO 8601 with an offset", examples=["2026-03-31T14:30:00Z"])]
    amount: Annotated[Number, Field(description="money at stake, in the domain's currency")]
    features: Annotated[
        dict[str, Feature] | list[Feature],
        Field(max_length=MOST_FEATURES, description="by name (absent or null: missing), or a list in the model's order"),
    ]
    reasons: Annotated[int, Field(ge=1, le=MOST_FEATURES)] | None = Field(None, description="so many features that moved the score most")
    variant: Slot | None = Field(
        None,
        description="for tests: this variant instead of the assigned one, for a key with the right override; such decisions are no evidence",
    )


class Reason(BaseModel):
    feature: str
    value: float | None
    contribution: float = Field(description="what the value added to the log-odds of fraud")


class ScoreAnswer(BaseModel):
    inference_id: str
    score: float = Field(description="probability of fraud")
    decision: Literal["review", "pass"]
    reviewed_because: Literal["score", "random"] | None
    reasons: list[Reason]
    variant: Slot = Field(description="the slot whose model answered")
    model_package: str | None
    experiment: str | None
    share: float = Field(description="of the entities, those that the challenger decides for")
    fallback: str | None = Field(description="why the champion answered where the challenger might have; null: nothing was wrong")


class Outcome(_Strict):
    """What became of an event."""

    domain: DomainName
    inference_id: InferenceId
    label: Annotated[int, Field(ge=0, le=1, description="1: fraud, 0: genuine")]
    known_at: Instant | None = Field(None, description="when the truth became known, ISO 8601 with an offset (default: now)")


OutcomeState = Literal["accepted", "pending", "known", "conflict"]


class OutcomeAnswer(BaseModel):
    inference_id: str
    state: OutcomeState = Field(
        description="accepted; pending: its decision is not known here yet; known: the same was said before; conflict: another label stands"
    )
    says: str | None = None


class OutcomesAnswer(BaseModel):
    outcomes: list[OutcomeAnswer] = Field(description="one for each item, in the order of the request")


class CommandRequest(_Strict):
    """What a person asks of a rollout."""

    action: Action
    why: Annotated[str, Field(min_length=1, max_length=500)]
    share: Share | None = Field(None, description="with set_share, the challenger's share of the entities")
    id: Annotated[str, Field(pattern=r"^[!-~]{1,64}$")] | None = Field(
        None,
        description="of the caller's, such as a ticket's number: the same action and share under the same id again is the same command",
    )


class CommandAnswer(BaseModel):
    id: str = Field(description="of the command in the experiment store")
    experiment: str
    action: Action
    who: str
    stage: Stage = Field(description="of the rollout, after the command")
    share: float = Field(description="of the entities, those that the challenger decides for after the command")


class ErrorAnswer(BaseModel):
    error: str
    where: list[dict[str, Any]] = Field(default_factory=list, description="the members at fault: [{member, says}]")
