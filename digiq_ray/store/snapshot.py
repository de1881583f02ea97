"""Snapshots: exactly which segments a data set consisted of, with a hash of each, so that a run can pin what it saw.

A snapshot may lie as ``_NAME.snapshot.json`` beside the segments (what begins with ``_`` is no data to any reader of
Parquet directories). It is published once and never overwritten, and segments that one of these pins are not deleted.
The hash of a segment is that of its footer, which has the hash of the rest: taking a snapshot and opening a store at
one cost the footers, whatever the size of the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from digiq_ray.core.errors import StoreError
from digiq_ray.store.directory import Directory, check_shard_name

_PREFIX, _SUFFIX = "_", ".snapshot.json"
_TRIES = 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """File names of segments with the hashes that name their contents. Equal snapshots saw equal bytes."""

    segments: Mapping[str, str]

    @property
    def snapshot_hash(self) -> str:
        """One hash of all (32 hexadecimal digits)."""
        text = json.dumps(sorted(self.segments.items()))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A JSON object for a manifest; ``from_json`` reads it."""
        return {"snapshot_hash": self.snapshot_hash, "segments": dict(sorted(self.segments.items()))}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The snapshot of ``to_json``; raises ``StoreError`` if it was changed since."""
        segments = value.get("segments") if isinstance(value, dict) else None
        if not isinstance(segments, dict) or not all(isinstance(one, str) for one in segments.values()):
            raise StoreError("a snapshot must be a JSON object with 'snapshot_hash' and 'segments'")
        snapshot = cls(segments)
        if snapshot.snapshot_hash != value.get("snapshot_hash"):
            raise StoreError("a snapshot does not match its hash: it was changed by hand; take a new one")
        return snapshot


def snapshot_file(name: str) -> str:
    """The file name of a snapshot; raises ``InputError`` if ``name`` cannot be part of one."""
    check_shard_name(name)
    return _PREFIX + name + _SUFFIX


def publish_snapshot(directory: Directory, name: str, snapshot: Snapshot) -> bool:
    """Publishes a snapshot under a name; ``False`` if the same one is there already.

    Raises:
        InputError: the name cannot be that of a file.
        StoreError: another snapshot has this name.
    """
    content = json.dumps(snapshot.to_json(), indent=1) + "\n"
    if directory.publish(snapshot_file(name), content.encode()):
        return True
    if load_snapshot(directory, name) != snapshot:
        raise StoreError(f"{directory.path}: has a snapshot {name!r} of other segments already; give another name")
    return False


def save_snapshot(directory: Directory, name: str, pins: Callable[[], Mapping[str, str]]) -> Snapshot:
    """Publishes a snapshot of the segments that ``pins`` names and that no compaction replaces meanwhile.

    Raises:
        InputError: the name cannot be that of a file.
        StoreError: another snapshot has this name.
    """
    for _ in range(_TRIES):
        snapshot = Snapshot(pins())
        # Who deletes replaced segments looks at the snapshots after the replacing segment is there. If none of these
        # segments is replaced when the snapshot is there already, every later deletion sees the snapshot.
        if not publish_snapshot(directory, name, snapshot) or snapshot.segments.keys() <= pins().keys():
            return snapshot
        directory.remove(snapshot_file(name))
    raise StoreError(f"{directory.path}: its segments are replaced faster than they can be pinned; try again later")


def snapshot_names(directory: Directory) -> list[str]:
    """Names of the snapshots that lie in a directory, ascending."""
    files = directory.names(_SUFFIX)
    return [name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for name in files if name.startswith(_PREFIX)]


def load_snapshot(directory: Directory, name: str) -> Snapshot:
    """The snapshot of that name in a directory; raises ``StoreError`` if there is none or it is broken."""
    file = snapshot_file(name)
    if name not in snapshot_names(directory):
        there = ", ".join(snapshot_names(directory)) or "none"
        raise StoreError(f"{directory.path}: has no snapshot {name!r}; there are: {there}")
    with directory.reading(file) as source:
        content = bytes(source.read())
    try:
        return Snapshot.from_json(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{directory.path / file}: is no snapshot ({error}); take a new one") from error
    except StoreError as error:
        raise StoreError(f"{directory.path / file}: {error}") from error
