"""EpisodeStore: finished episodes in a directory of immutable Parquet segments named by ULID.

A segment is published atomically, so it exists whole or not at all, and an acknowledged episode is never lost. Any
number of processes may append at the same time without a lock: an episode's id is deterministic, a retried write is
found and dropped, and what two racing writers both wrote is taken from the first segment in ULID order. An append
costs one listing of the directory, the footers of segments that are new to this process, and two flushes to disk.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow.compute as pc
from ulid import ULID

from digiq_ray.core.episodes import Episode, StopReason
from digiq_ray.core.errors import StoreError
from digiq_ray.store.directory import StorePath, create_directory, open_directory
from digiq_ray.store.schema import EPISODE_SCHEMA, episode_to_rows, rows_to_episode, rows_to_table
from digiq_ray.store.segmented import SegmentedTable
from digiq_ray.store.segments import SUFFIX, Segment, write_segment
from digiq_ray.store.snapshot import Snapshot

_ULID = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}")


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """What is in an EpisodeStore.

    Attributes:
        episodes: Number of episodes.
        steps: Number of actions (one less than observations, for each episode).
        success_rate: Successes over the episodes that no device error cut short; ``None`` if there are none.
        stop_reasons: Episodes for each stop reason.
        tasks: Episodes for each task id.
        policy_versions: Episodes for each policy version.
    """

    episodes: int
    steps: int
    success_rate: float | None
    stop_reasons: dict[str, int]
    tasks: dict[str, int]
    policy_versions: dict[str, int]


class EpisodeStore:
    """Episodes in a directory. Thread-safe; pickles as its path, so it may be handed to other processes.

    Args:
        path: The directory; ``EpisodeStore.create`` makes it.
        snapshot: If given, the store is read-only and consists of exactly these segments, whatever was added since.

    Raises:
        StoreError: the directory is missing, or a segment of the snapshot is missing or has another content.
    """

    def __init__(self, path: StorePath, *, snapshot: Snapshot | None = None) -> None:
        self._directory = open_directory(path)
        self._snapshot = snapshot
        self._hashes: dict[str, str] = {}
        self._table = SegmentedTable(
            directory=self._directory,
            schema=EPISODE_SCHEMA,
            name_pattern=_ULID,
            only=None if snapshot is None else frozenset(snapshot.segments),
        )
        if snapshot is not None:
            for name, wanted in snapshot.segments.items():
                if self._directory.digest(name) != wanted:
                    raise StoreError(f"{self.path / name}: is not what the snapshot saw; restore it from a copy")
            self._hashes = dict(snapshot.segments)

    @classmethod
    def create(cls, path: StorePath) -> Self:
        """Opens the store at ``path``, making its directory if it is missing."""
        return cls(create_directory(path).path)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), str(self.path), self._snapshot)

    @property
    def path(self) -> Path:
        """Where the segments lie."""
        return self._directory.path

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._table.holders())

    def episode_ids(self) -> set[str]:
        """Ids of the episodes that are there now, whoever wrote them. Cheap to call often."""
        return set(self._table.holders())

    def append(self, episodes: Iterable[Episode]) -> str | None:
        """Publishes the episodes whose ids are new as one segment and returns its name; ``None`` if none is new.

        When this returns, all of ``episodes`` are on disk, written by this call or before. It may be repeated.

        Raises:
            InputError: an episode does not fit the columns.
            DiskFullError: no space is left; nothing of this call stays behind, everything before is whole.
            StoreError: the store is read-only, broken or gone.
        """
        if self._snapshot is not None:
            raise StoreError(f"{self.path}: is open at a snapshot, which is read-only; open it without one to append")
        known = self.episode_ids()
        new: dict[str, Episode] = {}
        for episode in episodes:
            if episode.episode_id not in known:
                new.setdefault(episode.episode_id, episode)
        if not new:
            self._directory.sync()
            return None
        tables = [(key, rows_to_table(episode_to_rows(new[key]), EPISODE_SCHEMA)) for key in sorted(new)]
        name = f"{ULID()}{SUFFIX}"
        while not self._directory.publish(name, lambda file: write_segment(file, tables, EPISODE_SCHEMA)):
            name = f"{ULID()}{SUFFIX}"  # a forked process drew the same ULID in the same millisecond
        return name

    def episodes(self, ids: Iterable[str] | None = None) -> Iterator[Episode]:
        """The episodes (those of ``ids``, if given), ascending by id; what is appended meanwhile is not among them.

        Raises:
            StoreError: an id is not in the store, or a segment is broken.
        """
        holders = self._table.holders()
        wanted = sorted(holders if ids is None else set(ids))
        for episode_id in wanted:
            if episode_id not in holders:
                raise StoreError(f"{self.path}: there is no episode {episode_id!r}")
        return (self._read(episode_id, holders[episode_id]) for episode_id in wanted)

    def table(self, columns: list[str] | None = None) -> Any:
        """A ``pa.Table`` of all rows (or some columns), ascending by (episode_id, step), each episode once.

        Raises:
            StoreError: a column does not exist, or a segment is broken.
        """
        return self._table.rows(columns)

    def summary(self) -> EpisodeSummary:
        """Counts over all episodes; reads four small columns."""
        rows = self.table(["stop_reason", "task_id", "policy_version", "is_first"])
        firsts = rows.filter(pc.field("is_first"))
        counts = {
            name: dict(sorted(Counter(firsts[name].to_pylist()).items()))
            for name in ("stop_reason", "task_id", "policy_version")
        }
        reasons = counts["stop_reason"]
        judged = firsts.num_rows - reasons.get(StopReason.DEVICE_ERROR, 0)
        return EpisodeSummary(
            episodes=firsts.num_rows,
            steps=rows.num_rows - firsts.num_rows,
            success_rate=reasons.get(StopReason.SUCCESS, 0) / judged if judged else None,
            stop_reasons=reasons,
            tasks=counts["task_id"],
            policy_versions=counts["policy_version"],
        )

    def snapshot(self) -> Snapshot:
        """What the store holds now. Reads each segment once in the life of this object, to hash it."""
        names = self._table.segment_names()
        for name in names:
            if name not in self._hashes:
                self._hashes[name] = self._directory.digest(name)
        return Snapshot({name: self._hashes[name] for name in names})

    def _read(self, episode_id: str, segment: Segment) -> Episode:
        rows = self._table.episode_rows(episode_id, segment)
        with self._directory.content_errors(segment.name):
            return rows_to_episode(rows.to_pylist())


def _reopen(cls: type[EpisodeStore], path: str, snapshot: Snapshot | None) -> EpisodeStore:
    return cls(path, snapshot=snapshot)
