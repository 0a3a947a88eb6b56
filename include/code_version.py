"""Which code a job ran: part of its request, so that changed code is a new job and unchanged code is adopted."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_ROOT = Path(__file__).parent
_PARTS = ("domains", "jobs", "lifecycle", "stores")


@functools.cache
def code_version() -> str:
    """Twelve hexadecimal digits of the SHA-256 over what runs inside jobs (Python and SQL files, names and contents), read once a process."""
    content = hashlib.sha256()
    for part in _PARTS:
        for path in sorted((_ROOT / part).rglob("*")):
            if path.suffix in {".py", ".sql"}:
                content.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()[:12]
