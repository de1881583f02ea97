"""A flat directory of immutable files on a local or mounted file system."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from digiq_ray.core.errors import StoreError
from digiq_ray.store.content import content_errors
from digiq_ray.store.mapped import map_for_rows
from digiq_ray.store.publish import (
    Content,
    is_hidden_copy,
    publish,
    publish_file,
    sync_directory,
    typed_write_errors,
)

ASIDE = "_set-aside"  # a leading _ keeps readers of Parquet directories out
DEAD_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True)
class LocalDirectory:
    """A directory of published files on a local or mounted file system. Thread-safe; pickles as its path."""

    path: Path

    @classmethod
    def open(cls, path: Path) -> Self:
        """The directory that exists at ``path``; raises ``StoreError`` if there is none."""
        if not path.is_dir():
            problem = "is a file, not a directory" if path.exists() else "does not exist"
            raise StoreError(f"{path}: the data set {problem}; give the directory that a stage wrote")
        return cls(path)

    @classmethod
    def create(cls, path: Path) -> Self:
        """The directory at ``path``, made with its parents if missing."""
        if path.exists() and not path.is_dir():
            raise StoreError(f"{path}: is a file, not a directory; give another path for the data set")
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        with typed_write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_directory(folder.parent)
        return cls(path)

    def names(self, suffix: str) -> list[str]:
        """Names of the published files that end with ``suffix``, sorted."""
        try:
            with os.scandir(self.path) as entries:
                shown = (entry for entry in entries if entry.name.endswith(suffix) and not entry.name.startswith("."))
                return sorted(entry.name for entry in shown if entry.is_file())
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

    def publish_file(self, name: str, write: Callable[[Path], None]) -> bool:
        """As ``publish``, for what is written by a library that takes a path: ``write`` makes the file there."""
        if (self.path / name).exists():
            self.sync()
            return False
        try:
            publish_file(self.path / name, write)
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
        """Maps a file read-only, for as long as anything refers to the mapping; errors as for ``reading``."""
        with self.content_errors(name):
            with open(self.path / name, "rb") as file:
                mapped = map_for_rows(file)
            yield mapped

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """The file itself; errors as for ``reading``."""
        with self.content_errors(name):
            os.stat(self.path / name)
        yield self.path / name

    def digest(self, name: str) -> str:
        """Content hash of a file (32 hexadecimal digits)."""
        with self.content_errors(name), open(self.path / name, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

    def content_errors(self, name: str) -> AbstractContextManager[None]:
        """Turns what goes wrong with the content of a file into a ``StoreError`` that names it."""
        return content_errors(self.path / name)

    def set_aside(self, name: str) -> Path:
        """Moves a file to the subdirectory ``_set-aside``, where no reader looks, and returns its new place."""
        place = self.path / ASIDE / name
        with typed_write_errors(place):
            place.parent.mkdir(exist_ok=True)
            os.replace(self.path / name, place)
        sync_directory(place.parent)
        sync_directory(self.path)
        return place

    def remove(self, name: str) -> None:
        """Deletes a file; nothing happens if it is gone already."""
        with typed_write_errors(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def sweep(self, older_than_seconds: float = DEAD_AFTER_S) -> list[str]:
        """Deletes the hidden files of writers that wrote nothing for so long; returns their names, sorted."""
        before = time.time() - older_than_seconds
        dead = []
        with typed_write_errors(self.path / "the names in it"), os.scandir(self.path) as entries:
            for entry in entries:
                if is_hidden_copy(entry.name) and entry.stat(follow_symlinks=False).st_mtime < before:
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    else:
                        os.unlink(entry.path)
                    dead.append(entry.name)
        return sorted(dead)
