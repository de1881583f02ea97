"""Compaction: merging small segments of an EpisodeStore into larger ones, beside writers, readers and each other.

A merged segment holds every episode of the segments that it replaces, each once, and its footer names them: from the
moment that it is published readers ignore those, and until then nothing has happened. So a kill at any moment and two
compactions at once lose nothing; at worst an episode lies in two segments until the next compaction. Nothing is
deleted here, see ``pruning``. Merging holds one row group of each segment, together at most one merged segment.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from ulid import ULID

from digiq_ray.store.directory import Directory
from digiq_ray.store.episodes import EpisodeStore, episode_segments
from digiq_ray.store.footers import SUFFIX, Segment
from digiq_ray.store.schema import EPISODE_SCHEMA
from digiq_ray.store.segmented import SegmentedTable, SegmentGoneError, noticing_gone
from digiq_ray.store.segments import Replaced, episode_tables, write_segment

TARGET_BYTES = 128 << 20

OnProgress = Callable[[int, int], None]
_Entry = tuple[str, str, Any]  # episode id, segment that it was written to first, its rows


@dataclass(frozen=True, slots=True)
class Merge:
    """One merged segment: its file name and the segments that it replaces."""

    name: str
    replaces: tuple[str, ...]


class _SupersededError(Exception):
    """Somebody else has replaced a segment that is being merged."""


def plan_merges(segments: Sequence[Segment], target_bytes: int = TARGET_BYTES) -> list[list[Segment]]:
    """Which segments to merge with each other, ascending by name.

    Segments below half the target are put together up to the target. Segments that share an episode always go
    together, whatever their size, so that the episode is kept once.
    """
    plans: list[list[Segment]] = []
    plan: list[Segment] = []
    for cluster in _clusters(segments):
        if len(cluster) == 1 and cluster[0].size >= target_bytes / 2:
            continue
        if plan and _bytes(plan) + _bytes(cluster) > target_bytes:
            plans.append(plan)
            plan = []
        plan = [*plan, *cluster]
    plans.append(plan)
    return [sorted(plan, key=lambda segment: segment.name) for plan in plans if len(plan) > 1]


def compact(
    store: EpisodeStore, *, target_bytes: int = TARGET_BYTES, on_progress: OnProgress | None = None
) -> list[Merge]:
    """Merges the small segments of a store and returns what was written. The merged ones stay until they are pruned.

    Args:
        store: The store.
        target_bytes: About how large a merged segment becomes.
        on_progress: Is called with (bytes merged, bytes to merge).

    Raises:
        DiskFullError: no space is left; the store is as before, apart from merges that were done already.
        StoreError: a segment is broken; nothing that it holds was replaced.
    """
    table = episode_segments(store.directory)
    plans = plan_merges(table.segments(), target_bytes)
    total, done = sum(_bytes(plan) for plan in plans), 0
    merges = []
    for plan in plans:
        merge = _merge(store.directory, table, plan)
        done += _bytes(plan)
        if merge is not None:
            merges.append(merge)
        if on_progress is not None:
            on_progress(done, total)
    return merges


def _merge(directory: Directory, table: SegmentedTable, plan: Sequence[Segment]) -> Merge | None:
    """Publishes one merged segment; ``None`` if somebody else has replaced one of its parts meanwhile."""
    parts = {segment.name for segment in plan}
    names = tuple(sorted(parts.union(*(segment.replaces for segment in plan))))
    origins = _origins(plan)

    def write(file: Any) -> None:
        _check_live(table, parts)
        merged = _merged(directory, plan)
        write_segment(file, merged, EPISODE_SCHEMA, replaced=Replaced(names, origins))
        _check_live(table, parts)

    name = f"{ULID()}{SUFFIX}"
    try:
        while not directory.publish(name, write):
            name = f"{ULID()}{SUFFIX}"
    except (_SupersededError, SegmentGoneError):
        return None
    return Merge(name, names)


def _check_live(table: SegmentedTable, parts: set[str]) -> None:
    if not parts <= {segment.name for segment in table.segments()}:
        raise _SupersededError


def _origins(plan: Sequence[Segment]) -> dict[str, str]:
    origins: dict[str, str] = {}
    for segment in plan:
        for episode_id, origin in zip(segment.episode_ids, segment.origins, strict=True):
            origins[episode_id] = min(origin, origins.get(episode_id, origin))
    return origins


def _merged(directory: Directory, plan: Sequence[Segment]) -> Iterator[tuple[str, Any]]:
    """Each episode of the segments once, from where it was written to first, ascending by id."""
    entries = heapq.merge(*(_entries(directory, segment) for segment in plan), key=itemgetter(0, 1))
    for episode_id, copies in groupby(entries, key=itemgetter(0)):
        yield episode_id, next(copies)[2]


def _entries(directory: Directory, segment: Segment) -> Iterator[_Entry]:
    with noticing_gone(directory, segment.name):
        tables = episode_tables(directory, segment)
        for (episode_id, rows), origin in zip(tables, segment.origins, strict=True):
            yield episode_id, origin, rows


def _clusters(segments: Sequence[Segment]) -> list[list[Segment]]:
    """Segments that share episodes, directly or through others, together; ascending by the first name of each."""
    leader = list(range(len(segments)))

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = place = leader[leader[place]]
        return place

    first: dict[str, int] = {}
    for place, segment in enumerate(segments):
        for episode_id in segment.episode_ids:
            one, other = sorted((find(place), find(first.setdefault(episode_id, place))))
            leader[other] = one
    clusters: dict[int, list[Segment]] = {}
    for place, segment in enumerate(segments):
        clusters.setdefault(find(place), []).append(segment)
    return list(clusters.values())


def _bytes(segments: Sequence[Segment]) -> int:
    return sum(segment.size for segment in segments)
