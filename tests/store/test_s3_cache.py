"""The cache of downloaded files: never stale, never half, never too large, and shared by processes."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from digiq_ray.core.errors import DeadlineExceededError, DiskFullError, InputError, StoreError
from digiq_ray.store.cache import DownloadCache
from digiq_ray.store.mapped import map_for_rows

_DEADLINE_S = 60


@pytest.fixture
def cache(tmp_path: Path) -> DownloadCache:
    return DownloadCache(tmp_path / "cache", 100)


class Origin:
    """Where downloads come from; counts them."""

    def __init__(self) -> None:
        self.downloads: list[str] = []

    def open(self, cache: DownloadCache, url: str, size: int = 30, version: str = "1") -> BinaryIO:
        def download(file: BinaryIO) -> None:
            self.downloads.append(url)
            file.write(content(url, size, version))

        return cache.open(url=url, version=version, size=size, deadline_s=_DEADLINE_S, download=download)

    def read(self, cache: DownloadCache, url: str, size: int = 30, version: str = "1") -> bytes:
        with self.open(cache, url, size, version) as file:
            return file.read()


def content(url: str, size: int, version: str = "1") -> bytes:
    return (f"{url} {version} " * size).encode()[:size]


@pytest.fixture
def origin() -> Origin:
    return Origin()


def used(cache: DownloadCache) -> int:
    return sum(path.stat().st_size for path in cache.path.iterdir())


def test_a_file_is_downloaded_once(cache: DownloadCache, origin: Origin) -> None:
    for _ in range(3):
        assert origin.read(cache, "a") == content("a", 30)
    assert origin.downloads == ["a"]


def test_another_version_is_another_file(cache: DownloadCache, origin: Origin) -> None:
    assert origin.read(cache, "a", version="1") == content("a", 30, "1")
    assert origin.read(cache, "a", version="2") == content("a", 30, "2")
    assert origin.read(cache, "a", version="1") == content("a", 30, "1")
    assert len(origin.downloads) == 2


def test_the_least_recently_opened_files_make_room(cache: DownloadCache, origin: Origin) -> None:
    for url in "abcadb":  # d takes the place of b, and then b that of c
        origin.read(cache, url)
        assert used(cache) <= cache.limit
    assert origin.downloads == ["a", "b", "c", "d", "b"]
    for url in "adb":
        origin.read(cache, url)
    assert len(origin.downloads) == 5


def test_a_file_that_fills_the_cache_takes_the_place_of_all_others(cache: DownloadCache, origin: Origin) -> None:
    for url in "abc":
        origin.read(cache, url)
    assert origin.read(cache, "d", size=100) == content("d", 100)
    assert used(cache) == 100


def test_a_file_above_the_limit_is_a_store_error_that_says_what_to_set(cache: DownloadCache, origin: Origin) -> None:
    with pytest.raises(StoreError, match=r"^a: its 101 bytes exceed the limit .*; set DIGIQ_CACHE_BYTES above 101$"):
        origin.read(cache, "a", size=101)
    assert origin.downloads == []


def test_files_in_use_are_kept_and_too_many_of_them_are_a_store_error(cache: DownloadCache, origin: Origin) -> None:
    with origin.open(cache, "a"), origin.open(cache, "b"), origin.open(cache, "c"):
        with pytest.raises(
            StoreError, match=r"^d: .* where 90 of 100 bytes are in use; set DIGIQ_CACHE_BYTES to at least 120$"
        ):
            origin.read(cache, "d")
        assert origin.read(cache, "a") == content("a", 30)
    assert origin.read(cache, "d") == content("d", 30)
    assert origin.downloads == ["a", "b", "c", "d"]


def test_a_mapping_keeps_its_file_in_the_cache_after_the_file_was_closed(cache: DownloadCache, origin: Origin) -> None:
    with origin.open(cache, "a") as file:
        mapped = map_for_rows(file)
    for url in "bcde":
        origin.read(cache, url)
    origin.read(cache, "a")
    assert origin.downloads.count("a") == 1
    mapped.close()
    for url in "fgh":
        origin.read(cache, url)
    origin.read(cache, "a")
    assert origin.downloads.count("a") == 2


def test_a_download_that_fails_leaves_nothing(cache: DownloadCache, origin: Origin) -> None:
    def download(file: BinaryIO) -> None:
        file.write(b"some of it")
        raise StoreError("cut")

    with pytest.raises(StoreError, match=r"^cut$"):
        cache.open(url="a", version="1", size=30, deadline_s=_DEADLINE_S, download=download)
    assert used(cache) == 0
    assert origin.read(cache, "a") == content("a", 30)


@pytest.mark.parametrize("size", [29, 31])
def test_a_copy_of_another_length_is_refused(cache: DownloadCache, size: int) -> None:
    def download(file: BinaryIO) -> None:
        file.truncate(0)
        file.write(b"x" * size)

    with pytest.raises(StoreError, match=r"^a: its copy has another length"):
        cache.open(url="a", version="1", size=30, deadline_s=_DEADLINE_S, download=download)
    assert used(cache) == 0


def test_a_full_disk_is_a_disk_full_error_and_leaves_nothing(cache: DownloadCache) -> None:
    def download(file: BinaryIO) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFullError):
        cache.open(url="a", version="1", size=30, deadline_s=_DEADLINE_S, download=download)
    assert used(cache) == 0


def test_threads_that_ask_for_the_same_file_download_it_once(cache: DownloadCache, origin: Origin) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: origin.read(cache, "a"), range(16))) == {content("a", 30)}
    assert origin.downloads == ["a"]


def test_a_wait_for_another_download_has_a_deadline(cache: DownloadCache, origin: Origin) -> None:
    started, go_on = threading.Event(), threading.Event()

    def download(file: BinaryIO) -> None:
        started.set()
        assert go_on.wait(_DEADLINE_S)
        file.write(content("a", 30))

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.open, url="a", version="1", size=30, deadline_s=_DEADLINE_S, download=download)
        assert started.wait(_DEADLINE_S)
        try:
            with pytest.raises(DeadlineExceededError, match=r"^a: waited 0 s for another process that downloads it"):
                cache.open(url="a", version="1", size=30, deadline_s=0.1, download=download)
            assert origin.read(cache, "b") == content("b", 30), "others do not wait"
        finally:
            go_on.set()
        first.result(_DEADLINE_S).close()


def test_a_download_under_way_counts_and_is_not_deleted(cache: DownloadCache, origin: Origin) -> None:
    def download(file: BinaryIO) -> None:
        file.write(content("a", 60))
        with pytest.raises(StoreError, match="where 60 of 100 bytes are in use"):
            origin.read(cache, "b", size=60)
        origin.read(cache, "c", size=40)
        origin.read(cache, "d", size=40)

    with cache.open(url="a", version="1", size=60, deadline_s=_DEADLINE_S, download=download) as file:
        file.seek(0)
        assert file.read() == content("a", 60)
    assert origin.downloads == ["c", "d"]


def test_what_a_process_that_was_killed_left_is_taken_over(cache: DownloadCache, origin: Origin) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from digiq_ray.store.cache import DownloadCache\n"
        "DownloadCache(Path(sys.argv[1]), 100).open(url=sys.argv[2], version='1', size=90, deadline_s=9,"
        " download=lambda file: os.kill(os.getpid(), signal.SIGKILL))"
    )
    for dead, url in ("aa", "bc"):  # once for the same file, once for the room that the dead one takes
        killed = subprocess.run([sys.executable, "-c", code, str(cache.path), dead], timeout=_DEADLINE_S, check=False)
        assert killed.returncode == -9
        assert [path.suffix for path in cache.path.iterdir() if path.stat().st_size] == [".part"]
        assert origin.read(cache, url, size=90) == content(url, 90)
        assert used(cache) == 90


def _open_many(cache: DownloadCache, seed: int, results: Any) -> None:
    origin, wrong = Origin(), 0
    for number in range(60):
        url = "abcdef"[(seed * 7 + number * 5 + number // 6) % 6]
        wrong += origin.read(cache, url) != content(url, 30)
    results.put(wrong)


def test_processes_that_push_each_others_files_out_read_what_they_asked_for(tmp_path: Path) -> None:
    cache = DownloadCache(tmp_path / "cache", 150)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    children = [context.Process(target=_open_many, args=(cache, seed, results)) for seed in range(4)]
    for child in children:
        child.start()
    assert [results.get(timeout=_DEADLINE_S) for _ in children] == [0] * 4
    for child in children:
        child.join(_DEADLINE_S)
        assert child.exitcode == 0
    assert used(cache) <= cache.limit


def test_the_room_is_made_by_one_process_at_a_time(cache: DownloadCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("digiq_ray.store.cache._EVICTION_S", 0.1)
    cache.path.mkdir()
    with open(cache.path / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DeadlineExceededError, match="for another process that makes room"):
            Origin().read(cache, "a")


# ---- settings


def test_the_environment_sets_the_place_and_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGIQ_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("DIGIQ_CACHE_BYTES", "123")
    assert DownloadCache.from_environment() == DownloadCache(tmp_path, 123)


@pytest.mark.parametrize(
    ("variables", "expected"), [({"XDG_CACHE_HOME": "/x"}, "/x/digiq-ray"), ({"HOME": "/h"}, "/h/.cache/digiq-ray")]
)
def test_the_cache_lies_in_the_users_cache_directory(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("DIGIQ_CACHE_DIR", "DIGIQ_CACHE_BYTES", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert DownloadCache.from_environment() == DownloadCache(Path(expected), 20 * 10**9)


@pytest.mark.parametrize("text", ["20GB", "-1", "1e9"])
def test_a_limit_that_is_no_number_of_bytes_is_an_input_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("DIGIQ_CACHE_BYTES", text)
    with pytest.raises(InputError, match="DIGIQ_CACHE_BYTES"):
        DownloadCache.from_environment()


def test_a_file_where_the_cache_should_be_is_a_store_error(tmp_path: Path, origin: Origin) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "cache"):
        with pytest.raises(StoreError, match="file"):
            origin.read(DownloadCache(path, 100), "a")


# ---- in front of S3


def test_a_mapping_of_s3_is_downloaded_once_and_again_when_the_object_changed(
    s3_url: str, s3_server: str, s3_proxy: Any
) -> None:
    import boto3

    from digiq_ray.store.directory import create_directory

    directory = create_directory(s3_url)
    directory.publish("a.x", b"first!")

    def read() -> bytes:
        with directory.mapping("a.x") as mapped:
            return mapped[:]

    s3_proxy.seen.clear()
    assert [read(), read()] == [b"first!"] * 2
    assert [method for method, _ in s3_proxy.seen] == ["HEAD", "GET", "HEAD"]
    client = boto3.client("s3", endpoint_url=s3_server, region_name="eu-central-1")
    client.put_object(Bucket=directory.path.bucket, Key=f"{directory.path.key}/a.x", Body=b"second")
    assert read() == b"second"


def test_a_copy_that_is_not_what_its_writer_wrote_is_a_store_error(s3_url: str, s3_server: str) -> None:
    import boto3

    from digiq_ray.store.directory import create_directory

    directory = create_directory(s3_url)
    directory.publish("a.x", b"first!")
    client = boto3.client("s3", endpoint_url=s3_server, region_name="eu-central-1")
    key = f"{directory.path.key}/a.x"
    metadata = client.head_object(Bucket=directory.path.bucket, Key=key)["Metadata"]
    client.put_object(Bucket=directory.path.bucket, Key=key, Body=b"first?", Metadata=metadata)
    with pytest.raises(StoreError, match=r"a\.x: is broken \(its content does not match"), directory.mapping("a.x"):
        pass
    assert [name for name in os.listdir(os.environ["DIGIQ_CACHE_DIR"]) if name != ".lock"] == []


def test_a_file_larger_than_the_cache_is_a_store_error(s3_url: str, s3_environment: pytest.MonkeyPatch) -> None:
    from digiq_ray.store.directory import create_directory

    directory = create_directory(s3_url)
    directory.publish("a.x", b"content")
    s3_environment.setenv("DIGIQ_CACHE_BYTES", "6")
    with pytest.raises(StoreError, match=rf"^{s3_url}/a\.x: its 7 bytes exceed the limit"), directory.mapping("a.x"):
        pass
