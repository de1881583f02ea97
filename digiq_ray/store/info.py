"""What is in a data set, in numbers: counted from small columns, one segment at a time, without reading a screen.

Rates are left as counts of successes and trials: whoever shows them adds the intervals. Memory grows with the number
of tasks and of different screens (their hashes), not with the size of the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow.compute as pc

from digiq_ray.core.episodes import StopReason
from digiq_ray.store.directory import Directory
from digiq_ray.store.episodes import episode_segments
from digiq_ray.store.footers import Segment
from digiq_ray.store.segmented import SegmentedTable, SegmentGoneError, noticing_gone
from digiq_ray.store.segments import read_rows
from digiq_ray.store.snapshot import snapshot_names

T = TypeVar("T")

_EPISODE_COLUMNS = ("task_id", "split", "policy_version", "stop_reason")
_COLUMNS = (
    *_EPISODE_COLUMNS,
    "device",
    "action_type",
    "parse_error",
    "screen_hash",
    "settle_tag",
    "is_first",
    "is_last",
)
_TRIES = 20


@dataclass(slots=True)
class Trials:
    """Episodes, those of them that no device error cut short (``n``), and those that succeeded."""

    episodes: int = 0
    n: int = 0
    successes: int = 0

    def add(self, reason: str) -> None:
        """Counts one episode that ended for this reason."""
        self.episodes += 1
        self.n += reason != StopReason.DEVICE_ERROR
        self.successes += reason == StopReason.SUCCESS


@dataclass(slots=True)
class EpisodeInfo:
    """What is in an EpisodeStore.

    Attributes:
        versions: Segments for each version of the schema.
        episodes, steps: Numbers of episodes and of actions.
        segments, bytes: Number of the segments that readers read, and their size.
        replaced_segments: Segments that compaction replaced and nobody pruned.
        snapshots: Names of the snapshots in the store.
        screens, unique_screens, lost_screens: Observations with a screen, different screens, observations without.
        success: Trials for each group: ``all``, then ``split ...``, ``policy ...``.
        tasks: Trials for each task id.
        splits, stop_reasons, policy_versions, devices: Episodes for each.
        action_types: Actions for each type.
        parse_errors: Actions that could not be parsed.
        settle_tags: Screens that had not settled when they were taken, for each way in which the wait ended.
        changed, compared: Actions after which the screen was another one, and actions with a screen before and after.
    """

    versions: dict[int, int] = field(default_factory=dict)
    episodes: int = 0
    steps: int = 0
    segments: int = 0
    bytes: int = 0
    replaced_segments: int = 0
    snapshots: list[str] = field(default_factory=list)
    screens: int = 0
    unique_screens: int = 0
    lost_screens: int = 0
    success: dict[str, Trials] = field(default_factory=dict)
    tasks: dict[str, Trials] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    stop_reasons: dict[str, int] = field(default_factory=dict)
    policy_versions: dict[str, int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    action_types: dict[str, int] = field(default_factory=dict)
    parse_errors: int = 0
    settle_tags: dict[str, int] = field(default_factory=dict)
    changed: int = 0
    compared: int = 0


def episode_info(directory: Directory) -> EpisodeInfo:
    """Counts what is in the EpisodeStore in a directory; raises ``StoreError`` if a segment is broken."""
    for _ in range(_TRIES):
        try:
            return _count(directory)
        except SegmentGoneError:
            continue  # compaction replaced it and it was pruned: count what is there now
    return _count(directory)


def _count(directory: Directory) -> EpisodeInfo:
    info = EpisodeInfo(snapshots=snapshot_names(directory))
    table = episode_segments(directory)
    hashes: set[str] = set()
    for segment, rows in _live_rows(directory, table):
        _add(info.versions, {segment.version: 1})
        info.segments += 1
        info.bytes += segment.size
        _count_steps(info, rows, hashes)
        _count_episodes(info, rows.filter(pc.field("is_first")))
    info.replaced_segments = len(table.replaced())
    info.unique_screens = len(hashes)
    return info


def _live_rows(directory: Directory, table: SegmentedTable) -> Iterator[tuple[Segment, Any]]:
    """Each live segment with its rows, without those of episodes that are taken from another one."""
    holders = table.holders()
    for segment in table.segments():
        with noticing_gone(directory, segment.name):
            rows = read_rows(directory, segment.name, _COLUMNS)
        mine = [holders.get(episode_id) is segment for episode_id in segment.episode_ids]
        yield segment, rows if all(mine) else rows.filter(np.repeat(mine, np.diff(segment.offsets)))


def _count_steps(info: EpisodeInfo, rows: Any, hashes: set[str]) -> None:
    last = rows["is_last"].to_numpy()
    info.steps += int((~last).sum())
    _add(info.action_types, _values(rows.filter(~last)["action_type"].drop_null()))
    _add(info.settle_tags, _values(rows["settle_tag"].drop_null()))
    info.parse_errors += rows.num_rows - rows["parse_error"].null_count
    screens = rows["screen_hash"]
    info.lost_screens += screens.null_count
    info.screens += rows.num_rows - screens.null_count
    hashes.update(screens.drop_null().unique().to_pylist())
    if rows.num_rows > 1:
        differ = pc.not_equal(screens[:-1], screens[1:]).filter(~last[:-1]).drop_null()
        info.compared += len(differ)
        info.changed += pc.sum(differ).as_py() or 0


def _count_episodes(info: EpisodeInfo, firsts: Any) -> None:
    info.episodes += firsts.num_rows
    counted = {"split": info.splits, "stop_reason": info.stop_reasons, "device": info.devices}
    for column, counts in (counted | {"policy_version": info.policy_versions}).items():
        _add(counts, _values(firsts[column]))
    of_each = (firsts[column].to_pylist() for column in _EPISODE_COLUMNS)
    for task, split, policy, reason in zip(*of_each, strict=True):
        info.tasks.setdefault(task, Trials()).add(reason)
        for group in ("all", f"split {split}", f"policy {policy}"):
            info.success.setdefault(group, Trials()).add(reason)


def _add(counts: dict[T, int], more: Mapping[T, int]) -> None:
    for value, count in more.items():
        counts[value] = counts.get(value, 0) + count


def _values(column: Any) -> dict[str, int]:
    return {one["values"]: one["counts"] for one in column.value_counts().to_pylist()}
