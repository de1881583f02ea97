"""A flat directory of immutable files in S3: a prefix of a bucket.

Every file is one object, made by one conditional PUT (or a multipart upload whose completion is conditional), so it
exists whole or not at all and a name is given once. Reading asks for ranges; mapping goes through a local cache of
bounded size. Listings are always asked for anew. S3 has no directories: making one leaves an empty hidden object, by
which an empty data set is told from a missing one.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Self

import pyarrow as pa

from digiq_ray.core.errors import DiskFullError, StoreError, is_disk_full
from digiq_ray.store.cache import DownloadCache
from digiq_ray.store.content import content_errors
from digiq_ray.store.local import ASIDE, DEAD_AFTER_S
from digiq_ray.store.mapped import map_for_rows
from digiq_ray.store.publish import Content
from digiq_ray.store.s3_client import SLOWEST_BYTES_PER_S, endpoint
from digiq_ray.store.s3_file import RangeFile
from digiq_ray.store.s3_location import S3Location
from digiq_ray.store.s3_objects import (
    BLOCK_BYTES,
    HASH_KEY,
    ObjectInfo,
    abort_upload,
    blocks,
    delete,
    has_anything,
    list_names,
    list_uploads,
    look,
    read_range,
)
from digiq_ray.store.s3_upload import Source, copy, put_new

_MARKER = ".directory"
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class S3Directory:
    """A directory of published files in S3. Thread-safe, and safe after a fork; pickles as its path."""

    path: S3Location

    @classmethod
    def open(cls, path: S3Location) -> Self:
        """The directory that exists at ``path``; raises ``StoreError`` if there is none, or no way to it."""
        if not has_anything(path):
            raise StoreError(f"{path}: the data set does not exist; give the directory that a stage wrote")
        return cls(path)

    @classmethod
    def create(cls, path: S3Location) -> Self:
        """The directory at ``path``, made if missing; its bucket must exist.

        Raises:
            StoreError: the server overwrites what it was told not to (it ignores ``If-None-Match``).
        """
        directory = cls(path)
        if not has_anything(path) and directory.publish(_MARKER, b"") and directory.publish(_MARKER, b""):
            raise StoreError(
                f"{path}: {endpoint()} ignores If-None-Match, so writers could overwrite each other; use another server"
            )
        return directory

    def names(self, suffix: str) -> list[str]:
        """Names of the published files that end with ``suffix``, sorted."""
        return sorted(name for name in list_names(self.path) if name.endswith(suffix) and not name.startswith("."))

    def publish(self, name: str, content: Content) -> bool:
        """Publishes one file; ``False`` (and nothing is written) if a file of this name is there already."""
        place = self.path / name
        if isinstance(content, bytes):
            data = content
            return put_new(place, Source(len(data), _hash([data]), lambda start, size: data[start : start + size]))
        with _prepared(place) as file:
            content(file)
            file.flush()
            return put_new(place, _source(file))

    def publish_file(self, name: str, write: Callable[[Path], None]) -> bool:
        """As ``publish``, for what is written by a library that takes a path: ``write`` makes the file there."""
        place = self.path / name
        with _typed_errors(place), tempfile.TemporaryDirectory(prefix="digiq-") as folder:
            write(Path(folder, name))
            with open(Path(folder, name), "rb") as file:
                return put_new(place, _source(file))

    def sync(self) -> None:
        """Nothing to do: what S3 has acknowledged is durable."""

    @contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        """Opens a file for reading with pyarrow; what goes wrong with its content is a ``StoreError`` naming it.

        Asks for the ranges that are read, and first for the last 64 KiB: a footer costs one request.
        """
        with self.content_errors(name), pa.PythonFile(RangeFile(self.path / name), mode="r") as file:
            yield file

    @contextmanager
    def mapping(self, name: str) -> Iterator[mmap.mmap]:
        """Maps a file read-only, for as long as anything refers to the mapping; errors as for ``reading``.

        What is mapped is a whole copy in the local cache (``cache.py``), downloaded if it is not there.
        """
        place = self.path / name
        info = look(place)
        if info is None:
            raise StoreError(f"{place}: is gone; restore it from a copy")
        with (
            DownloadCache.from_environment().open(
                url=str(place),
                version=f"{endpoint()} {info.etag}",
                size=info.size,
                deadline_s=60 + info.size / SLOWEST_BYTES_PER_S,
                download=lambda file: _download(place, info, file),
            ) as copied,
            self.content_errors(name),
        ):
            yield map_for_rows(copied)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A temporary copy, compared with the hash that its writer gave it; errors as for ``reading``."""
        place = self.path / name
        info = look(place)
        if info is None:
            raise StoreError(f"{place}: is gone; restore it from a copy")
        with ExitStack() as ends:
            with _typed_errors(place):
                folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="digiq-")))
                with open(folder / name, "x+b") as file:
                    _download(place, info, file)
            yield folder / name

    def digest(self, name: str) -> str:
        """Content hash of a file (32 hexadecimal digits); reads all of it."""
        with self.content_errors(name), RangeFile(self.path / name) as file:
            return _hash(iter(lambda: file.read(BLOCK_BYTES), b""))

    def content_errors(self, name: str) -> AbstractContextManager[None]:
        """Turns what goes wrong with the content of a file into a ``StoreError`` that names it."""
        return content_errors(self.path / name)

    def set_aside(self, name: str) -> S3Location:
        """Moves a file under the prefix ``_set-aside``, where no reader looks, and returns its new place."""
        source, target = self.path / name, self.path / ASIDE / name
        info = look(source)
        if info is None:
            raise StoreError(f"{source}: is gone; restore it from a copy")
        copy(source, target, info)
        delete(source)
        return target

    def remove(self, name: str) -> None:
        """Deletes a file; nothing happens if it is gone already."""
        delete(self.path / name)

    def sweep(self, older_than_seconds: float = DEAD_AFTER_S) -> list[str]:
        """Aborts the multipart uploads that started so long ago and did not end; returns their names, sorted."""
        before = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        dead = [upload for upload in list_uploads(self.path) if upload.started < before]
        for upload in dead:
            abort_upload(upload)
        return sorted(upload.place.name for upload in dead)


def _source(file: BinaryIO) -> Source:
    descriptor = file.fileno()
    size = os.fstat(descriptor).st_size

    def read(start: int, length: int) -> bytes:
        return os.pread(descriptor, length, start)

    return Source(size, _hash(read(*span) for span in blocks(size)), read)


def _download(place: S3Location, info: ObjectInfo, file: BinaryIO) -> None:
    """Writes an object into ``file``, four blocks at a time, and compares it with the hash that its writer gave it."""
    descriptor = file.fileno()

    def fetch(span: tuple[int, int]) -> None:
        data = memoryview(read_range(place, *span, info.etag))
        position = span[0]
        while data:
            written = os.pwrite(descriptor, data, position)
            data, position = data[written:], position + written

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for _ in pool.map(fetch, blocks(info.size)):
            pass
    wanted = info.metadata.get(HASH_KEY)
    if wanted is not None and wanted != _source(file).digest:
        raise StoreError(
            f"{place}: is broken (its content does not match its {HASH_KEY}); "
            "restore it from a copy, or delete it to make its rows again"
        )


def _hash(blocks_of_it: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for block in blocks_of_it:
        digest.update(block)
    return digest.hexdigest()


@contextmanager
def _prepared(place: S3Location) -> Iterator[BinaryIO]:
    """A temporary local file."""
    with _typed_errors(place), tempfile.TemporaryFile(prefix="digiq-") as file:
        yield file


@contextmanager
def _typed_errors(place: S3Location) -> Iterator[None]:
    """What goes wrong with local files for ``place`` is a ``DiskFullError`` or ``StoreError``."""
    try:
        yield
    except OSError as error:
        where, reason = tempfile.gettempdir(), error.strerror or str(error)
        if is_disk_full(error):
            raise DiskFullError(
                f"{where}: no space is left to prepare {place} ({reason}); nothing of it was published: "
                "free some space, or set TMPDIR, and run the same command again"
            ) from error
        raise StoreError(f"{where}: cannot prepare {place}: {reason}") from error
