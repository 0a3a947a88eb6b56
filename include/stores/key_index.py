"""Which keys lie in which objects, so that a run finds the few that matter to it without reading the others.

One Parquet object holds one row for each indexed object: ``name``, ``etag``, ``paths`` (the landed files that its rows came from), and its
keys, as numbers, in runs of consecutive ones: ``first`` and ``more`` (how many follow). Keys that count up, as those of most sources do, make a
run a day, whatever the volume; keys without an order cost 4 to 5 bytes each (a sorted list of hashes, delta-encoded).

An index is a cache. An entry counts only while its ETag is the object's, so an index that is old, damaged or gone costs the reading of what it
does not know, and never an outcome.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from include.stores.objects import ObjectNotFoundError, ObjectStore

_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("etag", pa.string()),
        ("paths", pa.list_(pa.field("element", pa.string()))),
        ("first", pa.list_(pa.field("element", pa.int64()))),
        ("more", pa.list_(pa.field("element", pa.int64()))),
    ],
    metadata={"key_index": "1"},
)
_DELTAS = dict.fromkeys(("first.list.element", "more.list.element"), "DELTA_BINARY_PACKED")


@dataclass(frozen=True)
class Keys:
    """What one object holds. ``numbers``: its keys as 64-bit integers, sorted, each once."""

    numbers: np.ndarray
    paths: frozenset[str] = frozenset()


class KeyIndex:
    """The index object ``key``, of the objects listed in ``versions`` (name → ETag)."""

    def __init__(self, objects: ObjectStore, key: str, versions: Mapping[str, str]) -> None:
        self._objects = objects
        self._key = key
        self._stored: bytes | None = None
        loaded = self._load()
        current = [versions.get(name) == etag for name, etag in zip(loaded["name"].to_pylist(), loaded["etag"].to_pylist(), strict=True)]
        self._rows = loaded.filter(pa.array(current, pa.bool_()))
        self.unknown = set(versions) - set(self._rows["name"].to_pylist())
        """Objects of which the index knows nothing: whoever asks it must read them, and ``put`` what they hold."""

    def _load(self) -> pa.Table:
        try:
            self._stored = self._objects.get(self._key)
            rows = pq.read_table(pa.BufferReader(self._stored), page_checksum_verification=True)
            lengths = [pc.list_value_length(rows[name]) for name in ("first", "more")]
            if (
                rows.schema.equals(_SCHEMA, check_metadata=True)
                and lengths[0].equals(lengths[1])
                and not pc.any(pc.is_null(rows["etag"])).as_py()
            ):
                return rows
        except (ObjectNotFoundError, pa.ArrowException, OSError, KeyError, ValueError):
            pass
        return _SCHEMA.empty_table()

    def holding(self, numbers: np.ndarray) -> set[str]:
        """Names of the objects that hold one of these keys (sorted numbers), as far as the index knows."""
        rows = self._rows.combine_chunks()
        if not len(numbers) or not rows.num_rows:
            return set()
        first, more = (pc.list_flatten(rows[name]).to_numpy() for name in ("first", "more"))
        following = np.searchsorted(numbers, first)  # the smallest of the keys asked for that is not below the run
        hit = following < len(numbers)
        hit[hit] = numbers[following[hit]] <= first[hit] + more[hit]
        return set(rows["name"].take(pc.unique(pc.list_parent_indices(rows["first"]).filter(pa.array(hit)))).to_pylist())

    def made_from(self, paths: Collection[str]) -> set[str]:
        """Names of the objects that hold rows of these landed files, as far as the index knows."""
        wanted = pc.is_in(pc.list_flatten(self._rows["paths"]), pa.array(sorted(paths), pa.string()))
        return set(self._rows["name"].take(pc.unique(pc.list_parent_indices(self._rows["paths"]).filter(wanted))).to_pylist())

    def put(self, held: Mapping[str, Keys], versions: Mapping[str, str]) -> None:
        """Enters what these objects hold, and takes out what is not in ``versions`` (name → ETag)."""
        added = pa.Table.from_pylist([_row(name, versions[name], keys) for name, keys in held.items() if name in versions], _SCHEMA)
        names = self._rows["name"]
        kept = pc.and_(
            pc.is_in(names, pa.array(list(versions), pa.string())), pc.invert(pc.is_in(names, pa.array(list(held), pa.string())))
        )
        self._rows = pa.concat_tables([self._rows.filter(kept), added]).sort_by("name")
        self.unknown -= set(held)

    def save(self) -> None:
        """Writes the index, unless that is what is stored already. Equal entries are equal bytes."""
        if not self._rows.num_rows:
            if self._stored is not None:
                self._objects.delete(self._key)
            return
        stream = pa.BufferOutputStream()
        rows = self._rows.combine_chunks().replace_schema_metadata(_SCHEMA.metadata)
        pq.write_table(
            rows, stream, compression="zstd", use_dictionary=["paths.list.element"], column_encoding=_DELTAS, write_page_checksum=True
        )
        body = stream.getvalue().to_pybytes()
        if body != self._stored:
            self._objects.put(self._key, body, "application/vnd.apache.parquet")


def keys_by_object(names: Iterable[str], numbers: pa.Table, paths: pa.Table) -> dict[str, Keys]:
    """For each of ``names`` what it holds, from (name, number) sorted, each once, and (name, path)."""
    found_paths: dict[str, set[str]] = {}
    for name, path in zip(paths["name"].to_pylist(), paths["path"].to_pylist(), strict=True):
        found_paths.setdefault(name, set()).add(path)
    counts = {entry["values"]: entry["counts"] for entry in pc.value_counts(numbers["name"]).to_pylist()}
    every = numbers["number"].to_numpy()
    held, offset = {}, 0
    for name in sorted(names):
        held[name] = Keys(every[offset : offset + counts.get(name, 0)], frozenset(found_paths.get(name, ())))
        offset += counts.get(name, 0)
    return held


def _row(name: str, etag: str, keys: Keys) -> dict[str, object]:
    starts = np.flatnonzero(np.diff(keys.numbers, prepend=keys.numbers[:1] - 2) != 1)
    first = keys.numbers[starts]
    more = np.diff(starts, append=len(keys.numbers)) - 1
    return {"name": name, "etag": etag, "paths": sorted(keys.paths), "first": first, "more": more}
