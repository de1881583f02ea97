"""Publishing a directory: whole or not at all, also where one is there already and the process dies."""

import errno
import os
from pathlib import Path

import pytest

from digiq_ray.core.errors import DiskFullError, StoreError
from digiq_ray.learner.directories import publish_directory


class Killed(BaseException):
    """Stands for the end of the process."""


def version(text: str):
    def write(hidden: Path) -> None:
        (hidden / "a").write_text(text)
        (hidden / "deep").mkdir()
        (hidden / "deep" / "b").write_text(text)

    return write


def content(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): p.read_text() for p in sorted(directory.rglob("*")) if p.is_file()}


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def whole(text: str) -> dict[str, str]:
    return {"a": text, "deep/b": text}


def test_a_directory_appears_whole_and_leaves_nothing_beside_it(tmp_path):
    publish_directory(tmp_path / "models" / "critic", version("1"))
    assert content(tmp_path / "models" / "critic") == whole("1")
    assert names(tmp_path / "models") == ["critic"]


def test_a_directory_is_replaced(tmp_path):
    for text in "12":
        publish_directory(tmp_path / "critic", version(text))
    assert content(tmp_path / "critic") == whole("2")
    assert names(tmp_path) == ["critic"]


def test_everything_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync

    def noting(descriptor):
        flushed.append((Path(os.readlink(f"/proc/self/fd/{descriptor}")).name, (tmp_path / "critic").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    publish_directory(tmp_path / "critic", version("1"))
    assert {name for name, named in flushed if not named} == {"a", "b", "deep", f".critic.{os.getpid()}"}
    assert flushed[-1] == (tmp_path.name, True)


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_process_that_dies_loses_neither_the_old_nor_the_name_for_good(tmp_path, monkeypatch, renames):
    publish_directory(tmp_path / "critic", version("old"))
    left = [renames]
    rename = Path.rename

    def dying(self, target):
        if not left[0]:
            raise Killed
        left[0] -= 1
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)
    if renames < 2:
        with pytest.raises(Killed):
            publish_directory(tmp_path / "critic", version("new"))
    else:
        publish_directory(tmp_path / "critic", version("new"))
    monkeypatch.undo()
    kept = [content(entry) for entry in tmp_path.iterdir()]
    assert whole("new" if renames == 2 else "old") in kept

    def refuse(hidden):
        raise StoreError("the next writer fails")

    with pytest.raises(StoreError, match="the next writer fails"):
        publish_directory(tmp_path / "critic", refuse)
    assert content(tmp_path / "critic") == whole("new" if renames == 2 else "old")


def test_what_dead_writers_of_the_same_name_left_is_removed(tmp_path):
    for name in (".critic.1", ".critic.old", ".critic.2.3", ".other.1"):
        (tmp_path / name).mkdir()
    (tmp_path / "critic").mkdir()
    publish_directory(tmp_path / "critic", version("1"))
    assert names(tmp_path) == [".critic.2.3", ".other.1", "critic"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        Exception("I/O error: No space left on device (os error 28)"),
    ],
    ids=["disk", "quota", "rust"],
)
def test_a_full_disk_is_a_typed_error_and_the_old_one_stays(tmp_path, error):
    publish_directory(tmp_path / "critic", version("old"))

    def fill(hidden):
        (hidden / "a").write_text("half")
        raise error

    with pytest.raises(DiskFullError, match=r"no space is left for .*critic; free some and repeat the command"):
        publish_directory(tmp_path / "critic", fill)
    assert content(tmp_path / "critic") == whole("old")
    assert names(tmp_path) == ["critic"]


def test_a_place_that_cannot_be_written_is_a_typed_error(tmp_path):
    def forbidden(hidden):
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(StoreError, match="critic: cannot be written: Permission denied"):
        publish_directory(tmp_path / "critic", forbidden)
    assert names(tmp_path) == []


def test_a_parent_that_is_a_file_is_a_typed_error(tmp_path):
    (tmp_path / "models").write_text("")
    with pytest.raises(StoreError, match="models: is a file, not a directory"):
        publish_directory(tmp_path / "models" / "critic", version("1"))
