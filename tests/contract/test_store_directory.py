"""What every ``Directory`` must do, wherever its files lie. A new place is one more entry in ``PLACES``."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digiq_ray.core.errors import StoreError
from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.directory import Directory, create_directory, open_directory

PLACES = ("local", "s3")


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where nothing is yet."""
    return str(tmp_path / "some" / "data") if request.param == "local" else request.getfixturevalue("s3_url")


@pytest.fixture
def directory(place: str) -> Directory:
    return create_directory(place)


def read(directory: Directory, name: str) -> bytes:
    with directory.reading(name) as file:
        return file.read()


# ---- opening


def test_a_directory_that_does_not_exist_is_a_store_error_that_names_it(place: str) -> None:
    with pytest.raises(StoreError, match=f"^{place}: the data set does not exist; give the directory") as raised:
        open_directory(place)
    assert not isinstance(raised.value, StoreUnreachableError)


def test_a_directory_that_was_made_can_be_opened_and_is_empty(place: str) -> None:
    create_directory(place)
    assert open_directory(place).names("") == []


def test_making_a_directory_again_changes_nothing(place: str) -> None:
    create_directory(place).publish("a.x", b"content")
    assert create_directory(place).names("") == ["a.x"]


def test_a_directory_is_opened_by_its_own_path_and_by_the_text_of_it(directory: Directory) -> None:
    directory.publish("a.x", b"content")
    assert open_directory(directory.path) == open_directory(str(directory.path)) == directory


def test_the_text_of_its_path_is_what_it_was_opened_with(place: str, directory: Directory) -> None:
    assert str(directory.path) == place
    assert str(directory.path / "a.x") == f"{place}/a.x"


def test_directories_side_by_side_and_inside_each_other_do_not_see_each_others_files(place: str) -> None:
    outer, beside, inner = (create_directory(path) for path in (place, f"{place}2", f"{place}/inner"))
    for directory in (outer, beside, inner):
        directory.publish(f"{str(directory.path).rpartition('/')[2]}.x", b"content")
    assert [len(directory.names(".x")) for directory in (outer, beside, inner)] == [1, 1, 1]
    assert inner.names(".x") == ["inner.x"]


def test_a_directory_pickles_as_its_path(directory: Directory) -> None:
    directory.publish("a.x", b"content")
    copied = pickle.loads(pickle.dumps(directory))
    assert copied == directory
    assert read(copied, "a.x") == b"content"


# ---- names


def test_names_are_sorted_and_end_with_the_suffix(directory: Directory) -> None:
    for name in ("c.x", "a.x", "b.y", "a.x.y"):
        directory.publish(name, b"")
    assert directory.names(".x") == ["a.x", "c.x"]
    assert directory.names("") == ["a.x", "a.x.y", "b.y", "c.x"]


def test_names_that_others_publish_and_remove_are_seen_at_once(directory: Directory) -> None:
    other = open_directory(directory.path)
    for number in range(3):
        assert len(directory.names("")) == number
        other.publish(f"{number}.x", b"")
    other.remove("1.x")
    assert directory.names("") == ["0.x", "2.x"]


def test_hidden_files_do_not_exist(directory: Directory) -> None:
    directory.publish(".hidden.x", b"")
    assert directory.names(".x") == []


# ---- publish


@pytest.mark.parametrize("content", [b"", b"content", bytes(range(256)) * 5000], ids=["empty", "short", "long"])
def test_what_is_published_is_read_back(directory: Directory, content: bytes) -> None:
    assert directory.publish("a.x", content)
    assert read(directory, "a.x") == content


def test_a_function_may_write_the_content(directory: Directory) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"one ")
        file.write(b"two")

    assert directory.publish("a.x", write)
    assert read(directory, "a.x") == b"one two"


def test_a_name_is_given_once(directory: Directory) -> None:
    assert directory.publish("a.x", b"first")
    assert not directory.publish("a.x", b"second")
    assert not directory.publish("a.x", b"first")
    assert read(directory, "a.x") == b"first"


def test_one_of_many_writers_of_a_name_wins_and_the_file_is_its_own(directory: Directory) -> None:
    contents = [f"content of {number}".encode() * 1000 for number in range(8)]
    with ThreadPoolExecutor(len(contents)) as pool:
        won = list(pool.map(lambda content: directory.publish("a.x", content), contents))
    assert won.count(True) == 1
    assert read(directory, "a.x") == contents[won.index(True)]


def test_a_failure_of_the_writer_passes_and_publishes_nothing(directory: Directory) -> None:
    def write(file: BinaryIO) -> None:
        file.write(b"some of it")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        directory.publish("a.x", write)
    assert directory.names("") == []
    assert directory.publish("a.x", b"content")


def test_sync_may_be_called_at_any_time(directory: Directory) -> None:
    directory.sync()
    directory.publish("a.x", b"content")
    directory.sync()
    assert read(directory, "a.x") == b"content"


# ---- reading


def test_parquet_is_read_in_full_and_in_part(directory: Directory) -> None:
    table = pa.table({"a": range(50_000), "b": [f"text {number}" for number in range(50_000)]})
    directory.publish("a.x", lambda file: pq.write_table(table, file, row_group_size=5000))
    with directory.reading("a.x") as file:
        parquet = pq.ParquetFile(file)
        assert parquet.read_row_group(7, columns=["b"])["b"].to_pylist() == table["b"][35_000:40_000].to_pylist()
        assert parquet.read().equals(table)


def test_arrow_is_read(directory: Directory) -> None:
    table = pa.table({"a": range(1000)})

    def write(file: BinaryIO) -> None:
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    directory.publish("a.x", write)
    with directory.reading("a.x") as file:
        assert pa.ipc.open_file(file).read_all().equals(table)


@pytest.mark.parametrize("size", [10, 70_000, 500_000])
def test_any_range_is_read(directory: Directory, size: int) -> None:
    content = os.urandom(size)
    directory.publish("a.x", content)
    with directory.reading("a.x") as file:
        assert file.size() == size
        for start, length in ((0, 1), (size // 2, size // 3), (size - 5, 100), (0, size), (1, size // 4)):
            assert file.read_at(length, start) == content[start : start + length]


def test_many_threads_read_and_publish_at_once(directory: Directory) -> None:
    contents = {f"{number:02}.x": os.urandom(100_000) for number in range(12)}
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda item: directory.publish(*item), contents.items()))
        assert list(pool.map(lambda name: read(directory, name), contents)) == list(contents.values())


def test_what_is_wrong_with_a_content_is_a_store_error_that_names_the_file(directory: Directory) -> None:
    directory.publish("a.x", b"this is no Parquet")
    with (
        pytest.raises(StoreError, match=f"^{directory.path / 'a.x'}: is broken .*; restore it from a copy") as raised,
        directory.reading("a.x") as file,
    ):
        pq.ParquetFile(file)
    assert "\n" not in str(raised.value)


# ---- mapping


def test_a_mapping_holds_the_content_and_outlives_the_context_and_the_file(directory: Directory) -> None:
    content = bytes(range(256)) * 1000
    directory.publish("a.x", content)
    with directory.mapping("a.x") as mapped:
        assert mapped[1000:1300] == content[1000:1300]
    directory.remove("a.x")
    assert mapped[:] == content


def test_a_mapping_is_read_only(directory: Directory) -> None:
    directory.publish("a.x", b"content")
    with directory.mapping("a.x") as mapped, pytest.raises(TypeError):
        mapped[0] = 0  # type: ignore[index]


def test_an_empty_file_cannot_be_mapped(directory: Directory) -> None:
    directory.publish("a.x", b"")
    with pytest.raises(StoreError, match=r"a\.x: is broken"), directory.mapping("a.x"):
        pass


# ---- digest


@pytest.mark.parametrize("size", [0, 10, 200_000])
def test_the_digest_is_that_of_the_content(directory: Directory, size: int) -> None:
    content = os.urandom(size)
    directory.publish("a.x", content)
    assert directory.digest("a.x") == hashlib.blake2b(content, digest_size=16).hexdigest()


# ---- a file that is not there

MISSING: dict[str, Callable[[Directory], Any]] = {
    "reading": lambda directory: read(directory, "a.x"),
    "mapping": lambda directory: directory.mapping("a.x").__enter__(),
    "digest": lambda directory: directory.digest("a.x"),
    "set_aside": lambda directory: directory.set_aside("a.x"),
}


@pytest.mark.parametrize("use", MISSING.values(), ids=MISSING)
def test_a_file_that_is_not_there_is_a_store_error_that_names_it(
    directory: Directory, use: Callable[[Directory], Any]
) -> None:
    with pytest.raises(StoreError, match=str(directory.path)) as raised:
        use(directory)
    assert "a.x" in str(raised.value)
    assert not isinstance(raised.value, StoreUnreachableError)


# ---- set_aside, remove, sweep


def test_what_is_set_aside_has_no_name_but_its_content_still(directory: Directory) -> None:
    directory.publish("a.x", b"content")
    place = directory.set_aside("a.x")
    assert directory.names("") == []
    assert str(place).startswith(f"{directory.path}/")
    folder, _, name = str(place).rpartition("/")
    assert read(open_directory(folder), name) == b"content"


def test_a_name_that_was_set_aside_can_be_given_and_set_aside_again(directory: Directory) -> None:
    for content in (b"first", b"second"):
        assert directory.publish("a.x", content)
        folder = str(directory.set_aside("a.x")).rpartition("/")[0]
    assert read(open_directory(folder), "a.x") == b"second"


def test_what_is_removed_is_gone_and_removing_it_again_is_harmless(directory: Directory) -> None:
    directory.publish("a.x", b"first")
    directory.remove("a.x")
    directory.remove("a.x")
    assert directory.names("") == []
    assert directory.publish("a.x", b"second")
    assert read(directory, "a.x") == b"second"


def test_a_sweep_takes_nothing_that_was_published(directory: Directory) -> None:
    directory.publish("a.x", b"content")
    directory.publish(".hidden", b"content")
    assert directory.sweep(older_than_seconds=-10) == []
    assert read(directory, "a.x") == read(directory, ".hidden") == b"content"
