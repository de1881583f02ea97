"""Where everything of a run lies. One directory, local for now; each part is a store or a model of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunPaths:
    """Names under a run's directory."""

    root: Path

    @property
    def episodes(self) -> Path:
        """EpisodeStore of the behaviour policy."""
        return self.root / "episodes"

    @property
    def candidates(self) -> Path:
        """CandidateStore."""
        return self.root / "candidates"

    @property
    def features(self) -> Path:
        """FeatureStores ``states`` and ``actions``."""
        return self.root / "features"

    @property
    def logs(self) -> Path:
        """TensorBoard events."""
        return self.root / "metrics"

    def model(self, name: str) -> Path:
        """A finished model: ``feature_vlm``, ``critic``, or a policy."""
        return self.root / "models" / name

    def checkpoints(self, name: str) -> Path:
        """Checkpoints of a training that is under way."""
        return self.root / "checkpoints" / name

    def evaluation(self, policy: str, mode: str) -> Path:
        """EpisodeStore of an evaluation; ``mode`` is ``sampled`` or ``greedy``."""
        return self.root / "evaluation" / policy / mode
