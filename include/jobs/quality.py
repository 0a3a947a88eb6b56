"""Great Expectations as the jobs use it: suites by severity, the rows that break them, and the Data Docs of a run.

An expectation's own ``severity`` says what a failure means:

- ``critical`` about rows (a column-map expectation): the rows that break it are named, and the caller quarantines them;
- ``critical`` about the table as a whole, or one that cannot be evaluated: the table fails, and the caller refuses it;
- ``warning``: counted and shown; ``info``: shown in the Data Docs only.

Nothing leaves the machine: analytics are off, and the published pages load nothing from other hosts.
"""

from __future__ import annotations

import os

os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when great_expectations is imported

import gc
import html
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation import (
    ColumnMapExpectation,
    ColumnPairMapExpectation,
    Expectation,
    MulticolumnMapExpectation,
)
from great_expectations.expectations.metadata_types import FailureSeverity

from include.stores.objects import ObjectStore

_ROW_EXPECTATIONS = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)
_SHOWN_ARGUMENTS = ("min_value", "max_value", "value_set", "regex", "type_", "or_equal", "value")
_SHOWN_LENGTH = 80
_HTML = "text/html"
_STYLE = (Path(__file__).parent / "data_docs.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class SuiteResult:
    """What one suite found in one frame.

    row_failures: position of a row in the frame (from 0) → the critical expectations it breaks, as text.
    table_failures: critical expectations that the frame as a whole breaks, or that could not be evaluated, as text.
    errors: those of ``table_failures`` that could not be evaluated: a fault of the suite rather than of the rows.
    warnings: ``{"expectation", "column", "unexpected", "share"}`` for each failed expectation of severity warning; ``unexpected`` counts
    rows and ``share`` is of the frame's rows; both are None where the expectation is about the table, which then has ``observed``.
    """

    row_failures: dict[int, tuple[str, ...]] = field(default_factory=dict)
    table_failures: tuple[str, ...] = ()
    warnings: list[dict[str, Any]] = field(default_factory=list)
    errors: tuple[str, ...] = ()


class QualityChecks:
    """The suites of one run. Use it as a context manager: it keeps Great Expectations' files in a temporary folder until it is closed.

    ``run_time`` is what the Data Docs show as the time of the run; it is given, because no code reads the clock.
    """

    def __init__(self, run_time: datetime = datetime(1970, 1, 1, tzinfo=UTC)) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="data_docs_")
        self._run = RunIdentifier(run_name="run", run_time=run_time)
        self._checked: list[_CheckedSuite] = []

    @cached_property
    def _context(self) -> Any:
        context = gx.get_context(mode="file", project_root_dir=self._folder.name)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        return context

    @cached_property
    def _source(self) -> Any:
        return self._context.data_sources.add_pandas("landing")

    def __enter__(self) -> QualityChecks:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def check(self, frame: pd.DataFrame, suite: str, expectations: Sequence[Expectation]) -> SuiteResult:
        """Validates ``frame`` and keeps the outcome for the Data Docs under the name ``suite``, which must be new in this run."""
        if not expectations:
            return SuiteResult()
        frame = frame.reset_index(drop=True)
        batch = self._source.add_dataframe_asset(suite).add_batch_definition_whole_dataframe("rows")
        registered = self._context.suites.add(gx.ExpectationSuite(name=suite, expectations=_copies(expectations)))
        definition = self._context.validation_definitions.add(gx.ValidationDefinition(name=suite, data=batch, suite=registered))
        outcome = definition.run(batch_parameters={"dataframe": frame}, result_format="SUMMARY", run_id=self._run)

        by_id = {expectation.id: expectation for expectation in registered.expectations}
        failing_rows: list[Expectation] = []
        table_failures: list[str] = []
        errors: list[str] = []
        warnings: list[dict[str, Any]] = []
        for result in outcome.results:
            expectation = by_id[result.expectation_config.id]
            if result.success or expectation.severity == FailureSeverity.INFO:
                continue
            error = _error(result)
            if expectation.severity == FailureSeverity.WARNING:
                warnings.append(_warning(expectation, result, error, len(frame)))
            elif error is None and isinstance(expectation, _ROW_EXPECTATIONS):
                failing_rows.append(expectation)
            elif error is None:
                table_failures.append(f"{describe(expectation)}: observed {_shown(result.result.get('observed_value'))}")
            else:
                errors.append(f"{describe(expectation)}: cannot be evaluated: {error}")
        rows, refused = self._rows(batch, frame, failing_rows)
        self._let_go()
        critical = len(failing_rows) + len(table_failures) + len(errors)
        self._checked.append(_CheckedSuite(suite, len(frame), len(outcome.results), critical, len(warnings)))
        warnings.sort(key=lambda warning: (warning["expectation"], str(warning["column"])))
        return SuiteResult(rows, tuple(sorted([*table_failures, *refused, *errors])), warnings, tuple(sorted(errors)))

    def _let_go(self) -> None:
        """Great Expectations keeps every frame it has checked, twice: ten million rows were 6 GB."""
        kept = self._source.get_execution_engine().batch_manager
        kept.reset_batch_cache()
        kept.batch_data_cache.clear()
        gc.collect()

    @staticmethod
    def _rows(batch: Any, frame: pd.DataFrame, expectations: Sequence[Expectation]) -> tuple[dict[int, tuple[str, ...]], list[str]]:
        """Which rows break the expectations. Asked only of those that failed: complete results are slow and large."""
        found: dict[int, list[str]] = {}
        refused: list[str] = []
        if expectations:
            loaded = batch.get_batch({"dataframe": frame})
            for expectation in sorted(expectations, key=describe):
                wanted = {"result_format": "COMPLETE", "return_unexpected_index_query": False}
                positions = loaded.validate(expectation, result_format=wanted).result.get("unexpected_index_list")
                if positions is None:  # some map expectations of extensions do not say which rows
                    refused.append(describe(expectation))
                for position in positions or ():
                    found.setdefault(int(position), []).append(describe(expectation))
        return {position: tuple(reasons) for position, reasons in sorted(found.items())}, refused

    def publish(self, objects: ObjectStore, prefix: str) -> str:
        """Uploads the Data Docs of all suites checked so far under ``prefix`` and returns the URI of ``index.html``.

        The pages carry their style inside and nothing from other hosts, so that they open from S3, from disk and without a network; equal
        results give equal bytes."""
        prefix = prefix.rstrip("/") + "/"
        if self._checked:
            site = Path(self._context.build_data_docs()["local_site"].removeprefix("file://")).parent
            for page in sorted(site.glob("*/**/*.html")):
                body = _self_contained(page.read_text(encoding="utf-8")).encode()
                objects.put(prefix + page.relative_to(site).as_posix(), body, _HTML)
        return objects.put(f"{prefix}index.html", self._index().encode(), _HTML)

    def _index(self) -> str:
        """Great Expectations' own index draws its table with scripts from other hosts; this is the same table."""
        run = f"run/{self._run.run_time.strftime('%Y%m%dT%H%M%S.%fZ')}"
        rows = [
            f"<tr><td>{'✗' if suite.critical else '!' if suite.warnings else '✓'}</td>"
            f'<td><a href="validations/{_as_path(suite.name)}/{run}/landing-{suite.name}.html">{html.escape(suite.name)}</a></td>'
            f"<td>{suite.rows:,}</td><td>{suite.expectations}</td><td>{suite.critical}</td><td>{suite.warnings}</td></tr>"
            for suite in self._checked
        ]
        names = ("", "suite", "rows", "expectations", "critical failures", "warnings")
        table = f'<table class="table table-bordered"><tr>{"".join(f"<th>{name}</th>" for name in names)}</tr>{"".join(rows)}</table>'
        body = table if rows else "<p>No suite was checked: there were no rows, or no expectations for them.</p>"
        head = f'<!doctype html><meta charset="utf-8"><title>Data Docs</title><style>{_STYLE}</style>'
        return f'{head}<body class="container"><h1>Data Docs</h1>{body}\n'


@dataclass(frozen=True)
class _CheckedSuite:
    name: str
    rows: int
    expectations: int
    critical: int
    warnings: int


def _as_path(suite: str) -> str:
    """Great Expectations makes a folder of each part of a suite's name that a dot ends."""
    return suite.replace(".", "/")


def describe(expectation: Expectation) -> str:
    """One line for people: the columns, what is expected, and its bounds. An expectation's own ``description`` goes first."""
    columns = _columns(expectation)
    shown = [f"{name} {_shown(value)}" for name in _SHOWN_ARGUMENTS if (value := getattr(expectation, name, None)) is not None]
    text = expectation.description or " ".join([expectation.expectation_type, *([f"({', '.join(shown)})"] if shown else [])])
    return f"{columns}: {text}" if columns else text


def is_about_single_rows(expectation: Expectation) -> bool:
    """Whether each row passes or fails by itself: then it does not matter which rows are checked together."""
    kinds = ("unique", "increasing", "decreasing", "z_score")
    rowwise = isinstance(expectation, _ROW_EXPECTATIONS) and not any(kind in expectation.expectation_type for kind in kinds)
    return rowwise and getattr(expectation, "mostly", 1) in {1, None}


def _copies(expectations: Sequence[Expectation]) -> list[Expectation]:
    """A suite gives its expectations identities; the domain's own objects stay as they are, to be used again."""
    return [expectation.copy(update={"id": None}) for expectation in expectations]


def _columns(expectation: Expectation) -> str | None:
    for names in (("column",), ("column_A", "column_B"), ("column_list",)):
        if getattr(expectation, names[0], None):
            values = [getattr(expectation, name) for name in names]
            return ", ".join(values[0] if isinstance(values[0], (list, tuple)) else map(str, values))
    return None


def _warning(expectation: Expectation, result: Any, error: str | None, rows: int) -> dict[str, Any]:
    unexpected = result.result.get("unexpected_count")
    warning: dict[str, Any] = {
        "expectation": expectation.description or expectation.expectation_type,
        "column": _columns(expectation),
        "unexpected": None if unexpected is None else int(unexpected),
        "share": None if unexpected is None or not rows else round(int(unexpected) / rows, 6),
    }
    if error:
        warning["error"] = error
    elif unexpected is None:
        warning["observed"] = _shown(result.result.get("observed_value"))
    return warning


def _error(result: Any) -> str | None:
    """The message of the exception that kept an expectation from being evaluated, or None."""
    entries = result.exception_info or {}
    for entry in [entries, *(value for value in entries.values() if isinstance(value, dict))]:
        if entry.get("raised_exception"):
            return str(entry.get("exception_message"))[:300]
    return None


def _shown(value: Any) -> str:
    text = str(value.item() if hasattr(value, "item") else value)
    return text if len(text) <= _SHOWN_LENGTH else f"{text[:_SHOWN_LENGTH]}…"


_REMOTE = re.compile(
    r"""<script\b[^>]*\bsrc=["']https?:[^>]*>.*?</script>|<(?:link|img|source)\b[^>]*\b(?:href|src|srcset)=["']https?:[^>]*>|url\(["']?https?:[^)]*\)""",
    re.DOTALL | re.IGNORECASE,
)
_BATCH_LOADED = re.compile(r">\d{8}T\d{6}\.\d{6}Z<")
_IDENTITY = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")


def _self_contained(page: str) -> str:
    """Takes out what a browser would fetch from elsewhere (style sheets, scripts, a counting pixel) and puts a style sheet in. Random
    identities become numbers in the order in which they occur, and the instant at which a frame was loaded goes."""
    numbers: dict[str, str] = {}
    page = _IDENTITY.sub(lambda match: numbers.setdefault(match[0], f"id-{len(numbers) + 1}"), page)
    page = _BATCH_LOADED.sub("><", page)
    return _REMOTE.sub("", page).replace("</head>", f"<style>\n{_STYLE}</style>\n</head>", 1)
