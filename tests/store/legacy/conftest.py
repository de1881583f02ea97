"""Fixtures of the tests of legacy files: an import into a fresh directory, and what is in its stores."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from legacy_files import HORIZON, save

from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureStore
from digiq_ray.store.legacy.importing import import_trajectories
from digiq_ray.store.legacy.settings import ImportSettings


@pytest.fixture(autouse=True)
def no_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether data outlives a power cut is tested with the stores; here flushes would take most of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


Importer = Callable[..., dict[str, Any]]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def import_list(tmp_path: Path, out: Path) -> Importer:
    """Imports a list of trajectories and returns the report."""

    def run(trajectories: object, *, images: Path | None = None, **settings: Any) -> dict[str, Any]:
        path = save(tmp_path / "file.pt", trajectories)
        chosen = ImportSettings(**({"horizon": HORIZON} | settings))
        return import_trajectories(path, out, settings=chosen, images=images)

    return run


def content(out: Path) -> dict[str, Any]:
    """Everything in the stores of an import; episodes are known by their rank, not by their ids."""
    store = EpisodeStore(out / "episodes")
    ranks = {name: rank for rank, name in enumerate(sorted(store.episode_ids()))}
    found: dict[str, Any] = {
        "episodes": [
            (one.task, one.steps, one.stop_reason, one.policy_version, one.device, one.judge)
            for one in store.episodes()
        ]
    }
    if (out / "candidates").exists():
        rows = CandidateStore(out / "candidates").table().to_pylist()
        found["candidates"] = [row | {"episode_id": ranks[row["episode_id"]]} for row in rows]
    for kind in ("states", "actions"):
        features = FeatureStore(out / "features" / kind) if (out / "features" / kind).exists() else None
        if features is None or not features.shards():
            continue
        view = features.open()
        keys = [(ranks[row["episode_id"]], row["step"], row["action"]) for row in view.keys.to_pylist()]
        found[kind] = dict(zip(keys, map(bytes, view.rows(range(len(view)))), strict=True))
    return found


@pytest.fixture
def read_content() -> Callable[[Path], dict[str, Any]]:
    return content


@pytest.fixture(scope="session")
def content_of() -> Callable[[Path], dict[str, Any]]:
    """As ``read_content``, for properties."""
    return content
