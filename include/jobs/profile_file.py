"""profile: what a file's columns look like, kept in a small JSON that later files are compared with (``monitor``), without its rows.

    python -m include.jobs profile BASELINE.parquet --out profile.json --score score --label label --time event_time

The rows are read in batches, a CSV three times, Parquet twice: to know what the columns are, to fix the cells that they are counted in, and to
count. PROFILE is the profile's JSON (``include.lifecycle.profile``) with two keys more: ``file`` (which columns have a part of their own, and
which were left out and why) and ``quality`` (``include.lifecycle.quality_reference``; null without labels and scores).

Left out are columns that have no distribution worth comparing: --ignore'd ones, times, and ids (texts of which nearly every one is different, and
whole numbers that run on). Exit status: 0 done; 2 the file cannot be profiled, with the reason.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from include.jobs.columns_file import ColumnsFile, as_days, as_numbers, as_texts
from include.jobs.context import JobError
from include.jobs.labelled_rows import LabelledRows
from include.lifecycle.drift_report import MINIMUM_ROWS
from include.lifecycle.profile import NO_DAY, Counter, Profile, ProfileError, Schema, SchemaSketch
from include.lifecycle.profile_schema import TextCells, column_kind, numbers_of
from include.lifecycle.quality_reference import read_reference

DISTINCT_SHARE = 0.95
_ID_ROWS = 1000
_FIRST_ROWS = 20_000
_ROOM = 10  # whole numbers drawn by chance from so many times as many as there are rows would come twice


@dataclass(frozen=True)
class Roles:
    """Columns with a part of their own; none of them is a feature but the score, which is profiled beside them."""

    score: str | None = None
    label: str | None = None
    time: str | None = None
    id: str | None = None
    ignore: tuple[str, ...] = ()

    @classmethod
    def of(cls, options: argparse.Namespace) -> Roles:
        return cls(options.score, options.label, options.time, options.id, tuple(options.ignore))

    def check(self, file: ColumnsFile) -> None:
        """JobError for a column that the file does not have, or that has two parts."""
        named = {f"--{part}": name for part, name in asdict(self).items() if part != "ignore" and name is not None}
        for option, name in named.items():
            if name not in file.names:
                raise JobError(f"{file.path}: no column {name!r} ({option}); there are {', '.join(map(repr, file.names))}")
        twice = sorted({name for name in named.values() if [*named.values(), *self.ignore].count(name) > 1})
        if twice:
            raise JobError(
                f"the column {twice[0]!r} is named by more than one of --score, --label, --time, --id and --ignore: it can be one of them"
            )

    @property
    def no_feature(self) -> frozenset[str]:
        return frozenset(name for name in (self.label, self.time, self.id, *self.ignore) if name is not None)


@dataclass(frozen=True)
class Baseline:
    """What a file is compared with. ``left_out``: column → why it was not profiled; ``quality``: the reference of measured quality, if any."""

    profile: Profile
    source: str
    roles: Roles = field(default_factory=Roles)
    left_out: Mapping[str, str] = field(default_factory=dict)
    quality: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        parts = {part: name for part, name in asdict(self.roles).items() if part != "ignore"}
        return {
            **self.profile.as_json(),
            "file": {"source": self.source, **parts, "left_out": dict(self.left_out)},
            "quality": self.quality,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], source: str) -> Baseline:
        """ProfileError where it is no profile. The profile that training leaves with a model has no ``file``: all of its columns count."""
        profile = Profile.from_json(content)
        note, quality = content.get("file") or {}, content.get("quality")
        try:
            roles = Roles(**{part: note.get(part) for part in ("score", "label", "time", "id")})
            reference = read_reference(quality) if quality is not None else None
            return cls(profile, str(note.get("source", source)), roles, dict(note.get("left_out", {})), reference)
        except (AttributeError, TypeError, ValueError) as error:
            raise ProfileError(f"what stands beside the profile was changed by hand: {error}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="Parquet or CSV, one row an event")
    parser.add_argument("--out", type=Path, required=True, metavar="PROFILE", help="the JSON file to write")
    add_roles(parser)


def add_roles(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--score", metavar="COLUMN", help="the model's score, a probability: watched by itself, apart from the features")
    parser.add_argument(
        "--label", metavar="COLUMN", help="what came true, 0 or 1, empty while unknown: no feature; with --score, quality is measured"
    )
    parser.add_argument("--time", metavar="COLUMN", help="a date or timestamp: days, weekdays and their variance are then told from drift")
    parser.add_argument("--id", metavar="COLUMN", help="names the event: no feature; labels of one event must not contradict each other")
    parser.add_argument(
        "--ignore", metavar="COLUMN", action="append", default=[], help="leave this column out; may be given more than once"
    )


def run(options: argparse.Namespace) -> int:
    baseline = profiled(ColumnsFile.open(options.file), Roles.of(options))
    write_whole(options.out, json.dumps(baseline.as_json(), ensure_ascii=False, allow_nan=False) + "\n")
    rows, columns = int(baseline.profile.rows.sum()), len(baseline.profile.schema.columns)
    print(f"{rows:,} rows, {columns} columns, {_days(baseline.profile)}: {options.out}, {options.out.stat().st_size / 1e3:,.0f} kB")
    for name, why in baseline.left_out.items():
        print(f"left out: {name}, {why}")
    return 0


def _days(profile: Profile) -> str:
    return "no days" if NO_DAY in profile.days else f"{len(profile.days)} days"


def profiled(file: ColumnsFile, roles: Roles) -> Baseline:
    """The file as a baseline. JobError where it has too few rows, no column to compare, or a score that is no probability."""
    roles.check(file)
    left_out = _left_out(file, roles)
    names = [name for name in file.names if name not in left_out]
    try:
        schema = _schema(file, names, left_out, roles)
        profile, undated = counted(file, schema, roles.time)
    except ProfileError as error:
        raise JobError(f"{file.path}: {error}") from error
    if undated:
        raise JobError(f"{file.path}: {undated:,} rows have no date in {roles.time!r} (ISO 8601 is read): mend them, or leave --time out")
    rows = int(profile.rows.sum())
    if rows < MINIMUM_ROWS:
        raise JobError(f"{file.path}: {rows} rows are too few for a baseline, it takes at least {MINIMUM_ROWS}")
    if roles.score is not None:
        column = profile.columns[roles.score]
        if not (column.minimum >= 0 and column.maximum <= 1):
            raise JobError(
                f"{file.path}: the score {roles.score!r} has values from {column.minimum:.6g} to {column.maximum:.6g}, and a probability lies "
                "between 0 and 1: convert it, or watch it as a feature, without --score"
            )
    return Baseline(profile, str(file.path), roles, left_out, _quality(file, roles))


def _quality(file: ColumnsFile, roles: Roles) -> dict[str, Any] | None:
    """The reference of measured quality. JobError for labels that a model cannot be judged by."""
    if roles.label is None:
        return None
    known = LabelledRows.read(file, label=roles.label, score=roles.score, time=roles.time, id=roles.id)
    if known.wrong:
        raise JobError(
            f"{file.path}: {known.wrong:,} of {known.rows:,} labels in {roles.label!r} are neither 0 nor 1, nor empty: mend them"
        )
    if known.contradicting:
        raise JobError(
            f"{file.path}: {known.contradicting:,} events ({roles.id!r}) are labelled both 0 and 1 in {roles.label!r}: mend them"
        )
    return known.reference()


def counted(file: ColumnsFile, schema: Schema, time: str | None) -> tuple[Profile, int]:
    """All rows of the file under a schema, and how many were left out for want of a day. Columns that the file does not have are missing in every
    row; those of a type without numbers or text too (``monitor`` tells both)."""
    counter, undated = Counter(schema), 0
    names = [name for name in schema.columns if name in file.names and _countable(file, name)]
    for batch in file.batches([*names, *([time] if time is not None and time not in names else [])]):
        days = None if time is None else as_days(batch[time])
        if days is not None and days.null_count:
            undated += days.null_count
            batch, days = batch.filter(days.is_valid()), days.drop_null()
        columns = {
            name: as_texts(batch[name]) if isinstance(schema.columns[name], TextCells) else as_numbers(batch[name]) for name in names
        }
        counter.add(pa.RecordBatch.from_pydict(columns) if columns else batch, days)
    return counter.profile(), undated


def _countable(file: ColumnsFile, name: str) -> bool:
    return not file.declares_types or file.kinds[name] in {"numeric", "text"}


def write_whole(path: Path, text: str) -> None:
    """Under another name first, so that nobody ever sees half a file. JobError where it cannot be written."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink()
        raise JobError(f"{path}: cannot be written: {error.strerror or error}") from error


def _left_out(file: ColumnsFile, roles: Roles) -> dict[str, str]:
    """Column → why, of those that are left out by their name or type. JobError for one that has no distribution, unless it is to be ignored."""
    found = {}
    for name in file.names:
        if name in roles.ignore:
            found[name] = "named by --ignore"
        elif name in roles.no_feature:
            found[name] = {roles.label: "the label", roles.time: "the time", roles.id: "the event's id"}[name]
        elif file.kinds[name] == "time":
            found[name] = "dates and times only go on"
        elif file.kinds[name] is None:
            raise JobError(
                f"{file.path}: column {name!r} holds neither numbers nor text nor times, and has no distribution to compare: --ignore {name}"
            )
        elif name == roles.score and file.kinds[name] != "numeric":
            raise JobError(f"{file.path}: the score {name!r} is {file.kinds[name]}, and a probability is a number")
    return found


def _schema(file: ColumnsFile, names: Sequence[str], left_out: dict[str, str], roles: Roles) -> Schema:
    """Adds to ``left_out`` the ids."""
    ids = _ids(file, [name for name in names if name != roles.score])
    left_out.update(ids)
    kept = [name for name in names if name not in ids]
    if not kept:
        raise JobError(f"{file.path}: no column is left to compare; left out: {', '.join(left_out)}")
    sketch = SchemaSketch()
    for batch in file.batches(kept):
        columns = {name: as_texts(batch[name]) if file.kinds[name] == "text" else _only_numbers(batch[name]) for name in kept}
        sketch.add(pa.RecordBatch.from_pydict(columns))
    return sketch.schema(apart=[roles.score] if roles.score is not None else [])


def _only_numbers(column: pa.Array) -> pa.Array:
    numbers = as_numbers(column)
    return numbers if column_kind(numbers.type) == "numeric" else pa.array(numbers_of(numbers)[0])


def _ids(file: ColumnsFile, names: Sequence[str]) -> dict[str, str]:
    """Columns that look like ids in the first rows, and why."""
    first: list[pa.RecordBatch] = []
    for batch in file.batches(names):
        first.append(batch)
        if sum(each.num_rows for each in first) >= _FIRST_ROWS:
            break
    if not first:
        return {}
    rows = pa.Table.from_batches(first)
    return {name: why for name in names if (why := _id_like(file.kinds[name], rows[name]))}


def _id_like(kind: str | None, column: pa.ChunkedArray) -> str:
    """Why it is an id; empty where it is none."""
    known = len(column) - column.null_count
    if known < MINIMUM_ROWS:
        return ""
    if kind == "text":
        distinct = pc.count_distinct(column.cast(pa.string())).as_py()
        return "nearly every row has a text of its own" if distinct >= DISTINCT_SHARE * known else ""
    values = np.concatenate([numbers_of(as_numbers(chunk))[0] for chunk in column.chunks])
    values = values[np.isfinite(values)]
    whole = values.size >= _ID_ROWS and bool((values == np.floor(values)).all())
    if whole and np.ptp(values) < _ROOM * values.size and np.unique(values).size == values.size:
        return "whole numbers that run on, every row one of its own"
    return ""
