"""What is live: by domain, the endpoint's models and the experiment, kept up to date beside the requests and never in their path.

So a change is known a moment late. Of the experiment, the time between two looks. Of the endpoint, as much while it is being updated, otherwise
``ENDPOINT_SECONDS``: scores that it gives in between are judged by the threshold of the model before, and logged as that model's.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import math
import tarfile
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from include import domains
from include.lifecycle.as_of import utc
from include.lifecycle.domain import Domain
from include.lifecycle.experiment import CHALLENGER, Contender, Experiment
from include.lifecycle.names import endpoint_name
from include.stores.experiments import ExperimentStore, ExperimentStoreError
from include.stores.objects import ObjectNotFoundError, ObjectStore
from include.stores.registry import ModelPackage, ModelRegistry

_log = logging.getLogger(__name__)
_DESCRIPTION = "model.json"
ENDPOINT_SECONDS = 5.0
"""Between two looks at an endpoint that nothing has happened to."""
_CHANGING = frozenset({"Creating", "Updating", "SystemUpdating", "RollingBack"})
_LONGEST_WAIT = 60.0
"""Seconds until a model that could not be read is read again; half as long after one failure less."""


class NotLive(Exception):
    """A domain has no model that could score. The message says why."""


@dataclass(frozen=True)
class Model:
    """A contender and its features, in its order."""

    contender: Contender
    features: tuple[str, ...]


@dataclass(frozen=True)
class Deployed:
    """What an endpoint carries. ``variants``: its production variants; ``champion``: the model of the one that has the traffic to itself.
    ``missing``: what its package does not say, though nothing but an experiment could decide without it; empty: nothing. ``changing``: it is on its
    way to another configuration."""

    config: str
    variants: tuple[str, ...]
    champion: Model
    missing: str = ""
    changing: bool = False


@dataclass(frozen=True)
class View:
    """All that a request of the domain is judged by.

    ``experiment``: one that has not ended, or one that was promoted while the endpoint still has both variants; None where the endpoint carries
    another champion than the experiment's. ``challenger``: None without an experiment, and where the model cannot be used (``problem`` says why).
    ``variants``: the endpoint's production variants. ``watched_until``: the clock's instant up to which the experiment may split traffic without
    somebody looking at its guardrails again, and seeing what was counted here; None: it splits none."""

    domain: Domain
    endpoint: str
    variants: tuple[str, ...]
    champion: Model
    challenger: Model | None = None
    experiment: Experiment | None = None
    problem: str = ""
    watched_until: datetime | None = None

    def model(self, slot: str) -> Model | None:
        return self.challenger if slot == CHALLENGER else self.champion


@dataclass(frozen=True)
class Watched:
    """``looked_at``: when somebody last looked at the experiment's guardrails (ISO 8601), None: never. ``counts_told``: when the counts of this
    gateway last reached the store, for whoever looks. ``now``: the clock's."""

    looked_at: str | None
    counts_told: datetime
    now: datetime


def view_of(
    domain: Domain, deployed: Deployed, experiment: Experiment | None, model: Callable[[Contender], Model], watched: Watched
) -> View:
    """``experiment``: the store's current one. ``model``: its features looked up; raises NotLive. So does this, where nothing says above which
    benefit the champion reviews.

    The endpoint is what answers, so what it carries outweighs what the store says of it: beside another champion than the experiment's (the
    endpoint is changed before "promoted" is stored, or somebody has deployed something else), the experiment says nothing about any answer."""
    endpoint = endpoint_name(domain.name)
    over = experiment is None or (experiment.ended and not (experiment.stage == "promoted" and CHALLENGER in deployed.variants))
    if experiment is None or over or deployed.champion.contender.model_package != experiment.champion.model_package:
        if deployed.missing:
            raise NotLive(deployed.missing)
        return View(domain, endpoint, deployed.variants, deployed.champion)
    champion = Model(experiment.champion, deployed.champion.features)
    try:
        challenger: Model | None = model(experiment.challenger)
        problem = "" if challenger and challenger.features == champion.features else "the challenger wants other features than the champion"
    except NotLive as error:
        challenger, problem = None, str(error)
    until = watched_until(experiment, watched)
    return View(domain, endpoint, deployed.variants, champion, None if problem else challenger, experiment, problem, until)


def splits(experiment: Experiment | None) -> bool:
    """Whether some entities are the champion's and some the challenger's."""
    return experiment is not None and experiment.stage in {"ramp", "safe"} and 0 < experiment.share < 1


def watched_until(experiment: Experiment, watched: Watched) -> datetime | None:
    """See ``View``. A split of which neither a look nor a beginning is known is none that anybody watches. What is dated further ahead than a
    heartbeat is not known: of a clock that is wrong nobody can say when it last told the time."""
    if not splits(experiment):
        return None
    beat = experiment.policy.guardrails.heartbeat
    known = [utc(at) for at in (watched.looked_at, experiment.step_began) if at and utc(at) <= watched.now + beat]
    return min(max(known), watched.counts_told) + beat if known else datetime.min.replace(tzinfo=UTC)


@dataclass
class _Read:
    """What is known of a model's archive. ``features``: empty where it could not be read; then ``problem`` says why, and after so many ``failures``
    it is read again at ``again``, of the monotonic clock."""

    features: tuple[str, ...] = ()
    problem: str = ""
    failures: int = 0
    again: float = 0.0


@dataclass
class Live:
    """``client``: boto3's ``sagemaker`` client. The ``refresh_*`` methods block, each for one thread a domain at a time. Whatever is odd about a
    domain ends there: it is not live then, and the others are. The rest is for the event loop."""

    names: tuple[str, ...]
    store: ExperimentStore
    objects: ObjectStore
    client: Any
    stale_after: float
    """Seconds; what the store said longer ago than that is not acted on."""
    _views: dict[str, View] = field(default_factory=dict)
    _problems: dict[str, str] = field(default_factory=dict)
    _deployed: dict[str, Deployed] = field(default_factory=dict)
    _experiments: dict[str, tuple[Experiment | None, str | None]] = field(default_factory=dict)
    """The current one, and when its guardrails were last looked at."""
    _seen: dict[str, float] = field(default_factory=dict)
    _told: dict[str, float] = field(default_factory=dict)
    """Domains whose experiment splits traffic: when the counts of it last reached the store, or when it was first seen to split."""
    _looked_at: dict[str, float] = field(default_factory=dict)
    _models: dict[str, _Read] = field(default_factory=dict)
    _composing: threading.Lock = field(default_factory=threading.Lock)
    """What a view is made of and the view change together: of two threads, none puts an older view in the place of a newer one."""

    def view(self, domain: str) -> View:
        """KeyError for a domain that is not served; NotLive where nothing can score yet."""
        if (found := self._views.get(domain)) is not None:
            return found
        if domain not in self.names:
            raise KeyError(domain)
        raise NotLive(self._problems.get(domain, f"{domain}: not looked at yet"))

    def store_age(self, domain: str) -> float:
        """Seconds since the store last told the domain's experiment."""
        return time.monotonic() - self._seen[domain] if domain in self._seen else float("inf")

    def store_is_down(self, domain: str) -> bool:
        return self.store_age(domain) > self.stale_after

    def look_again(self, domain: str) -> None:
        """The endpoint is not what it was taken for: the next refresh looks at it, however lately it was looked at."""
        self._looked_at.pop(domain, None)

    def counts_told(self, domain: str) -> None:
        """The store has just taken what was counted of the domain's experiment."""
        if domain in self._told:
            self._told[domain] = time.monotonic()

    def refresh_experiment(self, name: str) -> None:
        begun = time.monotonic()
        try:
            found = self.store.current(name)
            watched = self.store.watched(found.id) if found is not None and splits(found) else None
        except Exception as error:
            self._log_change(f"{name}, store", str(error) if isinstance(error, ExperimentStoreError) else repr(error))
            return
        self._log_change(f"{name}, store", "")
        if found is not None and (not found.ended or found.stage == "promoted"):
            self._learn(found.challenger.model)
        with self._composing:
            before, _ = self._experiments.get(name, (None, None))
            if (before.version if before else 0, before and before.id) != (found.version if found else 0, found and found.id):
                self.look_again(name)
            self._experiments[name], self._seen[name] = (found, watched), begun
            if splits(found):
                self._told.setdefault(name, begun)
            else:
                self._told.pop(name, None)
            self._compose(name)

    def refresh_endpoint(self, name: str) -> None:
        now, before = time.monotonic(), self._deployed.get(name)
        if now - self._looked_at.get(name, float("-inf")) < ENDPOINT_SECONDS and not (before and before.changing):
            return
        self._looked_at[name] = now
        try:
            deployed = self._look(name, before)
        except (ClientError, BotoCoreError) as error:
            self._log_change(f"{name}, endpoint", str(error))
            self._problems[name] = str(error)
            return
        except Exception as error:  # what it carries now is no model that this could decide by: the one before is not there any more
            why = str(error) if isinstance(error, NotLive) else f"{name}: what its endpoint carries cannot be understood: {error!r}"
            self._log_change(f"{name}, endpoint", why)
            with self._composing:
                self._deployed.pop(name, None)
                self._is_not_live(name, why)
            return
        self._log_change(f"{name}, endpoint", "")
        with self._composing:
            self._deployed[name] = deployed
            self._compose(name)

    def _compose(self, name: str) -> None:
        deployed, (experiment, looked_at) = self._deployed.get(name), self._experiments.get(name, (None, None))
        if deployed is None:
            self._views.pop(name, None)
            return
        now = datetime.now(UTC)
        told = now - timedelta(seconds=time.monotonic() - self._told.get(name, time.monotonic()))
        try:
            view = view_of(domains.get(name), deployed, experiment, self._model, Watched(looked_at, told, now))
        except Exception as error:
            why = str(error) if isinstance(error, NotLive) else f"{name}: its experiment cannot be understood: {error!r}"
            self._log_change(f"{name}, models", why)
            self._is_not_live(name, why)
            return
        self._log_change(f"{name}, models", "")
        self._log_change(f"{name}, challenger", view.problem)
        self._views[name] = view

    def _is_not_live(self, name: str, why: str) -> None:
        self._problems[name] = why
        self._views.pop(name, None)

    def _look(self, name: str, before: Deployed | None) -> Deployed:
        try:
            described = self.client.describe_endpoint(EndpointName=endpoint_name(name))
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationException":
                raise
            raise NotLive(f"{name}: there is no endpoint {endpoint_name(name)}: deploy a model first") from error
        variants = tuple(variant["VariantName"] for variant in described.get("ProductionVariants", ()))
        changing = described["EndpointStatus"] in _CHANGING
        if before is not None and before.config == described["EndpointConfigName"]:
            return replace(before, variants=variants or before.variants, changing=changing)
        if not variants and before is not None:
            return replace(before, changing=changing)  # it is on its way to another configuration, and says nothing of what it carries
        if not variants:
            raise NotLive(f"{name}: the endpoint {endpoint_name(name)} is {described['EndpointStatus']}, and has no variant in service yet")
        registry = ModelRegistry(self.client)
        package = registry.champion(name)
        if package is None:
            raise NotLive(f"{name}: the model of {endpoint_name(name)} was not made from a model package: nothing says what it wants")
        self._learn(package.model)
        threshold, missing = _threshold(package)
        champion = self._model(Contender(package.arn, package.model, threshold))
        return Deployed(described["EndpointConfigName"], variants, champion, missing and f"{name}: {missing}", changing)

    def _learn(self, model: str) -> None:
        """Reads a model's features, unless they are known, or it could not be read a moment ago. It may be a long download, so it is nothing to do
        while others wait."""
        known = self._models.get(model, _Read())
        if known.features or time.monotonic() < known.again:
            return
        try:
            self._models[model] = _Read(features_of(self.objects, model))
        except Exception as error:
            why = str(error) if isinstance(error, NotLive) else f"{model} cannot be understood: {error!r}"
            wait = min(2.0 ** min(known.failures, 10), _LONGEST_WAIT)
            self._models[model] = _Read((), why, known.failures + 1, time.monotonic() + wait)

    def _model(self, contender: Contender) -> Model:
        found = self._models.get(contender.model, _Read())
        if not found.features:
            raise NotLive(found.problem or f"{contender.model} was not read yet")
        return Model(contender, found.features)

    def _log_change(self, what: str, problem: str) -> None:
        """Logs a problem once, and its end."""
        if self._problems.get(what, "") != problem:
            if problem:
                _log.warning("%s: %s", what, problem)
            else:
                _log.info("%s: well again", what)
            self._problems[what] = problem


def _threshold(package: ModelPackage) -> tuple[float, str]:
    """(the benefit above which the package's model reviews, what it does not say of it): one of the two, NaN or nothing."""
    said = package.metadata.get("review_threshold")
    if said is None:
        return math.nan, f"{package.arn} says no review_threshold, it was registered before rollouts: train it again, and deploy that"
    try:
        found = float(said)
    except ValueError:
        found = math.nan
    return found, "" if math.isfinite(found) else f"{package.arn} says the review_threshold {said!r}, which is no number: register it again"


def features_of(objects: ObjectStore, model: str) -> tuple[str, ...]:
    """The features that a model wants, in order, from the description in its archive (``model``: S3 URI). NotLive where it says none."""
    try:
        with gzip.open(io.BytesIO(objects.get(objects.key(model)))) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as archive:
            found: Iterable[Any] = (archive.extractfile(member) for member in archive if member.name.removeprefix("./") == _DESCRIPTION)
            description = next((json.loads(file.read()) for file in found if file is not None), None)
    except (ObjectNotFoundError, ValueError, OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise NotLive(f"{model} is no model's archive: {error}") from error
    except (ClientError, BotoCoreError) as error:
        raise NotLive(f"{model} cannot be read: {error}") from error
    features = description.get("features") if isinstance(description, dict) else None
    if not isinstance(features, list) or not all(isinstance(name, str) for name in features) or not features:
        raise NotLive(f"{model} holds no {_DESCRIPTION} that names its features")
    return tuple(features)
