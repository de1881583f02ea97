"""S3 as a directory: places, errors that a person can act on, and what each request costs."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_proxy import Proxy
from s3_server import PAGE

from digiq_ray.core.errors import DiskFullError, StoreError
from digiq_ray.store import s3_objects, s3_upload
from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.directory import Directory, create_directory, locate, open_directory
from digiq_ray.store.s3_location import S3Location

MIB = 1 << 20
OLD_S = 50 * 365 * 86400  # longer ago than moto dates the start of every upload


@pytest.fixture
def directory(s3_url: str) -> Directory:
    return create_directory(s3_url)


# ---- places


def test_a_place_is_its_bucket_and_key_without_stray_slashes() -> None:
    assert S3Location.parse("s3://bucket//a/b//") == S3Location("bucket", "a/b")
    assert str(S3Location.parse("s3://bucket/") / "a") == "s3://bucket/a"
    assert str(S3Location.parse("s3://bucket")) == "s3://bucket"


@pytest.mark.parametrize("url", ["s3://", "s3:///a", "s3://a b/c", "s3://key:secret@host/a", "s3:/bucket/a"])
def test_what_is_no_place_in_s3_is_a_store_error(url: str) -> None:
    with pytest.raises(StoreError, match="write s3://BUCKET/PREFIX"):
        S3Location.parse(url)


def test_another_scheme_is_a_store_error_that_says_what_there_is() -> None:
    with pytest.raises(StoreError, match=r"^gs://bucket/a: only local directories and s3://BUCKET/PREFIX"):
        locate("gs://bucket/a")


def test_a_whole_bucket_is_a_directory_too(s3_environment: pytest.MonkeyPatch, s3_bucket: str) -> None:
    directory = create_directory(f"s3://{s3_bucket}")
    name = f"{os.urandom(8).hex()}.x"
    assert directory.publish(name, b"content")
    assert name in open_directory(directory.path).names(".x")


# ---- errors


def test_a_missing_bucket_is_named(s3_environment: pytest.MonkeyPatch) -> None:
    for use in (open_directory, create_directory):
        with pytest.raises(
            StoreUnreachableError, match=r"^s3://no-such-bucket/a: there is no bucket 'no-such-bucket' at"
        ):
            use("s3://no-such-bucket/a")


def test_missing_credentials_say_which_variables_to_set(s3_url: str, s3_environment: pytest.MonkeyPatch) -> None:
    s3_environment.delenv("AWS_ACCESS_KEY_ID")
    s3_environment.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreUnreachableError, match=r"no complete credentials .* set AWS_ACCESS_KEY_ID"):
        open_directory(s3_url)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_not_tried_again_and_not_shown(s3_url: str, s3_proxy: Proxy, status: int) -> None:
    s3_proxy.answer = (status, "InvalidAccessKeyId")
    with pytest.raises(
        StoreUnreachableError, match=r"refuses access \(InvalidAccessKeyId\); check AWS_ACCESS_KEY_ID"
    ) as raised:
        open_directory(s3_url)
    assert len(s3_proxy.seen) == 1
    assert "a-key-id" not in str(raised.value)
    assert "a-secret" not in str(raised.value)


def test_a_server_without_conditional_put_is_named(s3_url: str, s3_proxy: Proxy) -> None:
    directory = create_directory(s3_url)
    s3_proxy.answer = (501, "NotImplemented")
    with pytest.raises(
        StoreError, match=r"lacks a part of S3 that the stores need \(NotImplemented\): conditional PUT"
    ):
        directory.publish("a.x", b"content")


def test_a_server_that_ignores_the_condition_is_refused(s3_url: str, s3_proxy: Proxy) -> None:
    s3_proxy.without = b"if-none-match"
    with pytest.raises(StoreError, match="ignores If-None-Match, so writers could overwrite each other"):
        create_directory(s3_url)


def test_no_network_is_one_line_that_names_the_wait_and_the_server(
    s3_url: str, s3_environment: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = "127.0.0.1:{1}".format(*unused.getsockname())
        s3_environment.setenv("AWS_ENDPOINT_URL", f"http://user:password@{address}")
        s3_environment.setenv("DIGIQ_S3_PATIENCE_S", "1")
        started = time.monotonic()
        with pytest.raises(StoreUnreachableError, match=f"waited 1 s for {address} to open it") as raised:
            open_directory(s3_url)
    assert time.monotonic() - started < 10
    assert "password" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_server_that_never_answers_is_given_up(s3_url: str, s3_environment: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        s3_environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:{1}".format(*silent.getsockname()))
        s3_environment.setenv("DIGIQ_S3_PATIENCE_S", "1")
        with pytest.raises(StoreUnreachableError, match="waited 1 s for"):
            open_directory(s3_url)


@pytest.mark.parametrize("url", ["not a url", "ftp://host", "http://", "http://host:port"])
def test_an_endpoint_that_is_no_address_is_a_store_error_that_does_not_show_it(
    s3_url: str, s3_environment: pytest.MonkeyPatch, url: str
) -> None:
    s3_environment.setenv("AWS_ENDPOINT_URL_S3", url)
    with pytest.raises(StoreUnreachableError, match=r"^AWS_ENDPOINT_URL_S3 must look like http://HOST:PORT"):
        open_directory(s3_url)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_patience_that_is_no_time_is_a_store_error(
    s3_url: str, s3_environment: pytest.MonkeyPatch, text: str
) -> None:
    s3_environment.setenv("DIGIQ_S3_PATIENCE_S", text)
    with pytest.raises(StoreUnreachableError, match="DIGIQ_S3_PATIENCE_S"):
        open_directory(s3_url)


def test_the_endpoint_of_s3_alone_goes_before_that_of_all_services(
    s3_url: str, s3_environment: pytest.MonkeyPatch, s3_server: str
) -> None:
    s3_environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    s3_environment.setenv("AWS_ENDPOINT_URL_S3", s3_server)
    assert create_directory(s3_url).publish("a.x", b"content")


def test_a_full_disk_under_the_temporary_file_is_a_disk_full_error(
    directory: Directory,
) -> None:
    def write(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DiskFullError, match=r"no space is left to prepare .*; nothing of it was published"):
        directory.publish("a.x", write)
    assert directory.names("") == []


def test_a_pickle_holds_neither_credentials_nor_endpoint(directory: Directory, s3_server: str) -> None:
    text = pickle.dumps(directory)
    for secret in (b"a-key-id", b"a-secret", s3_server.encode()):
        assert secret not in text


# ---- other processes


def _names(directory: Directory, queue: multiprocessing.Queue) -> None:
    directory.publish("child.x", b"content")
    queue.put(directory.names(""))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_directory_that_was_used_works_in_a_child_process(directory: Directory, method: str) -> None:
    directory.publish("parent.x", b"content")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_names, args=(directory, queue))
    child.start()
    assert queue.get(timeout=60) == ["child.x", "parent.x"]
    child.join(60)
    assert child.exitcode == 0
    assert directory.names("") == ["child.x", "parent.x"]


# ---- what requests are made


def test_a_footer_costs_one_request_and_no_download(s3_url: str, s3_proxy: Proxy) -> None:
    directory = create_directory(s3_url)
    table = pa.table({"a": [os.urandom(1000) for _ in range(5000)]})
    directory.publish("a.parquet", lambda file: pq.write_table(table, file, row_group_size=100, write_statistics=False))
    s3_proxy.seen.clear()
    s3_proxy.sent = 0
    with directory.reading("a.parquet") as file:
        assert pq.ParquetFile(file).metadata.num_rows == 5000
    assert [method for method, _ in s3_proxy.seen] == ["GET"]
    assert s3_proxy.sent < 100_000


def test_one_row_group_is_read_without_the_others(s3_url: str, s3_proxy: Proxy) -> None:
    directory = create_directory(s3_url)
    table = pa.table({"a": [os.urandom(1000) for _ in range(5000)]})
    directory.publish("a.parquet", lambda file: pq.write_table(table, file, row_group_size=100))
    with directory.reading("a.parquet") as file:
        parquet = pq.ParquetFile(file)
        s3_proxy.sent = 0
        assert parquet.read_row_group(20).equals(table[2000:2100])
    assert s3_proxy.sent < 600_000


def test_publishing_is_one_conditional_put(s3_url: str, s3_proxy: Proxy) -> None:
    directory = create_directory(s3_url)
    s3_proxy.seen.clear()
    directory.publish("a.x", b"content" * 100_000)
    assert [method for method, _ in s3_proxy.seen] == ["PUT"]


def test_a_listing_goes_on_to_the_last_page(s3_url: str, s3_proxy: Proxy) -> None:
    directory = create_directory(s3_url)
    names = [f"{number:04}.x" for number in range(3 * PAGE + 1)]
    for name in names:
        directory.publish(name, b"")
    s3_proxy.seen.clear()
    assert directory.names(".x") == names
    assert len(s3_proxy.seen) == 4


# ---- in parts


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Content above 1 MiB goes up in parts of 5 MiB, the smallest that S3 takes."""
    monkeypatch.setattr(s3_upload, "SINGLE_BYTES", MIB)
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 * MIB)
    monkeypatch.setattr(s3_upload, "COPY_BYTES", MIB)
    monkeypatch.setattr(s3_upload, "_COPY_PART_BYTES", 5 * MIB)


@pytest.mark.usefixtures("small_parts")
def test_a_large_file_goes_up_in_parts_and_comes_back_whole(s3_url: str, s3_proxy: Proxy) -> None:
    directory = create_directory(s3_url)
    content = os.urandom(11 * MIB)
    assert directory.publish("a.x", lambda file: file.write(content))
    assert sum("partNumber=" in target for _, target in s3_proxy.seen) == 3
    with directory.reading("a.x") as file:
        assert file.read() == content
    with directory.mapping("a.x") as mapped:
        assert mapped[:] == content


@pytest.mark.usefixtures("small_parts")
def test_a_large_file_does_not_replace_another_and_leaves_no_parts(directory: Directory) -> None:
    assert directory.publish("a.x", b"a" * 6 * MIB)
    assert not directory.publish("a.x", b"b" * 6 * MIB)
    assert directory.sweep(-60) == []


@pytest.mark.usefixtures("small_parts")
def test_the_completion_of_a_large_upload_is_conditional(directory: Directory, monkeypatch: pytest.MonkeyPatch) -> None:
    real = s3_upload.blocks

    def race(*args: int) -> object:
        directory.publish("a.x", b"first")  # between the look and the completion
        return real(*args)

    monkeypatch.setattr(s3_upload, "blocks", race)
    assert not directory.publish("a.x", lambda file: file.write(b"b" * 6 * MIB))
    assert s3_objects.list_uploads(directory.path) == []
    assert s3_objects.look(directory.path / "a.x").size == 5


@pytest.mark.usefixtures("small_parts")
def test_a_large_file_is_set_aside_in_parts(directory: Directory) -> None:
    content = os.urandom(11 * MIB)
    directory.publish("a.x", content)
    place = directory.set_aside("a.x")
    assert s3_objects.look(place).metadata[s3_objects.HASH_KEY] == open_directory(str(place).rpartition("/")[0]).digest(
        "a.x"
    )
    assert directory.names("") == []


def test_a_sweep_aborts_uploads_of_writers_that_died(directory: Directory, s3_server: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_server, region_name="eu-central-1")
    for name in ("b.x", "a.x", "inner/c.x"):
        client.create_multipart_upload(Bucket=directory.path.bucket, Key=f"{directory.path.key}/{name}")
    assert directory.sweep(older_than_seconds=OLD_S) == []
    assert directory.sweep() == ["a.x", "b.x"]
    assert directory.sweep() == []
    assert [upload.place.name for upload in s3_objects.list_uploads(directory.path / "inner")] == ["c.x"]
