"""Where everything of a run lies. One local directory; each part is a store or a model of its own.

Checkpoints may lie elsewhere, in S3 for instance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digiq_ray.store.directory import locate


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

    @property
    def snapshots(self) -> Path:
        """Which data the trainings read."""
        return self.root / "snapshots"

    def model(self, name: str) -> Path:
        """A finished model: ``feature_vlm``, ``critic``, or the latest version of a policy."""
        return self.root / "models" / name

    def versions(self, policy: str) -> Path:
        """All versions of a policy."""
        return self.root / "policies" / policy

    def checkpoints(self, name: str, elsewhere: str = "") -> Any:
        """Checkpoints of a training that is under way: in the run, or under its name in a place that holds many."""
        return locate(elsewhere) / self.root.name / name if elsewhere else self.root / "checkpoints" / name

    def evaluation(self, policy: str, mode: str) -> Path:
        """EpisodeStore of an evaluation; ``mode`` is ``sampled`` or ``greedy``."""
        return self.root / "evaluation" / policy / mode
