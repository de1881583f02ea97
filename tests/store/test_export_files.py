"""The directory of an export: it appears whole, never overwrites, and leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.errors import DiskFullError, InputError, StoreError
from digiq_ray.store.export.files import image_suffix, new_directory, safe_name, write_screen


def test_the_directory_appears_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    with new_directory(out) as root:
        (root / "one").write_text("1")
        assert not out.exists()
    assert [path.name for path in out.iterdir()] == ["one"]
    assert os.listdir(tmp_path / "a") == ["out"]


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot write out"), new_directory(tmp_path / "out") as root:
        _fill(root, then=(tmp_path / "nothing").read_text)
    assert os.listdir(tmp_path) == []


def _fill(root: Path, then: Callable[[], object]) -> None:
    (root / "one").write_text("1")
    then()


def test_an_empty_directory_may_be_given(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_directory(tmp_path / "out") as root:
        (root / "one").write_text("1")
    assert os.listdir(tmp_path / "out") == ["one"]


@pytest.mark.parametrize("directory", [True, False])
def test_what_is_there_is_not_overwritten(tmp_path: Path, directory: bool) -> None:
    out = tmp_path / "out"
    if directory:
        out.mkdir()
        (out / "mine").write_text("mine")
    else:
        out.write_text("mine")
    with pytest.raises(InputError, match="is there already"), new_directory(out):
        pytest.fail("the export began")
    assert (out / "mine" if directory else out).read_text() == "mine"


def test_what_another_export_published_meanwhile_stays(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("mine")
    with pytest.raises(StoreError, match="cannot write out"), new_directory(out) as root:
        _fill(root, then=lambda: other.rename(out))
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(out) == ["mine"]


def test_a_parent_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="is a file, not a directory"), new_directory(tmp_path / "file" / "out"):
        pytest.fail("the export began")


def test_a_full_disk_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError), new_directory(tmp_path / "out"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_leftovers_of_the_dead_are_removed_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead, living, other = (
        tmp_path / name for name in (f".out.{'0' * 16}.tmp", f".out.{'1' * 16}.tmp", f".else.{'0' * 16}.tmp")
    )
    for path in (dead, living, other):
        path.mkdir()
    lock = os.open(living, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with new_directory(tmp_path / "out"):
        pass
    os.close(lock)
    assert (dead.exists(), living.exists(), other.exists()) == (False, True, True)


@given(st.text(max_size=80))
def test_a_safe_name_is_a_split_of_hugging_face_and_a_file_name(text: str) -> None:
    name = safe_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_]{1,80}", name)


@given(st.lists(st.text(max_size=70), unique=True, max_size=20))
def test_different_texts_have_different_safe_names(texts: list[str]) -> None:
    assert len({safe_name(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("start", "suffix"),
    [
        (b"\x89PNG\r\n\x1a\n", ".png"),
        (b"\xff\xd8\xff\xe0", ".jpg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", ".webp"),
        (b"GIF89a", ".gif"),
        (b"BM1234", ".bmp"),
        (b"else", ".bin"),
        (b"", ".bin"),
    ],
)
def test_the_suffix_of_a_screen_follows_from_its_bytes(start: bytes, suffix: str) -> None:
    assert image_suffix(start) == suffix


def test_equal_screens_are_one_file(tmp_path: Path) -> None:
    first = write_screen(tmp_path, "screens", b"GIF8 a", "ab" * 16)
    assert first == write_screen(tmp_path, "screens", b"GIF8 a", "ab" * 16) == f"screens/ab/{'ab' * 16}.gif"
    assert (tmp_path / first).read_bytes() == b"GIF8 a"
