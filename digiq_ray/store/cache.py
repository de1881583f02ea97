"""Local copies of files that lie elsewhere, up to a total size: what lets a feature shard in S3 be mapped into memory.

A copy is found by the place and the version (ETag) of its original, so it is never stale. It is written beside its
final name at its full length, checked, flushed and renamed: a copy exists whole or not at all. Any number of processes
share one cache without a coordinator. File locks, which the system frees when their holder dies, say who is at work:
an exclusive lock on an unfinished copy is its download, which others wait for; a shared lock on a finished one is an
open mapping. Room is made by deleting the least recently opened copies that nobody has open, never those in use, so
that the limit holds for the disk and not only for names.

``DIGIQ_CACHE_DIR`` (default ``digiq-ray`` in the user's cache directory) and ``DIGIQ_CACHE_BYTES`` (20 GB) set it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from digiq_ray.core.errors import DeadlineExceededError, InputError, StoreError
from digiq_ray.store.publish import sync_directory, typed_write_errors

DIRECTORY = "DIGIQ_CACHE_DIR"
LIMIT = "DIGIQ_CACHE_BYTES"
_LIMIT_BYTES = 20 * 10**9
_PART = ".part"
_LOOK_S = 0.05  # a file lock cannot be awaited with a deadline: it is looked at this often
_EVICTION_S = 60.0


@dataclass(frozen=True, slots=True)
class DownloadCache:
    """Copies in the directory ``path``, ``limit`` bytes of them at most. Thread-safe; pickles as its fields."""

    path: Path
    limit: int

    @classmethod
    def from_environment(cls) -> Self:
        """The cache that ``DIGIQ_CACHE_DIR`` and ``DIGIQ_CACHE_BYTES`` describe."""
        text = os.environ.get(LIMIT) or str(_LIMIT_BYTES)
        if not text.isdecimal():
            raise InputError(f"{LIMIT}={text!r}: must be a number of bytes")
        base = os.environ.get("XDG_CACHE_HOME")
        default = (Path(base) if base else Path.home() / ".cache") / "digiq-ray"
        return cls(Path(os.environ.get(DIRECTORY) or default), int(text))

    def open(
        self, *, url: str, version: str, size: int, deadline_s: float, download: Callable[[BinaryIO], None]
    ) -> BinaryIO:
        """The copy of what lies at ``url``, opened for reading; it stays on the disk while it, or a mapping, is open.

        Args:
            url: Where the original lies.
            version: Changes whenever the original does.
            size: Its length in bytes.
            deadline_s: How long to wait for another process that downloads the same.
            download: Writes it into a file of that length, at any positions, and checks it.

        Raises:
            StoreError: it is larger than the limit, or what is in use leaves too little room.
            DiskFullError: no space is left; nothing of this call stays behind.
            DeadlineExceededError: another process downloads the same for too long.
        """
        if size > self.limit:
            raise StoreError(
                f"{url}: its {size} bytes exceed the limit of the cache {self.path}; set {LIMIT} above {size}"
            )
        try:
            with typed_write_errors(self.path):
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError as error:
            raise StoreError(f"{self.path}: is a file; set {DIRECTORY} to a directory for the cache") from error
        entry = self.path / hashlib.blake2b(f"{url} {version} {size}".encode(), digest_size=16).hexdigest()
        deadline = time.monotonic() + deadline_s
        waited = f"{url}: waited {deadline_s:.0f} s for another process that downloads it into {self.path}"
        while True:
            copy = _open_copy(entry, deadline, waited)
            if copy is None:
                with typed_write_errors(entry):
                    copy = self._fetch(entry, deadline, waited, size=size, url=url, download=download)
            if copy is not None:
                return copy

    def _fetch(
        self,
        entry: Path,
        deadline: float,
        waited: str,
        *,
        size: int,
        url: str,
        download: Callable[[BinaryIO], None],
    ) -> BinaryIO | None:
        """Downloads a copy that is not there; ``None`` if another process, waited for, ended its own download of it."""
        path = entry.with_name(entry.name + _PART)
        part = open(path, "r+b", opener=_create)  # noqa: SIM115 it is the result
        try:
            _lock(part, deadline, waited)
        except BaseException:
            part.close()
            raise
        try:
            if not _is_at(part, path) or entry.exists():
                _discard(part, path)
                return None
            with self._alone(url):
                part.truncate(0)
                self._make_room(size, url)
                part.truncate(size)
            download(part)
            part.seek(0)
            if os.fstat(part.fileno()).st_size != size:
                raise StoreError(f"{url}: its copy has another length than the original; look at the server")
            os.fsync(part.fileno())
            os.rename(path, entry)
            sync_directory(self.path)
            fcntl.flock(part, fcntl.LOCK_SH)
        except BaseException:
            _discard(part, path)
            raise
        return part

    @contextmanager
    def _alone(self, url: str) -> Iterator[None]:
        """Lets one process at a time count and delete."""
        waited = f"{url}: waited {_EVICTION_S:.0f} s for another process that makes room in {self.path}"
        with open(self.path / ".lock", "ab") as lock:
            _lock(lock, time.monotonic() + _EVICTION_S, waited)
            yield

    def _make_room(self, size: int, url: str) -> None:
        """Deletes copies until ``size`` more bytes fit; raises ``StoreError`` if what is in use leaves too few."""
        files = []
        for path in self.path.iterdir():
            with contextlib.suppress(FileNotFoundError):  # a download of another process ended meanwhile
                if not path.name.startswith("."):
                    files.append((path.stat(), path))
        total = sum(status.st_size for status, _ in files)
        for status, path in sorted(files, key=lambda file: file[0].st_mtime_ns):
            if total + size <= self.limit:
                return
            if _delete_unless_used(path):
                total -= status.st_size
        if total + size > self.limit:
            raise StoreError(
                f"{url}: its {size} bytes do not fit into the cache {self.path}, where {total} of {self.limit} bytes "
                f"are in use; set {LIMIT} to at least {total + size}"
            )


def _open_copy(entry: Path, deadline: float, waited: str) -> BinaryIO | None:
    """A finished copy, locked against deletion for as long as its file description lives; ``None`` if there is none."""
    try:
        copy = open(entry, "rb")  # noqa: SIM115 it is the result
    except FileNotFoundError:
        return None
    try:
        _lock(copy, deadline, waited, kind=fcntl.LOCK_SH)  # waits only for somebody who looks whether it is used
        if _is_at(copy, entry):
            os.utime(copy.fileno())
            return copy
    except BaseException:
        copy.close()
        raise
    copy.close()
    return None


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o600)


def _discard(part: BinaryIO, path: Path) -> None:
    """Closes an unfinished copy, and deletes it if it is one's own still."""
    if _is_at(part, path):
        path.unlink()
    part.close()


def _lock(file: BinaryIO, deadline: float, waited: str, *, kind: int = fcntl.LOCK_EX) -> None:
    """Locks ``file``, by default for oneself alone; after ``deadline`` (monotonic) raises ``DeadlineExceededError``."""
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise DeadlineExceededError(waited) from error
            time.sleep(_LOOK_S)
        else:
            return


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether ``path`` still is the name of ``file``."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _delete_unless_used(path: Path) -> bool:
    """Deletes a copy that nobody has open, or an unfinished one whose writer died; ``False`` if it is in use."""
    try:
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(file, path):
                path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
