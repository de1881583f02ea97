"""How far a policy has moved from the behaviour policy, estimated on the candidates of a few states.

``KL = mean over states of sum over candidates c of p(c | s) log (p(c | s) / b(c | s))``, where ``p`` and ``b`` are the
two policies' probabilities of the candidates' texts at temperature 1, normalised over the candidates of the state. What
a policy does beyond the candidates is not seen, so it is a figure to compare the methods of a run by, not the
divergence per token that the paper's Table 3 gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from digiq_ray.vlm.batching import answer_logprobs
from digiq_ray.vlm.model import Vlm

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ProbeState:
    """A state with the texts of its candidates."""

    screen: dict[str, torch.Tensor]
    prefix: Sequence[int]
    texts: Sequence[str]


def candidate_logprobs(vlm: Vlm, states: Sequence[ProbeState], *, batch: int = 64) -> list[Array]:
    """Log-probability of each candidate's text, one array per state."""
    vlm.model.eval()
    pairs = [(state, text) for state in states for text in state.texts]
    found: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(pairs), batch):
            part = pairs[start : start + batch]
            prompts = [[*state.prefix, *vlm.act_ids()] for state, _ in part]
            answers = [vlm.answer_ids(text) for _, text in part]
            logprobs, _ = answer_logprobs(vlm, [state.screen for state, _ in part], prompts, answers)
            found += logprobs.sum(1).double().tolist()
    ends = np.cumsum([len(state.texts) for state in states])
    return np.split(np.array(found), ends[:-1]) if len(states) else []


def divergence(policy: Sequence[Array], behaviour: Sequence[Array]) -> float:
    """The estimate above from unnormalised log-probabilities of the same candidates; 0 without a state.

    Args:
        policy, behaviour: For each state the log-probabilities ``[n]`` of its candidates, at least one.

    Returns:
        At least 0; 0 where the two agree on the candidates' proportions.
    """
    if not policy:
        return 0.0
    found = []
    for new, old in zip(policy, behaviour, strict=True):
        new, old = new - np.logaddexp.reduce(new), old - np.logaddexp.reduce(old)
        found.append(max(0.0, float((np.exp(new) * (new - old)).sum())))
    return float(np.mean(found))
