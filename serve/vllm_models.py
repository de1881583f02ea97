"""The models that vLLM runs: its own, cut after a layer for features, and with the names that Transformers saves.

A feature model is given a configuration with ``k`` layers, so that later ones are neither made, loaded nor computed.
Its output is the residual stream after layer ``k``, which is Transformers' ``hidden_states[k]``: without the final
norm, unless ``k`` is the last layer. ``FeaturePooler`` takes from it what ``vlm.features.Pooling`` names.

Imported only in vLLM's processes (see ``serve.vllm_plugin``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from vllm.model_executor.layers.pooler.abstract import Pooler
from vllm.model_executor.models.llava import LlavaForConditionalGeneration
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration
from vllm.model_executor.models.utils import PPMissingLayer
from vllm.v1.pool.metadata import PoolingMetadata

Weights = Iterable[tuple[str, torch.Tensor]]
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_TOWER = re.compile(r"^((?:model\.)?vision_tower\.)(?!vision_model\.)")


class FeaturePooler(Pooler):
    """The last token's state and, for a request with a ``span``, the mean of that span's states beside it.

    ``PoolingParams.extra_kwargs["span"]`` holds two positions of the prompt. A prompt may come in several parts
    (chunked prefill). States of tokens that were read from the prefix cache do not exist: if one of the span's is
    missing, the mean is NaN, and the caller asks again without the cache.
    """

    def get_supported_tasks(self) -> set[str]:
        """What requests may ask for."""
        return {"embed"}

    def forward(self, hidden_states: torch.Tensor, pooling_metadata: PoolingMetadata) -> list[torch.Tensor | None]:
        """A row for each prompt that is complete with this part, else ``None``."""
        cursor = pooling_metadata.get_pooling_cursor()
        counts = cursor.num_scheduled_tokens_cpu.tolist()
        ends = cursor.seq_lens_cpu.tolist()
        rows: list[torch.Tensor | None] = []
        for part, count, end, length, params, memory in zip(
            hidden_states.split(counts),
            counts,
            ends,
            cursor.prompt_lens_cpu.tolist(),
            pooling_metadata.pooling_params,
            pooling_metadata.pooling_states,
            strict=True,
        ):
            span = (params.extra_kwargs or {}).get("span")
            if span is not None:
                first = end - count
                seen = part[max(0, span[0] - first) : max(0, span[1] - first)]
                memory.hidden_states_cache.append(seen.clone())
            rows.append(self._row(part[-1], span, memory.hidden_states_cache) if end == length else None)
            if end == length:
                memory.clean()
        return rows

    @staticmethod
    def _row(last: torch.Tensor, span: list[int] | None, seen: list[torch.Tensor]) -> torch.Tensor:
        last = last.float()
        if span is None:
            return last.clone()
        states = torch.cat(seen).float()
        whole = len(states) == span[1] - span[0]
        return torch.cat([last, states.mean(0) if whole else torch.full_like(last, float("nan"))])


class _Features:
    """Makes a feature model of a vLLM model class."""

    is_pooling_model = True
    language_model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        config = vllm_config.model_config.hf_config
        self._layers = config.get_text_config().num_hidden_layers
        if not config.digiq_final_norm:
            self.set_aux_hidden_state_layers((self._layers,))  # type: ignore[attr-defined]
        self.language_model.lm_head = PPMissingLayer()
        self.pooler = FeaturePooler()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Hidden states ``[T, D]``."""
        out = super().forward(*args, **kwargs)  # type: ignore[misc]
        return out[1][0] if isinstance(out, tuple) else out

    def load_weights(self, weights: Weights) -> set[str]:
        """Loads what this model has."""
        return set(super().load_weights(self._own(weights)))  # type: ignore[misc]

    def _own(self, weights: Weights) -> Iterator[tuple[str, torch.Tensor]]:
        for name, value in weights:
            layer = None if "vision" in name or "visual" in name else _LAYER.search(name)
            if "lm_head." not in name and (layer is None or int(layer[1]) < self._layers):
                yield name, value


class DigiqLlava(LlavaForConditionalGeneration):
    """LLaVA-1.5, from a checkpoint as the hub has it or as Transformers 5 saves it (one part less in CLIP's names)."""

    def load_weights(self, weights: Weights) -> set[str]:
        """Loads weights, their names changed where vLLM wants others."""
        if self.config.vision_config.model_type in ("clip_vision_model", "siglip_vision_model"):
            weights = ((_TOWER.sub(r"\1vision_model.", name), value) for name, value in weights)
        return set(super().load_weights(weights))


class DigiqLlavaFeatures(_Features, DigiqLlava):
    """LLaVA-1.5 cut after a layer."""


class DigiqQwen2_5_VLFeatures(_Features, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL cut after a layer."""


class DigiqQwen3VLFeatures(_Features, Qwen3VLForConditionalGeneration):
    """Qwen3-VL cut after a layer."""
