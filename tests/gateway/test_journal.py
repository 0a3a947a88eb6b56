"""The log of decisions: what was appended is there, whatever happens to the process or the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from include.gateway.journal import Journal, JournalError, read_segment


def lines(folder: Path) -> list[bytes]:
    return [text for path in sorted(folder.glob("*.log")) for text in read_segment(path)[0]]


class Gate:
    """An fdatasync that waits until it is let through. ``synced``: how often it was called, ``passed``: how often it ended."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._open, self._real = threading.Event(), os.fdatasync
        self.synced = self.passed = 0
        patch.setattr(os, "fdatasync", self._sync)

    def _sync(self, file: int) -> None:
        self.synced += 1
        assert self._open.wait(20)
        self._real(file)
        self.passed += 1

    async def reached(self, times: int) -> None:
        while self.synced < times:
            await asyncio.sleep(0.001)

    def open(self) -> None:
        self._open.set()


def test_many_share_one_fsync_and_none_is_answered_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def run() -> None:
        journal = Journal(tmp_path, "a")
        first = asyncio.create_task(journal.append(b"line 0"))
        await gate.reached(1)
        others = [asyncio.create_task(journal.append(f"line {number}".encode())) for number in range(1, 500)]
        await asyncio.sleep(0.05)
        assert lines(tmp_path) == [b"line 0"], "it is written, the others wait for their turn"
        assert not any(task.done() for task in (first, *others)), "nobody is told before the disk has it"
        gate.open()
        await first
        assert gate.passed == 1
        await asyncio.gather(*others)
        assert gate.passed == 2
        assert lines(tmp_path) == [f"line {number}".encode() for number in range(500)]  # on the disk, in order, before it is closed
        await journal.close()

    asyncio.run(run())
    assert gate.synced == 2


def test_closing_commits_what_is_under_way_and_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def run() -> None:
        journal = Journal(tmp_path, "a")
        written = asyncio.create_task(journal.append(b"under way"))
        await gate.reached(1)
        waiting = asyncio.create_task(journal.append(b"waiting"))
        given_up = asyncio.create_task(journal.append(b"given up"))
        await asyncio.sleep(0)
        given_up.cancel()
        closing = asyncio.create_task(journal.close())
        await asyncio.sleep(0.05)
        assert not any(task.done() for task in (written, waiting, closing))
        gate.open()
        await asyncio.wait_for(asyncio.gather(written, waiting, closing), 10)
        with pytest.raises(JournalError, match="is closed"):
            await journal.append(b"too late")
        assert sorted(tmp_path.glob("*.log")) == list(journal.closed_segments), "and nothing is written to any more"

    asyncio.run(run())
    assert lines(tmp_path) == [b"under way", b"waiting", b"given up"]


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
    assert read_segment(segment) == ([b'{"a": 1}'], 0)
    segment.write_bytes(segment.read_bytes() + b"\0" * 4096)  # blocks that were never written
    assert read_segment(segment) == ([b'{"a": 1}'], 0)
    segment.write_bytes(b"garbage\n\n" + segment.read_bytes())
    assert read_segment(segment) == ([b'{"a": 1}'], 2), "no crash leaves a whole line that is damaged"


def test_a_flipped_bit_is_damage_wherever_it_is(tmp_path: Path) -> None:
    async def run() -> None:
        journal = Journal(tmp_path, "a")
        for text in (b"one", b"two", b"three"):
            await journal.append(text)
        await journal.close()

    asyncio.run(run())
    [segment] = tmp_path.glob("*.log")
    whole = segment.read_bytes()
    for place in range(len(whole)):
        segment.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        texts, damaged = read_segment(segment)
        cut = whole[place:] == b"\n"  # its last line end: that is what a crash leaves
        assert (damaged > 0 or cut, len(texts)) == (True, 1 if whole[place] == 10 and not cut else 2)
        assert set(texts) < {b"one", b"two", b"three"}


def test_a_full_disk_fails_those_that_wait_and_no_line_is_joined_to_a_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, full = os.pwrite, True

    def write(file: int, content: memoryview, place: int) -> int:
        if not full:
            return real(file, content, place)
        if place < 4:
            return real(file, content[:4], place)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", write)

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
    assert lines(tmp_path) == [b"kept"]


def test_a_segment_grows_seldom_and_ends_with_its_last_line(tmp_path: Path) -> None:
    """Each fdatasync of a file that has grown has its size to write, too."""

    async def run() -> list[int]:
        journal, sizes = Journal(tmp_path, "a"), []
        for _ in range(300):
            await journal.append(b"x" * 900)
            [segment] = tmp_path.glob("*.log")
            sizes.append(segment.stat().st_size)
        (tmp_path / "copy.log").write_bytes(segment.read_bytes())  # as a process that is killed now would leave it
        assert read_segment(tmp_path / "copy.log") == ([b"x" * 900] * 300, 0)
        (tmp_path / "copy.log").unlink()
        await journal.append(b"y" * 100_000)  # more than there is room for
        assert journal.size == 300 * 910 + 100_010
        await journal.close()
        return sizes

    sizes = asyncio.run(run())
    assert len(set(sizes)) <= 5
    assert lines(tmp_path) == [b"x" * 900] * 300 + [b"y" * 100_000]
    [segment] = tmp_path.glob("*.log")
    assert segment.stat().st_size == 300 * 910 + 100_010


def test_a_close_that_fails_leaves_no_number_of_another_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux has freed the number when close fails (close(2)): the next write of the log must not go to whoever has it now."""
    real, failing = os.close, True

    def close(file: int) -> None:
        real(file)
        if failing and threading.current_thread().name.startswith("journal"):
            raise OSError(errno.EIO, "Input/output error")

    async def run() -> None:
        nonlocal failing
        journal = Journal(tmp_path / "log", "a")
        failing = False
        await journal.append(b"one")
        failing = True
        await journal.roll()
        failing = False
        with open(tmp_path / "other", "wb", buffering=0):  # it gets the number that was freed
            await journal.append(b"two")
        assert (tmp_path / "other").read_bytes() == b""
        assert [path.name for path in journal.closed_segments] == ["a-000000.log"]
        await journal.close()

    monkeypatch.setattr(os, "close", close)
    asyncio.run(run())
    assert lines(tmp_path / "log") == [b"one", b"two"]


def test_whatever_fails_in_the_middle_of_a_line_nothing_is_joined_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, broken = os.pwrite, False

    def write(file: int, content: memoryview, place: int) -> int:
        if not broken:
            return real(file, content, place)
        real(file, content[:4], place)
        raise MemoryError

    monkeypatch.setattr(os, "pwrite", write)

    async def run() -> None:
        nonlocal broken
        journal = Journal(tmp_path, "a")
        await journal.append(b"one")
        broken = True
        with pytest.raises(JournalError):
            await journal.append(b"two")
        broken = False
        await journal.append(b"three")
        await journal.close()

    asyncio.run(run())
    assert lines(tmp_path) == [b"one", b"three"]
    assert [read_segment(path)[1] for path in sorted(tmp_path.glob("*.log"))] == [0, 0]
