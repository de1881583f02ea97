"""Publishing one local file whole or not at all.

A file is written under a hidden name in its own directory, flushed to the disk, given its final name in one step of
the file system, and the directory is flushed too. A crash at any moment leaves either no file of the final name or
the whole one; a hidden file of a writer that died is never read. ``publish`` never replaces a file, ``replace`` does.
Every call costs one flush of the data and one of the directory, which is what bounds it (milliseconds on an SSD).
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from digiq_ray.core.errors import DiskFullError, StoreError, is_disk_full

Content = bytes | Callable[[BinaryIO], None]
"""What a file holds: its bytes, or a function that writes them."""

_HIDDEN = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def publish(path: Path, content: Content) -> None:
    """Makes the file ``path``, which must not exist.

    Raises:
        FileExistsError: another file has this name; it is whole, on disk, and untouched.
        DiskFullError: no space is left; nothing of this file stays behind.
        StoreError: the directory is missing or cannot be written.
    """
    _write(path, content, _name_once)


def publish_file(path: Path, write: Callable[[Path], None]) -> None:
    """As ``publish``, for what is written by a library that takes a path: ``write`` makes the file at that path.

    It is written in a hidden folder, so that what the library leaves there if it dies is found with it.
    """
    folder = _hidden(path)
    with typed_write_errors(path):
        try:
            folder.mkdir()
            write(folder / path.name)
            with open(folder / path.name, "rb") as file:
                os.fsync(file.fileno())
            _name_once(folder / path.name, path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    sync_directory(path.parent)


def replace(path: Path, content: Content) -> None:
    """Makes the file ``path``, or replaces it whole: a reader sees the old content or the new one.

    Raises:
        DiskFullError: no space is left; the old file is untouched.
        StoreError: the directory is missing or cannot be written.
    """
    _write(path, content, os.replace)


def is_hidden_copy(name: str) -> bool:
    """Whether ``name`` is that of a file which is being written, or whose writer died."""
    return _HIDDEN.fullmatch(name) is not None


def sync_directory(path: Path) -> None:
    """Flushes the names in a directory to the disk, so that files already published there outlive a power cut."""
    with typed_write_errors(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def typed_write_errors(path: Path) -> Iterator[None]:
    """Turns an ``OSError`` of writing ``path`` into ``DiskFullError`` or ``StoreError``; ``FileExistsError`` passes."""
    try:
        yield
    except FileExistsError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if is_disk_full(error):
            raise DiskFullError(
                f"{path.parent}: no space is left to write {path.name} ({reason}); "
                "what was published before is whole: free some space and run the same command again"
            ) from error
        raise StoreError(f"{path.parent}: cannot write {path.name}: {reason}") from error


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def _write(path: Path, content: Content, give_name: Callable[[Path, Path], None]) -> None:
    hidden = _hidden(path)
    with typed_write_errors(path):
        try:
            with open(hidden, "xb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(file)
                file.flush()
                os.fsync(file.fileno())
            give_name(hidden, path)
        except FileExistsError:
            sync_directory(path.parent)
            raise
        finally:
            hidden.unlink(missing_ok=True)
    sync_directory(path.parent)


def _name_once(hidden: Path, path: Path) -> None:
    """Gives ``hidden`` the name ``path`` unless a file has it.

    A hard link does so in one step. Where a file system has none, a look and a rename do, and two writers of one name
    at one moment could both succeed, the later one staying: harmless, because equal names hold the same work.
    """
    try:
        os.link(hidden, path)
    except FileExistsError:
        if not os.path.samefile(hidden, path):  # NFS may have linked and lost its own answer
            raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.rename(hidden, path)
