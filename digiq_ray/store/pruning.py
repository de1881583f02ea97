"""Deleting segments that compaction replaced: only these, only when asked to, and none that a snapshot pins.

A segment goes when another one is there that names it, is whole, and has each of its episodes. Which snapshots there
are is looked up after that, so that a snapshot that is being taken at the same time is seen (see ``save_snapshot``). A
kill leaves some of the segments behind, which readers go on to ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from digiq_ray.core.errors import StoreError
from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.directory import Directory
from digiq_ray.store.episodes import EpisodeStore, episode_segments
from digiq_ray.store.footers import check_body, read_footer
from digiq_ray.store.schema import EPISODE_SCHEMA
from digiq_ray.store.snapshot import load_snapshot, snapshot_names


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted and what was not.

    Attributes:
        removed: Names of the segments that were deleted, ascending.
        pinned: Segments that stay, each with the names of the snapshots that pin it.
        unsure: Segments that stay, each with the reason why it is not certain that all it holds is elsewhere.
    """

    removed: tuple[str, ...]
    pinned: Mapping[str, tuple[str, ...]]
    unsure: Mapping[str, str]


def prune(store: EpisodeStore) -> Pruned:
    """Deletes the segments of a store that other ones replace, apart from those that a snapshot in the store pins.

    Raises:
        StoreError: a snapshot is broken, so that nobody knows what it pins; nothing was deleted.
    """
    table = episode_segments(store.directory)
    replaced = table.replaced()
    pins = _pins(store.directory)
    holders = table.holders().keys()
    checked: set[str] = set()
    removed: list[str] = []
    pinned: dict[str, tuple[str, ...]] = {}
    unsure: dict[str, str] = {}
    for name, by in sorted(replaced.items()):
        if name in pins:
            pinned[name] = pins[name]
            continue
        try:
            missing = set(read_footer(store.directory, name, EPISODE_SCHEMA).episode_ids) - holders
            if by.name not in checked:
                check_body(store.directory, by)
                checked.add(by.name)
        except StoreUnreachableError:
            raise
        except StoreError as error:
            unsure[name] = str(error)
            continue
        if missing:
            unsure[name] = f"{by.name} lacks {len(missing)} of its episodes"
            continue
        store.directory.remove(name)
        removed.append(name)
    return Pruned(tuple(removed), pinned, unsure)


def _pins(directory: Directory) -> dict[str, tuple[str, ...]]:
    """For each segment that a snapshot pins, the names of the snapshots that do."""
    pins: dict[str, tuple[str, ...]] = {}
    for snapshot in snapshot_names(directory):
        for segment in load_snapshot(directory, snapshot).segments:
            pins[segment] = (*pins.get(segment, ()), snapshot)
    return pins
