"""Serving with Transformers, for machines without vLLM: the two backends of ``serve.protocols``.

Screens are decoded and prompts tokenised in threads beside the model; the model's own thread batches what waits. A
prompt is run once for all of its samples, and a state once for all of its actions. New weights are loaded beside the
old ones and take over for the next request: for as long as a request of the old ones is under way, both are in memory.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from digiq_ray.core.errors import InputError
from digiq_ray.learner.models import resolve
from digiq_ray.vlm.features import FeatureExtractor, Pooling
from digiq_ray.vlm.model import Vlm
from serve.decoding import Prompt, decode
from serve.model_thread import Call, ModelThread
from serve.protocols import Features, Piece, Sampling, State

OnBatch = Callable[[int], None]
_STALL_SECONDS = 120.0  # a single step that takes longer counts as a model that does not answer


def _device(device: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def _load_policy(model: str, device: str) -> Vlm:
    kind = _device(device)
    return Vlm.load(resolve(model), device=kind, dtype=torch.float32 if kind == "cpu" else torch.bfloat16)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """Weights, and the version that they are published as."""

    version: str
    vlm: Vlm

    def act(self, state: State, sampling: Sampling) -> Prompt:
        screen = self.vlm.transform.prepare(state.screen)
        prefix = self.vlm.prefix_ids(screen, state.task, state.history)
        return self._checked([*prefix, *self.vlm.act_ids()], screen, sampling)

    def chat(self, text: str, screens: Sequence[bytes], sampling: Sampling) -> Prompt:
        if len(screens) > 1:
            raise InputError(f"a message may hold one image, not {len(screens)}")
        screen = self.vlm.transform.prepare(screens[0]) if screens else None
        return self._checked(self.vlm.chat_ids(screen, text), screen, sampling)

    def _checked(self, ids: list[int], screen: dict[str, torch.Tensor] | None, sampling: Sampling) -> Prompt:
        self.vlm.check_length(len(ids) + sampling.max_tokens)
        return Prompt(ids, screen)


_Key = tuple[_Loaded, bool, float]
_Asked = tuple[Prompt, Sampling]


class TransformersPolicy:
    """A ``PolicyBackend`` in this process.

    Args:
        model: ``tiny``, a path or a Hugging Face id.
        version: What its weights are called; by default what was saved with them.
        device: ``cpu``, ``cuda``, or ``auto``.
        batch: Samples in the largest batch.
        on_batch: Told the size of each batch.

    Raises:
        ModelError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        version: str | None = None,
        device: str = "auto",
        batch: int = 64,
        on_batch: OnBatch | None = None,
    ) -> None:
        self._device = device
        vlm = _load_policy(model, device)
        self._current = _Loaded(version or vlm.version, vlm)
        self._publishing = asyncio.Lock()
        self._thread: ModelThread[_Key, _Asked, list[Piece]] = ModelThread(self._begin, most=batch, on_batch=on_batch)

    @property
    def version(self) -> str:
        """See ``PolicyBackend``."""
        return self._current.version

    def act(self, state: State, sampling: Sampling) -> AsyncIterator[Piece]:
        """See ``PolicyBackend``.

        Raises:
            InputError: the screen is no image, or the prompt is too long.
        """
        loaded = self._current
        return self._sample(loaded, functools.partial(loaded.act, state, sampling), sampling)

    def chat(self, text: str, screens: Sequence[bytes], sampling: Sampling) -> AsyncIterator[Piece]:
        """See ``PolicyBackend``.

        Raises:
            InputError: a screen is no image, there are several, or the prompt is too long.
        """
        loaded = self._current
        return self._sample(loaded, functools.partial(loaded.chat, text, screens, sampling), sampling)

    async def _sample(self, loaded: _Loaded, prepare: Callable[[], Prompt], sampling: Sampling) -> AsyncIterator[Piece]:
        prompt = await asyncio.to_thread(prepare)
        key = (loaded, prompt.screen is not None, sampling.temperature)
        answers = self._thread.ask(key, (prompt, sampling), size=sampling.samples)
        try:
            async for pieces in answers:
                for piece in pieces:
                    yield piece
        finally:
            await answers.aclose()

    def _begin(self, key: _Key, calls: Sequence[Call[_Asked, list[Piece]]]) -> Iterator[None]:
        loaded, _, temperature = key
        prompts, samplings = [call.request[0] for call in calls], [call.request[1] for call in calls]
        left = [sampling.samples for sampling in samplings]
        steps = decode(loaded.vlm, prompts, samplings, temperature=temperature, is_gone=lambda owner: calls[owner].gone)
        for drawn in steps:
            told: dict[int, list[Piece]] = {}
            for one in drawn:
                length = len(prompts[one.owner].ids)
                piece = Piece(one.sample, one.text, one.logprob, 1, one.finish, loaded.version, length)
                told.setdefault(one.owner, []).append(piece)
                left[one.owner] -= one.finish is not None
            for owner, pieces in told.items():
                calls[owner].give(pieces)
                if not left[owner]:
                    calls[owner].end()
            yield

    async def publish(self, version: str, checkpoint: str) -> None:
        """See ``PolicyBackend``.

        Raises:
            ModelError: the checkpoint cannot be loaded; the version before goes on answering.
        """
        async with self._publishing:
            vlm = await asyncio.to_thread(_load_policy, checkpoint, self._device)
            self._current = _Loaded(version, vlm)

    async def healthy(self) -> bool:
        """See ``PolicyBackend``."""
        return self._thread.answers(_STALL_SECONDS)

    async def close(self) -> None:
        """See ``PolicyBackend``. Answers what was asked before.

        Raises:
            DeadlineExceededError: that took too long.
        """
        await asyncio.to_thread(self._thread.close)


_Question = tuple[dict[str, torch.Tensor], list[int], list[str], int]


class TransformersFeatures:
    """A ``FeatureBackend`` in this process.

    Args:
        model: ``tiny``, a path or a Hugging Face id.
        layer: Which hidden states; see ``FeatureExtractor``.
        pooling: ``last`` or ``last_and_action``.
        device: ``cpu``, ``cuda``, or ``auto``.
        batch: States and actions in the largest batch.
        on_batch: Told the size of each batch.

    Raises:
        ModelError: the model cannot be loaded.
        ConfigError: it has no such layer.
    """

    def __init__(
        self,
        model: str,
        *,
        layer: int,
        pooling: str,
        device: str = "auto",
        batch: int = 256,
        on_batch: OnBatch | None = None,
    ) -> None:
        vlm = Vlm.load(resolve(model), device=_device(device))  # float32, as the critic's training saw them
        self._extractor = FeatureExtractor(vlm, layer=layer, pooling=Pooling(pooling))
        self._thread: ModelThread[str, _Question, Features] = ModelThread(self._begin, most=batch, on_batch=on_batch)

    async def features(self, state: State, actions: Sequence[str]) -> Features:
        """See ``FeatureBackend``.

        Raises:
            InputError: the screen is no image, or the prompt is too long.
        """
        question = await asyncio.to_thread(self._prepare, state, actions)
        async for found in self._thread.ask("features", question, size=1 + len(actions)):
            return found
        raise AssertionError("a batch ended without features for one of its states")

    def _prepare(self, state: State, actions: Sequence[str]) -> _Question:
        vlm, texts = self._extractor.vlm, list(actions)
        screen = vlm.transform.prepare(state.screen)
        prefix = vlm.prefix_ids(screen, state.task, state.history)
        suffixes = [len(vlm.act_ids()), *(len(vlm.change_ids(text)[0]) for text in texts)]
        vlm.check_length(len(prefix) + max(suffixes))
        return screen, prefix, texts, len(prefix) + sum(suffixes)

    def _begin(self, _: str, calls: Sequence[Call[_Question, Features]]) -> Iterator[None]:
        screens, prefixes, actions, tokens = (list(column) for column in zip(*(c.request for c in calls), strict=True))
        states, of_actions = self._extractor.extract(screens, prefixes, actions)
        for call, state, rows, read in zip(calls, states, of_actions, tokens, strict=True):
            call.give(Features(state.numpy(), rows.numpy(), read))
        yield

    async def healthy(self) -> bool:
        """See ``FeatureBackend``."""
        return self._thread.answers(_STALL_SECONDS)

    async def close(self) -> None:
        """See ``FeatureBackend``. Answers what was asked before.

        Raises:
            DeadlineExceededError: that took too long.
        """
        await asyncio.to_thread(self._thread.close)
