"""The policy engine: one process that holds a VLM and samples actions for many phones at once (Transformers backend).

Emulator workers hold no model. They ask an engine through ``RemotePolicy``; requests that arrive while the model is
busy share the next batch. A request names its model, so an engine that was restarted cannot answer with another one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import ray
import torch

from digiq_ray.core.errors import DeadlineExceededError
from digiq_ray.core.policies import ActRequest, ActResult
from digiq_ray.learner.models import cached_vlm
from digiq_ray.vlm.sampling import VlmPolicy
from serve.batcher import MicroBatcher

_KEPT = 2


class PolicyEngine:
    """Samples actions. Used as a Ray actor with several threads; it keeps no state that a restart would lose.

    Args:
        max_tokens: Most tokens of an action.
        batch: Largest batch.
        threads: Torch threads of this process.
    """

    def __init__(self, *, max_tokens: int, batch: int, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._max_tokens, self._batch = max_tokens, batch
        self._lock = threading.Lock()
        self._batchers: dict[tuple[str, float], MicroBatcher[ActRequest, ActResult]] = {}

    def _batcher(self, model: str, temperature: float) -> MicroBatcher[ActRequest, ActResult]:
        key = (model, temperature)
        with self._lock:
            if key not in self._batchers:
                while len(self._batchers) >= _KEPT:
                    self._batchers.pop(next(iter(self._batchers))).close()
                policy = VlmPolicy(
                    cached_vlm(model), temperature=temperature, max_tokens=self._max_tokens, batch=self._batch
                )
                self._batchers[key] = MicroBatcher(policy.act, most=self._batch)
            return self._batchers[key]

    def act(
        self, model: str, temperature: float, requests: Sequence[ActRequest], deadline: float
    ) -> list[ActResult]:
        """Samples one action for each request from ``model`` (``tiny``, a path or an id), loading it if need be.

        Temperature 0 takes the likeliest token. At the latest after ``deadline`` seconds there is an error.
        """
        return self._batcher(model, temperature).submit(requests, deadline=deadline)

    def pid(self) -> int:
        """Process id."""
        return os.getpid()


class RemotePolicy:
    """A ``Policy`` that asks one of several engines, chosen by process id, so that workers spread over them."""

    def __init__(self, engines: Sequence[Any], *, model: str, temperature: float, deadline: float) -> None:
        self._engines, self._model, self._temperature = list(engines), model, temperature
        self._deadline = deadline

    def act(self, requests: Sequence[ActRequest]) -> list[ActResult]:
        """Samples one action for each request.

        Raises:
            DeadlineExceededError: no engine answered in time.
        """
        engine = self._engines[os.getpid() % len(self._engines)]
        try:
            answer = engine.act.remote(self._model, self._temperature, list(requests), self._deadline)
            return list(ray.get(answer, timeout=self._deadline + 5.0))
        except ray.exceptions.GetTimeoutError as error:
            raise DeadlineExceededError(f"no policy engine answered within {self._deadline:g} s") from error
