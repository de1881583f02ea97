"""Screenshots of the original: reading them from a directory, and nothing from outside of it, and writing them.

Paths in a trajectory file are those of somebody else's machine: as much of a path's end as exists in the directory is
used. A path that goes up (``..``), or a link that leads out, is refused. What bounds it: one picture of 64 MiB.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path, PurePosixPath

from digiq_ray.core.errors import InputError
from digiq_ray.store.legacy.paths import PLACEHOLDER
from digiq_ray.store.legacy.report import Findings
from digiq_ray.store.publish import publish, typed_write_errors

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_LARGEST = 64 << 20
_MOST_PARTS = 8


class ImageDirectory:
    """Pictures in a directory.

    Raises:
        InputError: there is no such directory.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise InputError(f"{path}: there is no such directory of images; give the unpacked one, or leave it out")
        self._root = path.resolve()

    def read(self, image: str | None, findings: Findings) -> bytes:
        """The picture of a path as a trajectory file has it; empty if it is missing, refused or no picture."""
        parts = PurePosixPath((image or "").replace(PLACEHOLDER, "").replace("\\", "/")).parts
        if ".." in parts or "\0" in (image or ""):
            findings["refused_images"] += 1
            return b""
        names = [part for part in parts if part != "/"][-_MOST_PARTS:]
        for first in range(len(names)):
            found = self._root.joinpath(*names[first:])
            if os.path.isfile(found):
                return self._read(found, findings)
        findings["missing_images"] += 1
        return b""

    def _read(self, path: Path, findings: Findings) -> bytes:
        if not path.resolve().is_relative_to(self._root):
            findings["refused_images"] += 1
            return b""
        try:
            with path.open("rb") as file:
                data = file.read(_LARGEST + 1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        if not data.startswith(_SIGNATURES) or len(data) > _LARGEST:
            findings["broken_images"] += 1
            return b""
        return data


class ImageWriter:
    """Writes screens by the paths that an exported file names them with."""

    def __init__(self, path: Path) -> None:
        self._root = path

    def write(self, image: str, screen: bytes) -> None:
        """Writes one screen, unless it was lost or the file is there already."""
        place = self._root / image.removeprefix(f"{PLACEHOLDER}/")
        if not screen or place.exists():
            return
        with typed_write_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            publish(place, screen)
