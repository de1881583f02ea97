"""The note that an import leaves in its store before anything else, so that the same file enters it in one way only.

Repeating an import with the same settings continues it. With others it would mix two readings of one file, and
features of other lengths could not lie in one store: both are refused before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.store.directory import Directory

_SUFFIX = ".import.json"
_REPORT = ".report.json"
_SAME_IN_ALL = ("state_dim", "action_dim", "dtype", "frame_stack")


def claim(directory: Directory, name: str, note: Mapping[str, Any]) -> None:
    """Publishes the note of the import ``name``, unless the same is there.

    Raises:
        InputError: the file was imported with other settings, or another file with other features was.
    """
    for other in directory.names(_SUFFIX):
        found = _read(directory, other)
        if other == name + _SUFFIX:
            _require_same(directory, found, note)
            return
        for key in _SAME_IN_ALL:
            one, two = found.get(key), note.get(key)
            if one is not None and two is not None and one != two:
                raise InputError(
                    f"{directory.path}: holds an import with {key} {one}, this file has {two}; give another --out"
                )
    if not directory.publish(name + _SUFFIX, _content(note)):
        _require_same(directory, _read(directory, name + _SUFFIX), note)


def leave_report(directory: Directory, name: str, report: Mapping[str, Any]) -> str:
    """Publishes the report of a finished import, if there is none yet; returns where it lies."""
    directory.publish(name + _REPORT, _content(report))
    return str(directory.path / (name + _REPORT))


def _require_same(directory: Directory, found: Mapping[str, Any], note: Mapping[str, Any]) -> None:
    for key, value in note.items():
        if found.get(key) != value:
            raise InputError(
                f"{directory.path}: this file was imported with {key} {found.get(key)}, not {value}; "
                "give another --out, or the same settings to continue"
            )


def _content(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _read(directory: Directory, name: str) -> dict[str, Any]:
    with directory.reading(name) as file:
        found = json.loads(bytes(file.read()))
    if not isinstance(found, dict):
        raise StoreError(f"{directory.path / name}: is not the note of an import; delete it")
    return found
