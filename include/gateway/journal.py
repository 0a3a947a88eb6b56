"""An append-only log of lines on this machine's disk: what was appended stays, whatever is killed.

Lines are committed in groups: while one write and its fdatasync are under way, those that come wait, and go together in the next (group commit;
Gray and Reuter, Transaction Processing, 1993, §9.4.7). One connection pays for one fdatasync; many share it.

A segment is a file ``<writer>-<number>.log`` of lines ``<CRC-32 of the text, 8 hexadecimal digits> <text>\\n``. Only the last one is
written to; behind its lines there may be zeros. Reading drops those, and the half line before them that a crash left, which nobody was told
about. A whole line that fails its checksum is damage, for which the file is kept. A segment that was written to by a process that is gone is
closed, like those that were rolled.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

_log = logging.getLogger(__name__)
_NAME = re.compile(r"(?P<writer>[0-9a-z]+)-(?P<number>\d{6,})\.log")
_AHEAD = 64 * 1024
"""Bytes of zeros that are written behind the lines whenever the file has to grow: where it does not, fdatasync writes the lines and no new size,
which takes a third less time."""
_Group = list[tuple[bytes, asyncio.Future[None]]]


class JournalError(Exception):
    """A line could not be made durable. The message says why."""


class Journal:
    """``writer``: of this process, unique. To be made and used in one event loop, and ended with ``close``."""

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._writer = folder, writer
        self._closed = sorted(path for path in folder.glob("*.log") if _NAME.fullmatch(path.name))
        self._number = 0
        self._segment: Path | None = None
        self._file = -1
        self._size = self._zeroed = 0
        self._waiting: _Group = []
        self._committing = False
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "journal")  # the one that owns the file
        self.error: str | None = None
        """Why the last commit failed; None after one that did not."""
        self.damaged = sum(1 for _ in folder.glob("*.damaged"))
        """Segments that were kept aside."""

    @property
    def closed_segments(self) -> tuple[Path, ...]:
        """The oldest first."""
        return tuple(self._closed)

    @property
    def size(self) -> int:
        """Bytes in the segment that is written to."""
        return self._size

    async def append(self, text: bytes) -> None:
        """Returns once the line is on the disk. ``text``: without a line end. JournalError where it cannot be put there."""
        if self._ended:
            raise JournalError(f"{self._folder}: the log is closed")
        done: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((b"%08x %b\n" % (zlib.crc32(text), text), done))
        if not self._committing:
            self._commit_soon()
        await done

    async def try_again(self) -> None:
        """After a commit that failed: whether the disk takes something again. ``error`` says; what was written is no line to a reader."""
        if self.error is not None:
            with suppress(JournalError):
                await self.append(b"")

    async def roll(self) -> None:
        """Closes the segment that is written to, unless nothing is in it."""
        await self._loop.run_in_executor(self._thread, self._roll)

    def remove(self, segment: Path) -> None:
        """Forgets a closed segment, once its lines are elsewhere."""
        segment.unlink(missing_ok=True)
        self._closed.remove(segment)

    def set_aside(self, segment: Path) -> Path:
        """Keeps a closed segment for a person to look at, and returns its new path; to the log it is gone."""
        kept = segment.rename(segment.with_name(f"{segment.name}.damaged"))
        self._closed.remove(segment)
        self.damaged += 1
        return kept

    async def close(self) -> None:
        """Commits what waits, and closes the segment. Whatever is appended after it fails."""
        self._ended = True
        while self._committing:
            await self.roll()  # after what is under way: the thread does one thing after the other
        await self.roll()
        self._thread.shutdown()

    def _commit_soon(self) -> None:
        """Not at once: whoever appends in this turn of the loop, such as those that were answered just now, goes along."""
        self._committing = True
        self._loop.call_soon(self._commit)

    def _commit(self) -> None:
        """Hands all that waits to the thread."""
        group, self._waiting = self._waiting, []
        written = self._thread.submit(self._write, b"".join(line for line, _ in group))
        written.add_done_callback(lambda write: self._loop.call_soon_threadsafe(partial(self._committed, group, write)))

    def _committed(self, group: _Group, write: Future[None]) -> None:
        if (error := write.exception()) is None:
            self.error = None
        else:  # whatever it is, those that wait must get to know
            self.error = f"{self._folder}: {getattr(error, 'strerror', None) or error}"
        for _, done in group:
            if done.done():  # its request was cancelled
                continue
            if self.error:
                done.set_exception(JournalError(self.error))
            else:
                done.set_result(None)
        self._committing = False
        if self._waiting:
            self._commit_soon()

    def _write(self, lines: bytes) -> None:
        try:
            if self._segment is None:
                self._open()
            grows = self._size + len(lines) > self._zeroed
            rest, place = memoryview(lines + bytes(_AHEAD) if grows else lines), self._size
            while rest:
                written = os.pwrite(self._file, rest, place)
                rest, place = rest[written:], place + written
            os.fdatasync(self._file)
            self._size, self._zeroed = self._size + len(lines), max(self._zeroed, place)
        except BaseException:
            self._roll(even_if_empty=True)  # half a line may stand at the end: nothing may be written after it
            raise

    def _open(self) -> None:
        path = self._folder / f"{self._writer}-{self._number:06d}.log"
        self._number += 1
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self._segment = path
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name must survive, too
        finally:
            os.close(folder)

    def _roll(self, even_if_empty: bool = False) -> None:
        if self._segment is None or not (self._size or even_if_empty):
            return
        file, segment, size = self._file, self._segment, self._size
        self._segment, self._file = None, -1  # first: the number is another file's after any close, one that failed too
        self._size = self._zeroed = 0
        self._closed.append(segment)
        try:
            os.ftruncate(file, size)
        except OSError as error:
            _log.warning("%s: not cut to its size: %s", segment, error)
        try:
            os.close(file)
        except OSError as error:
            _log.warning("%s: closed with %s; what was committed is on the disk", segment, error)


def read_segment(path: Path) -> tuple[list[bytes], int]:
    """The texts of a segment's whole lines, and how many lines are damaged though they have an end: a process that was killed leaves none of that
    kind, and what somebody was told may be lost with them."""
    *lines, rest = path.read_bytes().split(b"\n")
    texts: list[bytes] = []
    damaged = 0
    for line in lines:
        checksum, _, text = line.partition(b" ")
        if len(checksum) != 8 or checksum != b"%08x" % zlib.crc32(text):
            damaged += 1
        elif text:
            texts.append(text)
    if rest.strip(b"\0"):
        _log.warning("%s: a crash cut off the last line, which nobody was told about", path)
    return texts, damaged
