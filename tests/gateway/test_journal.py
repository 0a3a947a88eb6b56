"""The log of decisions: what was appended is there, whatever happens to the process or the disk."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from include.gateway.journal import Journal, JournalError, read_segment


def lines(folder: Path) -> list[bytes]:
    return [text for path in sorted(folder.glob("*.log")) for text in read_segment(path)]


def test_many_share_one_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: (synced.append(file), real(file))[1])

    async def run() -> None:
        journal = Journal(tmp_path, "a")
        await asyncio.gather(*(journal.append(f"line {number}".encode()) for number in range(500)))
        assert lines(tmp_path) == [f"line {number}".encode() for number in range(500)]  # on the disk, in order, before it is closed
        await journal.close()

    asyncio.run(run())
    assert 1 <= len(synced) < 50


def test_segments_are_kept_until_they_are_removed(tmp_path: Path) -> None:
    async def run() -> None:
        journal = Journal(tmp_path, "a")
        await journal.roll()
        assert journal.closed_segments == ()
        for text in (b"one", b"two"):
            await journal.append(text)
            await journal.roll()
        await journal.append(b"three")
        assert [path.name for path in journal.closed_segments] == ["a-000000.log", "a-000001.log"]
        journal.remove(journal.closed_segments[0])
        assert lines(tmp_path) == [b"two", b"three"]
        await journal.close()
        later = Journal(tmp_path, "b")
        assert [path.name for path in later.closed_segments] == ["a-000001.log", "a-000002.log"]
        await later.append(b"four")
        assert lines(tmp_path) == [b"two", b"three", b"four"]
        await later.close()

    asyncio.run(run())


@pytest.mark.parametrize("cut", range(1, 15))
def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path, cut: int) -> None:
    async def run() -> None:
        journal = Journal(tmp_path, "a")
        for text in (b'{"a": 1}', b'{"b": 2}'):
            await journal.append(text)
        await journal.close()

    asyncio.run(run())
    [segment] = tmp_path.glob("*.log")
    segment.write_bytes(segment.read_bytes()[:-cut])
    assert list(read_segment(segment)) == [b'{"a": 1}']
    segment.write_bytes(b"garbage\n\n" + segment.read_bytes() + b"\0" * 4096)  # blocks that were never written
    assert list(read_segment(segment)) == [b'{"a": 1}']


def test_a_full_disk_fails_those_that_wait_and_no_line_is_joined_to_a_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, full = os.write, True

    def write(file: int, content: memoryview) -> int:
        if not full:
            return real(file, content)
        if len(content) > 4:
            return real(file, content[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)

    async def run() -> None:
        nonlocal full
        journal = Journal(tmp_path, "a")
        for text in (b"lost", b"lost, too"):
            with pytest.raises(JournalError, match="No space left"):
                await journal.append(text)
        assert "No space left" in str(journal.error)
        await journal.try_again()
        assert journal.error
        full = False
        await journal.try_again()
        assert journal.error is None
        await journal.append(b"kept")
        assert journal.error is None
        await journal.close()

    asyncio.run(run())
    assert b"kept" in lines(tmp_path)
    assert set(lines(tmp_path)) <= {b"kept", b"lost", b"lost, too"}
