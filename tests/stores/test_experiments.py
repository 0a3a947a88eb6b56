"""The contract of the experiment store, once for both backends: a SQLite file, and a real DynamoDB API (MiniStack's)."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from experiments_lab import COUNTS, NOW, OLD, an_entry, an_experiment

from include.lifecycle.domain import Guardrails
from include.lifecycle.experiment import Command, Experiment, GatewayHealth, Stage, VariantCounts
from include.lifecycle.guardrails import Reading, judge
from include.lifecycle.rollout import advance
from include.stores.experiments import (
    COMMANDS_AT_ONCE,
    ExperimentRunning,
    ExperimentStore,
    ExperimentStoreError,
    UnknownExperiment,
    VersionConflict,
    change,
    heed,
    open_store,
)

ROOT = Path(__file__).parents[2]

# ---------------------------------------------------------------------------------------------------------------------- the contract


def test_an_experiment_comes_back_as_it_was_stored(store: ExperimentStore) -> None:
    assert store.current("claims") is None
    assert store.find("first") is None
    created = store.create(an_experiment(), [an_entry("begun")])
    assert created == an_experiment().but(version=1)
    changed = created.but(
        stage="ramp", share=0.1 + 0.2, cap=0.3, step=4, shadow_scores=(1, 2**40, 3), why="«ü»", as_of="2026-03-04T00:00:00Z"
    )
    saved = store.save(changed, [an_entry("one", value=0.1 + 0.2, deep={"a": [None, True, -0.0]}), an_entry("two")])
    assert saved == changed.but(version=2)
    assert store.get("first") == store.find("first") == store.current("claims") == saved
    assert store.get("first").policy == an_experiment().policy
    assert store.history("first") == [
        replace(an_entry("begun"), version=1),
        replace(an_entry("one", value=0.1 + 0.2, deep={"a": [None, True, -0.0]}), version=2),
        replace(an_entry("two"), version=2),
    ]


def test_it_is_there_for_another_process_and_after_it(store: ExperimentStore, url: str) -> None:
    program = "import sys; from include.stores.experiments import open_store; s = open_store(sys.argv[1]); "
    program += "s.save(s.get('first').but(why='elsewhere'))"
    store.create(an_experiment())
    subprocess.run([sys.executable, "-c", program, url], cwd=ROOT, check=True)
    assert store.get("first") == an_experiment().but(version=2, why="elsewhere")


def test_making_it_again_changes_nothing(store: ExperimentStore, url: str) -> None:
    store.create(an_experiment())
    open_store(url).ensure()
    assert store.get("first").version == 1


def test_the_same_experiment_is_created_once(store: ExperimentStore) -> None:
    created = store.create(an_experiment(), [an_entry()])
    saved = store.save(created.but(share=0.1))
    assert store.create(an_experiment(), [an_entry()]) == saved, "a run that is cleared finds its experiment where it got to"
    assert len(store.history("first")) == 1
    with pytest.raises(ExperimentStoreError, match="first is taken by an experiment of claims with other models"):
        store.create(replace(an_experiment(), challenger=OLD))


def test_a_domain_has_one_experiment_at_a_time(store: ExperimentStore) -> None:
    first = store.create(an_experiment())
    other = store.create(an_experiment("other", "payments"))
    with pytest.raises(ExperimentRunning, match="claims: the experiment first has not ended"):
        store.create(an_experiment("second"))
    assert store.find("second") is None
    ended = store.save(first.but(stage="stopped"), [an_entry("stopped")])
    assert store.current("claims") == ended, "until there is another, the last one"
    second = store.create(an_experiment("second"))
    assert store.current("claims") == second
    assert store.current("payments") == other
    refused = store.save(ended, [an_entry("a command that came too late")])
    assert (refused.version, store.current("claims")) == (3, second), "an old one that is written to stays the old one"
    with pytest.raises(ExperimentRunning, match="second"):
        store.create(an_experiment("third"))
    assert store.create(an_experiment()) == refused


def test_who_did_not_see_the_last_version_is_told_to_look_again(store: ExperimentStore) -> None:
    created = store.create(an_experiment())
    store.give("first", Command("c", "stop", "ann", "enough"))
    store.save(created.but(share=0.1), [an_entry("mine")])
    for stale in (created, created.but(version=3), an_experiment()):
        with pytest.raises(VersionConflict, match="first: version 2 is stored"):
            store.save(stale.but(share=0.2), [an_entry("theirs")], done=["c"])
    assert store.get("first").share == 0.1
    assert [entry.says for entry in store.history("first")] == ["mine"]
    assert len(store.commands("first")) == 1


@pytest.mark.parametrize("stage", ["promoted", "rolled_back", "undecided", "stopped"])
def test_an_end_is_final(store: ExperimentStore, stage: Stage) -> None:
    ended = store.save(store.create(an_experiment()).but(stage=stage))
    for changes in ({"stage": "ramp"}, {"share": 0.5}):
        with pytest.raises(ExperimentStoreError, match=f"first has ended as {stage}"):
            store.save(ended.but(**changes))
    assert store.get("first") == ended


def test_commands_are_handed_out_until_they_are_done(store: ExperimentStore) -> None:
    created = store.create(an_experiment())
    given = [Command(name, "set_share", "ann", "go on", share) for name, share in (("z", 0.1), ("a", 0.2), ("m", None))]
    for command in [*given, replace(given[0], share=0.9)]:
        store.give("first", command)
    assert store.commands("first") == given, "in the order given, and of two with one id the first"
    saved = store.save(created, done=["z", "m", "nobody gave this"])
    store.give("first", given[0])
    assert store.commands("first") == [given[1]]
    store.save(saved, done=["a"])
    assert store.commands("first") == []


def test_a_flood_of_commands_fits_into_transactions(store: ExperimentStore) -> None:
    present = store.create(an_experiment())
    for number in range(COMMANDS_AT_ONCE + 5):
        store.give("first", Command(f"{number:03d}", "set_share", "ann", "again", 0.1))
    found = store.commands("first")
    assert [command.id for command in found] == [f"{number:03d}" for number in range(COMMANDS_AT_ONCE)]
    ended = present.but(stage="stopped")
    store.save(ended, [an_entry(command.id) for command in found] + [an_entry()] * 3, done=[command.id for command in found])
    assert len(store.commands("first")) == 5
    assert len(store.history("first")) == COMMANDS_AT_ONCE + 3


def test_the_last_health_of_a_gateway_and_step_counts(store: ExperimentStore) -> None:
    store.create(an_experiment())
    one = GatewayHealth("gateway-b", 3, "2026-11-01T10:00:00Z", COUNTS, VariantCounts())
    two = GatewayHealth("gateway-a", 3, "2026-11-01T10:00:01Z", COUNTS, COUNTS)
    for health in (one, two, replace(one, step=4), replace(one, seen_at="2026-11-01T10:00:09Z", challenger=COUNTS + COUNTS)):
        store.put_health("first", health)
    assert store.healths("first", 3) == [two, replace(one, seen_at="2026-11-01T10:00:09Z", challenger=COUNTS + COUNTS)]
    assert store.healths("first", 4) == [replace(one, step=4)]
    assert store.healths("first", 33) == []
    assert store.get("first").version == 1


def put_health_text(store: ExperimentStore, url: str, gateway: str, text: str) -> None:
    """What a gateway of other code would put."""
    store.put_health("first", GatewayHealth(gateway, 0, "2026-11-01T10:00:00Z", COUNTS, COUNTS))
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite://")) as connection:
            connection.execute("UPDATE healths SET document = ? WHERE gateway = ?", (text, gateway))
        return
    boto3.client("dynamodb").update_item(
        TableName=url.removeprefix("dynamodb://").partition("?")[0],
        Key={"pk": {"S": "health#first#0"}, "sk": {"S": gateway}},
        UpdateExpression="SET document = :text",
        ExpressionAttributeValues={":text": {"S": text}},
    )


def test_a_health_of_other_code_is_as_good_as_none(store: ExperimentStore, url: str) -> None:
    """The guardrails judge what is left, and without any gateway that can be read they take the traffic away."""
    store.create(an_experiment())
    known: dict[str, Any] = asdict(GatewayHealth("known", 0, "2026-11-01T10:00:00Z", COUNTS, VariantCounts()))
    one = known["champion"]
    for number, other in enumerate([
        known | {"version": 2},
        {name: value for name, value in known.items() if name != "step"},
        known | {"champion": None},
        known | {"champion": one | {"queued": 3}},
        known | {"champion": one | {"latencies": [1] * 7}},
        known | {"challenger": one | {"scores": [1] * 21}},
        known | {"challenger": one | {"scores": None}},
        known | {"challenger": one | {"scores": ["1"] * 20}},
        known | {"challenger": one | {"requests": None}},
        known | {"challenger": one | {"requests": -1}},
        known | {"seen_at": "yesterday"},
        known | {"seen_at": "2026-11-01T10:00:00"},
        [known],
        None,
    ]):
        put_health_text(store, url, f"other-{number}", json.dumps(other))
    put_health_text(store, url, "half", json.dumps(known)[:-9])
    now, guardrails = datetime(2026, 11, 1, 10, 1, tzinfo=UTC), Guardrails()
    assert store.healths("first", 0) == []
    [heartbeat, *_] = judge(guardrails, 0, store.healths("first", 0), None, None, now, now - timedelta(hours=1))
    assert (heartbeat.name, heartbeat.tripped) == ("heartbeat", True)
    for gateway in ("a", "b"):
        store.put_health("first", GatewayHealth(gateway, 0, "2026-11-01T10:00:50Z", COUNTS, VariantCounts()))
    assert [health.gateway for health in store.healths("first", 0)] == ["a", "b"]
    [heartbeat, *_] = judge(guardrails, 0, store.healths("first", 0), None, None, now, now - timedelta(hours=1))
    assert (heartbeat.value, heartbeat.tripped) == (10.0, False)


def test_the_last_look_at_the_guardrails_is_noted(store: ExperimentStore) -> None:
    store.create(an_experiment())
    store.create(an_experiment("other", "payments"))
    assert store.watched("first") is None
    for at in ("2026-11-01T10:00:00Z", "2026-11-01T10:00:05Z"):
        store.note_watched("first", at)
        assert store.watched("first") == at
    assert store.watched("other") is None
    assert (store.get("first").version, store.history("first"), store.commands("first")) == (1, [], []), "it is no change"


# ------------------------------------------------------------------------------------------------------------------- a command at once

STOP = Command("c", "stop", "ann", "enough")


def a_ramp(store: ExperimentStore) -> Experiment:
    begun = an_experiment().but(stage="ramp", share=0.1, cap=0.1, step=3, step_began="2026-10-01T00:00:00Z", as_of="2026-03-09T00:00:00Z")
    return store.create(begun.but(stage_since="2026-03-08T00:00:00Z", cap_since="2026-03-08T00:00:00Z"))


def test_a_command_is_done_at_once_and_once(store: ExperimentStore) -> None:
    ramp = a_ramp(store)
    shared = heed(store, "first", Command("b", "set_share", "ann", "more", 0.2), NOW).experiment
    assert shared == store.get("first")
    assert (shared.share, shared.step, shared.step_began, shared.as_of, shared.version) == (0.2, 4, NOW, ramp.as_of, 2)
    stopped = heed(store, "first", STOP, "2026-11-01T10:00:09Z").experiment
    assert (stopped.stage, stopped.share, stopped.step_began) == ("stopped", 0.0, "2026-11-01T10:00:09Z")
    assert heed(store, "first", STOP, "2026-11-01T10:00:12Z").experiment == stopped == store.get("first")
    assert [(entry.version, entry.stage, entry.share) for entry in store.history("first")] == [(2, "ramp", 0.2), (3, "stopped", 0.0)]
    assert store.commands("first") == []


def test_what_cannot_be_done_leaves_only_its_reason(store: ExperimentStore) -> None:
    ramp = a_ramp(store)
    after = heed(store, "first", Command("b", "set_share", "ann", "more", 2.0), NOW)
    assert after.experiment == ramp.but(version=2), "the step did not change, nor when it began"
    [entry] = store.history("first")
    assert entry.says.startswith("Not done (set_share), a share lies between 0 and 1")
    assert store.commands("first") == []


def test_commands_that_wait_are_done_first(store: ExperimentStore) -> None:
    a_ramp(store)
    store.give("first", Command("b", "set_share", "bo", "more", 0.2))
    assert heed(store, "first", STOP, NOW).experiment.stage == "stopped"
    assert [(entry.who, entry.share) for entry in store.history("first")] == [("bo", 0.2), ("ann", 0.0)]


def test_what_became_of_a_command_is_told_whenever_it_is_asked(store: ExperimentStore) -> None:
    """By its own line: not by another's that was written in the same moment, or since."""
    a_ramp(store)
    store.give("first", STOP)
    lost, more = Command("b", "promote", "bo", "go"), Command("d", "set_share", "cy", "more", 0.2)
    refused = heed(store, "first", lost, NOW)
    assert (refused.experiment.stage, refused.refused) == (
        "stopped",
        "Not done (promote), the experiment has ended as stopped. Asked for by bo: go",
    )
    assert heed(store, "first", more, NOW).refused.startswith("Not done (set_share)")
    history = store.history("first")
    assert [entry.command for entry in history] == ["c", "b", "d"]
    assert heed(store, "first", lost, NOW) == replace(refused, experiment=store.get("first")), "tried again, it is refused still"
    done = heed(store, "first", STOP, NOW)
    assert (done.entry, done.refused) == (history[0], "")
    assert store.history("first") == history
    assert heed(store, "first", None, NOW).entry is None


TRIPPED, HEALTHY = (Reading("errors", 1.0, 0.01, tripped, "They are") for tripped in (True, False))
BETTER = {"stage": "ramp", "as_of": "2026-03-10T00:00:00Z", "events": 1}
MORE, ROLL_BACK = Command("d", "set_share", "cy", "more", 0.2), Command("e", "roll_back", "di", "worse")


@pytest.mark.parametrize(
    ("reading", "evidence", "commands", "expected"),
    [
        (HEALTHY, BETTER, [], [None]),
        (HEALTHY, None, [MORE, STOP], ["d", "c"]),
        (HEALTHY, BETTER, [MORE], ["d", None]),
        (HEALTHY, BETTER, [ROLL_BACK], ["e"]),
        (HEALTHY, BETTER, [ROLL_BACK, MORE], ["e", "d"]),
        (TRIPPED, BETTER, [], [None]),
        (TRIPPED, None, [MORE], [None, "d"]),
        (TRIPPED, BETTER, [ROLL_BACK, STOP], [None, "e", "c"]),
    ],
)
def test_a_commands_line_bears_its_id_whoever_does_it(
    store: ExperimentStore, reading: Reading, evidence: dict[str, Any] | None, commands: list[Command], expected: list[str | None]
) -> None:
    """Whether or not a guardrail trips, or evidence is looked at, in the same moment: of the wait for evidence, which does commands too."""
    a_ramp(store)
    for command in commands:
        store.give("first", command)
    change(
        store,
        "first",
        lambda present: advance(
            present, as_of="2026-03-10T00:00:00Z", evidence=evidence, readings=[reading], commands=store.commands("first")
        ),
        NOW,
    )
    history = store.history("first")
    assert [entry.command for entry in history] == expected
    assert [(entry.who, entry.command) for entry in history if entry.command] == [(each.who, each.id) for each in commands]
    for command in commands:
        found = heed(store, "first", command, NOW)
        assert found.entry == next(entry for entry in history if entry.command == command.id)
        assert bool(found.refused) == found.entry.says.startswith("Not done")


def without_ids(url: str) -> None:
    """The history as it was stored before its lines had ids of commands."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite://")) as connection:
            connection.execute("UPDATE entries SET document = json_remove(document, '$.command')")
        return
    table, client = url.removeprefix("dynamodb://").partition("?")[0], boto3.client("dynamodb")
    for item in client.scan(TableName=table)["Items"]:
        if item["sk"]["S"].startswith("entry#"):
            document = json.loads(item["document"]["S"])
            del document["command"]
            client.put_item(TableName=table, Item=item | {"document": {"S": json.dumps(document)}})


def test_a_history_without_ids_of_commands_is_read(store: ExperimentStore, url: str) -> None:
    a_ramp(store)
    stopped = heed(store, "first", STOP, NOW)
    assert stopped.entry is not None
    without_ids(url)
    assert store.history("first") == [replace(stopped.entry, command=None)]
    again = heed(store, "first", STOP, NOW)
    assert (again.experiment, again.entry, again.refused) == (stopped.experiment, None, ""), "nobody knows, and nothing is done twice"
    late = heed(store, "first", MORE, NOW)
    assert [entry.command for entry in store.history("first")] == [None, "d"]
    assert late.refused.startswith("Not done (set_share)")


def test_a_command_is_done_though_others_write(store: ExperimentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look and its write, somebody else writes: four times; then somebody else does the very command; then five times."""
    a_ramp(store)
    commands, left = store.commands, 4

    def somebody_writes(experiment: str) -> list[Command]:
        nonlocal left
        if left:
            left -= 1
            store.save(store.get(experiment), [an_entry()])
        return commands(experiment)

    monkeypatch.setattr(store, "commands", somebody_writes)
    assert heed(store, "first", Command("b", "set_share", "ann", "more", 0.2), NOW).experiment.share == 0.2
    assert (left, store.get("first").version) == (0, 6)

    def somebody_does_it(experiment: str) -> list[Command]:
        store.save(store.get(experiment).but(share=0.3), [an_entry()], [command.id for command in commands(experiment)])
        return commands(experiment)

    monkeypatch.setattr(store, "commands", somebody_does_it)
    assert heed(store, "first", Command("d", "set_share", "ann", "more", 0.3), NOW).experiment == store.get("first")
    assert (store.get("first").version, len(store.history("first"))) == (7, 6)

    left = 5
    monkeypatch.setattr(store, "commands", somebody_writes)
    with pytest.raises(VersionConflict, match="first: 5 times somebody else was faster; the command c is in the store, and waits"):
        heed(store, "first", STOP, NOW)
    assert commands("first") == [STOP]


def test_an_unknown_experiment_is_named(store: ExperimentStore) -> None:
    store.create(an_experiment())
    health = GatewayHealth("g", 0, "2026-11-01T10:00:00Z", COUNTS, COUNTS)
    asks: list[Callable[[], object]] = [
        lambda: store.get("gone"),
        lambda: store.save(an_experiment("gone")),
        lambda: store.history("gone"),
        lambda: store.give("gone", Command("c", "stop", "ann", "enough")),
        lambda: store.commands("gone"),
        lambda: store.put_health("gone", health),
        lambda: store.healths("gone", 0),
        lambda: store.note_watched("gone", "2026-11-01T10:00:00Z"),
        lambda: store.watched("gone"),
        lambda: heed(store, "gone", Command("c", "stop", "ann", "enough"), "2026-11-01T10:00:00Z"),
    ]
    for ask in asks:
        with pytest.raises(UnknownExperiment, match="'gone'"):
            ask()


def test_a_long_history_is_read_whole(store: ExperimentStore) -> None:
    """Longer than a page of DynamoDB, which is 1 MB."""
    present = store.create(an_experiment())
    for number in range(70):
        present = store.save(present, [an_entry(f"{number}", evidence="x" * 19_000)])
    assert [entry.says for entry in store.history("first")] == [f"{number}" for number in range(70)]


# ---------------------------------------------------------------------------------------------------------------------- opening, making


@pytest.mark.parametrize(
    "wrong",
    [
        "sqlite://relative.db",
        "sqlite:///",
        "sqlite:///a.db?mode=ro",
        "dynamodb://",
        "dynamodb://table/deeper",
        "dynamodb://table?zone=eu",
        "postgres://host/db",
        "/a/path.db",
        "",
    ],
)
def test_what_is_no_url_of_a_store_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no experiment store: sqlite:///"):
        open_store(wrong)


def test_a_table_is_made_with_what_protects_it(aws: str) -> None:
    name = f"protected-{uuid.uuid4().hex}"
    key = boto3.client("kms").create_key()["KeyMetadata"]["Arn"]
    store = open_store(f"dynamodb://{name}?region=eu-west-1", client=boto3.client("dynamodb"), kms_key=key, tags={"project": "fraud"})
    store.ensure()
    store.ensure()
    client = boto3.client("dynamodb")
    described = client.describe_table(TableName=name)["Table"]
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert described["DeletionProtectionEnabled"]
    assert described["SSEDescription"]["KMSMasterKeyArn"] == key
    assert client.list_tags_of_resource(ResourceArn=described["TableArn"])["Tags"] == [{"Key": "project", "Value": "fraud"}]
    assert client.describe_time_to_live(TableName=name)["TimeToLiveDescription"] == {
        "TimeToLiveStatus": "ENABLED",
        "AttributeName": "expires",
    }
    backups = client.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"


def test_a_health_says_when_it_may_be_forgotten(aws: str) -> None:
    name = f"forgetful-{uuid.uuid4().hex}"
    store = open_store(f"dynamodb://{name}?region=eu-west-1")
    store.ensure()
    store.create(an_experiment())
    store.put_health("first", GatewayHealth("g", 2, "2026-11-01T10:00:00Z", COUNTS, COUNTS))
    item = boto3.client("dynamodb").get_item(TableName=name, Key={"pk": {"S": "health#first#2"}, "sk": {"S": "g"}})["Item"]
    assert 29 * 86_400 < int(item["expires"]["N"]) - time.time() <= 30 * 86_400
