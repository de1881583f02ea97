"""``digiq import FILE.pt``: a trajectory file of the original to stores that the stages of a run read.

Three passes: the file is whole and names nothing but plain data (``file.py``), everything in it can be imported
(``survey.py``), and then it is written, a few trajectories at a time. Ids, shards and their content follow from the
file alone, so a repeated import adds nothing and one that was killed completes. Episodes are written last: where one
is, its candidates and features are. What bounds memory: the features of one group, 32 MiB and one trajectory more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from digiq_ray.core.episodes import Episode
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.directory import StorePath, create_directory
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureStore
from digiq_ray.store.legacy.claims import claim, leave_report
from digiq_ray.store.legacy.errors import file_errors
from digiq_ray.store.legacy.file import LegacyFile
from digiq_ray.store.legacy.images import ImageDirectory
from digiq_ray.store.legacy.paths import observation_paths
from digiq_ray.store.legacy.places import Places, legacy_fingerprint
from digiq_ray.store.legacy.report import Findings
from digiq_ray.store.legacy.settings import ImportSettings
from digiq_ray.store.legacy.survey import Survey, survey
from digiq_ray.store.legacy.trajectory import (
    LEGACY,
    KeyedFeature,
    LegacyTrajectory,
    action_features,
    check_stored,
    read_trajectory,
    state_features,
    task_of,
    to_candidates,
    to_episode,
)

OnProgress = Callable[[int, int], object]
"""Called with the bytes that were read and those of all three passes."""

_PASSES = 3
_GROUP_TRAJECTORIES = 8
_GROUP_BYTES = 32 << 20
_SCREEN_BYTES = 32 << 20


def import_trajectories(
    path: Path,
    out: StorePath,
    *,
    settings: ImportSettings | None = None,
    images: Path | None = None,
    on_progress: OnProgress = lambda done, total: None,
) -> dict[str, Any]:
    """Imports one file into the stores under ``out``.

    Args:
        path: The ``.pt`` file.
        out: Local directory or ``s3://`` location; made if it is missing.
        settings: What is imported, and how.
        images: Directory of the screenshots; without it all screens are missing.
        on_progress: Called now and then.

    Returns:
        The report, also left beside the stores: what the file holds, counts of ``report.COUNTS``, and where it is.

    Raises:
        InputError: the file is not one of the original, or it was imported here with other settings before.
        StoreError: a store cannot be written.
    """
    settings = settings or ImportSettings()
    pictures = None if images is None else ImageDirectory(images)
    total, done = 1, 0

    def on_bytes(count: int) -> None:
        nonlocal done
        done += count
        on_progress(min(done, total), total)

    with file_errors(path):
        total = _PASSES * path.stat().st_size
    file = LegacyFile.open(path, on_bytes)
    held = survey(file, on_bytes)
    horizon = settings.horizon or held.horizon(path.name)
    name, places = f"{LEGACY}-{file.digest[:16]}", Places.under(out)
    imports = create_directory(places.imports)
    options = settings.model_dump() | {"horizon": horizon, "images": pictures is not None}
    claim(imports, name, held.as_dict() | options)
    work = _Import(name, held, horizon, settings, pictures, _Stores.create(places, held, settings))
    for index, raw in enumerate(file.trajectories(on_bytes)):
        with file_errors(path):
            trajectory = read_trajectory(index, raw, work.findings)
        if trajectory is not None:
            work.add(trajectory)
    work.flush()
    on_progress(total, total)
    report = {"file": path.name, "digest": file.digest, **held.as_dict(), **options, "counts": work.findings.as_dict()}
    return {
        "command": "import",
        **report,
        "episodes_added": work.added,
        "out": places.root,
        "report": leave_report(imports, name, report),
    }


@dataclass(frozen=True, slots=True)
class _Stores:
    """What the file has something for."""

    episodes: EpisodeStore
    candidates: CandidateStore | None
    states: FeatureStore | None
    actions: FeatureStore | None

    @classmethod
    def create(cls, places: Places, held: Survey, settings: ImportSettings) -> _Stores:
        states = settings.features and held.state_dim is not None
        actions = settings.features and held.action_dim is not None
        return cls(
            EpisodeStore.create(places.episodes),
            CandidateStore.create(places.candidates) if held.candidates else None,
            FeatureStore.create(places.states) if states else None,
            FeatureStore.create(places.actions) if actions else None,
        )


@dataclass(slots=True)
class _Import:
    """The third pass: collects trajectories into a group and writes it."""

    name: str
    held: Survey
    horizon: int
    settings: ImportSettings
    pictures: ImageDirectory | None
    stores: _Stores
    findings: Findings = field(default_factory=Findings)
    added: int = 0
    _group: list[LegacyTrajectory] = field(default_factory=list)
    _bytes: int = 0

    def add(self, trajectory: LegacyTrajectory) -> None:
        """Takes the next trajectory."""
        check_stored(trajectory, gamma=self.settings.gamma, findings=self.findings)
        self._group.append(trajectory)
        self._bytes += trajectory.nbytes
        if len(self._group) >= _GROUP_TRAJECTORIES or self._bytes >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        """Writes what was collected: features, candidates, and then episodes."""
        group, self._group, self._bytes = self._group, [], 0
        if not group:
            return
        shard = self._id(group[0])
        stores, horizon, findings = self.stores, self.horizon, self.findings
        stack = self.settings.frame_stack
        if stores.actions is not None:
            rows = [row for one in group for row in action_features(one, self._id(one), findings)]
            self._append(stores.actions, shard, rows, self.held.dtype or "float32")
        if stores.states is not None:
            rows = [
                row
                for one in group
                for row in state_features(one, self._id(one), horizon=horizon, stack=stack, findings=findings)
            ]
            self._append(stores.states, shard, rows, "float32")
        if stores.candidates is not None:
            found: list[Candidate] = []
            for one in group:
                found += to_candidates(one, self._id(one), horizon=horizon, findings=findings)
            stores.candidates.append(shard, found)
        self._write_episodes(group)

    def _id(self, trajectory: LegacyTrajectory) -> str:
        return f"{self.name}-{trajectory.index:06d}"

    def _append(self, store: FeatureStore, shard: str, rows: Sequence[KeyedFeature], dtype: str) -> None:
        if rows:
            features = np.stack([row.feature for row in rows], dtype=dtype)
            store.append(
                shard, [row.key for row in rows], features, legacy_fingerprint(stack=self.settings.frame_stack)
            )

    def _write_episodes(self, group: Sequence[LegacyTrajectory]) -> None:
        known = self.stores.episodes.episode_ids()
        waiting: list[Episode] = []
        held = 0
        for trajectory in group:
            name = self._id(trajectory)
            paths = observation_paths(trajectory.steps)[: trajectory.actions(self.horizon) + 1]
            screens = [self.pictures.read(one, self.findings) if self.pictures else b"" for one in paths]
            task = task_of(trajectory, horizon=self.horizon, split=self.settings.split)
            waiting.append(to_episode(trajectory, name, screens, task=task, findings=self.findings))
            self.added += name not in known
            held += sum(map(len, screens))
            if held >= _SCREEN_BYTES:
                self.stores.episodes.append(waiting)
                waiting, held = [], 0
        self.stores.episodes.append(waiting)
