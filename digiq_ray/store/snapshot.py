"""A snapshot: exactly which files a data set consisted of, with the hash of each, so that a run can pin what it saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from digiq_ray.core.errors import StoreError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """File names of segments with their content hashes. Equal snapshots saw equal bytes."""

    segments: Mapping[str, str]

    @property
    def snapshot_hash(self) -> str:
        """One hash of all (32 hexadecimal digits)."""
        text = json.dumps(sorted(self.segments.items()))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A JSON object for a manifest; ``from_json`` reads it."""
        return {"snapshot_hash": self.snapshot_hash, "segments": dict(sorted(self.segments.items()))}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The snapshot of ``to_json``; raises ``StoreError`` if it was changed since."""
        segments = value.get("segments") if isinstance(value, dict) else None
        if not isinstance(segments, dict):
            raise StoreError("a snapshot must be a JSON object with 'snapshot_hash' and 'segments'")
        snapshot = cls(segments)
        if snapshot.snapshot_hash != value.get("snapshot_hash"):
            raise StoreError("a snapshot does not match its hash: it was changed by hand; take a new one")
        return snapshot
