"""Columns of features: by row and by key they hold the same, and a sample without its feature is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.store.features import FeatureKey, FeatureStore, FeatureView, Fingerprint
from digiq_ray.store.sampler_columns import FeatureRows, KeyedRows, Texts

_FINGERPRINT = Fingerprint(model="0a1b", layer=3, pooling="last", prompt="2c3d", image="224x224 RGB")
_KEYS = [FeatureKey(f"e{i % 5}", i // 5, None if i % 2 else f"tap {i}") for i in range(50)]


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> FeatureView:
    store = FeatureStore.create(tmp_path_factory.mktemp("features"))
    for shard, keys in (("a", _KEYS[:20]), ("b", _KEYS[20:])):
        features = np.random.default_rng(len(keys)).standard_normal((len(keys), 8)).astype(np.float32)
        store.append(shard, keys, features, _FINGERPRINT)
    return store.open()


def _columns(view: FeatureView, keys: list[FeatureKey]) -> KeyedRows:
    return KeyedRows(
        view,
        episode_ids=[key.episode_id for key in keys],
        steps=np.array([key.step for key in keys], dtype=np.int64),
        actions=[key.action or "" for key in keys],
    )


@given(batches=st.lists(st.lists(st.integers(0, 24)), max_size=4))
def test_by_row_and_by_key_a_column_holds_the_same(view: FeatureView, batches: list[list[int]]) -> None:
    wanted = [key for key in _KEYS if key.action is not None]
    by_key = _columns(view, wanted)
    by_row = FeatureRows(view, np.array([_KEYS.index(key) for key in wanted]))
    assert len(by_key) == len(by_row) == 25
    for batch in batches:
        samples = np.asarray(batch, dtype=np.int64)
        np.testing.assert_array_equal(by_key[samples], by_row[samples])


def test_several_steps_of_an_episode_are_several_frames(view: FeatureView) -> None:
    frames = KeyedRows(view, episode_ids=["e1", "e3"], steps=np.array([[0, 2], [4, 0]]))
    rows = [[_KEYS.index(FeatureKey(f"e{e}", step, None)) for step in steps] for e, steps in ((1, (0, 2)), (3, (4, 0)))]
    np.testing.assert_array_equal(frames[np.array([0, 1])], view.rows(rows))


def test_a_key_is_looked_up_when_it_is_first_needed_and_never_again(
    view: FeatureView, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    locate = FeatureView.locate

    def counting(self: FeatureView, keys: Any) -> NDArray[np.int64]:
        asked.append(len(keys))
        return locate(self, keys)

    monkeypatch.setattr(FeatureView, "locate", counting)
    column = _columns(view, [key for key in _KEYS if key.action is not None])
    for samples in ([3, 4], [4, 3], [3, 9]):
        column[np.array(samples)]
    assert asked == [2, 2]


@pytest.mark.parametrize(
    ("actions", "line"),
    [(None, "episode e0, step 0 has no feature"), (["tap 99"], "episode e0, step 0, action 'tap 99' has no feature")],
)
def test_a_sample_without_its_feature_is_named(view: FeatureView, actions: list[str] | None, line: str) -> None:
    column = KeyedRows(view, episode_ids=["e0"], steps=np.array([0]), actions=actions)
    with pytest.raises(StoreError, match=line):
        column[np.array([0])]


def test_keys_of_different_lengths_are_refused(view: FeatureView) -> None:
    with pytest.raises(InputError, match="keys of 2 steps"):
        KeyedRows(view, episode_ids=["e0"], steps=np.array([0, 1]))


@pytest.mark.parametrize("rows", [[0, -1], [50], [0.5]])
def test_a_row_that_the_view_does_not_have_is_refused(view: FeatureView, rows: list[float]) -> None:
    with pytest.raises(InputError, match=r"integers in \[0, 50\): a sample lacks its feature"):
        FeatureRows(view, np.array(rows))


@given(st.data())
def test_texts_are_those_of_their_rows(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.lists(st.text(max_size=5)), min_size=1, max_size=4))
    values = [text for part in parts for text in part]
    rows = np.array(data.draw(st.lists(st.integers(-1, len(values) - 1), min_size=1)))
    column = Texts(pa.chunked_array(parts, pa.string()), rows)
    samples = np.array(data.draw(st.lists(st.integers(0, len(rows) - 1))), dtype=np.int64)
    assert len(column) == len(rows)
    assert column[samples].tolist() == [None if rows[i] < 0 else values[rows[i]] for i in samples]


def test_texts_without_rows_are_all_in_order() -> None:
    assert Texts(pa.array(["a", "b", "c"]))[np.array([2, 0])].tolist() == ["c", "a"]


def test_keys_may_be_texts(view: FeatureView) -> None:
    texts = Texts(pa.chunked_array([["e0", "e1"], ["e2", "e3"]]), np.array([3, 1]))
    by_text = KeyedRows(view, episode_ids=texts, steps=np.array([[0], [4]]))
    by_list = KeyedRows(view, episode_ids=["e3", "e1"], steps=np.array([[0], [4]]))
    np.testing.assert_array_equal(by_text[np.array([1, 0])], by_list[np.array([1, 0])])
