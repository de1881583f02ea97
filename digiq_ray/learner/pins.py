"""What trainings of a run read: snapshots of its stores, kept with the run from when the first of them begins.

Data that are appended later change neither a training nor its resumption; another run, or another name, sees them. The
snapshot of the episodes lies beside them too, so that no pruning deletes a segment that a training still needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from digiq_ray.core.errors import StoreError
from digiq_ray.learner.paths import RunPaths
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.directory import create_directory
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureStore
from digiq_ray.store.manifest import read_json
from digiq_ray.store.snapshot import Snapshot, publish_snapshot

STORES = ("episodes", "candidates", "states", "actions")


@dataclass(frozen=True, slots=True)
class PinnedStores:
    """The stores of a run as they were when its first training began, or as they are if none has.

    Attributes:
        paths: Of the run.
        name: Which trainings share them.
        snapshots: By the name of the store: all of ``STORES``, or some.
    """

    paths: RunPaths
    name: str
    snapshots: Mapping[str, Snapshot]

    @classmethod
    def open(cls, paths: RunPaths, name: str = "learner", stores: Sequence[str] = STORES) -> Self:
        """Those that the trainings ``name`` of a run read.

        Raises:
            StoreError: a store is missing or broken, or what was kept is.
        """
        kept = _kept(paths.snapshots / f"{name}.json")
        return cls(paths, name, kept or {store: _now(paths, store) for store in stores})

    @property
    def episodes(self) -> EpisodeStore:
        """Read-only."""
        return EpisodeStore(self.paths.episodes, snapshot=self.snapshots["episodes"])

    @property
    def candidates(self) -> CandidateStore:
        """Read-only."""
        return CandidateStore(self.paths.candidates, snapshot=self.snapshots["candidates"])

    @property
    def hashes(self) -> dict[str, str]:
        """One hash of each store: what a checkpoint says of the data."""
        return {store: snapshot.snapshot_hash for store, snapshot in self.snapshots.items()}

    def keep(self) -> None:
        """From now on these are what the trainings read; called where one begins, with data that can be learned from.

        Raises:
            StoreError: a training that began at the same moment pinned others, or the run cannot be written.
        """
        episodes = self.snapshots["episodes"]
        publish_snapshot(self.episodes.directory, f"training-{episodes.snapshot_hash}", episodes)
        content = {store: snapshot.to_json() for store, snapshot in self.snapshots.items()}
        file = f"{self.name}.json"
        create_directory(self.paths.snapshots).publish(file, json.dumps(content, indent=1).encode())
        if _kept(self.paths.snapshots / file) != self.snapshots:
            raise StoreError(f"{self.paths.root}: data came while two trainings began; run the same command again")


def _kept(path: Path) -> dict[str, Snapshot]:
    """The snapshots in a file; none if there is no file."""
    if not path.is_file():
        return {}
    try:
        return {store: Snapshot.from_json(value) for store, value in read_json(path).items()}
    except (StoreError, AttributeError) as error:
        raise StoreError(
            f"{path}: does not hold the snapshots that a training began with ({error}); restore it from a copy, or "
            "remove it and the checkpoints of the run to begin the training again"
        ) from error


def _now(paths: RunPaths, store: str) -> Snapshot:
    if store == "episodes":
        return EpisodeStore(paths.episodes).snapshot()
    if store == "candidates":
        return CandidateStore(paths.candidates).snapshot()
    return FeatureStore(paths.features / store).open().snapshot()
