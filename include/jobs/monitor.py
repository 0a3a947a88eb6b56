"""monitor: has this file drifted from that one? Two Parquet or CSV files, or a profile (``profile``) and a file; no Airflow, bucket or domain.

    python -m include.jobs monitor --baseline march.parquet --current april.parquet --out report --score score --label label --time event_time

Writes OUT/report.json (``include.lifecycle.drift_report``) and OUT/report.html, prints the verdict and the findings. Each column is one line of the
report: whether it drifted, how much, since when. The false alarms are as many a year as ``--false-alarms-per-year`` says, if one file is compared a
day. With ``--time``, days and weekdays that differ in the baseline already are no drift. With ``--label`` and ``--score``, quality is measured on the
rows whose label is known, and estimated on all.

Exit status: 0 no drift; 1 drift; 2 bad input, with one line that says what and where, or too few rows for a verdict, which the report says too; 3 a
fault of ours, with a traceback.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from include import domains
from include.jobs.columns_file import ColumnsFile
from include.jobs.context import JobError
from include.jobs.labelled_rows import LabelledRows
from include.jobs.profile_file import Baseline, Roles, add_roles, counted, profiled, write_whole
from include.lifecycle.data_quality import Check, labels, structure, without_day
from include.lifecycle.domain import Domain, Monitoring
from include.lifecycle.drift_report import MINIMUM_ROWS, analyse, side
from include.lifecycle.profile import ProfileError
from include.lifecycle.profile_schema import TextCells

_SHOWN = 10
STATUS = {"no_drift": 0, "drift": 1, "not_enough_data": 2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--baseline", type=Path, required=True, metavar="FILE_OR_PROFILE", help="Parquet, CSV, or what profile wrote")
    parser.add_argument("--current", type=Path, required=True, metavar="FILE", help="Parquet or CSV")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for report.json and report.html; made if missing")
    add_roles(parser)
    parser.add_argument("--domain", metavar="NAME", help="take the thresholds of this folder under include/domains, not the defaults")
    parser.add_argument(
        "--false-alarms-per-year", type=float, metavar="N", help="how often all is well and the verdict is drift (default: 2)"
    )


def run(options: argparse.Namespace) -> int:
    domain = _domain(options.domain)
    monitoring = _monitoring(domain, options.false_alarms_per_year)
    baseline = _baseline(options.baseline, Roles.of(options))
    file = ColumnsFile.open(options.current)
    report = compared(baseline, file, _roles_of_current(baseline, Roles.of(options), file), monitoring, domain)
    write_whole(options.out / "report.json", json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    _write_page(report, options.out / "report.html")
    _print(report, options.out)
    return STATUS[report["verdict"]["outcome"]]


def compared(baseline: Baseline, file: ColumnsFile, roles: Roles, monitoring: Monitoring, domain: Domain | None = None) -> dict[str, Any]:
    """The report (``drift_report``) of a file against a baseline. JobError where the file cannot be read."""
    try:
        window, undated = counted(file, baseline.profile.schema, roles.time)
    except ProfileError as error:
        raise JobError(f"{file.path}: {error}") from error
    subject = {
        "domain": domain.name if domain else None,
        "title": domain.title if domain else f"{file.path.name} against {Path(baseline.source).name}",
        "model_package": None,
        "as_of": None,
        "baseline": side(baseline.profile, baseline.source),
        "current": side(window, str(file.path)),
        "left_out": {**baseline.left_out, **dict.fromkeys(_not_looked_at(baseline, roles), "named when the files were compared")},
    }
    checks, absent = _structure(monitoring, baseline, file, roles)
    if roles.time is not None and undated:
        checks.append(without_day(monitoring, roles.time, undated, int(window.rows.sum())))
    sections: dict[str, Any] = {}
    if roles.label is not None or (baseline.quality is not None and roles.score in file.names):
        score = roles.score if roles.score in file.names else None
        known = LabelledRows.read(file, label=roles.label, score=score, time=roles.time, id=roles.id)
        if roles.label is not None:
            checks.append(labels(monitoring, roles.label, known.rows, known.wrong, known.contradicting))
        if baseline.quality is not None and score is not None and known.rows >= MINIMUM_ROWS:
            sections = known.sections(dict(baseline.quality), monitoring)
    return analyse(monitoring, baseline.profile, window, subject, score=roles.score, checks=checks, absent=absent, sections=sections)


def _structure(monitoring: Monitoring, baseline: Baseline, file: ColumnsFile, roles: Roles) -> tuple[list[Check], list[str]]:
    """Checks of columns and their types, and the columns of the baseline that are not compared: the file does not have them, or not as values,
    or they are not to be looked at."""
    out = _not_looked_at(baseline, roles)
    columns = {name: cells for name, cells in baseline.profile.schema.columns.items() if name not in out}
    missing = [name for name in columns if name not in file.names]
    known = {*columns, *out, *baseline.left_out, *roles.no_feature}
    extra = [name for name in file.names if name not in known]
    types = {}
    if file.declares_types:
        for name, cells in columns.items():
            then = "text" if isinstance(cells, TextCells) else "numeric"
            if name not in missing and (now := file.kinds[name]) != then:
                types[name] = (then, now or "neither numbers nor text")
    absent = out + missing + [name for name, (_, now) in types.items() if now not in {"numeric", "text"}]
    return structure(monitoring, missing, extra, types), absent


def _not_looked_at(baseline: Baseline, roles: Roles) -> list[str]:
    """Columns that a profile has and that are named as something else now, or to be ignored."""
    return [name for name in baseline.profile.schema.columns if name in roles.no_feature]


def _domain(name: str | None) -> Domain | None:
    try:
        return domains.get(name) if name is not None else None
    except LookupError as error:
        raise JobError(str(error)) from error


def _monitoring(domain: Domain | None, false_alarms: float | None) -> Monitoring:
    monitoring = domain.monitoring if domain else Monitoring()
    if false_alarms is None:
        return monitoring
    if not 0 < false_alarms <= 365:
        raise JobError(f"--false-alarms-per-year {false_alarms:g}: more than 0, and not more than the 365 days of a year")
    return replace(monitoring, false_alarms_per_year=false_alarms)


def _baseline(path: Path, roles: Roles) -> Baseline:
    """A profile is known by its first character: no table of columns begins with a brace."""
    if path.is_file():
        with path.open("rb") as start:
            if start.read(1) == b"{":
                return _read_profile(path)
    return profiled(ColumnsFile.open(path), roles)


def _read_profile(path: Path) -> Baseline:
    try:
        return Baseline.from_json(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (ValueError, ProfileError) as error:
        raise JobError(f"{path}: no profile that can be read: {error}") from error


def _roles_of_current(baseline: Baseline, given: Roles, file: ColumnsFile) -> Roles:
    """What is not named takes the part that it has in the baseline. A score that is gone stays the score: that is a finding, and it is no feature;
    labels that are not there are not known yet."""

    def part(option: str) -> str | None:
        then = getattr(baseline.roles, option)
        wanted: str | None = getattr(given, option) or then
        return None if wanted == then and wanted not in file.names else wanted

    score = given.score or baseline.roles.score
    if score is not None and score not in baseline.profile.schema.columns:
        raise JobError(f"{baseline.source}: the baseline has no column {score!r} (--score)")
    found = Roles(None if score not in file.names else score, part("label"), part("time"), part("id"), given.ignore)
    found.check(file)
    if given.time is not None and found.time is None:
        raise JobError(f"{file.path}: no column {given.time!r} (--time); there are {', '.join(map(repr, file.names))}")
    return replace(found, score=score)


def _write_page(report: Mapping[str, Any], path: Path) -> None:
    from include.jobs.monitoring_report import html_report

    write_whole(path, html_report(dict(report)))


def _print(report: Mapping[str, Any], out: Path) -> None:
    verdict = report["verdict"]
    print(verdict["headline"])
    for finding in report["findings"][:_SHOWN]:
        print(f"  {finding['severity']:<5}  {finding['says']}")
    if len(report["findings"]) > _SHOWN:
        print(f"  and {len(report['findings']) - _SHOWN} more")
    print(f"report: {out / 'report.html'}")
    if verdict["outcome"] == "not_enough_data":
        print(f"monitor: {verdict['headline']}", file=sys.stderr)
