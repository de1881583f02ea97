"""A policy on vLLM: a ``PolicyBackend`` whose weights can be replaced while it serves.

``publish`` lets requests under way end on the weights that they began with, keeps new ones waiting, replaces the
weights in vLLM's workers, empties every cache that holds what the old ones computed, and goes on. A request is answered
by one version from its first token to its last, and each piece of it says by which. All else comes before anything is
stopped: a LoRA adapter is merged into the weights that it names, the names and shapes of a checkpoint's tensors are
compared with the running one's, and its files are read once. What does not fit is refused and nothing has happened.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from digiq_ray.core.errors import DeadlineExceededError, ModelError, WorkerLostError
from digiq_ray.learner.models import resolve
from digiq_ray.vlm.hub import adapter_base, weights_directory
from digiq_ray.vlm.model import Vlm
from serve.protocols import Piece, Sampling, State
from serve.vllm_engine import named_errors, start, whole
from serve.vllm_gate import Gate
from serve.vllm_prompts import Prompt, Prompts
from serve.vllm_start import EngineOptions, policy_arguments, prepare

Shapes = dict[str, tuple[int, ...]]  # of tensors, by name
_ENGINE = "the policy engine"
_PARTIAL = "\N{REPLACEMENT CHARACTER}"  # what half of a character decodes to


@dataclass(slots=True)
class _Writing:
    """One sample that is being written: its ids, and the text of them that was told."""

    ids: list[int] = field(default_factory=list)
    told: str = ""

    def add(self, vlm: Vlm, ids: Sequence[int], *, last: bool) -> str:
        """The text that ``ids`` add. What later tokens may change is held back."""
        self.ids += ids
        text = vlm.text_of(self.ids)
        added = text[len(self.told) :] if text.startswith(self.told) else ""
        if not last and added.endswith(_PARTIAL):
            added = ""
        self.told += added
        return added


class VllmPolicy:
    """A ``PolicyBackend`` around an engine that was started for it.

    Args:
        model: The engine's model, without weights.
        engine: An ``AsyncLLM``.
        checkpoint: Where its first weights are.
        version: What they are called.
        deadline: Most seconds for an answer, for requests to end before weights are replaced, and for replacing them.
    """

    def __init__(self, model: Vlm, engine: Any, *, checkpoint: str, version: str, deadline: float = 120.0) -> None:
        self._engine, self._prompts = engine, Prompts(model, engine)
        self._checkpoint, self._version, self._deadline = checkpoint, version, deadline
        self._shapes: Shapes | None = None  # no version changes them
        self._gate = Gate()
        self._publishing = asyncio.Lock()
        self._broken: str | None = None
        self._pause = 0.0
        self._numbers = itertools.count()

    @classmethod
    def start(
        cls, model: str, *, version: str | None = None, options: EngineOptions | None = None, deadline: float = 120.0
    ) -> VllmPolicy:
        """Starts an engine; takes tens of seconds.

        Args:
            model: ``tiny``, a path or a Hugging Face id.
            version: What its weights are called; by default what was saved with them.
            options: Of the engine.
            deadline: Most seconds for an answer.

        Raises:
            ModelError: the model cannot be loaded, or not by vLLM.
            ConfigError: vLLM is not installed.
        """
        prepare()
        source = str(resolve(model))
        outline = Vlm.outline(source)
        engine = start(policy_arguments(source, outline, options or EngineOptions()))
        return cls(outline, engine, checkpoint=source, version=version or outline.version, deadline=deadline)

    @property
    def version(self) -> str:
        """See ``PolicyBackend``."""
        return self._version

    @property
    def saved_version(self) -> str:
        """What the weights were called when they were saved."""
        return self._prompts.vlm.version

    @property
    def pause_seconds(self) -> float:
        """How long the last replacement of weights stopped the engine, after the requests under way had ended."""
        return self._pause

    def act(self, state: State, sampling: Sampling) -> AsyncIterator[Piece]:
        """See ``PolicyBackend``.

        Raises:
            InputError: the screen is no image, or the prompt is too long.
            WorkerLostError: the engine died.
            DeadlineExceededError: it did not answer in time.
        """
        return self._answer(lambda prompts: prompts.act(state, room=sampling.max_tokens), sampling)

    def chat(self, text: str, screens: Sequence[bytes], sampling: Sampling) -> AsyncIterator[Piece]:
        """See ``PolicyBackend``.

        Raises:
            InputError: a screen is no image, there are several, or the prompt is too long.
            WorkerLostError: the engine died.
            DeadlineExceededError: it did not answer in time.
        """
        return self._answer(lambda prompts: prompts.chat(text, screens, room=sampling.max_tokens), sampling)

    async def _answer(self, ask: Callable[[Prompts], Awaitable[Prompt]], sampling: Sampling) -> AsyncIterator[Piece]:
        """Pieces as they come. The engine is asked in a task of its own, so that a slow reader holds nothing up."""
        pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
        task = asyncio.create_task(self._ask(ask, sampling, pieces))
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield piece
            await task
        finally:
            task.cancel()

    async def _ask(
        self, ask: Callable[[Prompts], Awaitable[Prompt]], sampling: Sampling, pieces: asyncio.Queue[Piece | None]
    ) -> None:
        async with named_errors(_ENGINE, self._deadline), self._gate.reading():
            if self._broken is not None:
                raise WorkerLostError(self._broken)
            prompts, version = self._prompts, self._version
            prompt = await ask(prompts)
            writing = [_Writing() for _ in range(sampling.samples)]
            name = f"policy-{next(self._numbers)}"
            async for answer in self._engine.generate(prompts.engine_input(prompt), self._params(sampling), name):
                for part in answer.outputs:
                    ids, finish = list(part.token_ids), part.finish_reason
                    if not ids and finish is None:
                        continue
                    text = writing[part.index].add(prompts.vlm, ids, last=finish is not None)
                    logprob = sum(found[token].logprob for found, token in zip(part.logprobs or (), ids, strict=True))
                    size = len(prompt.ids)
                    pieces.put_nowait(Piece(part.index, text, logprob, len(ids), finish, version, size))

    def _params(self, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        # vLLM gives sample k the seed plus k; seeds that follow each other must not share samples.
        digest = hashlib.blake2b(sampling.seed.to_bytes(16, "little", signed=True), digest_size=7).digest()
        return SamplingParams(
            n=sampling.samples,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=int.from_bytes(digest, "little"),
            stop_token_ids=list(self._prompts.vlm.end_ids),
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )

    async def publish(self, version: str, checkpoint: str) -> None:
        """See ``PolicyBackend``. Requests that come meanwhile wait.

        Raises:
            ModelError: the checkpoint cannot be loaded, is of another shape, or is an adapter that does not fit its
                base; the version before goes on answering.
            DeadlineExceededError: requests under way did not end; the version before goes on answering.
            WorkerLostError: the engine died or could not load; it answers nothing any more.
        """
        source = str(resolve(checkpoint))
        async with self._publishing:
            outline = await asyncio.to_thread(Vlm.outline, source)
            merging = ExitStack()
            try:
                dtype = self._engine.model_config.dtype
                directory = await asyncio.to_thread(merging.enter_context, whole(source, dtype))
                if self._shapes is None:
                    first = adapter_base(self._checkpoint) or self._checkpoint
                    self._shapes = await asyncio.to_thread(_shapes, str(weights_directory(first)))
                _check_same_shapes(self._shapes, await asyncio.to_thread(_shapes, directory), source)
                await asyncio.to_thread(_read_ahead, directory)
                async with self._gate.writing(self._deadline):
                    await self._replace(source, directory)
                    before, self._prompts = self._prompts, Prompts(outline, self._engine)
                    before.close()
                    self._version = version
            finally:
                await asyncio.to_thread(merging.close)

    async def _replace(self, source: str, directory: str) -> None:
        begun = time.monotonic()
        try:
            async with named_errors(_ENGINE, self._deadline):
                # AsyncLLM.pause_generation, but for the 20 ms that it sleeps so that last outputs come through: the
                # gate has seen every request end.
                await self._engine.renderer.clear_mm_cache_async()
                await self._engine.engine_core.pause_scheduler_async(mode="wait", clear_cache=True)
                await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": directory})
                await self._engine.resume_generation()
            self._pause = time.monotonic() - begun
        except BaseException as error:
            self._broken = f"{_ENGINE} failed while its weights were replaced by {source}: {error}"
            if isinstance(error, Exception) and not isinstance(error, DeadlineExceededError | WorkerLostError):
                raise WorkerLostError(self._broken) from error
            raise

    async def healthy(self) -> bool:
        """See ``PolicyBackend``."""
        return self._broken is None and not self._engine.errored

    async def close(self) -> None:
        """See ``PolicyBackend``."""
        self._broken = f"{_ENGINE} was closed; ask another replica"
        self._prompts.close()
        await asyncio.to_thread(self._engine.shutdown)


def _check_same_shapes(running: Shapes, offered: Shapes, source: str) -> None:
    """Raises ``ModelError`` unless the tensors that ``source`` offers have the running one's names and shapes."""
    for name in sorted(running.keys() | offered.keys()):
        found, wanted = offered.get(name, "absent"), running.get(name, "absent")
        if found != wanted:
            raise ModelError(f"the weights in {source!r} do not fit the running ones: {name} is {found}, not {wanted}")


def _shapes(source: str) -> Shapes:
    found: Shapes = {}
    files = sorted(Path(source).glob("*.safetensors"))
    if not files:
        raise ModelError(
            f"there are no safetensors in {source!r}: weights are published from a directory that has them"
        )
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{file} is not readable: {error}") from error
    return found


def _read_ahead(source: str) -> None:
    """Reads the weights once, so that the system has them in memory when the workers read them and all else waits."""
    for file in Path(source).glob("*.safetensors"):
        try:
            with file.open("rb", buffering=0) as opened:
                while opened.read(1 << 24):
                    pass
        except OSError as error:
            raise ModelError(f"{file} is not readable: {error}") from error
