"""Publishing a directory of files whole or not at all.

The files are written under a hidden name beside the final one, flushed to the disk, and named in one step. A directory
that has the name already is set aside before and removed after: a crash at any moment leaves the old one or the new one
whole on the disk, and the next call under that name puts an old one back that only lost its name. One process at a time
may publish under one name. It costs one flush for each file.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from digiq_ray.core.errors import DiskFullError, StoreError, error_chain, is_disk_full
from digiq_ray.store.local import LocalDirectory

# How libraries that are written in Rust (safetensors, tokenizers) say it: as text, in exceptions of their own.
_RUST_NO_SPACE = tuple(f"(os error {code})" for code in (errno.ENOSPC, errno.EDQUOT))


def publish_directory(final: Path, write: Callable[[Path], None]) -> None:
    """Makes the directory ``final``, or replaces it, with the files that ``write`` puts into an empty directory.

    Raises:
        DiskFullError: no space is left; what had the name before still has it.
        StoreError: the place cannot be written; what had the name before still has it.
    """
    LocalDirectory.create(final.parent)
    aside, hidden = final.with_name(f".{final.name}.old"), final.with_name(f".{final.name}.{os.getpid()}")
    try:
        if aside.exists() and not final.exists():
            aside.rename(final)
        _remove_leftovers(final)
        hidden.mkdir()
        write(hidden)
        for path in (*hidden.rglob("*"), hidden):
            _sync(path)
        if final.exists():
            final.rename(aside)
        hidden.rename(final)
        _sync(final.parent)
    except Exception as error:
        if says_disk_full(error):
            raise DiskFullError(
                f"no space is left for {final}; free some and repeat the command: what was published is whole"
            ) from error
        if isinstance(error, OSError):
            raise StoreError(f"{final}: cannot be written: {error.strerror or error}") from error
        raise
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(final: Path) -> None:
    """Removes what writers of the same name left that died."""
    pattern = re.compile(rf"\.{re.escape(final.name)}\.(old|\d+)")
    for entry in final.parent.iterdir():
        if pattern.fullmatch(entry.name):
            shutil.rmtree(entry, ignore_errors=True)


def says_disk_full(error: BaseException) -> bool:
    """Whether an error is, or came from, a full disk; also one of a library that only says so."""
    return is_disk_full(error) or any(text in str(link) for link in error_chain(error) for text in _RUST_NO_SPACE)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
