"""Which command stands for which container image.

``--images FILE.json`` holds ``{"<image uri>": {"command": [...], "working_directory": "/abs", "environment": {...},
"preload": ["pandas", ...]}}``: the command is the image's ENTRYPOINT, the environment its ENV, the directory its WORKDIR.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_MEMBERS = {"command", "working_directory", "environment", "preload"}


@dataclass(frozen=True)
class Image:
    """One image: how to start a process that behaves as a container of it would."""

    uri: str
    command: tuple[str, ...]
    working_directory: str
    environment: Mapping[str, str] = field(default_factory=dict)
    preload: tuple[str, ...] = ()

    @property
    def interpreter(self) -> str | None:
        """The image's Python, if its command starts with one."""
        name = os.path.basename(self.command[0]) if self.command else ""
        return self.command[0] if name.startswith("python") else None

    @property
    def base_environment(self) -> dict[str, str]:
        """ENV of the image, with the PATH that finds its own interpreter first."""
        places = [os.path.dirname(self.command[0])] if os.path.isabs(self.command[0]) else []
        path = os.pathsep.join([*places, "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"])
        return {"PATH": path, "LANG": "C.UTF-8", **self.environment}


def load_images(path: Path) -> dict[str, Image]:
    """The images of a file; a ValueError says what is wrong with it."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be an object of image URI -> image")
    return {uri: _image(path, uri, entry) for uri, entry in content.items()}


def _image(path: Path, uri: str, entry: object) -> Image:
    where = f"{path}: image {uri!r}"
    if not isinstance(entry, dict) or set(entry) - _MEMBERS:
        raise ValueError(f"{where}: must be an object with members among {sorted(_MEMBERS)}")
    command, environment, preload = entry.get("command"), entry.get("environment", {}), entry.get("preload", [])
    if not isinstance(command, list) or not _strings(command) or not command:
        raise ValueError(f"{where}: 'command' must be a non-empty list of strings")
    if not isinstance(environment, dict) or not _strings(list(environment.values())):
        raise ValueError(f"{where}: 'environment' must map names to strings")
    if not _strings(preload):
        raise ValueError(f"{where}: 'preload' must be a list of module names")
    directory = entry.get("working_directory", "/")
    if not isinstance(directory, str) or not os.path.isdir(directory):
        raise ValueError(f"{where}: 'working_directory' {directory!r} is not a directory")
    return Image(uri, tuple(command), os.path.abspath(directory), environment, tuple(preload))


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
