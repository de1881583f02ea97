"""Frozen features from vLLM: a ``FeatureBackend`` whose numbers are those of ``vlm.features.FeatureExtractor``.

A state and each of its actions is a request of its own. They share the state's prefix, which the engine's prefix cache
computes once; the image, too, is encoded once. Requests of all callers share vLLM's batches.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from digiq_ray.core.errors import InputError, WorkerLostError
from digiq_ray.learner.models import resolve
from digiq_ray.vlm.features import Pooling
from digiq_ray.vlm.model import Vlm
from serve.protocols import Features, State
from serve.vllm_engine import named_errors, start
from serve.vllm_prompts import Prompt, Prompts
from serve.vllm_start import EngineOptions, feature_arguments, prepare

_ENGINE = "the feature engine"


class VllmFeatures:
    """A ``FeatureBackend`` around an engine that was started for it.

    Args:
        model: The engine's model, without weights.
        engine: An ``AsyncLLM`` that runs a model of ``serve.vllm_models``.
        pooling: See ``Pooling``.
        deadline: Most seconds for an answer.
    """

    def __init__(self, model: Vlm, engine: Any, *, pooling: Pooling, deadline: float = 120.0) -> None:
        self._engine, self._prompts = engine, Prompts(model, engine)
        self._pooling, self._deadline = pooling, deadline
        self._numbers = itertools.count()
        self._closed = False

    @classmethod
    def start(
        cls, model: str, *, layer: int, pooling: str, options: EngineOptions | None = None, deadline: float = 120.0
    ) -> VllmFeatures:
        """Starts an engine; takes tens of seconds.

        Args:
            model: ``tiny``, a path or a Hugging Face id.
            layer: Which hidden states; see ``FeatureExtractor``.
            pooling: ``last`` or ``last_and_action``.
            options: Of the engine; in float32 unless they say otherwise, as the critic's training saw features.
            deadline: Most seconds for an answer.

        Raises:
            ModelError: the model cannot be loaded, or not by vLLM.
            ConfigError: it has no such layer, or vLLM is not installed.
        """
        prepare()
        source = str(resolve(model))
        outline = Vlm.outline(source)
        options = options or EngineOptions(dtype="float32")
        engine = start(feature_arguments(source, outline, layer, options))
        return cls(outline, engine, pooling=Pooling(pooling), deadline=deadline)

    async def features(self, state: State, actions: Sequence[str]) -> Features:
        """See ``FeatureBackend``.

        Raises:
            InputError: the screen is no image, or the prompt is too long.
            WorkerLostError: the engine died.
            DeadlineExceededError: it did not answer in time.
        """
        vlm = self._prompts.vlm
        async with named_errors(_ENGINE, self._deadline):
            if self._closed:
                raise WorkerLostError(f"{_ENGINE} was closed; ask another replica")
            prefix = await self._prompts.prefix(state)
            asked: list[tuple[Prompt, list[int] | None]] = []
            asked.append((Prompt([*prefix.ids, *vlm.act_ids()], prefix.screen), None))
            for action in actions:
                ids, inside = vlm.change_ids(action)
                at = len(prefix.ids)
                span = [at + inside.start, at + inside.stop] if self._pooling is Pooling.LAST_AND_ACTION else None
                asked.append((Prompt([*prefix.ids, *ids], prefix.screen), span))
            longest = max(len(prompt.ids) for prompt, _ in asked)
            if longest > self._prompts.longest:
                raise InputError(f"the prompt is {longest} tokens; the engine takes {self._prompts.longest}")
            rows = await _all_or_none(self._one(prompt, span) for prompt, span in asked)
        tokens = sum(len(prompt.ids) for prompt, _ in asked) - len(prefix.ids) * len(actions)
        width = vlm.hidden_size * (1 if self._pooling is Pooling.LAST else 2)
        return Features(rows[0], np.stack(rows[1:]) if actions else np.zeros((0, width), np.float32), tokens)

    async def _one(self, prompt: Prompt, span: list[int] | None) -> NDArray[np.float32]:
        row = await self._pooled(prompt, span, read_cache=True)
        if bool(torch.isnan(row).any()):  # part of the span was in the prefix cache, which holds no hidden states
            row = await self._pooled(prompt, span, read_cache=False)
        return np.asarray(row.numpy(), np.float32)

    async def _pooled(self, prompt: Prompt, span: list[int] | None, *, read_cache: bool) -> torch.Tensor:
        from vllm import PoolingParams

        params = PoolingParams(
            task="embed",
            use_activation=False,
            skip_reading_prefix_cache=not read_cache,
            extra_kwargs=None if span is None else {"span": span},
        )
        answers = self._engine.encode(self._prompts.engine_input(prompt), params, f"features-{next(self._numbers)}")
        async for answer in answers:
            return torch.as_tensor(answer.outputs.data)
        raise AssertionError("vLLM ended a request without an answer")

    async def healthy(self) -> bool:
        """See ``FeatureBackend``."""
        return not self._closed and not self._engine.errored

    async def close(self) -> None:
        """See ``FeatureBackend``."""
        self._closed = True
        self._prompts.close()
        await asyncio.to_thread(self._engine.shutdown)


async def _all_or_none(calls: Any) -> list[Any]:
    """The results of coroutines that run at once; the first error ends them all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(call) for call in calls]
    return [task.result() for task in tasks]
