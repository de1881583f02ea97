"""From states and messages to what vLLM takes: token ids, and the pixels that Transformers would see.

vLLM's own image processing is passed by: it would crop a tall screenshot, and run again for every prompt. Here the
project's one transform makes the pixels, once a screenshot, in threads beside the engine; a number of prepared
screenshots is kept. The engine gets a screenshot's pixels with the first prompt that needs them and knows them by their
hash afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from digiq_ray.core.errors import InputError
from digiq_ray.vlm.model import Vlm
from serve.protocols import State

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class Screen:
    """A screenshot that was prepared: as ``Vlm`` takes it, as vLLM takes it, and its hash."""

    prepared: dict[str, torch.Tensor]
    item: Any
    digest: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, and the screen that they speak of, if any."""

    ids: list[int]
    screen: Screen | None


class Prompts:
    """Makes prompts for one engine.

    Args:
        vlm: The engine's model, without weights.
        engine: An ``AsyncLLM`` (or what has its ``renderer`` and ``model_config``).
        keep: How many prepared screenshots are kept.
        threads: How many are prepared at once.
    """

    def __init__(self, vlm: Vlm, engine: Any, *, keep: int = 256, threads: int = 2) -> None:
        self.vlm = vlm
        self._image_id = int(vlm.model.config.image_token_id)
        self._renderer, self._keep = engine.renderer, keep
        self._dtype, self.longest = engine.model_config.dtype, int(engine.model_config.max_model_len)
        self._screens: OrderedDict[str, asyncio.Task[Screen]] = OrderedDict()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="screens")

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def act(self, state: State, *, room: int) -> Prompt:
        """Asks for an action, with ``room`` tokens for the answer.

        Raises:
            InputError: the screen is no image, or the prompt is too long.
        """
        prefix = await self.prefix(state)
        return self._checked(Prompt([*prefix.ids, *self.vlm.act_ids()], prefix.screen), room)

    async def chat(self, text: str, screens: Sequence[bytes], *, room: int) -> Prompt:
        """A user's message, with ``room`` tokens for the answer.

        Raises:
            InputError: a screen is no image, there are several, or the prompt is too long.
        """
        if len(screens) > 1:
            raise InputError(f"a message may hold one image, not {len(screens)}")
        screen = await self.screen(screens[0]) if screens else None
        ids = await self._aside(lambda: self.vlm.chat_ids(None if screen is None else screen.prepared, text))
        return self._checked(Prompt(ids, screen), room)

    async def prefix(self, state: State) -> Prompt:
        """What all questions about a state begin with.

        Raises:
            InputError: the screen is no image.
        """
        screen = await self.screen(state.screen)
        ids = await self._aside(lambda: self.vlm.prefix_ids(screen.prepared, state.task, state.history))
        return Prompt(ids, screen)

    async def screen(self, encoded: bytes) -> Screen:
        """A prepared screenshot; one that is wanted several times is prepared once.

        Raises:
            InputError: not an image that the model takes.
        """
        digest = hashlib.blake2b(encoded, digest_size=16).hexdigest()
        if digest not in self._screens:
            self._screens[digest] = asyncio.ensure_future(self._aside(lambda: self._prepare(encoded, digest)))
            if len(self._screens) > self._keep:
                self._screens.popitem(last=False)
        task = self._screens[digest]
        self._screens.move_to_end(digest)
        try:
            return await asyncio.shield(task)
        except InputError:
            self._screens.pop(digest, None)
            raise

    def engine_input(self, prompt: Prompt) -> dict[str, Any]:
        """What ``AsyncLLM`` takes. Nothing may be awaited between this and handing it over.

        The engine keeps the pixels that it was sent by the same rule as the cache that is asked here, so that the two
        agree only if the engine is sent prompts in the order in which they were made.
        """
        from vllm.inputs import mm_input, tokens_input
        from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

        if prompt.screen is None:
            return dict(tokens_input(prompt.ids))
        start = prompt.ids.index(self._image_id)
        count = prompt.ids.count(self._image_id)
        item, cache = prompt.screen.item, self._renderer.mm_processor_cache
        if cache is not None:
            item, _ = cache.get_and_update_item((item, []), prompt.screen.digest)
        return dict(
            mm_input(
                prompt.ids,
                MultiModalKwargsItems({"image": [item]}),
                {"image": [prompt.screen.digest]},
                {"image": [PlaceholderRange(offset=start, length=count)]},
            )
        )

    def _prepare(self, encoded: bytes, digest: str) -> Screen:
        from transformers import BatchFeature
        from vllm.multimodal.inputs import MultiModalKwargsItems

        prepared = self.vlm.transform.prepare(encoded)
        pixels = BatchFeature(self.vlm.transform.batch([prepared], self._dtype))
        fields = self._renderer.get_mm_processor()._get_mm_fields_config(pixels, {})
        (item,) = MultiModalKwargsItems.from_hf_inputs(pixels, fields)["image"]
        return Screen(prepared, item, digest)

    def _checked(self, prompt: Prompt, room: int) -> Prompt:
        tokens = len(prompt.ids) + room
        if tokens > self.longest:
            raise InputError(f"the prompt and max_tokens are {tokens} tokens together; the engine takes {self.longest}")
        return prompt

    async def _aside(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)
