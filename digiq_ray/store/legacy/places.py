"""Where an import lies: the stores of a run under the same names, and beside them what was imported and found."""

from __future__ import annotations

from dataclasses import dataclass

from digiq_ray.store.directory import StorePath
from digiq_ray.store.fingerprint import Fingerprint


@dataclass(frozen=True, slots=True)
class Places:
    """Names under ``root``, a local directory or an ``s3://`` location."""

    root: str

    @classmethod
    def under(cls, path: StorePath) -> Places:
        """Those under ``path``."""
        return cls(str(path).rstrip("/") or "/")

    @property
    def episodes(self) -> str:
        """EpisodeStore."""
        return f"{self.root}/episodes"

    @property
    def candidates(self) -> str:
        """CandidateStore."""
        return f"{self.root}/candidates"

    @property
    def states(self) -> str:
        """FeatureStore of observations."""
        return f"{self.root}/features/states"

    @property
    def actions(self) -> str:
        """FeatureStore of candidates."""
        return f"{self.root}/features/actions"

    @property
    def imports(self) -> str:
        """For each file that was imported, how, and what was found in it."""
        return f"{self.root}/imports"


def legacy_fingerprint(*, stack: bool) -> Fingerprint:
    """Of all features of the original: which models and images made them is not written in its files.

    States have BLIP-2's pooled image feature (or that of two frames), candidates the last hidden state of a LLaVA at
    its answer. Both are marked alike, because they were made to be used together.
    """
    frames = "two frames" if stack else "one frame"
    return Fingerprint(model="legacy", layer=-1, pooling="legacy", prompt="legacy", image=f"legacy, {frames}")
