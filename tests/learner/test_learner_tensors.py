"""Features as tensors: float32 of one shard is shared with the file, anything else is converted or copied."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from digiq_ray.learner.data import tensor, values_of
from digiq_ray.store.features import FeatureKey, FeatureStore, FeatureView, Fingerprint

_FINGERPRINT = Fingerprint(model="0a1b", layer=3, pooling="last", prompt="2c3d", image="224x224 RGB")


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _view(path: Path, dtype: str, *counts: int) -> FeatureView:
    store = FeatureStore.create(path)
    for number, count in enumerate(counts):
        keys = [FeatureKey(str(number), i, None) for i in range(count)]
        features = np.random.default_rng(number).standard_normal((count, 6)).astype(dtype)
        store.append(str(number), keys, features, _FINGERPRINT)
    return store.open()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("counts", [(9,), (4, 0, 5), (0,)])
def test_features_become_float32_tensors(tmp_path: Path, dtype: str, counts: tuple[int, ...]) -> None:
    view = _view(tmp_path, dtype, *counts)
    whole = tensor(view)
    assert whole.dtype is torch.float32
    assert tuple(whole.shape) == (sum(counts), 6)
    np.testing.assert_array_equal(whole.numpy(), view.rows(range(sum(counts))).astype(np.float32))


def test_adjoining_float32_rows_of_one_shard_share_the_mapping(tmp_path: Path) -> None:
    view = _view(tmp_path, "float32", 9)
    assert tensor(view, range(3, 7)).data_ptr() == tensor(view).data_ptr() + 3 * 6 * 4


def test_scattered_rows_are_copied_in_their_order(tmp_path: Path) -> None:
    view = _view(tmp_path, "float32", 4, 5)
    part = tensor(view, [8, 0, 8])
    np.testing.assert_array_equal(part.numpy(), view.rows([8, 0, 8]))
    part.zero_()
    assert bool(tensor(view, [8]).any())


def test_a_shared_tensor_outlives_its_view(tmp_path: Path) -> None:
    view = _view(tmp_path, "float32", 9)
    expected = view.rows(range(9))
    shared = tensor(view)
    del view
    np.testing.assert_array_equal(shared.numpy(), expected)


def test_a_head_is_applied_to_every_feature(tmp_path: Path) -> None:
    view = _view(tmp_path, "float32", 4, 5)
    np.testing.assert_allclose(values_of(lambda x: x.sum(1), view), view.rows(range(9)).sum(1), rtol=1e-6)
