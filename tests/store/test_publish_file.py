"""Files that libraries write to a path, and read from one: the same locally and in S3, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from s3_proxy import seeded

from digiq_ray.core.errors import DiskFullError, StoreError
from digiq_ray.store.directory import Directory, create_directory
from digiq_ray.store.local import LocalDirectory

CONTENT = os.urandom(100_000)


def by_renaming(path: Path) -> None:
    """As libraries do that write beside the path first."""
    beside = path.with_name(".tmpAbCdEf")
    beside.write_bytes(CONTENT)
    beside.rename(path)


@pytest.fixture(params=["local", "s3", "s3 on a bad network"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Directory:
    if request.param == "local":
        return create_directory(tmp_path / "place")
    url: str = request.getfixturevalue("s3_url")
    if request.param != "s3":
        request.getfixturevalue("s3_proxy").plan = seeded(7, 0.25)
    return create_directory(url)


def test_a_file_that_was_written_to_a_path_is_published_and_read_from_one(directory: Directory) -> None:
    assert directory.publish_file("a.x", by_renaming)
    assert directory.names(".x") == ["a.x"]
    with directory.file("a.x") as path:
        assert path.read_bytes() == CONTENT
    with directory.reading("a.x") as file:
        assert bytes(file.read()) == CONTENT


def test_a_name_is_given_once(directory: Directory) -> None:
    assert directory.publish_file("a.x", by_renaming)
    assert not directory.publish_file("a.x", lambda path: path.write_bytes(b"another") and None)
    with directory.file("a.x") as path:
        assert path.read_bytes() == CONTENT


def test_nothing_is_published_if_the_writer_fails(directory: Directory) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("the writer failed")

    with pytest.raises(ValueError, match="the writer failed"):
        directory.publish_file("a.x", fail)
    assert directory.names("") == []
    with pytest.raises(StoreError, match=r"a\.x: is gone"), directory.file("a.x"):
        pass


def test_a_full_disk_is_a_typed_error_and_nothing_stays(directory: Directory) -> None:
    def fill(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFullError, match="no space is left"):
        directory.publish_file("a.x", fill)
    assert directory.names("") == []


def test_a_copy_of_an_object_is_gone_after_use_and_the_object_is_not(s3_url: str) -> None:
    directory = create_directory(s3_url)
    directory.publish_file("a.x", by_renaming)
    with directory.file("a.x") as path:
        assert path.is_file()
    assert not path.exists()
    assert directory.names("") == ["a.x"]


def test_the_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, flushed, fsync = LocalDirectory.create(tmp_path / "place"), [], os.fsync

    def noting(descriptor: int) -> None:
        flushed.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, directory.names(".x")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    directory.publish_file("a.x", by_renaming)
    assert flushed == [("a.x", []), ("place", ["a.x"])]


def test_a_sweep_removes_what_a_writer_left_that_died(tmp_path: Path) -> None:
    directory = LocalDirectory.create(tmp_path)

    left = tmp_path / ".a.x.0123456789abcdef.tmp"
    left.mkdir()
    (left / ".tmpAbCdEf").write_bytes(b"half")
    os.utime(left, (1, 1))
    assert directory.names("") == []
    assert directory.sweep() == [left.name]
    assert os.listdir(tmp_path) == []
