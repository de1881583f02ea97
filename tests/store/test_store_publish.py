"""Publishing one file: whole or not at all, never twice under one name, and nothing left behind by a failure."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

import pytest

from digiq_ray.core.errors import DiskFullError, StoreError
from digiq_ray.store.publish import publish, replace


def _files(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def test_publish_writes_the_bytes_and_nothing_else(tmp_path: Path) -> None:
    publish(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert _files(tmp_path) == ["a"]


def test_publish_lets_a_function_write_the_content(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"one ")
        file.write(b"two")

    publish(tmp_path / "a", write)
    assert (tmp_path / "a").read_bytes() == b"one two"


def test_the_final_name_does_not_exist_while_the_content_is_written(tmp_path: Path) -> None:
    seen: list[list[str]] = []
    publish(tmp_path / "a", lambda file: seen.append(_files(tmp_path)))
    assert len(seen[0]) == 1
    assert seen[0][0].startswith(".a.")


def test_data_is_flushed_before_the_name_is_given_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[str, bool]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        flushed.append((kind, (tmp_path / "a").exists()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    publish(tmp_path / "a", b"content")
    assert flushed == [("file", False), ("directory", True)]


def test_publish_never_replaces_a_file(tmp_path: Path) -> None:
    publish(tmp_path / "a", b"first")
    with pytest.raises(FileExistsError):
        publish(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert _files(tmp_path) == ["a"]


def test_a_lost_answer_to_a_link_that_was_made_counts_as_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    publish(tmp_path / "a", b"content")
    assert _files(tmp_path) == ["a"]


@pytest.fixture
def no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.usefixtures("no_hard_links")
def test_publish_works_without_hard_links(tmp_path: Path) -> None:
    publish(tmp_path / "a", b"content")
    assert (tmp_path / "a").read_bytes() == b"content"
    assert _files(tmp_path) == ["a"]


@pytest.mark.usefixtures("no_hard_links")
def test_publish_never_replaces_a_file_without_hard_links(tmp_path: Path) -> None:
    publish(tmp_path / "a", b"first")
    with pytest.raises(FileExistsError):
        publish(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"


def test_replace_replaces_whole(tmp_path: Path) -> None:
    replace(tmp_path / "a", b"first, and longer")
    replace(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"second"
    assert _files(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_while_writing_is_a_disk_full_error_and_leaves_nothing(tmp_path: Path, code: int) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"some of it")
        raise OSError(code, os.strerror(code))

    with pytest.raises(DiskFullError, match=f"^{tmp_path}: no space is left to write a .* published before is whole"):
        publish(tmp_path / "a", write)
    assert _files(tmp_path) == []


@pytest.mark.usefixtures("full_disk")
def test_a_disk_that_is_full_on_flushing_is_a_disk_full_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError):
        publish(tmp_path / "a", b"content")
    assert _files(tmp_path) == []


def test_replace_keeps_the_old_content_on_a_full_disk(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    replace(tmp_path / "a", b"first")
    request.getfixturevalue("full_disk")
    with pytest.raises(DiskFullError):
        replace(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert _files(tmp_path) == ["a"]


def test_any_failure_of_the_writer_passes_and_leaves_nothing(tmp_path: Path) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"some of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "a", write)
    assert _files(tmp_path) == []


def test_a_missing_directory_is_a_store_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing: cannot write a: No such file"):
        publish(tmp_path / "missing" / "a", b"content")
