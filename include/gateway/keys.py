"""Who may ask what: API keys, kept as hashes in a file, and how many requests a second each may send.

A line of the file is ``name: SHA-256 of the key in hexadecimal`` and behind it what the key may do, ``name: hash score outcomes``; nothing behind
it: all that ``USUAL`` names. A key is 32 random bytes. Nobody can try 2^256 of them, however quick the hash, so a slow one (scrypt, as for
passwords, of which people choose likely ones; NIST SP 800-63B §5.1.1.2) would only cost time in every request.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

USUAL = ("score", "outcomes", "read", "command")
"""To score events; to tell outcomes; to see rollouts and metrics; to stop, promote, roll back and move them."""
RIGHTS = (*USUAL, "override")
"""And to choose the variant that decides, past assignment, share and guardrails: for tests, so it is in no key that does not name it."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")


class KeysError(Exception):
    """The file of keys cannot be used. The message says why, and what to do; never a key."""


@dataclass(frozen=True)
class Caller:
    """Who asks, by the key's name."""

    name: str
    rights: frozenset[str] = frozenset(RIGHTS)


@dataclass(frozen=True)
class Keys:
    callers: dict[bytes, Caller]
    """By the SHA-256 of the key."""

    @classmethod
    def read(cls, path: Path) -> Keys:
        """KeysError where the file is not there, others than its owner could read or change it, or a line is none. A file of no lines is nobody's."""
        try:
            mode = path.stat().st_mode
            text = path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise KeysError(f"{path}: {error}. `python -m include.gateway key NAME --keys {path}` makes one") from error
        if stat.S_IMODE(mode) & 0o077:
            raise KeysError(f"{path} can be read or changed by others than its owner: chmod 600 {path}")
        callers: dict[bytes, Caller] = {}
        for number, line in enumerate(text.splitlines(), 1):
            name, separator, rest = line.partition(":")
            words = rest.split()
            if not line.strip() or line.startswith("#"):
                continue
            if not separator or not _NAME.fullmatch(name.strip()) or not words or not _HASH.fullmatch(words[0]):
                raise KeysError(f"{path}, line {number} is not `name: SHA-256 in hexadecimal`, with what the key may behind it")
            if unknown := set(words[1:]) - set(RIGHTS):
                raise KeysError(f"{path}, line {number}: no right is called {min(unknown)!r}; there are {', '.join(RIGHTS)}")
            callers[bytes.fromhex(words[0])] = Caller(name.strip(), frozenset(words[1:] or USUAL))
        return cls(callers)

    def caller(self, key: str) -> Caller | None:
        """Whose key it is; None: nobody's. Takes as long for any key: every hash is compared, each in constant time."""
        given = hashlib.sha256(key.encode()).digest()
        found = None
        for stored, caller in self.callers.items():
            if hmac.compare_digest(stored, given):
                found = caller
        return found


def add_key(path: Path, name: str, rights: tuple[str, ...] = ()) -> str:
    """Makes a key, adds its hash to the file (made where it is absent) and returns the key, which is kept nowhere. KeysError for a name that
    is none, or taken."""
    if not _NAME.fullmatch(name):
        raise KeysError(f"{name!r} is no name: 1 to 64 letters, digits and . _ @ -")
    if path.exists() and name in {caller.name for caller in Keys.read(path).callers.values()}:
        raise KeysError(f"{path} has a key of {name} already: remove its line first, which takes it out of use")
    key = secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
        file.write(f"{' '.join([f'{name}:', hashlib.sha256(key.encode()).hexdigest(), *rights])}\n")
    return key


@dataclass
class TokenBucket:
    """``rate`` requests a second, as many at once. ``now``: seconds of a clock that never goes back."""

    rate: float
    _filled: dict[str, tuple[float, float]] = field(default_factory=dict)

    def wait(self, name: str, now: float) -> float:
        """Takes a token of that name and returns 0, or the seconds until there will be one."""
        tokens, since = self._filled.get(name, (max(self.rate, 1.0), now))
        tokens = min(max(self.rate, 1.0), tokens + (now - since) * self.rate)
        taken = tokens >= 1
        self._filled[name] = (tokens - taken, now)
        return 0.0 if taken else (1 - tokens) / self.rate
