"""Engine actors: processes that hold the models, and how emulator workers and bulk stages ask them.

Whoever asks holds no model. Ray starts an engine again when its process dies and repeats the call; since each call
names its model and its seeds, nothing that an answer depends on is lost.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import ray

from digiq_ray.core.errors import DeadlineExceededError, InputError, WorkerLostError
from digiq_ray.core.policies import ActRequest, ActResult
from digiq_ray.core.settings import Backend
from serve.backends import check_backend
from serve.protocols import Embedded, Engine, Failure, Reader, Samples, State

Answer = TypeVar("Answer")
_TRANSFER_SECONDS = 5.0  # for a request and its answer to travel, beside the engine's own deadline


def open_engine(backend: Backend, *, max_tokens: int, batch: int) -> Engine:
    """An engine in this process.

    Args:
        backend: What runs the models; nothing of it is imported before it is chosen.
        max_tokens: Most tokens of an action.
        batch: States of several calls that share a batch; vLLM decides by itself.

    Raises:
        InputError: the backend is not installed.
    """
    check_backend(backend)
    if backend == "vllm":
        from serve.vllm_loops import VllmEngine

        return VllmEngine(max_tokens=max_tokens)
    from serve.transformers_engine import TransformersEngine

    return TransformersEngine(max_tokens=max_tokens, batch=batch)


class EngineActor:
    """An engine as a Ray actor with several threads; see ``open_engine`` for the arguments."""

    def __init__(self, backend: Backend, *, max_tokens: int, batch: int) -> None:
        self._engine = open_engine(backend, max_tokens=max_tokens, batch=batch)
        self._tickets = itertools.count()

    def sample(self, model: str, requests: Sequence[ActRequest], **options: Any) -> Samples:
        """See ``Engine``."""
        return self._engine.sample(model, requests, **options)

    def embed(
        self, reader: Reader, states: Sequence[State], actions: Sequence[Sequence[str]], **options: Any
    ) -> Embedded:
        """See ``Engine``."""
        return self._engine.embed(reader, states, actions, **options)

    def ticket(self) -> int:
        """A number that counts up with each call: callers share themselves out over engines by it."""
        return next(self._tickets)

    def pid(self) -> int:
        """Process id."""
        return os.getpid()

    def close(self) -> None:
        """Ends the models and what they started."""
        self._engine.close()


class RemoteEngine:
    """An ``Engine`` that is an actor.

    Args:
        actor: Handle of an ``EngineActor``.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    def in_turn(cls, actors: Sequence[Any], *, deadline: float) -> RemoteEngine:
        """One of several; callers take them in turn.

        Raises:
            DeadlineExceededError: the first did not answer within ``deadline`` seconds.
            WorkerLostError: it is gone.
        """
        return cls(actors[_get(actors[0].ticket.remote(), deadline) % len(actors)])

    def sample(
        self, model: str, requests: Sequence[ActRequest], *, samples: int, temperature: float, deadline: float
    ) -> Samples:
        """See ``Engine``."""
        asked = self._actor.sample.remote(
            model, list(requests), samples=samples, temperature=temperature, deadline=deadline
        )
        found: Samples = _get(asked, deadline)
        return found

    def embed(
        self, reader: Reader, states: Sequence[State], actions: Sequence[Sequence[str]], *, deadline: float
    ) -> Embedded:
        """See ``Engine``."""
        found: Embedded = _get(self._actor.embed.remote(reader, states, actions, deadline=deadline), deadline)
        return found

    def close(self) -> None:
        """The actor lives on: whoever started it ends it."""


def _get(answer: Any, deadline: float) -> Any:
    try:
        return ray.get(answer, timeout=deadline + _TRANSFER_SECONDS)
    except ray.exceptions.GetTimeoutError as error:
        raise DeadlineExceededError(f"an engine did not answer in {deadline:g} s") from error
    except ray.exceptions.RayActorError as error:
        raise WorkerLostError(f"an engine died more often than a request is repeated: {error}") from error


class EnginePolicy:
    """A ``Policy`` that asks an engine.

    Args:
        engine: Of this process, or an actor.
        model: ``tiny``, a path or an id.
        temperature: Of sampling; 0 takes the likeliest token.
        deadline: Most seconds for an answer, with loading the model.
    """

    def __init__(self, engine: Engine, *, model: str, temperature: float, deadline: float) -> None:
        self._engine, self._model, self._temperature = engine, model, temperature
        self._deadline = deadline

    def act(self, requests: Sequence[ActRequest]) -> list[ActResult]:
        """Samples one action for each request.

        Raises:
            InputError: a screen is no image that the model can read.
            DigiQError: see ``Engine``.
        """
        found = self._engine.sample(
            self._model, requests, samples=1, temperature=self._temperature, deadline=self._deadline
        )
        results = []
        for drawn in found.states:
            if isinstance(drawn, Failure):
                raise InputError(drawn.reason)
            ((text, logprob),) = drawn
            results.append(ActResult(text, logprob, found.policy_version))
        return results
