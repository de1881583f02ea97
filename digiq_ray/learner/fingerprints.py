"""What a training is of. A checkpoint carries it, so that no training goes on from one of other data or settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from digiq_ray.core.config import differences
from digiq_ray.core.errors import CheckpointMismatchError

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """What decides the result of a training, and nothing else (not how often checkpoints are made, say).

    Attributes:
        data: Hashes of what it reads, by name: snapshots of stores, and what is made of them.
        features: How features were made (see ``store.fingerprint``), or the model that the training starts from.
        configuration: Settings, with the seed.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)
    configuration: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON object for a manifest."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return found

    def require(self, kept: Mapping[str, Any], *, where: str) -> None:
        """Compares these of a training with those ``kept`` in the checkpoint at ``where``.

        Raises:
            CheckpointMismatchError: they differ; the message says in what and how to mend it.
        """
        different = differences(kept, self.to_json())
        if different:
            different.sort(key=lambda one: one.key.startswith("data."))  # hashes tell a person the least
            said = ", ".join(f"{one.key} was {one.left!r} and is {one.right!r}" for one in different[:_NAMED])
            more = f" (and {len(different) - _NAMED} more)" if len(different) > _NAMED else ""
            raise CheckpointMismatchError(
                f"{where}: the checkpoint is of another training: {said}{more}; give another --out, the same data and "
                "settings as before, or remove the checkpoint to begin this training again"
            )
