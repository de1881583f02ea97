"""How far a policy has moved from the behaviour policy, estimated on the candidates of a few states.

``KL = mean over states of sum over candidates c of p(c | s) log (p(c | s) / b(c | s))``, where ``p`` and ``b`` are the
two policies' probabilities of the candidates' texts at temperature 1, normalised over the candidates of the state. What
a policy does beyond the candidates is not seen, so it is a figure to compare the methods of a run by, not the
divergence per token that the paper's Table 3 gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.packing import action_logprobs

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ProbeState:
    """A state with the texts of its candidates."""

    screen: dict[str, torch.Tensor]
    prefix: Sequence[int]
    texts: Sequence[str]


def candidate_logprobs(vlm: Vlm, states: Sequence[ProbeState], *, batch: int = 64) -> list[Array]:
    """Log-probability of each candidate's text, one array per state; about ``batch`` texts are looked at together."""
    vlm.model.eval()
    found: list[float] = []
    with torch.inference_mode():
        for part in _parts(states, batch):
            screens, prefixes = [state.screen for state in part], [state.prefix for state in part]
            found += action_logprobs(vlm, screens, prefixes, [state.texts for state in part]).double().tolist()
    ends = np.cumsum([len(state.texts) for state in states])
    return np.split(np.array(found), ends[:-1]) if len(states) else []


def _parts(states: Sequence[ProbeState], batch: int) -> Iterator[list[ProbeState]]:
    """Whole states in turn, as many at a time as have ``batch`` texts together; one that has more comes alone."""
    part: list[ProbeState] = []
    for state in states:
        if part and sum(len(one.texts) for one in [*part, state]) > batch:
            yield part
            part = []
        part.append(state)
    if part:
        yield part


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
