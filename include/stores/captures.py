"""Captured requests and answers of a domain's endpoints: where they lie, and which model each variant served.

::

    captured/<configuration>/variants.json                                     {variant: {"model_package": ARN, "model": S3 URI}}
    captured/<configuration>/<endpoint>/<variant>/yyyy/mm/dd/hh/<file>.jsonl   written by SageMaker; the hour is that of the invocations
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.stores.layout import Layout
    from include.stores.objects import ObjectStore

_KEY = re.compile(r"(?P<configuration>[^/]+)/(?P<endpoint>[^/]+)/(?P<variant>[^/]+)/(?P<hour>\d{4}/\d\d/\d\d/\d\d)/(?P<name>[^/]+\.jsonl)")
_SERVED = "variants.json"


@dataclass(frozen=True)
class ServedModel:
    """A variant's model: its registered package (ARN), and the S3 URI of its model.tar.gz."""

    model_package: str
    model: str


@dataclass(frozen=True)
class CaptureFile:
    """``key``, ``etag``, ``size``: of the object. ``hour``: the UTC hour of the invocations in it. ``path``: what the key says, but for the day."""

    key: str
    etag: str
    size: int
    configuration: str
    variant: str
    hour: datetime
    path: str

    @property
    def day(self) -> date:
        return self.hour.date()


def put_served_models(objects: ObjectStore, prefix: str, served: Mapping[str, ServedModel]) -> str:
    """Writes which models a configuration's variants serve; ``prefix``: ``Layout.captured`` of it. Returns the URI."""
    return objects.put_json(f"{prefix}/{_SERVED}", {variant: asdict(model) for variant, model in served.items()})


class Captures:
    def __init__(self, objects: ObjectStore, layout: Layout) -> None:
        self._objects = objects
        self._layout = layout

    def files(self, configuration: str | None = None) -> list[CaptureFile]:
        """Every capture file, or those of one configuration, in the order of the hours and keys."""
        return sorted(self._all(configuration), key=lambda file: (file.hour, file.key))

    def _all(self, configuration: str | None) -> Iterator[CaptureFile]:
        root = self._layout.captured("")
        for info in self._objects.list(root if configuration is None else f"{root}{configuration}/"):
            if match := _KEY.fullmatch(info.key.removeprefix(root)):
                try:
                    hour = datetime.strptime(match["hour"], "%Y/%m/%d/%H").replace(tzinfo=UTC)
                except ValueError:  # 2026/02/31: nothing that SageMaker wrote
                    continue
                path = "/".join([match["configuration"], match["endpoint"], match["variant"], match["hour"][-2:], match["name"]])
                yield CaptureFile(info.key, info.etag, info.size, match["configuration"], match["variant"], hour, path)

    def served_models(self, configuration: str) -> dict[str, ServedModel] | None:
        """Variant → its model; None where nothing says so. ValueError where what is there does not."""
        from include.stores.objects import ObjectNotFoundError

        key = f"{self._layout.captured(configuration)}/{_SERVED}"
        try:
            content = self._objects.get_json(key)
            return {variant: ServedModel(**model) for variant, model in content.items()}
        except ObjectNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f'{self._objects.uri(key)} is not {{variant: {{"model_package", "model"}}}}: {error}') from error
