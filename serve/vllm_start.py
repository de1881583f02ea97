"""Starting vLLM: what its processes need in their environment, and the arguments of the two kinds of engine.

vLLM's engine core and workers are new processes that import Transformers before any plugin; ``prepare`` puts the
``sitecustomize`` of ``serve/vllm_site`` on their path (``digiq_ray.vlm.cpu_builds`` says why). Blocks of the prefix
cache are as small as the platform allows: only whole blocks are found again, and a prompt of this project is short.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digiq_ray.core.errors import ModelError
from digiq_ray.vlm.features import layer_number
from digiq_ray.vlm.model import Vlm
from serve.backends import check_backend
from serve.vllm_plugin import FEATURE_MODELS, POLICY_MODELS

_SITE = str(Path(__file__).resolve().parent / "vllm_site")
_CPU_BLOCK = 32  # the smallest that vLLM's CPU attention takes


def prepare() -> None:
    """Sets the environment that vLLM's processes inherit; what a person has set already stays.

    Raises:
        InputError: vLLM is not installed.
    """
    check_backend("vllm")
    path = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if _SITE not in path:
        os.environ["PYTHONPATH"] = os.pathsep.join([_SITE, *path])
    defaults = {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # two engines on one machine would be bound to the same cores
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """What both engines are told.

    Attributes:
        dtype: ``float32``, ``bfloat16``, or ``auto``: float32 on a CPU, bfloat16 on a GPU.
        max_model_len: Longest prompt with its answer, in tokens; by default the model's.
        max_num_seqs: Most sequences in a batch.
        prefix_caching: Whether what prompts have in common is computed once.
        cache_bytes: Memory for keys and values on a CPU; a GPU's share is vLLM's to choose.
    """

    dtype: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 128
    prefix_caching: bool = True
    cache_bytes: int = 1 << 30


def policy_arguments(model: str, outline: Vlm, options: EngineOptions) -> dict[str, Any]:
    """Arguments of ``AsyncEngineArgs`` for a model that writes.

    Raises:
        ModelError: this project does not serve such a model with vLLM.
    """
    name = POLICY_MODELS[_family(outline)]
    overrides = _overrides(outline, {} if name is None else {"architectures": [name]})
    return {
        **_common(model, options),
        "hf_overrides": overrides,
        "logprobs_mode": "processed_logprobs",  # at the sampling temperature
        # vLLM 0.29 rewinds the generator of a request whose prompt was cut in two, which a CPU's cannot: it would die.
        "enable_chunked_prefill": not _on_cpu(),
        "generation_config": "vllm",
    }


def feature_arguments(model: str, outline: Vlm, layer: int, options: EngineOptions) -> dict[str, Any]:
    """Arguments of ``AsyncEngineArgs`` for a model that gives the hidden states after ``layer``.

    Args:
        model: A path or a Hugging Face id.
        outline: The same model without weights.
        layer: As for ``FeatureExtractor``: from 1 to the number of layers, or negative from the end.
        options: Of the engine.

    Raises:
        ModelError: this project does not serve such a model with vLLM.
        ConfigError: the model has no such layer.
    """
    from vllm.config import PoolerConfig

    family = _family(outline)
    count, kept = int(outline.model.config.get_text_config().num_hidden_layers), layer_number(outline, layer)
    overrides = _overrides(
        outline,
        {"architectures": [FEATURE_MODELS[family]], "digiq_final_norm": kept == count},
        num_hidden_layers=kept,
    )
    return {
        **_common(model, options),
        "runner": "pooling",
        "hf_overrides": overrides,
        "pooler_config": PoolerConfig(seq_pooling_type="LAST", use_activation=False),
    }


def _family(outline: Vlm) -> str:
    kind = str(outline.model.config.model_type)
    if kind not in FEATURE_MODELS:
        raise ModelError(f"vLLM serves {', '.join(FEATURE_MODELS)} here, not {kind}: use the Transformers backend")
    return kind


def _overrides(outline: Vlm, top: dict[str, Any], **text: Any) -> dict[str, Any]:
    if outline.model.config.model_type == "qwen3_vl":
        text["architectures"] = ["Qwen3ForCausalLM"]  # vLLM 0.29 looks for it and Transformers does not save it
    layers = getattr(outline.model.config.get_text_config(), "layer_types", None)
    if layers is not None and "num_hidden_layers" in text:
        text["layer_types"] = list(layers[: text["num_hidden_layers"]])
    return {**top, **({"text_config": text} if text else {})}


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _common(model: str, options: EngineOptions) -> dict[str, Any]:
    cpu = _on_cpu()
    dtype = ("float32" if cpu else "bfloat16") if options.dtype == "auto" else options.dtype
    arguments: dict[str, Any] = {
        "model": model,
        "dtype": dtype,
        "max_num_seqs": options.max_num_seqs,
        "enable_prefix_caching": options.prefix_caching,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "mm_device_do_normalize": False,  # pixels come normalised, see ``vllm_prompts``
        "skip_mm_profiling": cpu,
        "use_tqdm_on_load": False,
    }
    if options.max_model_len is not None:
        arguments["max_model_len"] = options.max_model_len
    if cpu:
        arguments |= {
            "block_size": _CPU_BLOCK,
            "enforce_eager": True,
            "kv_cache_memory_bytes": options.cache_bytes,
        }
    return arguments
