"""JSON manifests: replaced in one step, read with clear errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from digiq_ray.core.errors import DiskFullError, StoreError
from digiq_ray.store.manifest import read_json, write_json

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_TEXTS = st.text(st.characters(codec="utf-8"))
_VALUES = st.recursive(_SCALARS | _TEXTS, lambda inner: st.lists(inner) | st.dictionaries(_TEXTS, inner), max_leaves=10)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=_VALUES)
def test_a_value_is_read_as_it_was_written(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "m.json", value)
    assert read_json(tmp_path / "m.json") == value


def test_writing_again_replaces_the_value(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"stage": 1, "shards": ["a", "b"]})
    write_json(tmp_path / "m.json", {"stage": 2})
    assert read_json(tmp_path / "m.json") == {"stage": 2}
    assert os.listdir(tmp_path) == ["m.json"]


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {1, 2}, "\ud800"])
def test_a_value_without_a_json_form_is_refused_and_the_old_file_kept(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "m.json", 1)
    with pytest.raises(StoreError, match=r"m\.json: the value has no JSON form"):
        write_json(tmp_path / "m.json", value)
    assert read_json(tmp_path / "m.json") == 1


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe", b"[" * 100_000])
def test_broken_json_is_a_store_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"m\.json: is not JSON"):
        read_json(tmp_path / "m.json")


def test_a_missing_file_is_a_store_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"m\.json: cannot be read: No such file"):
        read_json(tmp_path / "m.json")


def test_a_full_disk_keeps_the_old_value(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    write_json(tmp_path / "m.json", 1)
    request.getfixturevalue("full_disk")
    with pytest.raises(DiskFullError):
        write_json(tmp_path / "m.json", 2)
    assert read_json(tmp_path / "m.json") == 1
