"""EpisodeStore: finished episodes in a directory of immutable Parquet segments named by ULID.

A segment is published atomically, so it exists whole or not at all, and an acknowledged episode is never lost. Any
number of processes may append at the same time without a lock: an episode's id is deterministic, a retried write is
found and dropped, and what two racing writers both wrote is taken from the first segment in ULID order. An append
costs one listing of the directory, the footers of segments that are new to this process, and two flushes to disk.
Small segments are merged by ``compaction``; what a training run saw is pinned by a ``Snapshot``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import pyarrow.compute as pc
from ulid import ULID

from digiq_ray.core.episodes import Episode, StopReason
from digiq_ray.core.errors import StoreError
from digiq_ray.store.directory import Directory, StorePath, create_directory, open_directory
from digiq_ray.store.footers import SUFFIX
from digiq_ray.store.kinds import ULID_NAME
from digiq_ray.store.schema import EPISODE_SCHEMA, episode_to_rows, rows_to_episode, rows_to_table
from digiq_ray.store.segmented import SegmentedTable
from digiq_ray.store.segments import write_segment
from digiq_ray.store.snapshot import Snapshot, load_snapshot, save_snapshot


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
            A text is the name of a snapshot in the store. Opening costs the footers of its segments.

    Raises:
        StoreError: the directory is missing, or a segment of the snapshot is missing or has another content.
    """

    def __init__(self, path: StorePath, *, snapshot: Snapshot | str | None = None) -> None:
        self.directory: Directory = open_directory(path)
        """Where the segments lie."""
        self._snapshot = load_snapshot(self.directory, snapshot) if isinstance(snapshot, str) else snapshot
        self._table = episode_segments(self.directory, self._snapshot)
        if self._snapshot is not None:
            self._table.segments()

    @classmethod
    def create(cls, path: StorePath) -> Self:
        """Opens the store at ``path``, making its directory if it is missing."""
        return cls(create_directory(path).path)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (type(self), str(self.path), self._snapshot)

    @property
    def path(self) -> Any:
        """Where the segments lie: a ``Path``, or the like for ``s3://``."""
        return self.directory.path

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
        new: dict[str, Episode] = {}
        for episode in episodes:
            new.setdefault(episode.episode_id, episode)
        for known in self._table.held(new):
            del new[known]
        if not new:
            self.directory.sync()
            return None
        tables = [(key, rows_to_table(episode_to_rows(new[key]), EPISODE_SCHEMA)) for key in sorted(new)]
        name = f"{ULID()}{SUFFIX}"
        while not self.directory.publish(name, lambda file: write_segment(file, tables, EPISODE_SCHEMA)):
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
        return (self._read(episode_id) for episode_id in wanted)

    def table(self, columns: list[str] | None = None, ids: Iterable[str] | None = None) -> Any:
        """A ``pa.Table`` of all rows (or some columns), ascending by (episode_id, step), each episode once.

        With ``ids``, of those episodes only: their row groups are read, and what is not there has no rows.

        Raises:
            StoreError: a column does not exist, or a segment is broken.
        """
        return self._table.rows(columns, ids)

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
        """What the store holds now. Costs the footers of the segments that are new to this object."""
        return Snapshot(self._table.pins())

    def save_snapshot(self, name: str) -> Snapshot:
        """Publishes what the store holds now as ``_NAME.snapshot.json`` beside its segments, and returns it.

        A segment that a snapshot of the store pins is never deleted.

        Raises:
            InputError: the name cannot be that of a file.
            StoreError: the store has a snapshot of this name that pins something else.
        """
        return save_snapshot(self.directory, name, self._table.pins)

    def _read(self, episode_id: str) -> Episode:
        episode = self._table.episode(episode_id, lambda rows: rows_to_episode(rows.to_pylist()))
        if episode is None:
            raise StoreError(f"{self.path}: episode {episode_id!r} is gone: its segment was removed; restore it")
        return episode


def episode_segments(directory: Directory, snapshot: Snapshot | None = None) -> SegmentedTable:
    """The segments of the EpisodeStore in a directory, or those of a snapshot of it."""
    return SegmentedTable(
        directory=directory,
        schema=EPISODE_SCHEMA,
        name_pattern=ULID_NAME,
        pinned=None if snapshot is None else snapshot.segments,
    )


def _reopen(cls: type[EpisodeStore], path: str, snapshot: Snapshot | None) -> EpisodeStore:
    return cls(path, snapshot=snapshot)
