"""What AWS accepts: requests checked against botocore's own SageMaker service model.

botocore's client-side validator leaves ``pattern``, ``max`` and ``enum`` to the service, so a server has to enforce
them: what runs here should not be refused later by AWS. Requests are checked as they arrive on the wire (JSON 1.1) and
refused with SageMaker's own wording, for example::

    1 validation error detected: Value 'a_b' at 'trainingJobName' failed to satisfy constraint:
    Member must satisfy regular expression pattern: ...
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any, TypeVar

import botocore.loaders
from botocore.model import ListShape, MapShape, ServiceModel, Shape, StructureShape

from .errors import ServiceError, validation

_T = TypeVar("_T")
_SURROGATE_PAIRS = r"\uD800\uDC00-\uDBFF\uDFFF"
_JAVA_CLASSES = {"Alnum": "a-zA-Z0-9", "ASCII": r"\x00-\x7F", "Print": r"\x20-\x7E"}
_MAX_SHOWN_ERRORS = 10
_LARGEST = {"integer": 2**31 - 1, "long": 2**63 - 1, "float": (2 - 2**-23) * 2.0**127, "double": sys.float_info.max}


class Operations:
    """The operations of one service, as botocore ships them."""

    def __init__(self, service: str = "sagemaker") -> None:
        self._model = ServiceModel(botocore.loaders.Loader().load_service_model(service, "service-2"), service)
        self.names: frozenset[str] = frozenset(self._model.operation_names)
        self.target_prefix: str = self._model.metadata.get("targetPrefix", "")

    def check(self, operation: str, request: object) -> dict[str, Any]:
        """The request, if AWS would accept its shape; otherwise a ServiceError naming the member and the constraint.

        Members that are null count as absent, as in AWS's JSON protocol, and whole numbers are given as int (``1.0`` → ``1``).
        """
        if not isinstance(request, dict):
            raise ServiceError("SerializationException", "The request body must be a JSON object")
        shape = self._model.operation_model(operation).input_shape
        if shape is None:
            return request
        problems = list(_problems(shape, request, ""))
        if problems:
            count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected: "
            raise validation(count + "; ".join(problems[:_MAX_SHOWN_ERRORS]))
        found: dict[str, Any] = _canonical(shape, request)
        return found

    def project(self, operation: str, document: dict[str, Any]) -> dict[str, Any]:
        """The members of ``document`` that the operation's response documents."""
        shape = self._model.operation_model(operation).output_shape
        if not isinstance(shape, StructureShape):
            return {}
        return {name: document[name] for name in shape.members if name in document}

    def members(self, shape_name: str) -> frozenset[str]:
        """The member names of a structure, for summaries in List* responses."""
        shape = self._model.shape_for(shape_name)
        return frozenset(shape.members) if isinstance(shape, StructureShape) else frozenset()


def _canonical(shape: Shape, value: Any) -> Any:
    if isinstance(shape, StructureShape):
        return {name: _canonical(shape.members[name], item) for name, item in value.items() if item is not None}
    if isinstance(shape, ListShape):
        return [_canonical(shape.member, item) for item in value]
    if isinstance(shape, MapShape):
        return {key: _canonical(shape.value, item) for key, item in value.items()}
    return int(value) if shape.type_name in {"integer", "long"} else value


def _path(parent: str, member: str) -> str:
    camel = member[:1].lower() + member[1:]
    return f"{parent}.{camel}" if parent else camel


def _failed(path: str, value: object, constraint: str) -> str:
    shown = "null" if value is None else f"'{_shown(value)}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {constraint}"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 300 else text[:300] + "..."


def _problems(shape: Shape, value: object, path: str) -> Iterator[str]:
    kind = shape.type_name
    if isinstance(shape, StructureShape):
        yield from _structure_problems(shape, _typed(value, dict, "Structure", path), path)
    elif isinstance(shape, ListShape):
        items = _typed(value, list, "List", path)
        yield from _length_problems(shape, len(items), items, path)
        for position, item in enumerate(items, start=1):
            yield from _problems(shape.member, item, f"{path}.{position}.member")
    elif isinstance(shape, MapShape):
        yield from _map_problems(shape, _typed(value, dict, "Map", path), path)
    elif kind == "string":
        yield from _string_problems(shape, _typed(value, str, "String", path), path)
    elif kind in {"integer", "long", "float", "double"}:
        yield from _number_problems(shape, value, path)
    elif kind == "boolean":
        _typed(value, bool, "Boolean", path)
    elif kind == "timestamp":
        _number(value, sys.float_info.max, "Timestamp (seconds since 1970)", path)
    elif kind == "blob":
        try:
            base64.b64decode(_typed(value, str, "Blob", path), validate=True)
        except binascii.Error as error:
            raise _wrong_type(value, "Blob (base64)", path) from error


def _typed(value: object, expected: type[_T], name: str, path: str) -> _T:
    if not isinstance(value, expected):
        raise _wrong_type(value, name, path)
    return value


def _wrong_type(value: object, expected: str, path: str) -> ServiceError:
    return ServiceError("SerializationException", f"'{path or 'request'}' must be of type {expected}, not {type(value).__name__}")


def _structure_problems(shape: StructureShape, value: dict[str, Any], path: str) -> Iterator[str]:
    for name in value:
        if name not in shape.members:
            yield f"Unknown member '{_path(path, name)}': {shape.name} has no member {name}"
    for name in shape.required_members:
        if value.get(name) is None:
            yield _failed(_path(path, name), None, "Member must not be null")
    if shape.is_tagged_union and sum(item is not None for item in value.values()) != 1:
        yield _failed(path, value, f"Exactly one member of the union {shape.name} must be set")
    for name, member in shape.members.items():
        if value.get(name) is not None:
            yield from _problems(member, value[name], _path(path, name))


def _map_problems(shape: MapShape, value: dict[str, Any], path: str) -> Iterator[str]:
    yield from _length_problems(shape, len(value), value, path)
    for key, item in value.items():
        for problem in _problems(shape.key, key, path):
            yield problem.replace("constraint: ", "constraint: Map keys must satisfy constraint: ", 1)
        if item is None:
            yield _failed(f"{path}.{key}.member", None, "Member must not be null")
        else:
            for problem in _problems(shape.value, item, f"{path}.{key}.member"):
                yield problem.replace("constraint: ", "constraint: Map value must satisfy constraint: ", 1)


def _length_problems(shape: Shape, length: int, value: object, path: str) -> Iterator[str]:
    smallest, largest = shape.metadata.get("min"), shape.metadata.get("max")
    if smallest is not None and length < smallest:
        yield _failed(path, value, f"Member must have length greater than or equal to {smallest}")
    if largest is not None and length > largest:
        yield _failed(path, value, f"Member must have length less than or equal to {largest}")


def _string_problems(shape: Shape, value: str, path: str) -> Iterator[str]:
    allowed = shape.metadata.get("enum")
    if allowed and value not in allowed:
        yield _failed(path, value, f"Member must satisfy enum value set: [{', '.join(allowed)}]")
    lengths = list(_length_problems(shape, len(value), value, path))
    yield from lengths
    pattern = shape.metadata.get("pattern")
    # a value that is too long is not matched: its length is already refused, and matching time stays bounded
    if pattern and not lengths and not java_pattern(pattern).fullmatch(value):
        yield _failed(path, value, f"Member must satisfy regular expression pattern: {pattern}")


def _number_problems(shape: Shape, value: object, path: str) -> Iterator[str]:
    whole = shape.type_name in {"integer", "long"}
    number = _number(value, _LARGEST[shape.type_name], "Integer" if whole else "Number", path)
    if whole and int(number) != number:
        raise _wrong_type(value, "Integer", path)
    smallest, largest = shape.metadata.get("min"), shape.metadata.get("max")
    if smallest is not None and number < smallest:
        yield _failed(path, value, f"Member must have value greater than or equal to {smallest}")
    if largest is not None and number > largest:
        yield _failed(path, value, f"Member must have value less than or equal to {largest}")


def _number(value: object, largest: float, name: str, path: str) -> int | float:
    """A finite number that the type can hold (JSON's ``1e400`` is read as infinity)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(value, name, path)
    if not -largest <= value <= largest:  # false for NaN as well
        raise ServiceError("SerializationException", f"'{path}' is out of the range of the type {name}")
    return value


@functools.cache
def java_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern of the service model, which is written for Java, as Python's ``re`` understands it."""
    translated = pattern.replace(_SURROGATE_PAIRS, r"\U00010000-\U0010FFFF").replace(r"\z", r"\Z")
    translated = re.sub(r"\$\{\d+,\d+\}$", "$", translated)  # "${1,128}" in the model: Java repeats the anchor, Python refuses to
    inside = False
    pieces: list[str] = []
    position = 0
    while position < len(translated):
        found = re.compile(r"\\p\{(\w+)\}").match(translated, position)
        if found:
            ranges = _class_ranges(found[1])
            pieces.append(ranges if inside else f"[{ranges}]")
            position = found.end()
            continue
        character = translated[position]
        if character == "\\":
            pieces.append(translated[position : position + 2])
            position += 2
            continue
        if character == "[" and not inside:
            inside = True
        elif character == "]" and inside:
            inside = False
        pieces.append(character)
        position += 1
    return re.compile("".join(pieces), re.ASCII)


def _class_ranges(name: str) -> str:
    return _JAVA_CLASSES.get(name) or _category_ranges(name)


@functools.cache
def _category_ranges(initial: str) -> str:
    """All code points of a Unicode general category (L, M, N, P, S, Z) as ranges for a character class."""
    ranges: list[str] = []
    start: int | None = None
    for code in range(sys.maxunicode + 2):
        belongs = code <= sys.maxunicode and unicodedata.category(chr(code))[0] == initial
        if belongs and start is None:
            start = code
        elif not belongs and start is not None:
            ranges.append(f"\\U{start:08X}-\\U{code - 1:08X}")
            start = None
    return "".join(ranges)
