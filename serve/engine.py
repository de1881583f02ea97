"""The policy engine: one process that holds a VLM and samples actions for many phones at once (Transformers backend).

Emulator workers hold no model. They ask an engine through ``RemotePolicy``; requests that arrive while the model is
busy share the next batch. A request names its model, so an engine that was restarted cannot answer with another one.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import ray
import torch

from digiq_ray.core.errors import DeadlineExceededError, WorkerLostError
from digiq_ray.core.policies import ActRequest, ActResult
from digiq_ray.learner.models import cached_vlm
from digiq_ray.vlm.sampling import VlmPolicy
from serve.batcher import MicroBatcher

_TRANSFER_SECONDS = 5.0  # for a request and its answer to travel, beside the engine's own deadline


class PolicyEngine:
    """Samples actions. Used as a Ray actor with several threads; a restart loses nothing that an answer depends on.

    Two models are kept at a time (``learner.models.cached_vlm``); asking for a third drops the one used least recently.

    Args:
        max_tokens: Most tokens of an action.
        batch: Largest batch.
        threads: Torch threads of this process.
    """

    def __init__(self, *, max_tokens: int, batch: int, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._max_tokens, self._batch = max_tokens, batch
        self._tickets = itertools.count()
        self._batcher = MicroBatcher(self._sample, most=batch)

    def _sample(self, key: tuple[str, float], requests: Sequence[ActRequest]) -> list[ActResult]:
        model, temperature = key
        policy = VlmPolicy(cached_vlm(model), temperature=temperature, max_tokens=self._max_tokens, batch=self._batch)
        return policy.act(requests)

    def act(self, model: str, temperature: float, requests: Sequence[ActRequest], deadline: float) -> list[ActResult]:
        """Samples one action for each request from ``model`` (``tiny``, a path or an id), loading it if need be.

        Temperature 0 takes the likeliest token.

        Raises:
            DeadlineExceededError: there was no answer within ``deadline`` seconds.
            ModelError: the model cannot be loaded.
        """
        return self._batcher.submit((model, temperature), requests, deadline=deadline)

    def ticket(self) -> int:
        """A number that counts up with each call: callers share themselves out over engines by it."""
        return next(self._tickets)

    def pid(self) -> int:
        """Process id."""
        return os.getpid()

    def close(self) -> None:
        """Ends the thread that samples."""
        self._batcher.close()


class RemotePolicy:
    """A ``Policy`` that asks one of several engines, always the same one; the callers take the engines in turn.

    Args:
        engines: Actor handles of ``PolicyEngine``.
        model: ``tiny``, a path or an id.
        temperature: Of sampling; 0 takes the likeliest token.
        deadline: Most seconds for an answer, with loading the model.
    """

    def __init__(self, engines: Sequence[Any], *, model: str, temperature: float, deadline: float) -> None:
        self._engines, self._model, self._temperature = list(engines), model, temperature
        self._deadline = deadline
        self._engine: Any = None

    def act(self, requests: Sequence[ActRequest]) -> list[ActResult]:
        """Samples one action for each request.

        Raises:
            DeadlineExceededError: the engine did not answer in time.
            WorkerLostError: the engine died, and died again each time that Ray repeated the request.
        """
        if self._engine is None:
            self._engine = self._engines[self._get(self._engines[0].ticket.remote()) % len(self._engines)]
        return list(self._get(self._engine.act.remote(self._model, self._temperature, list(requests), self._deadline)))

    def _get(self, answer: Any) -> Any:
        try:
            return ray.get(answer, timeout=self._deadline + _TRANSFER_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            raise DeadlineExceededError(f"the policy engine did not answer in {self._deadline:g} s") from error
        except ray.exceptions.RayActorError as error:
            raise WorkerLostError(f"the policy engine died more often than a request is repeated: {error}") from error
