"""How a VLM learns: all of its weights or LoRA adapters, in which precision, with which memory; one update at a time.

Trained weights and the optimiser's state are float32 always; in bfloat16 the arithmetic is run by autocast, and the
frozen weights beside adapters are held in it. Adapters live inside the model while it learns and are merged into its
weights when it ends, so that what is published is a whole model in both cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn

from digiq_ray.core.errors import ConfigError, ModelError
from digiq_ray.core.schedules import LearningRate
from digiq_ray.core.settings import TuningSettings
from digiq_ray.core.spread import ALONE, Spread
from digiq_ray.vlm.model import Vlm

P = ParamSpec("P")
T = TypeVar("T")


def held_in(settings: TuningSettings, device: str) -> torch.dtype:
    """The precision in which a model is loaded for training on a device: weights that learn need float32."""
    frozen = settings.method == "lora"
    return torch.bfloat16 if frozen and settings.arithmetic(device) == "bfloat16" else torch.float32


class Tuner:
    """AdamW on what is trained of a VLM, with clipped gradients.

    Args:
        vlm: What is trained, in place.
        settings: What of it, and how.
        rate: Of each update.
        weight_decay, clip: Of AdamW, and the largest norm of the gradient.
        seed: Decides the adapters' first weights.
        spread: Over which processes. Each keeps a part of weights that all learn; of a model with adapters, which are
            small, each keeps a whole one.

    Raises:
        ConfigError: no layer has the name of a target, or the model's code has no gradient checkpointing.
    """

    def __init__(
        self,
        vlm: Vlm,
        settings: TuningSettings,
        *,
        rate: LearningRate,
        weight_decay: float,
        clip: float,
        seed: int,
        spread: Spread = ALONE,
    ) -> None:
        self.vlm, self.settings, self._rate, self._clip = vlm, settings, rate, clip
        self._adapted = _with_adapters(vlm, settings, seed) if settings.method == "lora" else None
        if settings.checkpointing:
            _checkpoint_gradients(vlm.model)
        vlm.model.train()
        self._run = spread.sharded(vlm.model) if self._adapted is None else spread.replicated(vlm.model)
        self._trained = {name: value for name, value in vlm.model.named_parameters() if value.requires_grad}
        self.optimizer = torch.optim.AdamW(self._trained.values(), weight_decay=weight_decay)

    def module(self) -> nn.Module:
        """What a checkpoint holds: the model, or the adapters alone."""
        if self._adapted is None:
            return self.vlm.model
        return nn.ParameterDict({name.replace(".", "/"): value for name, value in self._trained.items()})

    def run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """``work(*args, **kwargs)``, which computes with the model: all processes must run the same."""
        device = self.vlm.model.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.settings.arithmetic(device) == "bfloat16"):
            return self._run(work, *args, **kwargs)

    def update(self, index: int, loss: torch.Tensor) -> None:
        """Update number ``index`` by the gradient of ``loss``."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(index)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._trained.values(), self._clip)
        self.optimizer.step()

    def finish(self) -> None:
        """Ends the training: adapters are merged, and the model is one like any other again.

        Raises:
            ModelError: an adapter holds what is no number.
        """
        if self.settings.checkpointing:
            self.vlm.model.gradient_checkpointing_disable()
        if self._adapted is not None:
            try:
                self.vlm.model = self._adapted.merge_and_unload(safe_merge=True).requires_grad_(True)
            except ValueError as error:
                raise ModelError(f"the trained adapters are broken: {error}; lower the learning rate") from error
            self._adapted = None
        self.vlm.model.eval()


def _checkpoint_gradients(model: Any) -> None:
    try:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise ConfigError(f"tuning.checkpointing: {type(model).__name__} has none; set it to false") from error
    # Transformers makes every embedding require gradients, for reentrant checkpoints: frozen layers would be
    # differentiated in vain.
    model.disable_input_require_grads()


def _with_adapters(vlm: Vlm, settings: TuningSettings, seed: int) -> Any:
    """Puts adapters into the model, which is frozen otherwise; returns peft's wrapper around it."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=adapted_layers(vlm, settings),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(vlm.model, config)


def adapted_layers(vlm: Vlm, settings: TuningSettings) -> list[str]:
    """Names of the layers that get adapters: linear ones of the language model, or of the whole model; never its head.

    Raises:
        ConfigError: there is none of a wanted name; the message says which there are.
    """
    names = list(_linear_layers(vlm, settings.vision))
    if not settings.targets:
        return names
    found = []
    for target in settings.targets:
        matching = [name for name in names if name == target or name.endswith(f".{target}")]
        if not matching:
            kinds = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            place = "model" if settings.vision else "language model"
            raise ConfigError(f"tuning.targets: the {place} has no linear layer {target!r}; there are: {kinds}")
        found += matching
    return list(dict.fromkeys(found))


def _linear_layers(vlm: Vlm, vision: bool) -> Iterator[str]:
    inside = set((vlm.model if vision else vlm.language_model).modules())
    head = vlm.model.get_output_embeddings()
    for name, module in vlm.model.named_modules():
        # not its subclasses: what computes with their weights directly (nn.MultiheadAttention) would pass by an adapter
        if type(module) is nn.Linear and module in inside and module is not head:
            yield name
