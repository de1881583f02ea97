"""Frozen intermediate-layer features: f(s) of a state, f(s, a) of a state with a candidate action.

The language model is cut after layer ``k``, without its final norm unless ``k`` is its last layer, so what comes out is
exactly Transformers' ``hidden_states[k]``, and no later layer is computed. A state's prefix is run once and shared by
its candidates.

``f(s)`` is the hidden state where the model is about to act. ``f(s, a)`` is the hidden state at the end of the question
whether ``a`` changes the screen and, with ``Pooling.LAST_AND_ACTION``, the mean over the action's own tokens beside it:
read from the last token alone, values hardly depend on the action at small scale.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import torch
from torch import nn

from digiq_ray.core.errors import ConfigError
from digiq_ray.vlm.batching import Screens, pad, run_prefix, run_suffix
from digiq_ray.vlm.model import Vlm


class Pooling(enum.StrEnum):
    """Which hidden states make a feature of a state with an action."""

    LAST = "last"
    LAST_AND_ACTION = "last_and_action"


def layer_number(vlm: Vlm, layer: int) -> int:
    """``layer`` counted from 1; negative ones count from the end (-1 is the last).

    Raises:
        ConfigError: the model has no such layer.
    """
    count = int(vlm.model.config.get_text_config().num_hidden_layers)
    number = layer if layer > 0 else count + 1 + layer
    if not 1 <= number <= count:
        raise ConfigError(f"features.layer={layer}: the model has layers 1 to {count}")
    return number


class FeatureExtractor:
    """Reads features from a VLM. The VLM is cut down for it and must not be used for anything else afterwards.

    Args:
        vlm: The (fine-tuned) model.
        layer: ``k``, from 1 to the number of layers; negative counts from the end (-1 is the last).
        pooling: See ``Pooling``.
    """

    def __init__(self, vlm: Vlm, *, layer: int, pooling: Pooling) -> None:
        self.weights_hash = vlm.weights_hash
        language = vlm.language_model
        count, self.layer = len(language.layers), layer_number(vlm, layer)
        language.layers = language.layers[: self.layer]
        if self.layer < count:
            language.norm = nn.Identity()
        self.vlm, self.pooling = vlm, pooling

    @property
    def state_dim(self) -> int:
        """Length of f(s)."""
        return self.vlm.hidden_size

    @property
    def action_dim(self) -> int:
        """Length of f(s, a)."""
        return self.vlm.hidden_size * (1 if self.pooling is Pooling.LAST else 2)

    @torch.inference_mode()
    def extract(
        self, screens: Screens, prefixes: Sequence[Sequence[int]], actions: Sequence[Sequence[str]]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """f(s) as ``[B, state_dim]`` and, for each state, f(s, a) of its actions as ``[n, action_dim]``."""
        act = self.vlm.act_ids()
        questions = [[self.vlm.change_ids(action) for action in row] for row in actions]
        suffixes, owners, spans = [], [], []
        for owner, row in enumerate(questions):
            suffixes.append(act)
            owners.append(owner)
            spans.append(slice(0, 1))
            for ids, span in row:
                suffixes.append(ids)
                owners.append(owner)
                spans.append(span)
        prefix = run_prefix(self.vlm, screens, prefixes).select(torch.tensor(owners, device=self.vlm.model.device))
        padded, mask = (tensor.to(self.vlm.model.device) for tensor in pad(suffixes, self.vlm.pad_id, left=False))
        hidden = run_suffix(self.vlm, prefix, padded, mask)
        last = hidden[torch.arange(len(suffixes)), mask.sum(1) - 1]
        parts = [last]
        if self.pooling is Pooling.LAST_AND_ACTION:
            inside = torch.zeros_like(mask)
            for row_index, span in enumerate(spans):
                inside[row_index, span] = 1
            parts.append((hidden * inside[..., None]).sum(1) / inside.sum(1, keepdim=True))
        features = torch.cat(parts, 1).float().cpu()
        is_state = torch.zeros(len(suffixes), dtype=torch.bool)
        counts = [1 + len(row) for row in questions]
        starts = torch.tensor([0, *counts]).cumsum(0)[:-1]
        is_state[starts] = True
        return features[is_state, : self.state_dim], list(features[~is_state].split([len(row) for row in questions]))
