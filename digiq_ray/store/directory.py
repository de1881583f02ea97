"""The one interface between the stores and the place where their files lie: a flat directory of immutable files.

The stores list names, publish whole files, open them, map them and hash them; they know nothing else of the file
system. This module is the local one. Hidden files (those of unfinished or dead writers) do not exist for a reader.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from digiq_ray.core.errors import DigiQError, InputError, StoreError
from digiq_ray.store.publish import Content, publish, sync_directory, typed_write_errors

StorePath = str | os.PathLike[str]

_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,127}")


def check_shard_name(shard: str) -> None:
    """Raises ``InputError`` if ``shard`` cannot be the name of a file everywhere."""
    if not _SHARD_NAME.fullmatch(shard):
        raise InputError(
            f"shard name {shard!r} must be 1 to 128 letters, digits and . _ = - and start with a letter or digit"
        )


@dataclass(frozen=True, slots=True)
class LocalDirectory:
    """A directory of published files on a local or mounted file system. Thread-safe; pickles as its path."""

    path: Path

    @classmethod
    def open(cls, path: StorePath) -> Self:
        """The directory that exists at ``path``; raises ``StoreError`` if there is none."""
        local = _local(path)
        if not local.is_dir():
            problem = "is a file, not a directory" if local.exists() else "does not exist"
            raise StoreError(f"{local}: the data set {problem}; give the directory that a stage wrote")
        return cls(local)

    @classmethod
    def create(cls, path: StorePath) -> Self:
        """The directory at ``path``, made with its parents if missing."""
        local = _local(path)
        if local.exists() and not local.is_dir():
            raise StoreError(f"{local}: is a file, not a directory; give another path for the data set")
        missing = [folder for folder in (local, *local.parents) if not folder.exists()]
        with typed_write_errors(local):
            local.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_directory(folder.parent)
        return cls(local)

    def names(self, suffix: str) -> list[str]:
        """Names of the published files that end with ``suffix``, sorted."""
        try:
            with os.scandir(self.path) as entries:
                return sorted(e.name for e in entries if e.name.endswith(suffix) and not e.name.startswith("."))
        except OSError as error:
            raise StoreError(f"{self.path}: cannot list the data set: {error.strerror}") from error

    def publish(self, name: str, content: Content) -> bool:
        """Publishes one file; ``False`` (and nothing is written) if a file of this name is there already."""
        if (self.path / name).exists():
            self.sync()
            return False
        try:
            publish(self.path / name, content)
        except FileExistsError:
            return False
        return True

    def sync(self) -> None:
        """Makes sure that every file published so far, by anyone, outlives a power cut."""
        sync_directory(self.path)

    @contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        """Opens a file for reading with pyarrow; what goes wrong with its content is a ``StoreError`` naming it."""
        with self.content_errors(name), pa.OSFile(str(self.path / name), "rb") as file:
            yield file

    @contextmanager
    def mapping(self, name: str) -> Iterator[mmap.mmap]:
        """Maps a file read-only, for as long as anything refers to the mapping; errors as for ``reading``.

        The system reads the pages that are touched and no others, until ``madvise`` says otherwise.
        """
        with self.content_errors(name):
            with open(self.path / name, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            mapped.madvise(mmap.MADV_RANDOM)
            yield mapped

    def digest(self, name: str) -> str:
        """Content hash of a file (32 hexadecimal digits)."""
        with self.content_errors(name), open(self.path / name, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

    @contextmanager
    def content_errors(self, name: str) -> Iterator[None]:
        """Turns what goes wrong with the content of a file into a ``StoreError`` that names it."""
        try:
            yield
        except StoreError:
            raise
        except FileNotFoundError as error:
            raise StoreError(f"{self.path / name}: is gone; restore it from a copy") from error
        except (pa.ArrowException, DigiQError, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise StoreError(
                f"{self.path / name}: is broken ({reason}); restore it from a copy, or delete it to make its rows again"
            ) from error


def _local(path: StorePath) -> Path:
    text = os.fspath(path)
    if "://" in text:
        raise StoreError(f"{text}: only local directories are supported here; give a path without a scheme")
    return Path(text)
