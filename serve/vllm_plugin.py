"""What vLLM loads in each of its processes (entry point ``vllm.general_plugins``): the names of this project's models.

The models themselves (``serve.vllm_models``) are imported only by the process that runs one.
"""

from __future__ import annotations

#: Class in ``serve.vllm_models`` by Transformers' ``model_type``; ``None``: vLLM's own class does.
POLICY_MODELS: dict[str, str | None] = {"llava": "DigiqLlava", "qwen2_5_vl": None, "qwen3_vl": None}
FEATURE_MODELS = {
    "llava": "DigiqLlavaFeatures",
    "qwen2_5_vl": "DigiqQwen2_5_VLFeatures",
    "qwen3_vl": "DigiqQwen3VLFeatures",
}


def register() -> None:
    """Tells vLLM of the models; a second call changes nothing."""
    from vllm import ModelRegistry

    known = ModelRegistry.get_supported_archs()
    for name in (*POLICY_MODELS.values(), *FEATURE_MODELS.values()):
        if name is not None and name not in known:
            ModelRegistry.register_model(name, f"serve.vllm_models:{name}")
