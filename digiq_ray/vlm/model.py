"""A vision-language model with its processor, as everything above it needs it: token ids in, states out.

``Vlm.load`` takes any Hugging Face id or path of an image-text-to-text model. A file ``digiq.json`` beside the weights
(written by ``Vlm.save``) names the prompt template and the image fit; without it the standard ones are used. Weights
are read from safetensors only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging as transformers_logging

from digiq_ray.core.errors import ModelError
from digiq_ray.vlm.images import Fit, ScreenTransform
from digiq_ray.vlm.prompts import TEMPLATES

_SENTINEL = "\N{WHITE SQUARE}digiq\N{WHITE SQUARE}"
_CARD = "digiq.json"


class Vlm:
    """Model, tokenizer, image transform and prompt template, on one device.

    Attributes:
        model: The Transformers model.
        template: The prompts.
        transform: The image transform.
        version: Policy version that the weights carry (``base`` if none was saved with them).
    """

    def __init__(self, model: Any, processor: Any, *, template: str, fit: Fit, version: str = "base") -> None:
        self.model, self.processor = model, processor
        self.tokenizer = processor.tokenizer
        self.template_name, self.template = template, TEMPLATES[template]
        self.transform = ScreenTransform(processor.image_processor, fit)
        self.version = version
        self.eos_id: int = self.tokenizer.eos_token_id
        self.pad_id: int = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.eos_id
        self._image_ids: dict[tuple[int, ...], list[int]] = {}
        self._head, self._tail = self._render()
        self._tokens = lru_cache(maxsize=100_000)(self._tokenize)

    # ---- loading and saving

    @classmethod
    def load(cls, source: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Vlm:
        """Loads an image-text-to-text model from a path or a Hugging Face id.

        Raises:
            ModelError: nothing loadable is there; the message says what was tried and why it failed.
        """
        transformers_logging.disable_progress_bar()
        verbosity = transformers_logging.get_verbosity()
        transformers_logging.set_verbosity_error()
        card: dict[str, str] = {}
        path = Path(source)
        if path.is_dir() and (path / _CARD).is_file():
            card = json.loads((path / _CARD).read_text())
        try:
            processor = AutoProcessor.from_pretrained(source)
            model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, use_safetensors=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"cannot load an image-text-to-text model from {str(source)!r}: {reason}") from error
        finally:
            transformers_logging.set_verbosity(verbosity)
        return cls(
            model.to(device).eval(),
            processor,
            template=card.get("template", "standard"),
            fit=Fit(card.get("fit", "letterbox")),
            version=card.get("policy_version", "base"),
        )

    def save(self, directory: Path, *, version: str | None = None) -> None:
        """Writes weights (safetensors), processor and prompt card; ``load`` and ``from_pretrained`` read it."""
        directory.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)
        card = {
            "template": self.template_name,
            "fit": str(self.transform.fit),
            "policy_version": version or self.version,
        }
        (directory / _CARD).write_text(json.dumps(card, indent=1) + "\n")

    @property
    def weights_hash(self) -> str:
        """Hash of all weights: part of a feature's fingerprint."""
        digest = hashlib.blake2b(digest_size=8)
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def hidden_size(self) -> int:
        """Width of the language model's hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    # ---- token ids

    def _render(self) -> tuple[str, str]:
        """What the chat template puts before and after the user's text (the image placeholder is in the former)."""
        content = [{"type": "image"}, {"type": "text", "text": _SENTINEL}]
        message = [{"role": "user", "content": content}]
        try:
            text = self.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(f"the model's processor has no usable chat template: {error}") from error
        head, found, tail = text.partition(_SENTINEL)
        if not found or self.processor.image_token not in head:
            raise ModelError("the model's chat template must put the image before the text")
        return head, tail

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _placeholder(self, screen: dict[str, torch.Tensor]) -> list[int]:
        """Ids that stand for one image: how many depends on its size only."""
        grid = screen.get("image_grid_thw")
        key = tuple(grid[0].tolist()) if grid is not None else tuple(screen["pixel_values"].shape[-2:])
        if key not in self._image_ids:
            one = self.processor.image_token
            if grid is not None:
                merge = int(self.processor.image_processor.merge_size)
                count = int(grid[0].prod()) // merge**2
            else:
                patch = int(self.processor.patch_size)
                count = (key[0] // patch) * (key[1] // patch) + int(self.processor.num_additional_image_tokens)
                count -= self.processor.vision_feature_select_strategy == "default"
            self._image_ids[key] = list(self._tokenize(one)) * count
        return self._image_ids[key]

    def prefix_ids(self, screen: dict[str, torch.Tensor], task: str, history: tuple[str, ...]) -> list[int]:
        """Ids of the shared prefix: image, task, history."""
        before, _, after = self._head.partition(self.processor.image_token)
        bos = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
        if bos and self._tokens(before)[:1] == tuple(bos):
            bos = []
        text = after + self.template.prefix_text(task, history)
        return [*bos, *self._tokens(before), *self._placeholder(screen), *self._tokens(text)]

    def act_ids(self) -> list[int]:
        """Ids that ask for an action."""
        return list(self._tokens(self.template.act + self._tail))

    def change_ids(self, action: str) -> tuple[list[int], slice]:
        """Ids that ask whether ``action`` changes the screen, and where the action's own tokens are among them."""
        before, _, after = self.template.change.partition("{action}")
        head, middle, tail = (self._tokens(part) for part in (before, " " + action if before else action, after))
        ids = [*head, *middle, *tail, *self._tokens(self._tail)]
        return ids, slice(len(head), len(head) + max(1, len(middle)))

    def answer_ids(self, text: str) -> list[int]:
        """Ids of an answer with the end token, as the model should write it."""
        return [*self._tokens(text), self.eos_id]

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of generated ids up to the end token."""
        kept = list(ids)
        if self.eos_id in kept:
            kept = kept[: kept.index(self.eos_id)]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()


