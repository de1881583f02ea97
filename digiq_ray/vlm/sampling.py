"""Sampling actions: the prompt is run once, its cache is shared by all samples of a state.

Every sample is decided by its own seed (``core.rng``), so the result does not depend on which states share a batch:
a run that was killed and resumed draws the same actions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from digiq_ray.core.policies import ActRequest, ActResult
from digiq_ray.core.rng import uniforms
from digiq_ray.vlm.batching import Screens, run_prefix
from digiq_ray.vlm.branches import branches
from digiq_ray.vlm.model import Vlm


def draw(logits: torch.Tensor, uniform: np.ndarray, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens ``[B]`` by inverse distribution function, and their log-probabilities; temperature 0 is the argmax."""
    if temperature <= 0:
        tokens = logits.argmax(-1)
        return tokens, torch.log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0]
    logprobs = torch.log_softmax(logits.double() / temperature, -1)
    cumulative = logprobs.exp().cumsum(-1)
    point = torch.as_tensor(uniform, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, point, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0].float()


@torch.inference_mode()
def sample(
    vlm: Vlm,
    screens: Screens,
    prefixes: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    samples: int = 1,
    temperature: float = 1.0,
    max_tokens: int = 8,
) -> list[list[tuple[str, float]]]:
    """For each state ``samples`` pairs of action text and log-probability.

    The ``k``-th sample of a state depends on the state, its seed and ``k`` only.
    """
    if not prefixes:
        return []
    prompts = [[*prefix, *vlm.act_ids()] for prefix in prefixes]
    owners = np.repeat(np.arange(len(prompts)), samples)
    grown = branches(vlm, run_prefix(vlm, screens, prompts), owners.tolist())
    row_seeds = np.array(seeds, dtype=np.uint64)[owners]
    counters = np.tile(np.arange(samples, dtype=np.uint64) << np.uint64(20), len(prompts))
    done, total = torch.zeros(len(owners), dtype=torch.bool), torch.zeros(len(owners))
    generated, ends = [], torch.tensor(vlm.end_ids)
    for index in range(max_tokens):
        logits = vlm.logits(grown.last).cpu()
        tokens, logprobs = draw(logits, uniforms(row_seeds, counters + np.uint64(index)), temperature)
        tokens = torch.where(done, torch.tensor(vlm.eos_id), tokens)
        total += torch.where(done, torch.tensor(0.0), logprobs)
        generated.append(tokens)
        done |= torch.isin(tokens, ends)
        if bool(done.all()) or index == max_tokens - 1:
            break
        grown.step(tokens)
    ids = torch.stack(generated, 1).tolist()
    texts = [(vlm.text_of(row), float(logprob)) for row, logprob in zip(ids, total, strict=True)]
    return [texts[i * samples : (i + 1) * samples] for i in range(len(prompts))]


class VlmPolicy:
    """A ``Policy`` that samples from a VLM in this process."""

    def __init__(self, vlm: Vlm, *, temperature: float = 1.0, max_tokens: int = 8, batch: int = 128) -> None:
        self.vlm = vlm
        self._temperature, self._max_tokens, self._batch = temperature, max_tokens, batch

    def act(self, requests: Sequence[ActRequest]) -> list[ActResult]:
        """Samples one action for each request."""
        results = []
        for start in range(0, len(requests), self._batch):
            part = requests[start : start + self._batch]
            screens = [self.vlm.transform.prepare(request.screen) for request in part]
            prefixes = [self.vlm.prefix_ids(s, r.task, r.history) for s, r in zip(screens, part, strict=True)]
            drawn = sample(
                self.vlm,
                screens,
                prefixes,
                [request.seed for request in part],
                temperature=self._temperature,
                max_tokens=self._max_tokens,
            )
            results += [ActResult(text, logprob, self.vlm.version) for ((text, logprob),) in drawn]
        return results
