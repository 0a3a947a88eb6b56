"""Which code a job ran: part of its request, so that changed code is a new job and unchanged code is adopted."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

_ROOT = Path(__file__).parent
_SHARED = ("jobs", "lifecycle", "stores")


@functools.cache
def code_version(domain: str) -> str:
    """Twelve hexadecimal digits of the SHA-256 over what a domain's jobs run (Python and SQL files, names and contents), read once a
    process. Another domain's files are not among them."""
    content = hashlib.sha256()
    folders = [*(_ROOT / part for part in _SHARED), _ROOT / "domains" / domain]
    shared_by_domains = (_ROOT / "domains").glob("*.py")
    files = [*shared_by_domains, *(path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".sql"})]
    for path in sorted(files):
        content.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()[:12]
