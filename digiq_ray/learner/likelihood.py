"""How likely the behaviour policy found its candidates: read only where a support rule asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from digiq_ray.learner.data import StateKey
from digiq_ray.policy.best_of_n import StateCandidates
from digiq_ray.store.candidates import CandidateStore


def with_logprobs(
    candidates: Mapping[StateKey, StateCandidates], store: CandidateStore, ids: Iterable[str] | None = None
) -> dict[StateKey, StateCandidates]:
    """The candidates with the log-probabilities that the store has of them; with ``ids``, of those episodes only."""
    rows = store.table(["episode_id", "step", "action", "logprob"], ids).to_pydict()
    found = dict(zip(zip(rows["episode_id"], rows["step"], rows["action"], strict=True), rows["logprob"], strict=True))
    return {
        key: replace(options, logprobs=[found.get((*key, text)) for text in options.texts])
        for key, options in candidates.items()
    }
