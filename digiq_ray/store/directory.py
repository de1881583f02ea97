"""The one interface between the stores and the place where their files lie: a flat directory of immutable files.

The stores list names, publish whole files, open them, map them and hash them; they know nothing else of the file
system. Hidden files (those of unfinished or dead writers) do not exist for a reader.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.store.local import DEAD_AFTER_S, LocalDirectory
from digiq_ray.store.publish import Content
from digiq_ray.store.s3_location import SCHEME, S3Location

StorePath = str | os.PathLike[str] | S3Location

_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,127}")


class Location(Protocol):
    """Where something lies; its text is what a person would give on the command line."""

    def __truediv__(self, name: str) -> Location:
        """The place of ``name`` in here."""


class Directory(Protocol):
    """A flat directory of published files. Thread-safe; pickles as its path."""

    @property
    def path(self) -> Any:
        """Its ``Location``."""

    def names(self, suffix: str) -> list[str]:
        """Names of the published files that end with ``suffix``, sorted."""

    def publish(self, name: str, content: Content) -> bool:
        """Publishes one file; ``False`` (and nothing is written) if a file of this name is there already."""

    def publish_file(self, name: str, write: Callable[[Path], None]) -> bool:
        """As ``publish``, for what is written by a library that takes a path: ``write`` makes the file there."""

    def sync(self) -> None:
        """Makes sure that every file published so far, by anyone, outlives a power cut."""

    def reading(self, name: str) -> AbstractContextManager[Any]:
        """Opens a file for reading with pyarrow; what goes wrong with its content is a ``StoreError`` naming it."""

    def mapping(self, name: str) -> AbstractContextManager[Any]:
        """Maps a file read-only (an ``mmap.mmap``), for as long as anything refers to it; errors as for ``reading``."""

    def file(self, name: str) -> AbstractContextManager[Path]:
        """A path on this machine to read a file from, good for as long as the context; errors as for ``reading``."""

    def digest(self, name: str) -> str:
        """Content hash of a file (32 hexadecimal digits)."""

    def content_errors(self, name: str) -> AbstractContextManager[None]:
        """Turns what goes wrong with the content of a file into a ``StoreError`` that names it."""

    def set_aside(self, name: str) -> Any:
        """Moves a file to where no reader looks, and returns its new ``Location``."""

    def remove(self, name: str) -> None:
        """Deletes a file; nothing happens if it is gone already."""

    def sweep(self, older_than_seconds: float = DEAD_AFTER_S) -> list[str]:
        """Removes what writers that died left behind, which no reader sees; returns its names, sorted.

        A writer that does nothing for ``older_than_seconds`` counts as dead.
        """


def open_directory(path: StorePath) -> Directory:
    """The directory that exists at ``path``; raises ``StoreError`` if there is none."""
    place = locate(path)
    if isinstance(place, S3Location):
        from digiq_ray.store.s3 import S3Directory  # loads the S3 libraries, which a local data set does not need

        return S3Directory.open(place)
    return LocalDirectory.open(place)


def create_directory(path: StorePath) -> Directory:
    """The directory at ``path``, made with its parents if missing."""
    place = locate(path)
    if isinstance(place, S3Location):
        from digiq_ray.store.s3 import S3Directory  # as above

        return S3Directory.create(place)
    return LocalDirectory.create(place)


def locate(path: StorePath) -> Path | S3Location:
    """Where ``path`` is: a local path, or ``s3://BUCKET/PREFIX``; raises ``StoreError`` if it is neither."""
    if isinstance(path, S3Location):
        return path
    text = os.fspath(path)
    if text.startswith(SCHEME):
        return S3Location.parse(text)
    if "://" in text:
        raise StoreError(f"{text}: only local directories and s3://BUCKET/PREFIX are supported; give one of these")
    return Path(text)


def check_shard_name(shard: str) -> None:
    """Raises ``InputError`` if ``shard`` cannot be the name of a file everywhere."""
    if not _SHARD_NAME.fullmatch(shard):
        raise InputError(
            f"shard name {shard!r} must be 1 to 128 letters, digits and . _ = - and start with a letter or digit"
        )
