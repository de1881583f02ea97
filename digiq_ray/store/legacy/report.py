"""What an import found: one count for each thing that can be unusual about the original's files."""

from __future__ import annotations

from collections import Counter
from typing import Any

COUNTS: dict[str, str] = {
    "trajectories": "trajectories in the file",
    "steps": "steps in them",
    "empty": "trajectories without a step: left out",
    "episodes": "episodes",
    "success": "of them successes",
    "agent_stop": "of them ended by the agent",
    "truncated": "of them ended by the horizon; the last action was never executed and is left out",
    "unfinished": "of them that end without done: cut short by the device",
    "unparsable_actions": "executed actions that are not of the grammar",
    "unparsable_candidates": "different candidates that are not of the grammar",
    "candidates": "different candidates",
    "ragged_candidates": "states with more or fewer candidates than features",
    "corrupt_candidates": "states whose candidates were joined twice (one character each)",
    "repaired_candidates": "of them taken apart again",
    "other_first_candidates": "states whose first candidate is not the executed action",
    "zero_features": "features of candidates that are zero or not finite: treated as missing",
    "missing_features": "different candidates without a feature",
    "differing_features": "candidates drawn again whose feature differs from the first (which is kept)",
    "zero_state_features": "features of states that are zero or not finite: treated as missing",
    "broken_sequences": "states whose feature is not that which the step before led to",
    "differing_returns": "steps whose stored return is not that of the rewards",
    "differing_rewards": "steps whose stored sum of rewards is another",
    "differing_prompts": "steps whose prompt is not that of the task and the action before",
    "missing_images": "screens that are not among the images",
    "refused_images": "screens whose path leads out of the directory of images: not read",
    "broken_images": "screens that are neither PNG nor JPEG",
}
"""Names of the counts, in their order, and what each means."""


class Findings(Counter[str]):
    """Counts by the names of ``COUNTS``."""

    def as_dict(self) -> dict[str, Any]:
        """All counts in order, the zero ones too."""
        return {name: self[name] for name in COUNTS}
