"""What features were made with. Features of different fingerprints are different quantities and are never mixed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Self

from digiq_ray.core.errors import FingerprintMismatchError


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """How features were made.

    Attributes:
        model: Hash of the model's weights.
        layer: Index of the hidden states that were taken.
        pooling: How the tokens of a prompt became one vector.
        prompt: Hash of the prompt template.
        image: Description of the image transform.
    """

    model: str
    layer: int
    pooling: str
    prompt: str
    image: str

    def to_json(self) -> str:
        """One line of JSON; ``from_json`` reads it."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The fingerprint of ``to_json``; raises ``ValueError`` or ``TypeError`` if the text is not one."""
        return cls(**json.loads(text))

    def require(self, wanted: Fingerprint, *, where: str) -> None:
        """Raises ``FingerprintMismatchError`` naming the first field in which this one, of ``where``, differs."""
        for field in dataclasses.fields(self):
            found, expected = getattr(self, field.name), getattr(wanted, field.name)
            if found != expected:
                raise FingerprintMismatchError(
                    f"{where}: features were made with {field.name} {found!r}, not {expected!r}; "
                    "embed again into another directory, or use what these were made with"
                )
