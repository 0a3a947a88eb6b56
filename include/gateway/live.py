"""What is live: by domain, the endpoint's models and the experiment, kept up to date beside the requests and never in their path."""

from __future__ import annotations

import gzip
import io
import json
import logging
import tarfile
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from include import domains
from include.lifecycle.as_of import utc
from include.lifecycle.domain import Domain
from include.lifecycle.experiment import CHALLENGER, Contender, Experiment
from include.lifecycle.names import endpoint_name
from include.stores.experiments import ExperimentStore, ExperimentStoreError
from include.stores.objects import ObjectNotFoundError, ObjectStore
from include.stores.registry import ModelRegistry

_log = logging.getLogger(__name__)
_DESCRIPTION = "model.json"
ENDPOINT_SECONDS = 5.0
"""Between two looks at an endpoint that nothing has happened to."""


class NotLive(Exception):
    """A domain has no model that could score. The message says why."""


@dataclass(frozen=True)
class Model:
    """A contender and its features, in its order."""

    contender: Contender
    features: tuple[str, ...]


@dataclass(frozen=True)
class Carried:
    """What an endpoint carries. ``variants``: its production variants; ``champion``: the model of the one that has the traffic to itself.
    ``lacking``: what its package does not say, though nothing but an experiment could decide without it; empty: nothing."""

    config: str
    variants: tuple[str, ...]
    champion: Model
    lacking: str = ""


@dataclass(frozen=True)
class View:
    """All that a request of the domain is judged by.

    ``experiment``: one that has not ended, or one that was promoted while the endpoint still has both variants; None where the endpoint carries
    another champion than the experiment's. ``challenger``: None without an experiment, and where the model cannot be used (``problem`` says why).
    ``variants``: the endpoint's production variants. ``watched_until``: the clock's instant up to which the experiment may split traffic without
    somebody looking at its guardrails again; None: it splits none."""

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


def view_of(
    domain: Domain, carried: Carried, experiment: Experiment | None, model: Callable[[Contender], Model], watched: str | None = None
) -> View:
    """``experiment``: the store's current one. ``watched``: when somebody last looked at its guardrails. ``model``: its features looked up; raises
    NotLive. So does this, where nothing says above which benefit the champion reviews.

    The endpoint is what answers, so what it carries outweighs what the store says of it: beside another champion than the experiment's (the
    endpoint is changed before "promoted" is stored, or somebody has deployed something else), the experiment says nothing about any answer."""
    endpoint = endpoint_name(domain.name)
    over = experiment is None or (experiment.ended and not (experiment.stage == "promoted" and CHALLENGER in carried.variants))
    if experiment is None or over or carried.champion.contender.model_package != experiment.champion.model_package:
        if carried.lacking:
            raise NotLive(carried.lacking)
        return View(domain, endpoint, carried.variants, carried.champion)
    champion = Model(experiment.champion, carried.champion.features)
    try:
        challenger: Model | None = model(experiment.challenger)
        problem = "" if challenger and challenger.features == champion.features else "the challenger wants other features than the champion"
    except NotLive as error:
        challenger, problem = None, str(error)
    until = watched_until(experiment, watched)
    return View(domain, endpoint, carried.variants, champion, None if problem else challenger, experiment, problem, until)


def splits(experiment: Experiment | None) -> bool:
    """Whether some entities are the champion's and some the challenger's."""
    return experiment is not None and experiment.stage in {"ramp", "safe"} and 0 < experiment.share < 1


def watched_until(experiment: Experiment, watched: str | None) -> datetime | None:
    """See ``View``. A split of which neither a look nor a beginning is known is none that anybody watches."""
    if not splits(experiment):
        return None
    known = [utc(at) for at in (watched, experiment.step_began) if at]
    return max(known) + experiment.policy.guardrails.heartbeat if known else datetime.min.replace(tzinfo=UTC)


@dataclass
class Live:
    """``client``: boto3's ``sagemaker`` client. The ``refresh_*`` methods block, each for one thread at a time; the rest is for the event loop."""

    names: tuple[str, ...]
    store: ExperimentStore
    objects: ObjectStore
    client: Any
    stale_after: float
    """Seconds; what the store said longer ago than that is not acted on."""
    _views: dict[str, View] = field(default_factory=dict)
    _problems: dict[str, str] = field(default_factory=dict)
    _carried: dict[str, Carried] = field(default_factory=dict)
    _experiments: dict[str, tuple[Experiment | None, str | None]] = field(default_factory=dict)
    """The current one, and when its guardrails were last looked at."""
    _seen: dict[str, float] = field(default_factory=dict)
    _looked_at: dict[str, float] = field(default_factory=dict)
    _features: dict[str, tuple[str, ...]] = field(default_factory=dict)

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

    def refresh_experiments(self) -> None:
        for name in self.names:
            begun = time.monotonic()
            try:
                found = self.store.current(name)
                watched = self.store.watched(found.id) if found is not None and splits(found) else None
            except ExperimentStoreError as error:
                self._say(f"{name}, store", str(error))
                continue
            self._say(f"{name}, store", "")
            before, _ = self._experiments.get(name, (None, None))
            if (before.version if before else 0, before and before.id) != (found.version if found else 0, found and found.id):
                self.look_again(name)
            self._experiments[name], self._seen[name] = (found, watched), begun
            self._compose(name)

    def refresh_endpoints(self) -> None:
        for name in self.names:
            now = time.monotonic()
            if now - self._looked_at.get(name, float("-inf")) < ENDPOINT_SECONDS:
                continue
            self._looked_at[name] = now
            try:
                self._carried[name] = self._look(name, self._carried.get(name))
                self._say(f"{name}, endpoint", "")
            except NotLive as error:  # what it carries now is no model that this could decide by: the one before is not there any more
                self._say(f"{name}, endpoint", str(error))
                self._carried.pop(name, None)
                self._is_not_live(name, error)
                continue
            except (ClientError, BotoCoreError) as error:
                self._say(f"{name}, endpoint", str(error))
                self._problems[name] = str(error)
                continue
            self._compose(name)

    def _compose(self, name: str) -> None:
        carried, (experiment, watched) = self._carried.get(name), self._experiments.get(name, (None, None))
        if carried is None:
            self._views.pop(name, None)
            return
        try:
            view = view_of(domains.get(name), carried, experiment, self._model, watched)
        except NotLive as error:
            self._say(f"{name}, models", str(error))
            self._is_not_live(name, error)
            return
        self._say(f"{name}, models", "")
        self._say(f"{name}, challenger", view.problem)
        self._views[name] = view

    def _is_not_live(self, name: str, error: NotLive) -> None:
        self._problems[name] = str(error)
        self._views.pop(name, None)

    def _look(self, name: str, before: Carried | None) -> Carried:
        try:
            described = self.client.describe_endpoint(EndpointName=endpoint_name(name))
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationException":
                raise
            raise NotLive(f"{name}: there is no endpoint {endpoint_name(name)}: deploy a model first") from error
        variants = tuple(variant["VariantName"] for variant in described.get("ProductionVariants", ()))
        if before is not None and before.config == described["EndpointConfigName"]:
            return replace(before, variants=variants or before.variants)
        if not variants and before is not None:
            return before  # it is on its way to another configuration, and says nothing of what it carries
        if not variants:
            raise NotLive(f"{name}: the endpoint {endpoint_name(name)} is {described['EndpointStatus']}, and has no variant in service yet")
        registry = ModelRegistry(self.client)
        package = registry.champion(name)
        if package is None:
            raise NotLive(f"{name}: the model of {endpoint_name(name)} was not made from a model package: nothing says what it wants")
        threshold = package.metadata.get("review_threshold")
        lacking = f"{name}: {package.arn} says no review_threshold, it was registered before rollouts: train it again, and deploy that"
        champion = self._model(Contender(package.arn, package.model, float(threshold or "nan")))
        return Carried(described["EndpointConfigName"], variants, champion, "" if threshold else lacking)

    def _model(self, contender: Contender) -> Model:
        if contender.model not in self._features:
            self._features[contender.model] = features_of(self.objects, contender.model)
        return Model(contender, self._features[contender.model])

    def _say(self, what: str, problem: str) -> None:
        """Logs a problem once, and its end."""
        if self._problems.get(what, "") != problem:
            if problem:
                _log.warning("%s: %s", what, problem)
            else:
                _log.info("%s: well again", what)
            self._problems[what] = problem


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
