"""An append-only log of lines on this machine's disk: what was appended stays, whatever is killed.

Lines are committed in groups: while one write and its fdatasync are under way, those that come wait, and go together in the next (group commit;
Gray and Reuter, Transaction Processing, 1993, §9.4.7). One connection pays for one fdatasync; many share it.

A segment is a file ``<writer>-<number>.log`` of lines ``<CRC-32 of the text, 8 hexadecimal digits> <text>\\n``. Only the last one is
written to. Reading drops whatever fails its checksum: the half line that a crash left, which nobody was told about. A segment that was
written to by a process that is gone is closed, like those that were rolled.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)
_NAME = re.compile(r"(?P<writer>[0-9a-z]+)-(?P<number>\d{6,})\.log")


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
        self._size = 0
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "journal")  # the one that owns the file
        self._committing = asyncio.create_task(self._commit())
        self.error: str | None = None
        """Why the last commit failed; None after one that did not."""

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
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((b"%08x %b\n" % (zlib.crc32(text), text), done))
        self._wake.set()
        await done

    async def try_again(self) -> None:
        """After a commit that failed: whether the disk takes something again. ``error`` says; what was written is no line to a reader."""
        if self.error is not None:
            with suppress(JournalError):
                await self.append(b"")

    async def roll(self) -> None:
        """Closes the segment that is written to, unless nothing is in it."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._roll)

    def remove(self, segment: Path) -> None:
        """Forgets a closed segment, once its lines are elsewhere."""
        segment.unlink(missing_ok=True)
        self._closed.remove(segment)

    async def close(self) -> None:
        """Commits what waits, and closes the segment."""
        while self._waiting:
            await asyncio.sleep(0.001)
        self._committing.cancel()
        await self.roll()
        self._thread.shutdown()

    async def _commit(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            group, self._waiting = self._waiting, []
            if not group:
                continue
            try:
                await loop.run_in_executor(self._thread, self._write, b"".join(line for line, _ in group))
                self.error = None
            except Exception as error:  # whatever it is, those that wait must get to know
                self.error = f"{self._folder}: {getattr(error, 'strerror', None) or error}"
            for _, done in group:
                if done.done():  # its request was cancelled
                    continue
                if self.error:
                    done.set_exception(JournalError(self.error))
                else:
                    done.set_result(None)

    def _write(self, lines: bytes) -> None:
        try:
            if self._segment is None:
                self._open()
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fdatasync(self._file)
            self._size += len(lines)
        except OSError:
            self._roll(even_if_empty=True)  # half a line may stand at the end: nothing may be written after it
            raise

    def _open(self) -> None:
        self._segment = self._folder / f"{self._writer}-{self._number:06d}.log"
        self._number += 1
        self._file = os.open(self._segment, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o600)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name must survive, too
        finally:
            os.close(folder)

    def _roll(self, even_if_empty: bool = False) -> None:
        if self._segment is None or not (self._size or even_if_empty):
            return
        if self._file >= 0:
            os.close(self._file)
        if self._segment.exists():
            self._closed.append(self._segment)
        self._segment, self._file, self._size = None, -1, 0


def read_segment(path: Path) -> Iterator[bytes]:
    """The texts of a segment's whole lines."""
    *lines, rest = path.read_bytes().split(b"\n")
    damaged = int(bool(rest))
    for line in lines:
        checksum, _, text = line.partition(b" ")
        if len(checksum) != 8 or checksum != b"%08x" % zlib.crc32(text):
            damaged += 1
        elif text:
            yield text
    if damaged:
        _log.warning("%s: %d damaged lines were dropped: a crash leaves one at the end, which nobody was told about", path, damaged)
