"""A vision-language model with its processor, as everything above it needs it: token ids in, states out.

``Vlm.load`` takes any Hugging Face id or path of a decoder-only image-text-to-text model whose processor has a chat
template. What differs between families (how many tokens stand for an image, where the language model sits) is asked of
Transformers and never computed here. A file ``digiq.json`` beside the weights (written by ``Vlm.save``) names the
prompt template and the image fit; without it the standard ones are used. Weights are read from safetensors only.
The directory of a LoRA adapter stands for the model that it names, with the adapter merged into it (``adapters.py``).
Texts from outside (tasks, actions, messages) cannot pose as the prompt's structure (``plain_text.py``).
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig
from transformers.utils import logging as transformers_logging

from digiq_ray.core.errors import InputError, ModelError
from digiq_ray.vlm.adapters import merge
from digiq_ray.vlm.hub import adapter_base, model_file
from digiq_ray.vlm.images import Fit, ScreenTransform
from digiq_ray.vlm.plain_text import PlainText
from digiq_ray.vlm.prompts import TEMPLATES

_SENTINEL = "\N{WHITE SQUARE}digiq\N{WHITE SQUARE}"
_CARD = "digiq.json"
_TEXTS = 4096  # whose ids are kept: 10 MB at 50 tokens a text, 90 MB at 500; tokenising again takes 25 to 70 us
_LOADING_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError, SafetensorError)


class Vlm:
    """Model, tokenizer, image transform and prompt template, on one device.

    Attributes:
        model: The Transformers model.
        template: The prompts.
        transform: The image transform.
        version: Policy version that the weights carry (``base`` if none was saved with them).
        end_ids: Tokens that end an answer; ``eos_id``, which training writes, is one of them.

    Raises:
        ModelError: the model or its processor cannot act on screenshots; the message says what is missing.
    """

    def __init__(self, model: Any, processor: Any, *, template: str, fit: Fit, version: str = "base") -> None:
        for part in ("tokenizer", "image_processor"):
            if getattr(processor, part, None) is None:
                raise ModelError(f"the model's processor has no {part.replace('_', ' ')}: it cannot read screenshots")
        if model.config.is_encoder_decoder or not hasattr(model, "model") or model.get_output_embeddings() is None:
            raise ModelError(f"{type(model).__name__} is not supported: only decoder-only models with a language head")
        self.model, self.processor = model, processor
        self.tokenizer = processor.tokenizer
        self.template_name, self.template = template, TEMPLATES[template]
        self._accepted = frozenset(inspect.signature(model.model.forward).parameters)
        self.transform = ScreenTransform(processor.image_processor, fit, self._accepted)
        self.version = version
        if self.tokenizer.eos_token_id is None:
            raise ModelError("the model's tokenizer has no end token")
        self.eos_id: int = self.tokenizer.eos_token_id
        self.end_ids = self._end_ids()
        self.pad_id: int = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.eos_id
        marker = getattr(processor, "image_token", None)
        self._plain = PlainText(self.tokenizer, (marker,) if isinstance(marker, str) else ())
        self._image_ids: dict[tuple[int, int], list[int]] = {}
        self._head, self._after_image, self._tail = self._render()
        self._tokens = lru_cache(maxsize=_TEXTS)(self._tokenize)

    # ---- loading and saving

    @classmethod
    def load(cls, source: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Vlm:
        """Loads an image-text-to-text model from a path (of a whole model or a LoRA adapter) or a Hugging Face id.

        Raises:
            ModelError: nothing whole and usable is there; the message says what was tried and why it failed.
        """
        asked, (template, fit, version) = source, _card_of(source)
        source = adapter_base(asked) or asked
        with _quiet_transformers():
            try:
                processor = AutoProcessor.from_pretrained(source)
                model, found = AutoModelForImageTextToText.from_pretrained(
                    source, dtype=dtype, use_safetensors=True, output_loading_info=True
                )
            except _LOADING_ERRORS as error:
                raise ModelError(
                    f"cannot load an image-text-to-text model from {str(source)!r}: {_reason(error)}"
                ) from error
        absent = sorted(found["missing_keys"]) + sorted(str(key) for key in found["mismatched_keys"])
        if absent:
            raise ModelError(
                f"the weights in {str(source)!r} are not whole: {len(absent)} are missing or of another shape, "
                f"the first is {absent[0]}"
            )
        if source != asked:
            model = merge(model, Path(asked))
        return cls(model.to(device).eval(), processor, template=template, fit=fit, version=version)

    @classmethod
    def outline(cls, source: str | Path) -> Vlm:
        """The same without weights, for a model that runs elsewhere: it makes prompts and pixels and computes nothing.

        Raises:
            ModelError: there is no usable model; the message says why.
        """
        template, fit, version = _card_of(source)
        source = adapter_base(source) or source
        with _quiet_transformers():
            try:
                processor = AutoProcessor.from_pretrained(source)
                with torch.device("meta"):
                    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(source))
            except _LOADING_ERRORS as error:
                raise ModelError(f"cannot read a model's outline from {str(source)!r}: {_reason(error)}") from error
            with suppress(OSError):  # few models have this file
                model.generation_config = GenerationConfig.from_pretrained(source)
        return cls(model.eval(), processor, template=template, fit=fit, version=version)

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
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    # ---- the parts of the model

    @property
    def language_model(self) -> Any:
        """The decoder, with its ``layers`` and final ``norm``."""
        return self.model.get_decoder()

    @property
    def hidden_size(self) -> int:
        """Width of the language model's hidden states."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def has_image_positions(self) -> bool:
        """Whether positions have three axes, for places in an image (Qwen-VL)."""
        return hasattr(self.model.model, "get_rope_index")

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits ``[..., V]`` in float32 of last hidden states ``[..., D]``."""
        logits = self.model.get_output_embeddings()(hidden).float()
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def token_types(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """The argument that marks image tokens, for models whose image tokens attend to each other (Gemma 3)."""
        if "token_type_ids" not in self._accepted:
            return {}
        return {"token_type_ids": (ids == self.model.config.image_token_id).long()}

    # ---- token ids

    def _end_ids(self) -> tuple[int, ...]:
        more = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None) or []
        return tuple(dict.fromkeys([self.eos_id, *([more] if isinstance(more, int) else more)]))

    def _render(self) -> tuple[str, str, str]:
        """The chat template's text up to the image's marker, from there to the user's text, and after that."""
        content = [{"type": "image"}, {"type": "text", "text": _SENTINEL}]
        message = [{"role": "user", "content": content}]
        try:
            text = self.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        except (*_LOADING_ERRORS, ArithmeticError, LookupError, jinja2.TemplateError) as error:
            raise ModelError(f"the model's processor has no usable chat template: {_reason(error)}") from error
        before, found, tail = text.partition(_SENTINEL)
        names = ((owner, name) for name in ("boi_token", "image_token") for owner in (self.processor, self.tokenizer))
        markers = (getattr(owner, name, None) for owner, name in names)
        marker = next((marker for marker in markers if marker and marker in before), None)
        if not found or marker is None:
            raise ModelError("the model's chat template must put the image before the text")
        head, _, after = before.partition(marker)
        return head + marker, after, tail

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _head_ids(self, screen: dict[str, torch.Tensor]) -> list[int]:
        """Ids of the template's head with those that stand for the image; they depend on the image's size only."""
        size = screen.get("screen_size")
        width, height = screen["pixel_values"].shape[:-3:-1] if size is None else size.tolist()
        if (width, height) not in self._image_ids:
            blank = Image.new("RGB", (width, height))
            ids = list(self.processor(text=[self._head], images=[blank], add_special_tokens=False)["input_ids"][0])
            bos = self.tokenizer.bos_token_id
            if bos is not None and ids[0] != bos:
                ids.insert(0, bos)
            self._image_ids[width, height] = ids
        return self._image_ids[width, height]

    def prefix_ids(self, screen: dict[str, torch.Tensor], task: str, history: tuple[str, ...]) -> list[int]:
        """Ids of the shared prefix: image, task, history."""
        told = self.template.prefix_text(self._plain(task), tuple(self._plain(action) for action in history))
        text = self._after_image + told
        return [*self._head_ids(screen), *self._tokens(text)]

    def act_ids(self) -> list[int]:
        """Ids that ask for an action."""
        return list(self._tokens(self.template.act + self._tail))

    def chat_ids(self, screen: dict[str, torch.Tensor] | None, text: str) -> list[int]:
        """Ids of a user's message, the image first if there is one, up to where the answer begins."""
        text = self._plain(text)
        if screen is not None:
            return [*self._head_ids(screen), *self._tokenize(self._after_image + text + self._tail)]
        message = [{"role": "user", "content": [{"type": "text", "text": text}]}]
        ids = self._tokenize(self.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))
        bos = self.tokenizer.bos_token_id
        return [*([bos] if bos is not None and ids[:1] != (bos,) else []), *ids]

    def change_ids(self, action: str) -> tuple[list[int], slice]:
        """Ids that ask whether ``action`` changes the screen, and where the action's own tokens are among them."""
        action = self._plain(action)
        before, _, after = self.template.change.partition("{action}")
        parts = (before.rstrip(" "), " " + action if before else action, after)
        head, middle, tail = (self._tokens(part) for part in parts)
        ids = [*head, *middle, *tail, *self._tokens(self._tail)]
        return ids, slice(len(head), len(head) + max(1, len(middle)))

    def check_length(self, tokens: int) -> None:
        """Raises ``InputError`` if a prompt with its answer is longer than the model takes."""
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and tokens > most:
            raise InputError(f"the prompt and max_tokens are {tokens} tokens together; the model takes {most}")

    def answer_ids(self, text: str) -> list[int]:
        """Ids of an answer with the end token, as the model should write it."""
        return [*self._tokens(self._plain(text)), self.eos_id]

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of generated ids up to the first end token."""
        kept = list(ids)
        for index, token in enumerate(kept):
            if token in self.end_ids:
                kept = kept[:index]
                break
        return str(self.tokenizer.decode(kept, skip_special_tokens=True)).strip()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Transformers prints nothing inside: what matters is raised."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _reason(error: BaseException) -> str:
    """What to tell a person about ``error``, on one line."""
    text = str(error).strip()
    if isinstance(error, ImportError) and "torchvision" in text.lower():
        return "its processor needs torchvision (pip install torchvision)"
    first = text.splitlines()[0].partition(". ")[0] if text else ""
    return f"{type(error).__name__}: {first[:160]}" if isinstance(error, LookupError) or not first else first[:160]


def _card_of(source: str | Path) -> tuple[str, Fit, str]:
    """What was saved with a model; with an adapter that has no card of its own, with its base."""
    base, card = adapter_base(source), model_file(source, _CARD)
    if base is None or card is not None:
        return _read_card(card)
    template, fit, version = _read_card(model_file(base, _CARD))
    return template, fit, f"{version}+{Path(source).name}"


def _read_card(card: Path | None) -> tuple[str, Fit, str]:
    """Prompt template, image fit and policy version that were saved with a model; the defaults if none were."""
    if card is None:
        return "standard", Fit.LETTERBOX, "base"
    try:
        said = json.loads(card.read_text())
        template, fit = str(said.get("template", "standard")), Fit(said.get("fit", "letterbox"))
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{card} is not readable: {_reason(error)}") from error
    if template not in TEMPLATES:
        raise ModelError(f"{card}: no prompt template {template!r}; there are: {', '.join(TEMPLATES)}")
    return template, fit, str(said.get("policy_version", "base"))
