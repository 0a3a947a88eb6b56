"""S3, as far as this project needs it: whole objects in and out, one put an object, so that a reader never sees half of one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.exceptions import ClientError


@dataclass(frozen=True)
class ObjectInfo:
    key: str
    size: int
    etag: str


class ObjectNotFoundError(KeyError):
    """No object under that key. The message is the object's URI."""


def split_uri(uri: str) -> tuple[str, str]:
    """``s3://bucket/a/b`` → ("bucket", "a/b"). ValueError for anything that is not an S3 URI."""
    parts = urlsplit(uri)
    if parts.scheme != "s3" or not parts.netloc:
        raise ValueError(f"{uri!r} is not an S3 URI (s3://bucket/key)")
    return parts.netloc, parts.path.lstrip("/")


class ObjectStore:
    """One bucket. ``kms_key``: encrypt what is written with that key; None leaves it to the bucket's default encryption."""

    def __init__(self, bucket: str, client: Any = None, kms_key: str | None = None) -> None:
        self.bucket = bucket
        self._client = client if client is not None else boto3.client("s3")
        self._encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms_key} if kms_key else {}

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    def key(self, uri: str) -> str:
        """The key of a URI of this bucket. ValueError for another bucket's."""
        bucket, key = split_uri(uri)
        if bucket != self.bucket:
            raise ValueError(f"{uri!r} lies outside the bucket {self.bucket!r}")
        return key

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key starts with ``prefix``, in the order of the keys."""
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                yield ObjectInfo(entry["Key"], entry["Size"], entry["ETag"].strip('"'))

    def exists(self, key: str) -> bool:
        try:
            self._client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in {"404", "NoSuchKey", "NotFound"}:
                return False
            raise
        return True

    def get(self, key: str) -> bytes:
        try:
            body: bytes = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in {"404", "NoSuchKey", "NotFound"}:
                raise ObjectNotFoundError(self.uri(key)) from error
            raise
        return body

    def put(self, key: str, body: bytes, content_type: str = "application/octet-stream") -> str:
        """Writes the object in one request and returns its URI."""
        self._client.put_object(Bucket=self.bucket, Key=key, Body=body, ContentType=content_type, **self._encryption)
        return self.uri(key)

    def get_json(self, key: str) -> Any:
        return json.loads(self.get(key))

    def put_json(self, key: str, value: Any) -> str:
        """Keys sorted, so that equal values are equal bytes."""
        text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return self.put(key, text.encode(), "application/json")

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self.bucket, Key=key)

    def download(self, key: str, path: Path) -> Path:
        """Streams the object into a file, making its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._client.download_file(self.bucket, key, str(path))
        return path

    def upload(self, path: Path, key: str) -> str:
        """Streams a file into an object (multipart where it is large; S3 shows it only when complete) and returns its URI."""
        self._client.upload_file(str(path), self.bucket, key, ExtraArgs=self._encryption or None)
        return self.uri(key)
