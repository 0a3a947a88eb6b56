"""A delivery: one landed file, the day it was delivered, and the name that its rows carry for ever."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

_PATH = re.compile(r"(?P<table>[a-z][a-z0-9_]*)/dt=(?P<day>\d{4}-\d{2}-\d{2})/(?P<file>.+)")
_SOURCE = re.compile(r"(?P<path>.+)@[0-9a-f]{12}(\?year=(?P<year>-?\d+))?")
SOURCE_SUFFIX = r"@[0-9a-f]{12}(\?year=-?[0-9]+)?$"
"""What follows the path in a source, as a regular expression that DuckDB knows too."""


@dataclass(frozen=True, order=True)
class Delivery:
    """``path``: ``<table>/dt=<delivery day>/<file>``, the key below ``raw/``. ``year``: the run's year parameter, for dates without one."""

    path: str
    year: int | None = None

    def __post_init__(self) -> None:
        """ValueError for a path that is none."""
        match = _PATH.fullmatch(self.path)
        if match is None:
            raise ValueError(f"{self.path!r} is not <table>/dt=YYYY-MM-DD/<file>")
        date.fromisoformat(match["day"])

    @classmethod
    def of_source(cls, source: str) -> Delivery:
        """The delivery that a row's ``source`` names."""
        match = _SOURCE.fullmatch(source)
        if match is None:
            raise ValueError(f"{source!r} is not a source: <path>@<digest>, then ?year=<year> where one was given")
        return cls(match["path"], int(match["year"]) if match["year"] else None)

    @property
    def table(self) -> str:
        return self.path.split("/", 1)[0]

    @property
    def day(self) -> date:
        return date.fromisoformat(self.path.split("/", 2)[1].removeprefix("dt="))

    @property
    def file(self) -> str:
        return self.path.split("/", 2)[2]

    @property
    def delivered_at(self) -> datetime:
        """The midnight (UTC) that ends the delivery's day: by then the file was there for certain."""
        return datetime.combine(self.day, time(), UTC) + timedelta(days=1)

    def source(self, body: bytes) -> str:
        """Which landed file, with which content (12 hexadecimal digits of its SHA-256), read with which year."""
        suffix = "" if self.year is None else f"?year={self.year}"
        return f"{self.path}@{hashlib.sha256(body).hexdigest()[:12]}{suffix}"
