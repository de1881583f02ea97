"""JSON files that say what a stage did, so that the same command can continue it: written whole, read with care."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from digiq_ray.core.errors import StoreError
from digiq_ray.store.publish import replace


def write_json(path: Path, value: Any) -> None:
    """Makes or replaces a JSON file in one step: a reader sees the old value or the new one, also after a crash.

    Raises:
        StoreError: ``value`` has no JSON form (a NaN has none), or the directory is missing.
        DiskFullError: no space is left; the old file is untouched.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        content = text.encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"{path}: the value has no JSON form: {error}") from error
    replace(path, content)


def read_json(path: Path) -> Any:
    """The value in a JSON file; raises ``StoreError`` if it is missing or broken."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{path}: is not JSON ({error}); delete it to run its stage again") from error
