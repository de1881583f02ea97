"""What is particular to a directory on a local file system: what dead writers leave behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from digiq_ray.core.errors import StoreError
from digiq_ray.store.content import StoreUnreachableError, content_errors
from digiq_ray.store.local import LocalDirectory

HOUR_S = 3600
LEFT = ".a.parquet.0123456789abcdef.tmp"


@pytest.fixture
def directory(tmp_path: Path) -> LocalDirectory:
    return LocalDirectory.create(tmp_path / "data")


def leave(directory: LocalDirectory, name: str, age_s: float) -> Path:
    path = directory.path / name
    path.write_bytes(b"some of it")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def test_a_sweep_deletes_what_dead_writers_left_and_names_it(directory: LocalDirectory) -> None:
    leave(directory, LEFT, 2 * HOUR_S)
    leave(directory, LEFT.replace(".a.", ".b."), 2 * HOUR_S)
    assert directory.sweep() == [LEFT, LEFT.replace(".a.", ".b.")]
    assert directory.sweep() == []
    assert os.listdir(directory.path) == []


def test_a_sweep_leaves_writers_that_may_live(directory: LocalDirectory) -> None:
    path = leave(directory, LEFT, HOUR_S / 2)
    assert directory.sweep() == []
    assert path.exists()
    assert directory.sweep(older_than_seconds=HOUR_S / 4) == [LEFT]


@pytest.mark.parametrize(
    "name", ["a.parquet", ".hidden", ".a.tmp", "a.0123456789abcdef.tmp", ".a.0123456789ABCDEF.tmp"]
)
def test_a_sweep_leaves_files_that_no_writer_made_so(directory: LocalDirectory, name: str) -> None:
    path = leave(directory, name, 2 * HOUR_S)
    assert directory.sweep() == []
    assert path.exists()


def test_a_sweep_takes_the_name_that_a_writer_really_uses(directory: LocalDirectory) -> None:
    seen: list[str] = []
    directory.publish("a.parquet", lambda file: seen.extend(os.listdir(directory.path)))
    leave(directory, seen[0], 2 * HOUR_S)
    assert directory.sweep() == seen


def test_sweeping_a_directory_that_is_gone_is_a_store_error(directory: LocalDirectory) -> None:
    directory.path.rmdir()
    with pytest.raises(StoreError, match="data: cannot "):
        directory.sweep()


def test_a_subdirectory_is_no_file(directory: LocalDirectory) -> None:
    (directory.path / "folder.parquet").mkdir()
    assert directory.names(".parquet") == []


def test_a_file_that_may_not_be_read_is_not_called_broken() -> None:
    with pytest.raises(StoreUnreachableError, match=r"^a\.parquet: may not be read; "), content_errors("a.parquet"):
        raise PermissionError(13, "Permission denied")
