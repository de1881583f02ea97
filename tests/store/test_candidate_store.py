"""CandidateStore: unique actions for each state, a shard at a time, once."""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from digiq_ray.core.actions import ActionType, press, swipe, tap, type_text
from digiq_ray.core.errors import DiskFullError, InputError, StoreError
from digiq_ray.store.candidates import CANDIDATE_SCHEMA, Candidate, CandidateStore
from digiq_ray.store.schema import rows_to_table

_TAP = Candidate(
    episode_id="e1",
    step=0,
    action_text="tap 0.50 0.25",
    action=tap(0.5, 0.25),
    parse_error=None,
    multiplicity=3,
    logprob=-1.5,
    is_behaviour=True,
    policy_version="v1",
    temperature=1.0,
)


@pytest.fixture
def store(tmp_path: Path) -> CandidateStore:
    return CandidateStore.create(tmp_path / "candidates")


def _texts(count: int, **changes: object) -> list[Candidate]:
    return [dataclasses.replace(_TAP, action_text=f"text {i}", **changes) for i in range(count)]  # type: ignore[arg-type]


def test_candidates_of_a_state_come_back_exactly_ascending_by_text(store: CandidateStore) -> None:
    written = [
        _TAP,
        dataclasses.replace(_TAP, action_text="swipe", action=swipe(0.5, 0.8, 0.5, 0.2), is_behaviour=False),
        dataclasses.replace(_TAP, action_text="type käse", action=type_text("käse"), logprob=None, temperature=None),
        dataclasses.replace(_TAP, action_text="nonsense", action=None, parse_error="unknown action 'nonsense'"),
        dataclasses.replace(_TAP, action_text="back", action=press(ActionType.BACK), multiplicity=0),
    ]
    store.append("a", written)
    assert CandidateStore(store.path).for_state("e1", 0) == sorted(written, key=lambda c: c.action_text)


@settings(max_examples=50, deadline=None)
@given(
    logprob=st.none() | st.floats(max_value=0, allow_nan=False),
    temperature=st.none() | st.floats(0, 10),
    text=st.text(st.characters(codec="utf-8")),
    multiplicity=st.integers(1, 2**31 - 1),
)
def test_numbers_are_kept_as_float32(
    logprob: float | None, temperature: float | None, text: str, multiplicity: int
) -> None:
    candidate = dataclasses.replace(
        _TAP, logprob=logprob, temperature=temperature, action_text=text, multiplicity=multiplicity
    )
    again = dataclasses.replace(candidate)
    assert again == candidate
    row = rows_to_table([{"logprob": candidate.logprob, "temperature": candidate.temperature}], CANDIDATE_SCHEMA)
    assert row["logprob"].to_pylist() == [candidate.logprob]
    assert row["temperature"].to_pylist() == [candidate.temperature]


def test_a_state_without_candidates_has_none(store: CandidateStore) -> None:
    store.append("a", [_TAP])
    assert store.for_state("e1", 1) == []
    assert store.for_state("e2", 0) == []


def test_the_table_is_sorted_by_state_and_text(store: CandidateStore) -> None:
    store.append("b", [dataclasses.replace(c, step=step) for step in (1, 0) for c in reversed(_texts(2))])
    store.append("a", _texts(2, episode_id="e2") + _texts(1, episode_id="e0"))
    table = store.table(["episode_id", "step", "action"])
    rows = list(zip(*table.to_pydict().values(), strict=True))
    assert rows == sorted(rows)
    assert len(rows) == 7


def test_the_table_has_the_columns_of_the_design(store: CandidateStore) -> None:
    store.append("a", [_TAP])
    columns = (
        "episode_id step action action_type x y x2 y2 typed_text parse_error valid multiplicity logprob is_behaviour "
        "policy_version temperature"
    )
    assert " ".join(store.table().column_names) == columns
    assert store.table(["valid", "multiplicity", "action_type", "x"]).to_pylist() == [
        {"valid": True, "multiplicity": 3, "action_type": "tap", "x": 0.5}
    ]


def test_shards_that_are_done_are_named(store: CandidateStore) -> None:
    assert store.shards() == set()
    store.append("a", [_TAP])
    store.append("b", [])
    assert CandidateStore(store.path).shards() == {"a", "b"}


def test_an_empty_shard_counts_as_done_and_has_no_rows(store: CandidateStore) -> None:
    assert store.append("a", [])
    assert store.table().num_rows == 0
    assert store.table().schema.equals(CANDIDATE_SCHEMA)


def test_a_repeated_shard_is_dropped(store: CandidateStore) -> None:
    assert store.append("a", [_TAP])
    assert not CandidateStore(store.path).append("a", _texts(5))
    assert store.for_state("e1", 0) == [_TAP]


def test_of_an_episode_in_two_shards_the_first_by_name_is_read(store: CandidateStore) -> None:
    store.append("b", _texts(3))
    store.append("a", [_TAP])
    assert store.for_state("e1", 0) == [_TAP]
    assert store.table().num_rows == 1


def test_a_segment_names_its_shard_and_any_parquet_reader_reads_it(store: CandidateStore) -> None:
    store.append("a", [_TAP])
    assert pq.read_metadata(store.path / "a.parquet").metadata[b"digiq.shard"] == b"a"
    assert pq.read_table(store.path / "a.parquet")["action"].to_pylist() == ["tap 0.50 0.25"]


def test_a_shard_under_another_name_is_a_store_error(store: CandidateStore) -> None:
    store.append("a", [_TAP])
    shutil.copy(store.path / "a.parquet", store.path / "b.parquet")
    with pytest.raises(StoreError, match=r"b\.parquet: is broken \(it is shard 'a' under another name\)"):
        store.table()


def test_a_text_that_occurs_twice_at_a_state_is_refused(store: CandidateStore) -> None:
    with pytest.raises(InputError, match="occurs twice at episode e1, step 0"):
        store.append("a", [_TAP, dataclasses.replace(_TAP, multiplicity=1)])
    assert store.shards() == set()


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a b", "x" * 129])
def test_a_shard_name_that_is_no_file_name_is_refused(store: CandidateStore, name: str) -> None:
    with pytest.raises(InputError, match="shard name"):
        store.append(name, [_TAP])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": None}, "either an action or a parse error"),
        ({"parse_error": "no"}, "either an action or a parse error"),
        ({"multiplicity": -1}, "multiplicity -1 is impossible"),
        ({"multiplicity": 0, "is_behaviour": False}, "multiplicity 0 is impossible"),
        ({"logprob": math.nan}, "logprob is NaN"),
        ({"temperature": math.nan}, "temperature is NaN"),
    ],
)
def test_an_impossible_candidate_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(_TAP, **changes)  # type: ignore[arg-type]


def test_a_full_disk_leaves_no_trace_of_the_shard(store: CandidateStore, request: pytest.FixtureRequest) -> None:
    store.append("a", [_TAP])
    request.getfixturevalue("full_disk")
    with pytest.raises(DiskFullError):
        store.append("b", [])
    assert os.listdir(store.path) == ["a.parquet"]
    assert store.for_state("e1", 0) == [_TAP]


def test_a_missing_directory_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        CandidateStore(tmp_path / "nothing")


def test_a_candidate_store_pickles_as_its_path(store: CandidateStore) -> None:
    store.append("a", [_TAP])
    assert pickle.loads(pickle.dumps(store)).for_state("e1", 0) == [_TAP]
