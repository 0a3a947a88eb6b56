"""Addresses in S3, and archives: what is packed can be unpacked, and what is damaged is refused."""

from __future__ import annotations

import lzma
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from include.local_sagemaker.errors import JobFailed, ServiceError
from include.local_sagemaker.s3 import Location, pack, unpack


@pytest.mark.parametrize(
    ("uri", "bucket", "key"),
    [
        ("s3://b/a#part=1/x", "b", "a#part=1/x"),
        ("s3://b/a?b=c/%20d", "b", "a?b=c/%20d"),
        ("s3://b//a", "b", "/a"),
        ("s3://b", "b", ""),
        ("https://s3.us-east-1.amazonaws.com/b/a/x", "b", "a/x"),
        ("https://b.s3.us-east-1.amazonaws.com/a/x", "b", "a/x"),
    ],
)
def test_addresses(uri: str, bucket: str, key: str) -> None:
    assert Location.parse(uri) == Location(bucket, key)


@pytest.mark.parametrize("uri", ["s3://", "s3:///a", "https://[", "https://host", "b/a", "ftp://h/b/a", "s3://b c/a", ""])
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(ServiceError, match="is not the address of a place in S3") as caught:
        Location.parse(uri)
    assert caught.value.code == "ValidationException"


def files(directory: Path) -> dict[str, bytes]:
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_what_is_packed_can_be_unpacked(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "deep").mkdir(parents=True)
    (model / "deep/weights").write_bytes(b"1234")
    os.link(model / "deep/weights", model / "same-weights")
    (model / "link").symlink_to("/etc/hostname")
    (model / "deep/link").symlink_to("weights")
    pack(model, tmp_path / "model.tar.gz")
    unpack(tmp_path / "model.tar.gz", tmp_path / "out")
    assert files(tmp_path / "out") == {"deep/weights": b"1234", "same-weights": b"1234"}


def test_a_directory_that_is_gone_or_a_link_is_packed_as_empty(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    for name in ("gone", "link"):
        pack(tmp_path / name, tmp_path / f"{name}.tar.gz")
        unpack(tmp_path / f"{name}.tar.gz", tmp_path / f"out-{name}")
        assert files(tmp_path / f"out-{name}") == {}


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("where", [0.0, 0.01, 0.3, 0.7, 1.0])
def test_a_flipped_byte_is_found(tmp_path: Path, compression: str, where: float) -> None:
    (tmp_path / "weights").write_bytes(np.random.default_rng(0).bytes(100_000))
    archive = tmp_path / "model.tar"
    with tarfile.open(archive, f"w:{compression}") as tar:  # type: ignore[call-overload]
        tar.add(tmp_path / "weights", arcname="weights")
    content = bytearray(archive.read_bytes())
    unpack(archive, tmp_path / "whole")
    assert files(tmp_path / "whole") == {"weights": (tmp_path / "weights").read_bytes()}
    content[int(where * (len(content) - 10))] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(JobFailed, match="Failed to extract model data archive"):
        unpack(archive, tmp_path / "damaged")


@pytest.mark.parametrize("kept", [0.5, 0.999])
@pytest.mark.parametrize("compression", ["gz", "xz"])
def test_a_truncated_archive_is_refused(tmp_path: Path, compression: str, kept: float) -> None:
    (tmp_path / "weights").write_bytes(np.random.default_rng(0).bytes(100_000))
    archive = tmp_path / "model.tar"
    with tarfile.open(archive, f"w:{compression}") as tar:  # type: ignore[call-overload]
        tar.add(tmp_path / "weights", arcname="weights")
    content = archive.read_bytes()
    archive.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(JobFailed, match="Failed to extract model data archive"):
        unpack(archive, tmp_path / "damaged")


def test_xz_data_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model.tar.xz").write_bytes(lzma.compress(b"no tar archive"))
    with pytest.raises(JobFailed):
        unpack(tmp_path / "model.tar.xz", tmp_path / "out")
