"""Sampling token by token with Transformers: prompts of many requests in one batch, each token told as it is drawn.

The ``k``-th sample of a prompt depends on the prompt, its seed and ``k`` only, and is the one that
``vlm.sampling.sample`` draws. A prompt is run once for all of its samples. Rows that have ended, or whose caller has
gone, are dropped from the batch once they are half of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import DynamicCache

from digiq_ray.core.rng import uniforms
from digiq_ray.vlm.batching import Prefix, pad, positions, run_prefix
from digiq_ray.vlm.branches import branches
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.sampling import draw
from serve.protocols import Sampling

_PARTIAL = "\N{REPLACEMENT CHARACTER}"  # what half of a character decodes to


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids and the prepared screen that they speak of, if any."""

    ids: Sequence[int]
    screen: dict[str, torch.Tensor] | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """One token of sample ``sample`` of prompt ``owner``: the text that it adds, and how it ends the sample, if so."""

    owner: int
    sample: int
    text: str
    logprob: float
    finish: str | None


@dataclass(slots=True)
class _Row:
    """One sample that is being written."""

    owner: int
    sample: int
    limit: int
    ids: list[int] = field(default_factory=list)
    shown: str = ""
    finish: str | None = None

    def add(self, vlm: Vlm, token: int, logprob: float) -> Drawn:
        """Takes one token in. Text that later tokens may change is held back."""
        self.ids.append(token)
        if token in vlm.end_ids:
            self.finish = "stop"
        elif len(self.ids) == self.limit:
            self.finish = "length"
        text = vlm.text_of(self.ids)
        added = text[len(self.shown) :] if text.startswith(self.shown) else ""
        if self.finish is None and added.endswith(_PARTIAL):
            added = ""
        self.shown += added
        return Drawn(self.owner, self.sample, added, logprob, self.finish)


def _run_texts(vlm: Vlm, prompts: Sequence[Sequence[int]]) -> Prefix:
    """As ``run_prefix``, for prompts without an image."""
    ids, mask = (tensor.to(vlm.model.device) for tensor in pad(prompts, vlm.pad_id, left=True))
    where = positions(vlm, ids, mask, {})
    cache = DynamicCache(config=vlm.model.config.get_text_config())
    given = {"input_ids": ids, "attention_mask": mask, "position_ids": where, **vlm.token_types(ids)}
    out = vlm.model.model(**given, past_key_values=cache, use_cache=True)
    next_position = (where if where.dim() == 2 else where.amax(0))[:, -1] + 1
    return Prefix(out.last_hidden_state[:, -1], out.past_key_values, mask, next_position)


@torch.inference_mode()
def decode(
    vlm: Vlm,
    prompts: Sequence[Prompt],
    samplings: Sequence[Sampling],
    *,
    temperature: float,
    is_gone: Callable[[int], bool],
) -> Iterator[list[Drawn]]:
    """Draws a token for every live row at each step, until all have ended.

    Args:
        vlm: The model.
        prompts: All with a screen, or all without.
        samplings: Of each prompt; their temperatures are not looked at.
        temperature: Of all.
        is_gone: Whether nobody waits for a prompt's samples any more.
    """
    ids = [prompt.ids for prompt in prompts]
    screens = [prompt.screen for prompt in prompts if prompt.screen is not None]
    prefix = run_prefix(vlm, screens, ids) if screens else _run_texts(vlm, ids)
    rows = [_Row(owner, k, one.max_tokens) for owner, one in enumerate(samplings) for k in range(one.samples)]
    grown, index = branches(vlm, prefix, [row.owner for row in rows]), 0
    while True:
        seeds = np.array([samplings[row.owner].seed for row in rows], dtype=np.uint64)
        counters = np.array([(row.sample << 20) + index for row in rows], dtype=np.uint64)
        tokens, logprobs = draw(vlm.logits(grown.last).cpu(), uniforms(seeds, counters), temperature)
        drawn = zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)
        yield [row.add(vlm, token, logprob) for row, token, logprob in drawn if row.finish is None]
        live = [number for number, row in enumerate(rows) if row.finish is None and not is_gone(row.owner)]
        if not live:
            return
        if 2 * len(live) <= len(rows):
            rows, tokens = [rows[number] for number in live], tokens[live]
            grown.keep(live)
        grown.step(tokens)
        index += 1
