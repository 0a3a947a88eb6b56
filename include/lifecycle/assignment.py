"""Which variant decides for an entity, and which events are reviewed by lot: by hashing alone, so that every gateway, after every restart, and
whoever looks later, gives the same answer without asking anybody.

The unit is an entity × epoch. Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", SPAA 2005; in the
logarithmic form of Resch, "New hashing algorithms for data storage", SDC 2015): each variant draws a number u, uniform on (0, 1), from the hash of
(experiment, epoch, variant, entity), and the one with the smallest -ln(u) / share wins. That is a race of exponential clocks, so a variant wins
with a chance of its share exactly; and as a share moves only its own variant's clock, entities move to the variants whose share relative
to the others' grew, and no more of them than it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from math import isfinite, log

_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)
_SEPARATOR = "\x1f"
_CELL = 2.0**-52


def epoch_of(event_time: datetime, epoch: timedelta) -> int:
    """Number of the epoch that an instant lies in, counted from 1970-01-01 UTC. An instant without a time zone is UTC."""
    aware = event_time if event_time.tzinfo else event_time.replace(tzinfo=UTC)
    return (aware - _ORIGIN) // epoch


def assign(experiment: str, epoch: int, entity: str, shares: Mapping[str, float]) -> str:
    """The variant that decides for an entity in an epoch.

    ``shares``: variant → its share, none negative, not all 0; they are taken relative to their sum. A variant with a share of 0 never wins. Two
    experiments, and two epochs of one, are assigned independently of each other. ValueError for shares that are none.
    """
    winner, first = "", float("inf")
    for variant in sorted(shares):  # the same winner of a tie, whatever order the mapping has
        share = shares[variant]
        if not (share >= 0 and isfinite(share)):
            raise ValueError(f"experiment {experiment!r}: share {share!r} of {variant!r} is not a number of 0 or more")
        if share:
            drawn = _uniform(f"assign{_SEPARATOR}{experiment}{_SEPARATOR}{epoch}{_SEPARATOR}{variant}", entity)
            if (clock := -log(drawn) / share) < first:
                winner, first = variant, clock
    if not winner:
        raise ValueError(f"experiment {experiment!r}: no variant has a share above 0: {dict(shares)}")
    return winner


def random_review(domain: str, inference_id: str, share: float) -> bool:
    """Whether an event is reviewed whatever its score: with a chance of ``share``, independently of its assignment."""
    return share > 0 and _uniform(f"random review{_SEPARATOR}{domain}", inference_id) < share


def disagreement_review(experiment: str, inference_id: str, share: float) -> bool:
    """Whether an event about which an experiment's models disagree is reviewed although the deciding one does not ask for it: with a chance of
    ``share``, independently of its assignment and of ``random_review``."""
    return share > 0 and _uniform(f"disagreement review{_SEPARATOR}{experiment}", inference_id) < share


def _uniform(what: str, key: str) -> float:
    """A number strictly between 0 and 1 from the hash of both. ``key`` comes last, as it may hold any character."""
    digest = blake2b(f"{what}{_SEPARATOR}{key}".encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) * _CELL
