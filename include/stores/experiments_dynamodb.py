"""The experiment store in one DynamoDB table, billed by request, with point-in-time recovery. Keys are ``pk`` and ``sk``:

==========================  =======================  =========================================================================
``experiment#<id>``         ``state``                the document, with its version, domain and stage beside it
..                          ``entry#<version>#<n>``  the history
..                          ``command#<id>``         what persons asked for, when it was given, and whether it is done
..                          ``watched``              when somebody last looked at its guardrails
``health#<id>#<step>``      ``<gateway>``            what a gateway counted; ``expires``: DynamoDB forgets it after a month
``domain#<domain>``         ``current``              the domain's last experiment, and whether it has ended: room for one at a time
==========================  =======================  =========================================================================

Documents are JSON text: what is a float comes back as the same float. Every read is consistent, every write of several items one transaction.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from include.lifecycle.experiment import Command, Entry, Experiment, GatewayHealth
from include.stores.experiments import (
    COMMANDS_AT_ONCE,
    ExperimentStoreError,
    ExperimentStoreUnavailable,
    UnknownExperiment,
    VersionConflict,
    check_successor,
    command_of,
    command_text,
    entry_of,
    entry_text,
    experiment_of,
    experiment_text,
    health_text,
    healths_of,
    running,
    same_experiment,
)

# Two tries within two and a half seconds. Of the retry modes only "legacy" has DynamoDB's short pause between them (50 ms; "standard": up to a
# second).
_CONFIG = Config(connect_timeout=0.5, read_timeout=0.7, retries={"mode": "legacy", "total_max_attempts": 2}, tcp_keepalive=True)
_HEALTHS_KEPT_SECONDS = 30 * 86_400
_ITEMS_OF_A_TRANSACTION = 100
_TABLE_WITHIN_SECONDS = 120

Item = dict[str, Any]


class DynamoExperiments:
    """See ``ExperimentStore``. ``region`` None: the environment's. ``client``: in place of one made here, with timeouts of its own."""

    def __init__(self, table: str, region: str | None, client: Any, kms_key: str | None, tags: Mapping[str, str]) -> None:
        self._table, self._region, self._kms_key, self._tags = table, region, kms_key, tags
        self._given = client

    @property
    def _client(self) -> Any:
        if self._given is not None:
            return self._given
        try:
            return _client(self._region, os.getpid())
        except BotoCoreError as error:
            raise ExperimentStoreUnavailable(f"the experiment store {self._table} cannot be asked: {error}") from error

    # ------------------------------------------------------------------------------------------------------------- the table

    def ensure(self) -> None:
        """The table, with what protects it. Once it is there, this changes nothing about its encryption and its tags."""
        with self._asking():
            client = self._given if self._given is not None else boto3.client("dynamodb", region_name=self._region)  # a patient one
            name = {"TableName": self._table}
            if not _described(client, self._table):
                self._make(client)
            self._within(lambda: (_described(client, self._table) or {}).get("TableStatus") == "ACTIVE")
            if client.describe_time_to_live(**name)["TimeToLiveDescription"]["TimeToLiveStatus"] == "DISABLED":
                client.update_time_to_live(**name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires"})
            self._within(lambda: _recoverable(client, self._table))

    def _make(self, client: Any) -> None:
        optional: dict[str, Any] = {"Tags": [{"Key": name, "Value": value} for name, value in self._tags.items()]} if self._tags else {}
        if self._kms_key:
            optional["SSESpecification"] = {"Enabled": True, "SSEType": "KMS", "KMSMasterKeyId": self._kms_key}
        try:
            client.create_table(
                TableName=self._table,
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
                KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
                BillingMode="PAY_PER_REQUEST",
                DeletionProtectionEnabled=True,
                **optional,
            )
        except ClientError as error:
            if _code(error) != "ResourceInUseException":  # somebody else was faster
                raise

    def _within(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _TABLE_WITHIN_SECONDS
        while not ready():
            if time.monotonic() > deadline:
                raise ExperimentStoreUnavailable(f"the table {self._table} was not ready within {_TABLE_WITHIN_SECONDS} seconds")
            time.sleep(0.5)

    # ----------------------------------------------------------------------------------------------------------- experiments

    def create(self, experiment: Experiment, entries: Sequence[Entry] = ()) -> Experiment:
        first = experiment.but(version=1)
        with self._asking():
            if stored := self.find(experiment.id):
                return same_experiment(stored, experiment)
            pointer = {**_domain_key(first.domain), "experiment": _s(first.id), "ended": {"BOOL": first.ended}}
            written = self._write(
                self._put(_state(first), "attribute_not_exists(pk)"),
                self._put(pointer, "attribute_not_exists(pk) OR #ended = :true", {":true": {"BOOL": True}}, {"#ended": "ended"}),
                *self._puts(first, entries),
            )
            if written:
                return first
            if stored := self.find(experiment.id):  # made by somebody else meanwhile
                return same_experiment(stored, experiment)
            present = self.current(experiment.domain)
            raise running(present) if present else VersionConflict(f"{experiment.domain}: somebody else is writing, try again")

    def find(self, experiment: str) -> Experiment | None:
        with self._asking():
            item = self._get(_state_key(experiment))
        return experiment_of(item["document"]["S"]) if item else None

    def get(self, experiment: str) -> Experiment:
        if (found := self.find(experiment)) is None:
            raise UnknownExperiment(f"the store has no experiment {experiment!r}")
        return found

    def current(self, domain: str) -> Experiment | None:
        with self._asking():
            pointer = self._get(_domain_key(domain))
            return self.get(pointer["experiment"]["S"]) if pointer else None

    def save(self, experiment: Experiment, entries: Sequence[Entry] = (), done: Sequence[str] = ()) -> Experiment:
        following = experiment.but(version=experiment.version + 1)
        with self._asking():
            stored = self.get(experiment.id)
            check_successor(stored, experiment)
            versions = {":version": _n(experiment.version)}
            writes = [self._put(_state(following), "#version = :version", versions, {"#version": "version"})]
            if following.ended and not stored.ended:
                writes.append(self._set("ended", _domain_key(following.domain), "experiment", _s(following.id)))
            commands = [_command_key(following.id, command) for command in dict.fromkeys(done)]
            writes += [self._set("done", command, "sk", command["sk"]) for command in commands if self._get(command)]
            writes += self._puts(following, entries)
            if not self._write(*writes):
                raise VersionConflict(f"{experiment.id}: somebody else has written the version after {experiment.version}")
        return following

    def history(self, experiment: str) -> list[Entry]:
        with self._asking():
            self.get(experiment)
            return [entry_of(item["document"]["S"]) for item in self._items(f"experiment#{experiment}", "entry#")]

    # -------------------------------------------------------------------------------------------------- commands and healths

    def give(self, experiment: str, command: Command) -> None:
        with self._asking():
            self.get(experiment)
            given = {"given": _n(time.time_ns()), "done": {"BOOL": False}, "document": _s(command_text(command))}
            try:
                self._client.put_item(
                    TableName=self._table,
                    Item={**_command_key(experiment, command.id), **given},
                    ConditionExpression="attribute_not_exists(pk)",
                )
            except ClientError as error:
                if _code(error) != "ConditionalCheckFailedException":  # given before
                    raise

    def commands(self, experiment: str) -> list[Command]:
        with self._asking():
            self.get(experiment)
            waiting = [item for item in self._items(f"experiment#{experiment}", "command#") if not item["done"]["BOOL"]]
        ordered = sorted(waiting, key=lambda item: (int(item["given"]["N"]), item["sk"]["S"]))
        return [command_of(item["document"]["S"]) for item in ordered[:COMMANDS_AT_ONCE]]

    def put_health(self, experiment: str, health: GatewayHealth) -> None:
        with self._asking():
            item = {
                "pk": _s(f"health#{experiment}#{health.step}"),
                "sk": _s(health.gateway),
                "document": _s(health_text(health)),
                "expires": _n(int(time.time()) + _HEALTHS_KEPT_SECONDS),
            }
            self.get(experiment)
            self._client.put_item(TableName=self._table, Item=item)

    def healths(self, experiment: str, step: int) -> list[GatewayHealth]:
        with self._asking():
            self.get(experiment)
            return healths_of(item["document"]["S"] for item in self._items(f"health#{experiment}#{step}"))

    def note_watched(self, experiment: str, at: str) -> None:
        with self._asking():
            self.get(experiment)
            self._client.put_item(TableName=self._table, Item={**_watched_key(experiment), "at": _s(at)})

    def watched(self, experiment: str) -> str | None:
        with self._asking():
            if item := self._get(_watched_key(experiment)):
                return str(item["at"]["S"])
            self.get(experiment)
        return None

    # --------------------------------------------------------------------------------------------------------------- requests

    def _of(self, key: Item) -> Item:
        return {"TableName": self._table, "Key": key}

    def _get(self, key: Item) -> Item | None:
        found: Item | None = self._client.get_item(**self._of(key), ConsistentRead=True).get("Item")
        return found

    def _items(self, partition: str, prefix: str = "") -> Iterator[Item]:
        """In the order of ``sk``."""
        condition, values = "pk = :pk", {":pk": _s(partition)}
        if prefix:
            condition, values = "pk = :pk AND begins_with(sk, :prefix)", {**values, ":prefix": _s(prefix)}
        pages = self._client.get_paginator("query").paginate(
            TableName=self._table, ConsistentRead=True, KeyConditionExpression=condition, ExpressionAttributeValues=values
        )
        for page in pages:
            yield from page["Items"]

    def _put(self, item: Item, condition: str = "", values: Item | None = None, names: Mapping[str, str] | None = None) -> Item:
        optional = {"ConditionExpression": condition, "ExpressionAttributeValues": values, "ExpressionAttributeNames": names}
        return {"Put": {"TableName": self._table, "Item": item, **{name: value for name, value in optional.items() if value}}}

    def _puts(self, experiment: Experiment, entries: Sequence[Entry]) -> list[Item]:
        key = f"experiment#{experiment.id}"
        return [
            self._put({
                "pk": _s(key),
                "sk": _s(f"entry#{experiment.version:010d}#{number:03d}"),
                "document": _s(entry_text(replace(entry, version=experiment.version))),
            })
            for number, entry in enumerate(entries)
        ]

    def _set(self, flag: str, key: Item, where: str, value: Item) -> Item:
        """Sets a flag of the item under ``key``, whose attribute ``where`` must have that value."""
        change = {
            "UpdateExpression": "SET #flag = :true",
            "ConditionExpression": "#where = :value",
            "ExpressionAttributeNames": {"#flag": flag, "#where": where},
            "ExpressionAttributeValues": {":true": {"BOOL": True}, ":value": value},
        }
        return {"Update": {**self._of(key), **change}}

    def _write(self, *writes: Item) -> bool:
        """All or nothing; False where a condition did not hold, or somebody else was writing one of the items."""
        if len(writes) > _ITEMS_OF_A_TRANSACTION:
            raise ExperimentStoreError(f"{len(writes)} items at once: a transaction of DynamoDB takes {_ITEMS_OF_A_TRANSACTION}")
        try:
            self._client.transact_write_items(TransactItems=list(writes))
        except ClientError as error:
            reasons = {reason.get("Code") for reason in error.response.get("CancellationReasons", ())}
            if _code(error) == "TransactionCanceledException" and reasons & {"ConditionalCheckFailed", "TransactionConflict"}:
                return False
            raise
        return True

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            missing = isinstance(error, ClientError) and _code(error) == "ResourceNotFoundException"
            hint = ": there is no such table, and only the store's ensure() makes one" if missing else ""
            raise ExperimentStoreUnavailable(f"the experiment store {self._table} does not answer ({error}){hint}") from error


@functools.cache
def _client(region: str | None, process: int) -> Any:
    """One for all stores of a process: making it takes longer than asking it. Its connections must not cross a fork."""
    return boto3.session.Session().client("dynamodb", region_name=region, config=_CONFIG)


def _described(client: Any, table: str) -> dict[str, Any] | None:
    try:
        described: dict[str, Any] = client.describe_table(TableName=table)["Table"]
        return described
    except ClientError as error:
        if _code(error) != "ResourceNotFoundException":
            raise
        return None


def _recoverable(client: Any, table: str) -> bool:
    """Whether the table can be restored to any instant; turns it on, which a new table refuses for a while."""
    backups = client.describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
    if backups.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus") == "ENABLED":
        return True
    try:
        client.update_continuous_backups(TableName=table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True})
    except ClientError as error:
        if _code(error) != "ContinuousBackupsUnavailableException":
            raise
    return False


def _state(experiment: Experiment) -> Item:
    """The document, and beside it what a person who looks at the table wants to see."""
    shown = {"domain": _s(experiment.domain), "stage": _s(experiment.stage), "version": _n(experiment.version)}
    return {**_state_key(experiment.id), **shown, "document": _s(experiment_text(experiment))}


def _state_key(experiment: str) -> Item:
    return {"pk": _s(f"experiment#{experiment}"), "sk": _s("state")}


def _watched_key(experiment: str) -> Item:
    return {"pk": _s(f"experiment#{experiment}"), "sk": _s("watched")}


def _domain_key(domain: str) -> Item:
    return {"pk": _s(f"domain#{domain}"), "sk": _s("current")}


def _command_key(experiment: str, command: str) -> Item:
    return {"pk": _s(f"experiment#{experiment}"), "sk": _s(f"command#{command}")}


def _s(text: str) -> Item:
    return {"S": text}


def _n(number: int) -> Item:
    return {"N": str(number)}


def _code(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])
