"""Batches of token sequences and the cache of a shared prefix.

Prefixes are padded on the left and suffixes on the right, so that every suffix starts where its prefix ends. Position
ids are given explicitly: counted without the padding for ordinary models, asked of the model for those with
multi-dimensional positions (Qwen-VL).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from digiq_ray.vlm.model import Vlm

Screens = list[dict[str, torch.Tensor]]


def pad(rows: Sequence[Sequence[int]], pad_id: int, *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """``[B, L]`` ids and their mask (1 where there is a token)."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for i, row in enumerate(rows):
        span = slice(length - len(row), length) if left else slice(0, len(row))
        ids[i, span] = torch.tensor(row, dtype=torch.long)
        mask[i, span] = 1
    return ids, mask


def positions(vlm: Vlm, ids: torch.Tensor, mask: torch.Tensor, images: dict[str, torch.Tensor]) -> torch.Tensor:
    """Position ids ``[B, L]``, or ``[3, B, L]`` for models with multi-dimensional positions."""
    if vlm.has_image_positions:
        kinds = (ids == vlm.model.config.image_token_id).long()
        found, _ = vlm.model.model.get_rope_index(
            ids, mm_token_type_ids=kinds, image_grid_thw=images.get("image_grid_thw"), attention_mask=mask
        )
        return torch.as_tensor(found)
    return (mask.cumsum(1) - 1).clamp(min=0)


def inputs(vlm: Vlm, screens: Screens, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """All that a forward pass over ``[B, L]`` ids with one image a row needs, on the model's device."""
    device = vlm.model.device
    ids, mask = ids.to(device), mask.to(device)
    images = {name: value.to(device) for name, value in vlm.transform.batch(screens, vlm.model.dtype).items()}
    where = positions(vlm, ids, mask, images)
    return {"input_ids": ids, "attention_mask": mask, "position_ids": where, **vlm.token_types(ids), **images}


@dataclass(slots=True)
class Prefix:
    """Prefixes that were run once: their last hidden state, cache, mask and next positions."""

    last: torch.Tensor
    cache: DynamicCache
    mask: torch.Tensor
    next_position: torch.Tensor

    def select(self, rows: torch.Tensor) -> Prefix:
        """The same prefixes, repeated or reordered: row ``i`` of the result is row ``rows[i]`` of this.

        The cache moves into the result, so that this one must not be used any more.
        """
        self.cache.batch_select_indices(rows)
        return Prefix(self.last[rows], self.cache, self.mask[rows], self.next_position[rows])


def run_prefix(vlm: Vlm, screens: Screens, prefixes: Sequence[Sequence[int]]) -> Prefix:
    """Runs images and prefixes once and keeps keys and values."""
    given = inputs(vlm, screens, *pad(prefixes, vlm.pad_id, left=True))
    cache = DynamicCache(config=vlm.model.config.get_text_config())
    out = vlm.model.model(**given, past_key_values=cache, use_cache=True)
    where = given["position_ids"]
    next_position = (where if where.dim() == 2 else where.amax(0))[:, -1] + 1
    return Prefix(out.last_hidden_state[:, -1], out.past_key_values, given["attention_mask"], next_position)


def run_suffix(vlm: Vlm, prefix: Prefix, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Hidden states ``[B, L, D]`` of ``ids`` after ``prefix``, whose cache grows by them."""
    steps = torch.arange(ids.shape[1], device=ids.device)
    where = prefix.next_position[:, None] + steps[None]
    if vlm.has_image_positions:
        where = where[None].expand(3, -1, -1)
    prefix.mask = torch.cat([prefix.mask, mask], 1)
    prefix.next_position = prefix.next_position + ids.shape[1]
    out = vlm.model.model(
        input_ids=ids, attention_mask=prefix.mask, position_ids=where, past_key_values=prefix.cache, use_cache=True
    )
    return torch.as_tensor(out.last_hidden_state)


def answer_logprobs(
    vlm: Vlm, screens: Screens, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Differentiable log-probabilities ``[B, A]`` of the answers' tokens after their prompts, and their mask."""
    prompt_ids, prompt_mask = pad(prompts, vlm.pad_id, left=True)
    answer_ids, answer_mask = pad(answers, vlm.pad_id, left=False)
    ids, mask = (torch.cat(pair, 1) for pair in ((prompt_ids, answer_ids), (prompt_mask, answer_mask)))
    states = vlm.model.model(**inputs(vlm, screens, ids, mask), use_cache=False).last_hidden_state
    logits = vlm.logits(states[:, -answer_ids.shape[1] - 1 : -1])
    targets, answer_mask = answer_ids.to(logits.device), answer_mask.to(logits.device)
    logprobs = torch.log_softmax(logits, -1).gather(-1, targets[..., None])[..., 0]
    return logprobs * answer_mask, answer_mask
