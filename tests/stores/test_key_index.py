"""The index of keys: it finds what is there, forgets what has changed, and takes no damaged word for true."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from include.stores.key_index import KeyIndex, Keys
from include.stores.objects import ObjectNotFoundError

INT64 = np.iinfo(np.int64)
NUMBERS = st.one_of(st.integers(-20, 20), st.sampled_from([INT64.min, INT64.min + 1, INT64.max - 1, INT64.max]))
NAMES = st.sampled_from(["a", "b", "c", "d"])


class Store(dict):
    """As much of an ObjectStore as an index uses."""

    def get(self, key: str) -> bytes:  # type: ignore[override]
        if key not in self:
            raise ObjectNotFoundError(key)
        return self[key]

    def put(self, key: str, body: bytes, content_type: str) -> None:
        self[key] = body

    def delete(self, key: str) -> None:
        self.pop(key, None)


def keys(numbers: Any, *paths: str) -> Keys:
    return Keys(np.array(sorted(numbers), np.int64), frozenset(paths))


def saved(held: dict[str, Keys], versions: dict[str, str]) -> Store:
    store: Any = Store()
    index = KeyIndex(store, "i", versions)
    assert index.unknown == set(versions)
    index.put(held, versions)
    index.save()
    return store


@given(st.dictionaries(NAMES, st.sets(NUMBERS)), st.sets(NUMBERS))
def test_it_finds_exactly_the_objects_that_hold_a_key(numbers: dict[str, set[int]], wanted: set[int]) -> None:
    versions = {name: f"etag of {name}" for name in numbers}
    index = KeyIndex(saved({name: keys(found, f"path/{name}", "both") for name, found in numbers.items()}, versions), "i", versions)  # type: ignore[arg-type]
    assert index.unknown == set()
    assert index.holding(np.array(sorted(wanted), np.int64)) == {name for name, found in numbers.items() if found & wanted}
    assert index.made_from({"path/a"}) == set(numbers) & {"a"}
    assert index.made_from({"both"}) == set(numbers)
    assert index.made_from(set()) == set()


def test_an_entry_counts_only_while_its_etag_does() -> None:
    versions = {"a": "1", "b": "1", "c": "1"}
    store: Any = saved({name: keys([number]) for number, name in enumerate(versions)}, versions)
    index = KeyIndex(store, "i", {"a": "1", "b": "2", "d": "1"})
    assert index.unknown == {"b", "d"}
    assert index.holding(np.arange(9)) == {"a"}
    index.put({"b": keys([7]), "d": keys([])}, {"a": "1", "b": "2", "d": "1"})
    index.save()
    assert index.holding(np.array([7])) == {"b"}
    assert index.unknown == set()
    again = saved({"a": keys([0]), "b": keys([7]), "d": keys([])}, {"a": "1", "b": "2", "d": "1"})
    assert store == again, "the way to a state leaves no trace in its bytes"
    index = KeyIndex(store, "i", {})
    index.put({}, {})
    index.save()
    assert store == {}


def test_keys_that_count_up_cost_next_to_nothing_and_others_five_bytes() -> None:
    days = {f"{day:03d}": f"etag {day}" for day in range(50)}
    random = np.random.default_rng(1)
    counted = saved({name: Keys(np.arange(1000) + 1000 * int(name)) for name in days}, days)
    hashed = saved({name: Keys(np.unique(random.integers(0, 2**48, 1000))) for name in days}, days)
    assert len(counted["i"]) < 4_000
    assert len(hashed["i"]) < 5.6 * 50_000


def test_a_damaged_index_knows_less_and_never_something_else() -> None:
    versions = {"a": "1", "b": "2"}
    held = {"a": keys([1, 2, 3, 9], "path/1"), "b": keys([4], "path/1", "path/2")}
    body = saved(held, versions)["i"]
    for position in range(len(body)):
        changed = body[:position] + bytes([body[position] ^ (1 << position % 8)]) + body[position + 1 :]
        for harmed in (changed, body[:position])[: 2 if position % 16 == 0 else 1]:
            store: Any = Store(i=harmed)
            index = KeyIndex(store, "i", versions)
            known = versions.keys() - index.unknown
            for asked in ([0, 5, 8, 10], [1], [2, 3], [4], [9], [1, 4]):
                assert index.holding(np.array(asked)) == {name for name in known if set(asked) & set(held[name].numbers.tolist())}, position
            for path in ("path/1", "path/2", "path/3"):
                assert index.made_from({path}) == {name for name in known if path in held[name].paths}, position
            index.put({name: held[name] for name in index.unknown}, versions)
            index.save()
            assert store["i"] == body, position
