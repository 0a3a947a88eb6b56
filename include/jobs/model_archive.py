"""A model from its ``model.tar.gz`` in S3: fetched, unpacked with care, and asked whether it belongs to the domain."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from pathlib import Path

from include.jobs import model_file
from include.jobs.context import JobError
from include.lifecycle.domain import Domain
from include.stores.objects import ObjectNotFoundError, ObjectStore

_CHUNK = 1 << 20


def open_model(objects: ObjectStore, uri: str, folder: Path, domain: Domain) -> model_file.Model:
    """The model of the archive, unpacked into ``folder``. JobError where it is not there, damaged, or another domain's."""
    archive = download(objects, uri, folder / "model.tar.gz")
    try:
        with gzip.open(archive) as unzipped, tarfile.open(fileobj=unzipped, mode="r:") as content:
            for member in content:  # by hand: tarfile's own "data" filter is missing before Python 3.11.4
                if not member.isfile() or not (folder / member.name).resolve().is_relative_to(folder.resolve()):
                    raise tarfile.ExtractError(f"{member.name!r} is no regular file inside the archive")
                content.extract(member, folder, set_attrs=False)
            while unzipped.read(_CHUNK):  # tarfile stops before the end, where gzip's checksum is
                pass
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise JobError(f"{uri} cannot be unpacked: {error}") from error
    try:
        model = model_file.load(folder)
    except JobError as error:
        raise JobError(f"{uri}: {error}") from error
    if model.description.domain != domain.name:
        raise JobError(f"{uri} is a model of domain {model.description.domain!r}, not {domain.name!r}")
    return model


def download(objects: ObjectStore, uri: str, path: Path) -> Path:
    """The object as a file, its folder made. JobError where there is none, or it lies outside the bucket."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(objects.get(objects.key(uri)))
    except ObjectNotFoundError as error:
        raise JobError(f"{uri} does not exist") from error
    except ValueError as error:
        raise JobError(str(error)) from error
    return path
