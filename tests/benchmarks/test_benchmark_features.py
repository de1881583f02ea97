"""The feature benchmark compares like with like: the same data in both forms, the same samples from both ways."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import _feature_sets as feature_sets
from benchmarks import _feature_ways as feature_ways
from digiq_ray.store.features import FeatureStore

_COUNT = 30


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CANDIDATES": 4, "ACTION_DIM": 16, "STATE_DIM": 6, "SHARD_TRAJECTORIES": 7}.items():
        monkeypatch.setattr(feature_sets, name, value)
    monkeypatch.setattr(feature_ways, "BATCH", 16)


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    feature_sets.write_pickle(tmp_path / "ours.pt", feature_sets.trajectories(_COUNT))
    return tmp_path / "ours.pt"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    return bool(type(one) is type(other) and one == other)


def test_the_trajectory_file_is_what_torch_would_save(pickled: Path, tmp_path: Path) -> None:
    whole = list(feature_sets.trajectories(_COUNT))
    torch.save(whole, tmp_path / "torch.pt")
    assert _same(torch.load(pickled, weights_only=False), whole)
    assert pickled.stat().st_size == pytest.approx((tmp_path / "torch.pt").stat().st_size, rel=0.1)


def test_the_stores_hold_what_the_file_holds(pickled: Path, tmp_path: Path) -> None:
    feature_sets.write_stores(tmp_path / "stores", feature_sets.trajectories(_COUNT))
    actions = FeatureStore(tmp_path / "stores" / "actions").open()
    expected = np.concatenate([step["q_rep_out_list"] for one in feature_sets.trajectories(_COUNT) for step in one])
    np.testing.assert_array_equal(actions.rows(range(len(actions))), expected)


def _samples(batches: feature_ways.Batches, count: int) -> dict[str, dict[str, Any]]:
    """Samples by the text of their action, which no two have in common."""
    found = {}
    for batch in islice(batches, count):
        for row, text in enumerate(batch["action"]):
            found[text] = {name: column[row] for name, column in batch.items()}
    return found


def test_both_ways_deliver_the_same_quantities_of_a_sample(pickled: Path, tmp_path: Path) -> None:
    feature_sets.write_stores(tmp_path / "stores", feature_sets.trajectories(_COUNT))
    theirs = _samples(feature_ways.original(pickled, 60), 60)
    ours = _samples(feature_ways.ours(tmp_path / "stores", 40), 40)
    # Ours sorts episodes by their ids, so that its training share holds other trajectories.
    both = theirs.keys() & ours.keys()
    assert len(both) > 100
    for text in both:
        one, other = theirs[text], ours[text]
        for name in ("image_features", "next_image_features", "q_rep_out"):
            np.testing.assert_array_equal(one[name], other[name].reshape(-1))
        for name in ("reward", "done", "mc_return"):
            assert float(one[name]) == pytest.approx(float(other[name]))
        assert one["observation"] == f"Previous Actions: {other['previous_action'] or ''} Goal: {other['task']}</s>"


@pytest.mark.parametrize("way", ["original", "ours"])
def test_a_way_is_measured(way: str, pickled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_ways, "imports", lambda name: None)
    feature_sets.write_stores(tmp_path / "stores", feature_sets.trajectories(_COUNT))
    figures = feature_ways.measure(way, pickled if way == "original" else tmp_path / "stores", 3)
    assert figures["first_batch_s"] > 0
    assert figures["samples_per_second"] > 0
    assert figures["peak_mb"] >= figures["anonymous_mb"] > 10
