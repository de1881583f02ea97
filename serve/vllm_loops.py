"""An ``Engine`` on vLLM, for the loops: it starts vLLM's engines as they are asked for, and again when they die.

One engine lives at a time, either the policy's or the features', so that each may have all of the memory. Another
policy is published to the running engine; another reader of features needs a new one. Everything that waits for vLLM
runs in one event loop, in a thread of its own; callers wait for it with their deadlines.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from digiq_ray.core.errors import DeadlineExceededError, DigiQError, InputError, ModelError, WorkerLostError
from digiq_ray.core.policies import ActRequest
from digiq_ray.learner.models import resolve
from digiq_ray.store.fingerprint import Fingerprint
from digiq_ray.vlm.features import layer_number
from digiq_ray.vlm.model import Vlm
from serve.protocols import Drawn, Embedded, Failure, Features, Reader, Samples, Sampling, State
from serve.vllm_features import VllmFeatures
from serve.vllm_policy import VllmPolicy

Answer = TypeVar("Answer")
_LIVES = 4
_CLOSE_SECONDS = 60.0


class _Model(Protocol):
    async def healthy(self) -> bool: ...

    async def close(self) -> None: ...


Running = TypeVar("Running", bound=_Model)


class VllmEngine:
    """See ``serve.protocols.Engine``.

    Args:
        max_tokens: Most tokens of an action.
    """

    def __init__(self, *, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._turn = asyncio.Lock()
        self._running: _Model | None = None
        self._reader: Reader | None = None
        self._fingerprints: dict[Reader, Fingerprint] = {}

    def sample(
        self, model: str, requests: Sequence[ActRequest], *, samples: int, temperature: float, deadline: float
    ) -> Samples:
        """See ``Engine``."""

        async def draw(policy: VllmPolicy, request: ActRequest) -> Drawn:
            state = State(request.screen, request.task, request.history)
            sampling = Sampling(
                samples=samples, temperature=temperature, max_tokens=self._max_tokens, seed=request.seed
            )
            texts, logprobs = [""] * samples, [0.0] * samples
            async for piece in policy.act(state, sampling):
                if piece.policy_version != model:
                    raise _OtherPolicyError(f"{piece.policy_version} was published meanwhile")
                texts[piece.sample] += piece.text
                logprobs[piece.sample] += piece.logprob
            return list(zip((text.strip() for text in texts), logprobs, strict=True))

        async def answer() -> Samples:
            found = await self._each(lambda: self._policy(model), draw, requests)
            return Samples((await self._policy(model)).saved_version, found)

        return self._wait(answer(), deadline)

    def embed(
        self, reader: Reader, states: Sequence[State], actions: Sequence[Sequence[str]], *, deadline: float
    ) -> Embedded:
        """See ``Engine``.

        Raises:
            ConfigError: the model has no such layer.
        """

        async def read(features: VllmFeatures, row: tuple[State, Sequence[str]]) -> Features:
            return await features.features(*row)

        async def answer() -> Embedded:
            rows = list(zip(states, actions, strict=True))
            found = await self._each(lambda: self._features(reader), read, rows)
            if reader not in self._fingerprints:
                self._fingerprints[reader] = await asyncio.to_thread(_fingerprint, reader)
            return Embedded(self._fingerprints[reader], found)

        return self._wait(answer(), deadline)

    def close(self) -> None:
        """See ``Engine``."""
        self._wait(self._stop(), _CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_SECONDS)

    def _wait(self, work: Coroutine[Any, Any, Answer], deadline: float) -> Answer:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(deadline)
        except FutureTimeoutError as error:
            future.cancel()
            raise DeadlineExceededError(f"vLLM did not answer in {deadline:g} s") from error

    async def _each(
        self,
        running: Callable[[], Awaitable[Running]],
        ask: Callable[[Running, Any], Awaitable[Answer]],
        questions: Sequence[Any],
    ) -> list[Answer | Failure]:
        """Asks everything at once; what a dead engine left unanswered is asked again of the next one."""
        answers: dict[int, Answer | Failure] = {}
        errors: list[DigiQError] = []

        async def one(model: Running, place: int) -> None:
            try:
                answers[place] = await ask(model, questions[place])
            except DigiQError as error:
                if type(error) is InputError:  # of this state; a kind of it is of the model or its settings
                    answers[place] = Failure(str(error))
                else:
                    errors.append(error)

        for _ in range(_LIVES):
            model = await running()
            async with asyncio.TaskGroup() as group:
                for place in range(len(questions)):
                    if place not in answers:
                        group.create_task(one(model, place))
            for error in errors:
                if not isinstance(error, WorkerLostError):
                    raise error
            if len(answers) == len(questions):
                return [answers[place] for place in range(len(questions))]
        raise WorkerLostError(f"vLLM died {_LIVES} times over one call: {errors[-1]}") from errors[-1]

    async def _policy(self, model: str) -> VllmPolicy:
        """The running policy, with the weights of ``model``; started, or started again, if need be."""
        async with self._turn:
            policy = self._running
            if isinstance(policy, VllmPolicy) and await policy.healthy():
                if policy.version == model:
                    return policy
                await asyncio.to_thread(Vlm.outline, resolve(model))  # what cannot be loaded harms no running engine
                with suppress(ModelError, WorkerLostError):  # of another shape, or dead: a new engine is needed
                    await policy.publish(model, model)
                    return policy
            await self._stop()
            self._running = policy = VllmPolicy.start(model, version=model)
            return policy

    async def _features(self, reader: Reader) -> VllmFeatures:
        """The running reader of features; started, or started again, if need be."""
        async with self._turn:
            features = self._running
            if isinstance(features, VllmFeatures) and self._reader == reader and await features.healthy():
                return features
            await self._stop()
            self._running = features = VllmFeatures.start(reader.model, layer=reader.layer, pooling=reader.pooling)
            self._reader = reader
            return features

    async def _stop(self) -> None:
        if self._running is not None:
            await self._running.close()
        self._running = None


class _OtherPolicyError(WorkerLostError):
    """A request was answered by a policy that was published between asking for one and being let in."""


def _fingerprint(reader: Reader) -> Fingerprint:
    """What the Transformers backend would say: the two give the same numbers."""
    vlm = Vlm.load(resolve(reader.model))
    return Fingerprint(
        model=vlm.weights_hash,
        layer=layer_number(vlm, reader.layer),
        pooling=reader.pooling,
        prompt=vlm.template.digest,
        image=vlm.transform.description,
    )
