"""What `make demo` refuses before it begins, and what it does not pass off as a good end."""

from __future__ import annotations

import io
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from include import domains
from include.laptop import __main__ as command_line
from include.laptop.demo import Demo, add_rollout, refuse_another_end
from include.laptop.live_days import Plan
from include.laptop.processes import StackError
from include.laptop.rollout_days import Scenario, broken_features, check_scenario
from include.laptop.stack import Stack
from include.lifecycle import portable_sql
from include.lifecycle.features import feature_names
from include.settings import ROOT
from include.stores.layout import Layout
from include.stores.objects import ObjectStore
from include.stores.watermark import Watermark

CLAIMS, PAYMENTS = domains.get("auto_claims"), domains.get("card_payments")
STORY = Plan(days=18, change="staged_collisions", change_after=3, rollout_days=215)
UNTIL_THE_ALARM = Plan(days=18, change="staged_collisions", change_after=3)
DRIFT = {"change": "staged_collisions", "change_day": "2026-04-04", "found": "2026-04-12", "report": "http://report"}


def demo(
    objects: ObjectStore, tmp_path: Path, days_lived: int, live: Plan | None = STORY, scenario: Scenario | None = "better_challenger"
) -> Demo:
    """One on a stack whose claims are ingested up to ``days_lived`` days after a history of ten."""
    made = Demo(Stack(tmp_path), CLAIMS, history={"days": 10, "events": 100}, live=live, scenario=scenario)
    made.objects = objects
    Watermark(objects, Layout(CLAIMS.name)).move_to(datetime(2026, 1, 11, tzinfo=UTC) + timedelta(days=days_lived))
    return made


def test_a_stack_that_has_lived_through_the_story_says_so_instead_of_waiting_for_ever(bucket: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"until 12 January 2026.*`make clean`"):
        demo(bucket, tmp_path, days_lived=1).refuse_to_live_twice()


def test_a_stack_that_has_its_history_and_no_more_may_go_on(bucket: ObjectStore, tmp_path: Path) -> None:
    demo(bucket, tmp_path, days_lived=0).refuse_to_live_twice()


@pytest.mark.parametrize(("live", "scenario"), [(None, "better_challenger"), (UNTIL_THE_ALARM, "better_challenger"), (STORY, None)])
def test_a_story_without_a_rollout_may_be_told_again(
    bucket: ObjectStore, tmp_path: Path, live: Plan | None, scenario: Scenario | None
) -> None:
    demo(bucket, tmp_path, days_lived=18, live=live, scenario=scenario).refuse_to_live_twice()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--domain", "card_payments", "--scenario", "bad_challenger"], "the story of card_payments ends with the alarm"),
        (["--landing", ".", "--scenario", "bad_challenger"], "LANDING"),
    ],
)
def test_a_scenario_that_cannot_be_is_refused_before_any_stack_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    monkeypatch.setattr(command_line, "STATE", tmp_path / "state")
    monkeypatch.setattr(Stack, "up", lambda _: pytest.fail("the stack was started"))
    monkeypatch.setattr(sys, "argv", ["laptop", "demo", *arguments])
    assert command_line.main() == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_simulator_that_does_not_say_what_breaks_has_no_bad_challenger() -> None:
    check_scenario(PAYMENTS, STORY, "better_challenger")
    with pytest.raises(StackError, match="BROKEN_FEATURES"):
        check_scenario(PAYMENTS, STORY, "bad_challenger")
    check_scenario(CLAIMS, STORY, "bad_challenger")


@pytest.mark.parametrize(
    ("stage", "scenario", "says"),
    [
        (
            "rolled_back",
            "better_challenger",
            "the better challenger should have been promoted, but the rollout ended as rolled_back: because",
        ),
        ("undecided", "better_challenger", "ended as undecided"),
        ("promoted", "bad_challenger", "the bad challenger should have been rolled back, but the rollout ended as promoted"),
    ],
)
def test_another_end_than_the_scenarios_is_an_error(stage: str, scenario: Scenario, says: str) -> None:
    with pytest.raises(StackError, match=says):
        refuse_another_end({"drift": DRIFT, "rollout": {"stage": stage, "why": "because.", "page": None}}, scenario)


def test_a_silent_alarm_is_an_error() -> None:
    with pytest.raises(StackError, match="staged_collisions from 2026-04-04 on was not found"):
        refuse_another_end({"drift": {**DRIFT, "found": None}}, "better_challenger")


@pytest.mark.parametrize(
    "summary",
    [
        {},
        {"drift": DRIFT},
        {"drift": DRIFT, "rollout": {"stage": "promoted", "why": "", "page": None}},
    ],
)
def test_a_story_that_ended_as_it_should_is_none(summary: dict[str, Any]) -> None:
    refuse_another_end(summary, "better_challenger")


def test_what_a_bad_challenger_cost_is_told_of_the_few_events_it_decided_and_of_all() -> None:
    cost = {"extra_cost": -41_405.2, "decided": 27, "difference": 1_039.6, "events": 431, "currency": "USD"}
    console = Console(record=True, width=250, file=io.StringIO())
    table = Table(show_header=False)
    add_rollout(table, {"stage": "rolled_back", "why": "A guardrail tripped.", "recovery": None, **cost})
    console.print(table)
    text = console.export_text()
    assert "41,405 USD less than the champion would have, on the 27 events that the challenger decided" in text
    assert "1,040 USD more an event than the champion's, on all 431 of the ramp" in text


def test_what_breaks_for_a_bad_challenger_is_some_of_what_its_model_is_asked() -> None:
    sql = portable_sql.parse(domains.features_sql(CLAIMS.name), [table.name for table in CLAIMS.landing_tables])
    assert set() < set(broken_features(CLAIMS)) < set(feature_names(CLAIMS, sql.named_selects))


def test_a_reason_of_several_words_goes_through_make_whole() -> None:
    """The line that the runbook gives to stop a rollout, with what it calls shown instead of called."""
    line = 'steer --domain auto_claims --action stop --why "reviewers can\'t keep up"'
    show = f"{sys.executable} -c 'import sys; print(sys.argv[1:])'"
    installed = [word for path in (".venv/.installed", ".local/venvs/ministack/.installed") for word in ("-o", path)]
    made = subprocess.run(
        ["make", "--silent", *installed, "job", f"CMD={line}", f"RUN={show}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == str([
        "-m",
        "include.laptop",
        "job",
        "--",
        *["steer", "--domain", "auto_claims", "--action", "stop"],
        "--why",
        "reviewers can't keep up",
    ])
