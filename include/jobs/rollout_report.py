"""rollout-report: the page of a rollout, from its history as it is kept beside the models.

``--history`` is JSON: {"experiment": the experiment as its store keeps it, "entries": [what was decided, with its evidence, in order], "evidence":
{"shadow": evidence.json or null, "ramp": evidence.json or null}}. Writes ``experiments/<id>/rollout.html``: one file without script, with the
outcome so far and what it cost or saved, one figure over the data's time, and one table with every decision. Nothing in it depends on a clock.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from include.jobs.context import JobContext, JobError
from include.jobs.html_page import defined
from include.jobs.rollout_page import headline, html_report
from include.lifecycle.as_of import utc
from include.lifecycle.experiment import Entry, Experiment
from include.stores.objects import ObjectNotFoundError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--history", required=True, help="S3 URI of the rollout's history.json")


def run(options: argparse.Namespace, context: JobContext) -> dict[str, Any]:
    """Result: {"experiment", "stage", "headline", "reports": {"page": S3 URI}}.

    JobError where the history is not there, is another domain's, or not what an experiment store's history says."""
    page, found = put_page(context, options.history, {})
    print(found["headline"], flush=True)
    return {**found, "reports": {"page": page}}


def put_page(context: JobContext, history: str, newer: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Writes the page of the history at that URI; ``newer``: evidence, by stage, that the history does not have yet. Returns the page's URI, and
    {"experiment", "stage", "headline"}. JobError as ``run`` has it."""
    objects = context.objects
    try:
        content = defined(objects.get_json(objects.key(history)))
    except ObjectNotFoundError as error:
        raise JobError(f"--history: {history} does not exist") from error
    except ValueError as error:
        raise JobError(f"--history: {history} is no JSON: {error}") from error
    try:
        experiment = Experiment.of_json(content["experiment"])
        entries = [_entry(each) for each in content["entries"]]
        evidence = {**content["evidence"], **newer}
        if experiment.domain != context.domain.name:
            raise JobError(f"--history: experiment {experiment.id} is one of domain {experiment.domain!r}, not {context.domain.name!r}")
        if not entries:
            raise JobError(f"--history: {history} has no entry: an experiment has one from its first version on")
        html = html_report(context.domain, experiment, entries, evidence)
        says = headline(experiment, entries)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JobError(
            f"--history: {history} is no history of an experiment ({type(error).__name__}: {error}); it is written at each look and when a rollout "
            "ends, from the experiment store: clear that task to have it written again"
        ) from error
    page = objects.put(context.layout.experiment(experiment.id, "rollout.html"), html.encode(), "text/html; charset=utf-8")
    return page, {"experiment": experiment.id, "stage": experiment.stage, "headline": says}


def _entry(content: Mapping[str, Any]) -> Entry:
    known = {item.name for item in fields(Entry)}
    entry = Entry(**{name: value for name, value in content.items() if name in known})
    utc(entry.as_of)
    return entry
