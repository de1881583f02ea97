"""An ``Engine`` that runs Transformers in this process: what many callers ask at once shares batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from digiq_ray.core.errors import InputError
from digiq_ray.core.policies import ActRequest
from digiq_ray.learner.models import cached_extractor, cached_vlm
from digiq_ray.store.fingerprint import Fingerprint
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.sampling import sample
from serve.batcher import MicroBatcher
from serve.protocols import Drawn, Embedded, Failure, Features, Reader, Samples, State

Answer = TypeVar("Answer")
_Seen = tuple[dict[str, torch.Tensor], list[int]]


class TransformersEngine:
    """See ``serve.protocols.Engine``. One thread works; two policies and one reader of features are kept at a time.

    Args:
        max_tokens: Most tokens of an action.
        batch: States in the largest batch; only a single call that is larger makes a larger one.
        threads: Torch threads of this process.
    """

    def __init__(self, *, max_tokens: int, batch: int, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self._max_tokens = max_tokens
        self._fingerprints: dict[Reader, Fingerprint] = {}
        self._batcher: MicroBatcher[tuple[Any, ...], Any, Any] = MicroBatcher(self._work, most=batch)

    def sample(
        self, model: str, requests: Sequence[ActRequest], *, samples: int, temperature: float, deadline: float
    ) -> Samples:
        """See ``Engine``."""
        asked = self._batcher.submit((self._sample, model, samples, temperature), requests, deadline=deadline)
        return Samples(next((version for version, _ in asked), ""), [drawn for _, drawn in asked])

    def embed(
        self, reader: Reader, states: Sequence[State], actions: Sequence[Sequence[str]], *, deadline: float
    ) -> Embedded:
        """See ``Engine``.

        Raises:
            ConfigError: the model has no such layer.
        """
        rows = list(zip(states, actions, strict=True))
        found = self._batcher.submit((self._embed, reader), rows, deadline=deadline)
        return Embedded(self._fingerprints[reader], found)

    def close(self) -> None:
        """See ``Engine``."""
        self._batcher.close()

    def _work(self, key: tuple[Any, ...], requests: Sequence[Any]) -> list[Any]:
        work, *arguments = key
        return list(work(*arguments, requests))

    def _sample(
        self, model: str, samples: int, temperature: float, requests: Sequence[ActRequest]
    ) -> list[tuple[str, Drawn | Failure]]:
        vlm = cached_vlm(model)
        states = [State(request.screen, request.task, request.history) for request in requests]

        def draw(seen: Sequence[_Seen], places: Sequence[int]) -> list[Drawn]:
            return sample(
                vlm,
                [screen for screen, _ in seen],
                [prefix for _, prefix in seen],
                [requests[place].seed for place in places],
                samples=samples,
                temperature=temperature,
                max_tokens=self._max_tokens,
            )

        rooms = [len(vlm.act_ids()) + self._max_tokens] * len(states)
        return [(vlm.version, drawn) for drawn in _of_readable(vlm, states, rooms, draw)]

    def _embed(self, reader: Reader, rows: Sequence[tuple[State, Sequence[str]]]) -> list[Features | Failure]:
        extractor = cached_extractor(reader.model, reader.layer, reader.pooling)
        vlm = extractor.vlm
        self._fingerprints[reader] = Fingerprint(
            model=extractor.weights_hash,
            layer=extractor.layer,
            pooling=reader.pooling,
            prompt=vlm.template.digest,
            image=vlm.transform.description,
        )

        def read(seen: Sequence[_Seen], places: Sequence[int]) -> list[Features]:
            screens, prefixes = [screen for screen, _ in seen], [prefix for _, prefix in seen]
            states, actions = extractor.extract(screens, prefixes, [rows[place][1] for place in places])
            return [
                Features(state.numpy(), of_actions.numpy(), len(prefix))
                for state, of_actions, prefix in zip(states, actions, prefixes, strict=True)
            ]

        states = [state for state, _ in rows]
        rooms = [max([len(vlm.act_ids()), *(len(vlm.change_ids(text)[0]) for text in texts)]) for _, texts in rows]
        return _of_readable(vlm, states, rooms, read)


def _of_readable(
    vlm: Vlm,
    states: Sequence[State],
    rooms: Sequence[int],
    work: Callable[[Sequence[_Seen], Sequence[int]], list[Answer]],
) -> list[Answer | Failure]:
    """What ``work`` answers for the states that the model can read, and why it cannot read the others.

    Args:
        vlm: The model.
        states: What it should read.
        rooms: Tokens that follow each state's own.
        work: Prepared states and their places among ``states`` to answers.
    """
    answers: list[Answer | Failure | None] = [None] * len(states)
    seen: list[_Seen] = []
    places: list[int] = []
    for place, (state, room) in enumerate(zip(states, rooms, strict=True)):
        try:
            screen = vlm.transform.prepare(state.screen)
            prefix = vlm.prefix_ids(screen, state.task, state.history)
            vlm.check_length(len(prefix) + room)
        except InputError as error:
            answers[place] = Failure(str(error))
            continue
        seen.append((screen, prefix))
        places.append(place)
    for place, answer in zip(places, work(seen, places) if seen else [], strict=True):
        answers[place] = answer
    return [answer for answer in answers if answer is not None]
