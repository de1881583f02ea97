"""Several texts after one prefix in one row: its image and its prompt are computed once, however many texts follow.

A row is ``[padding] prefix, text 1, text 2, .. [padding]``. Every text takes the positions right behind the prefix and
attends to the prefix and to itself, so that its hidden states and their gradients are those of a row of its own. That
holds in models whose layers attend to all that came before and to nothing else; ``can_pack`` tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from digiq_ray.vlm.batching import Screens, answer_logprobs, inputs, pad
from digiq_ray.vlm.model import Vlm

_MASKED = torch.finfo(torch.bfloat16).min  # finite in every precision: a row of padding must not become nan

Ids = Sequence[int]


def can_pack(vlm: Vlm) -> bool:
    """Whether each layer is causal attention to everything before, under a mask that is given whole.

    It is not where image tokens see ahead (Gemma 3), where windows or chunks count tokens instead of positions, where a
    state is handed on from token to token (linear attention), or with kernels that take no mask (flash attention).
    """
    text = vlm.model.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    sees_all = set(kinds) == {"full_attention"} if kinds else not getattr(text, "sliding_window", None)
    takes_masks = text._attn_implementation in ("eager", "sdpa")
    sees_ahead = bool(vlm.token_types(torch.empty(0, dtype=torch.long)))
    return sees_all and takes_masks and not sees_ahead and not vlm.language_model._is_stateful


def packed_states(
    vlm: Vlm, screens: Screens, prefixes: Sequence[Ids], texts: Sequence[Sequence[Ids]]
) -> list[torch.Tensor]:
    """Last hidden states ``[length, D]`` of every text, those of the first row first; ``can_pack(vlm)`` must hold.

    Args:
        vlm: The model.
        screens, prefixes: Of each row.
        texts: Of each row, those that follow its prefix: at least one, none of them empty.
    """
    device = vlm.model.device
    tails, tail_mask = pad([list(chain.from_iterable(row)) for row in texts], vlm.pad_id, left=False)
    numbers, _ = pad([[n for n, text in enumerate(row, 1) for _ in text] for row in texts], 0, left=False)
    steps, _ = pad([[step for text in row for step in range(len(text))] for row in texts], 0, left=False)
    given = inputs(vlm, screens, *pad(prefixes, vlm.pad_id, left=True))
    tails, tail_mask, numbers, steps = (one.to(device) for one in (tails, tail_mask, numbers, steps))

    where = given["position_ids"]
    behind = (where if where.dim() == 2 else where.amax(0))[:, -1:] + 1 + steps
    given["position_ids"] = torch.cat([where, behind.expand(*where.shape[:-1], -1)], -1)
    given["input_ids"] = torch.cat([given["input_ids"], tails], 1)
    present = torch.cat([given["attention_mask"], tail_mask], 1).bool()
    part = torch.cat([torch.zeros_like(given["attention_mask"]), numbers], 1)  # 0 is the prefix
    given["attention_mask"] = _mask(present, part, vlm.model.dtype)

    hidden = vlm.model.model(**given, use_cache=False).last_hidden_state[:, -tails.shape[1] :]
    return list(hidden[tail_mask.bool()].split([len(text) for row in texts for text in row]))


def _mask(present: torch.Tensor, part: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The mask ``[B, 1, L, L]`` of rows that are made of parts.

    Args:
        present: Whether there is a token, ``[B, L]``.
        part: What it belongs to, ``[B, L]``; 0 is what all parts may look at.
        dtype: Of the result.
    """
    keys = part[:, None, :]
    seen = present[:, None, :] & ((keys == 0) | (keys == part[:, :, None]))
    return additive(seen.tril(), dtype)


def additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the scores of attention, ``[B, 1, L, M]``, where queries see keys ``seen``, ``[B, L, M]``."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, _MASKED)[:, None]


def text_logprobs(vlm: Vlm, states: Sequence[torch.Tensor], answers: Sequence[Ids]) -> torch.Tensor:
    """Log-probabilities ``[n]`` of answers.

    Args:
        vlm: The model.
        states: For each answer the states of a text that ends with all of its tokens but the last.
        answers: Their ids.
    """
    lengths = [len(answer) for answer in answers]
    before = torch.cat([one[-length:] for one, length in zip(states, lengths, strict=True)])
    targets = torch.tensor(list(chain.from_iterable(answers)), device=before.device)
    logprobs = torch.log_softmax(vlm.logits(before), -1).gather(-1, targets[:, None])[:, 0]
    return torch.stack([one.sum() for one in logprobs.split(lengths)])


def action_logprobs(
    vlm: Vlm, screens: Screens, prefixes: Sequence[Ids], actions: Sequence[Sequence[str]], *, packing: bool = True
) -> torch.Tensor:
    """Differentiable log-probabilities ``[n]`` of actions as answers, those of the first row first.

    Args:
        vlm: The model.
        screens, prefixes: Of each row.
        actions: Of each row, at least one.
        packing: Rows are computed once where that is possible and saves anything, and not once for each action.
    """
    act, answers = vlm.act_ids(), [[vlm.answer_ids(action) for action in row] for row in actions]
    flat = list(chain.from_iterable(answers))
    if packing and len(flat) > len(answers) and can_pack(vlm):
        texts = [[[*act, *answer[:-1]] for answer in row] for row in answers]
        return text_logprobs(vlm, packed_states(vlm, screens, prefixes, texts), flat)
    owners = [number for number, row in enumerate(answers) for _ in row]
    prompts = [[*prefixes[number], *act] for number in owners]
    return answer_logprobs(vlm, [screens[number] for number in owners], prompts, flat)[0].sum(1)
