"""Moving data between S3 and job directories, by the rules that SageMaker documents.

``S3Prefix`` is a string prefix: every object whose key begins with it, placed by its key relative to the prefix. A
``ManifestFile`` lists a prefix and keys relative to it. Of archives, regular files and folders inside the target are
unpacked, and any other member is refused.
"""

from __future__ import annotations

import json
import logging
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .errors import JobFailed, ServiceError, validation

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

_PARALLEL = 4
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")  # what S3's own client accepts
_HOST = re.compile(r"[A-Za-z0-9.-]+(:\d+)?")
_READ_BYTES = 1024 * 1024
_MISSING_CODES = {"404", "NoSuchKey", "NoSuchBucket", "NotFound"}


@dataclass(frozen=True)
class Location:
    """A place in S3: bucket and key (or key prefix)."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> Location:
        """From ``s3://bucket/key`` or a path-style or virtual-hosted ``https://`` address; ValidationException if it is neither.

        The key of an ``s3://`` address is everything after the bucket: ``#``, ``?`` and ``%`` are ordinary characters of a key.
        """
        scheme, _, rest = uri.partition("://")
        host, _, path = rest.partition("/")
        if scheme == "s3":
            bucket, key = host, path
        elif ".s3." in host or ".s3-" in host:
            bucket, key = host.split(".s3", 1)[0], path
        else:
            bucket, _, key = path.partition("/")
        known = scheme == "s3" or (scheme == "https" and _HOST.fullmatch(host))
        if not known or not _BUCKET.fullmatch(bucket):
            raise validation(f"{uri!r} is not the address of a place in S3. Give s3://BUCKET/KEY.")
        return cls(bucket, key)

    def join(self, *names: str) -> Location:
        """A key below this one."""
        return Location(self.bucket, "/".join([part for part in (self.key.rstrip("/"), *names) if part]))

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class RemoteFile:
    """An object and where it goes, relative to the channel's directory."""

    location: Location
    name: str


class Storage:
    """S3 as the jobs' data plane."""

    def __init__(self, region: str) -> None:
        config = Config(retries={"max_attempts": 3, "mode": "standard"}, max_pool_connections=2 * _PARALLEL, connect_timeout=5)
        self._client: S3Client = boto3.client("s3", region_name=region, config=config)
        self._transfer = TransferConfig(max_concurrency=_PARALLEL)

    def exists(self, location: Location) -> bool:
        """Whether the object is there (a missing bucket counts as missing)."""
        if not location.key:
            return False
        try:
            self._client.head_object(Bucket=location.bucket, Key=location.key)
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING_CODES:
                return False
            raise
        return True

    def any_under(self, location: Location) -> bool:
        """Whether at least one object's key begins with the location's key."""
        try:
            return self._client.list_objects_v2(Bucket=location.bucket, Prefix=location.key, MaxKeys=1).get("KeyCount", 0) > 0
        except ClientError as error:
            if error.response["Error"]["Code"] in _MISSING_CODES:
                return False
            raise

    def keys_under(self, location: Location) -> Iterator[str]:
        """Every key that begins with the location's key, folder markers excepted."""
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=location.bucket, Prefix=location.key):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    yield item["Key"]

    def read(self, location: Location) -> bytes:
        """An object's content."""
        return self._client.get_object(Bucket=location.bucket, Key=location.key)["Body"].read()

    def files_of(self, uri: str, data_type: str) -> list[RemoteFile]:
        """The objects that an S3DataSource or S3Input names; JobFailed if there are none."""
        location = Location.parse(uri)
        try:
            files = self._manifest(location) if data_type == "ManifestFile" else self._prefix(location)
        except (ClientError, BotoCoreError) as error:
            raise JobFailed(f"ClientError: Failed to download data. {error} (S3 URL {uri})") from error
        if not files:
            raise JobFailed(f"ClientError: Failed to download data. No S3 objects found under S3 URL {uri}")
        return files

    def download(self, files: list[RemoteFile], target: Path) -> None:
        """Fetch every file below ``target``; JobFailed if one cannot be."""
        target.mkdir(parents=True, exist_ok=True)

        def fetch(file: RemoteFile) -> None:
            place = target / file.name
            if not place.resolve().is_relative_to(target.resolve()):
                raise JobFailed(f"ClientError: Failed to download data. The key {file.location} leads outside of the input directory")
            place.parent.mkdir(parents=True, exist_ok=True)
            self._client.download_file(file.location.bucket, file.location.key, str(place), Config=self._transfer)

        try:
            with ThreadPoolExecutor(_PARALLEL) as pool:
                list(pool.map(fetch, files))
        except (ClientError, BotoCoreError, OSError) as error:
            raise JobFailed(f"ClientError: Failed to download data. {error}") from error

    def download_file(self, location: Location, place: Path) -> None:
        """Fetch one object."""
        self._client.download_file(location.bucket, location.key, str(place), Config=self._transfer)

    def upload_file(self, path: Path, location: Location) -> None:
        """Put one file; JobFailed if S3 does not take it."""
        try:
            self._client.upload_file(str(path), location.bucket, location.key, Config=self._transfer)
        except (ClientError, BotoCoreError, Boto3Error) as error:
            raise JobFailed(f"ClientError: Failed to upload to {location}: {error}") from error

    def delete(self, location: Location) -> None:
        """Remove one object."""
        self._client.delete_object(Bucket=location.bucket, Key=location.key)

    def upload_directory(self, directory: Path, location: Location) -> int:
        """Put every regular file below a directory (symbolic links are not followed, as SageMaker documents); how many."""
        files = list(regular_files(directory))
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(lambda path: self.upload_file(path, location.join(path.relative_to(directory).as_posix())), files))
        return len(files)

    def _prefix(self, location: Location) -> list[RemoteFile]:
        return [RemoteFile(Location(location.bucket, key), _relative(key, location.key)) for key in self.keys_under(location)]

    def _manifest(self, location: Location) -> list[RemoteFile]:
        try:
            entries = json.loads(self.read(location))
        except ValueError as error:
            raise JobFailed(f"ClientError: Failed to download data. The manifest {location} is not JSON: {error}") from error
        well_formed = isinstance(entries, list) and entries and isinstance(entries[0], dict) and isinstance(entries[0].get("prefix"), str)
        if not well_formed or not all(isinstance(name, str) for name in entries[1:]):
            raise JobFailed(f'ClientError: Failed to download data. The manifest {location} must be [{{"prefix": "s3://…"}}, "key", …]')
        prefix: str = entries[0]["prefix"]
        try:
            return [RemoteFile(Location.parse(prefix + name), name.lstrip("/")) for name in entries[1:]]
        except ServiceError as error:
            raise JobFailed(f"ClientError: Failed to download data. In the manifest {location}: {error.message}") from error


def _relative(key: str, prefix: str) -> str:
    """Where an object goes: below the prefix as a folder, else below the prefix's last folder (``data/tr`` → ``train.csv``)."""
    folder = prefix if prefix.endswith("/") else prefix + "/"
    if prefix and key.startswith(folder):
        return key[len(folder) :]
    return key[prefix.rfind("/") + 1 :]


def regular_files(directory: Path) -> Iterator[Path]:
    """Every regular file below a directory, in order, links not followed; none if the directory is gone or itself a link."""
    if directory.is_symlink():
        return
    for root, folders, names in os.walk(directory):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                yield path


def pack(directory: Path, archive: Path) -> None:
    """A ``.tar.gz`` of the regular files and folders below a directory, at its root: what ``unpack`` takes; links are left out."""

    def storable(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if member.islnk():  # a further name of a file that the archive already has: stored as a file of its own
            member.type, member.size = tarfile.REGTYPE, (directory / member.name).stat().st_size
        elif not (member.isfile() or member.isdir()):
            log.warning("%s: %s is no regular file or folder and is left out", archive, member.name)
            return None
        return member

    present = directory.is_dir() and not directory.is_symlink()
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        for entry in sorted(directory.iterdir()) if present else []:
            tar.add(entry, arcname=entry.name, filter=storable)


def unpack(archive: Path, directory: Path) -> None:
    """Unpack a tar archive safely; JobFailed on a member that is not safe or an archive that is not one.

    By hand, because tarfile's own ``data`` filter is missing before Python 3.11.4, and Debian 12 has 3.11.2.
    """
    directory.mkdir(parents=True, exist_ok=True)
    root = directory.resolve()
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                if not (member.isfile() or member.isdir()) or not (root / member.name).resolve().is_relative_to(root):
                    raise tarfile.ExtractError(f"{member.name!r} is no regular file or folder inside the archive")
                tar.extract(member, root, set_attrs=False)
            while tar.fileobj is not None and tar.fileobj.read(_READ_BYTES):  # to the end, where the checksum is verified
                pass
    # a damaged archive may also give tarfile headers that it cannot read (ValueError)
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        raise JobFailed(f"ClientError: Failed to extract model data archive {archive.name}: {error}") from error
