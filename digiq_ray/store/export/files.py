"""What all exports share: a directory that appears whole or not at all, names that are safe, screens as files.

Exports stream: an episode is read, written and forgotten. Nothing is flushed file by file (there may be a million
screens); the whole is flushed once, then named.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from digiq_ray.core.errors import InputError
from digiq_ray.store.local import LocalDirectory
from digiq_ray.store.publish import sync_directory, typed_write_errors

OnEpisode = Callable[[int], None]
"""Called with the number of episodes that are done."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
_SIGNATURES = ((b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"BM", ".bmp"))


@dataclass(slots=True)
class ExportCounts:
    """What an export wrote.

    Attributes:
        episodes: How many it went through.
        rows: Rows, or examples, of each split.
        lost_screens: Observations whose screenshot is not in the store.
    """

    episodes: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    lost_screens: int = 0


@contextmanager
def new_directory(out: Path) -> Iterator[Path]:
    """A hidden directory that gets the name ``out`` when the block ends well, and is removed otherwise.

    Raises:
        InputError: ``out`` is there already, and not an empty directory.
        DiskFullError: no space is left; nothing stays behind.
        StoreError: the place cannot be written.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: is there already, and an export never overwrites; give another --out or remove it")
    hidden = out.with_name(f".{out.name}.{secrets.token_hex(8)}.tmp")
    LocalDirectory.create(out.parent)
    with typed_write_errors(out):
        _remove_leftovers(out)
        hidden.mkdir()
        lock = os.open(hidden, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield hidden
            os.sync()
            os.rename(hidden, out)
            sync_directory(out.parent)
        finally:
            os.close(lock)
            shutil.rmtree(hidden, ignore_errors=True)


def safe_name(text: str) -> str:
    """``text`` as a file name and a split name: itself if it can be one, else cleaned, with a hash of it."""
    cleaned = _UNSAFE.sub("_", text)[:64]
    if text and cleaned == text:
        return text
    return f"{cleaned}_{hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"


def image_suffix(screen: bytes) -> str:
    """The suffix of an encoded image, from its first bytes; ``.bin`` if they are of no format that is known here."""
    if screen[:4] == b"RIFF" and screen[8:12] == b"WEBP":
        return ".webp"
    return next((suffix for signature, suffix in _SIGNATURES if screen.startswith(signature)), ".bin")


def write_screen(root: Path, folder: str, screen: bytes, digest: str) -> str:
    """Writes a screen as ``FOLDER/ab/abcd....png`` under ``root``, unless it is there, and returns that path."""
    name = f"{folder}/{digest[:2]}/{digest}{image_suffix(screen)}"
    path = root / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(screen)
    return name


def _remove_leftovers(out: Path) -> None:
    """Removes what exports to the same place left that died; a living one holds a lock on its directory."""
    pattern = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{16}}\.tmp")
    for path in [path for path in out.parent.iterdir() if pattern.fullmatch(path.name)]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)
