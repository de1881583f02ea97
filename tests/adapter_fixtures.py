"""LoRA adapters for tests, and what they should make of a model, without the code under test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from digiq_ray.vlm.model import Vlm

RANK, ALPHA = 4, 8


def save_adapter(base: str | Path, directory: Path, *, seed: int = 1, **options: Any) -> Path:
    """A random adapter on every linear layer of the decoder, none of whose matrices is zero, as peft saves it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": r"(?!.*visi|.*visual).*_proj", **options}
    adapted = get_peft_model(Vlm.load(base).model, LoraConfig(**settings))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, 0, 0.2)
    adapted.save_pretrained(str(directory))
    return directory


def merge_by_hand(base: str | Path, adapter: Path) -> Vlm:
    """The base with W + alpha / rank B A in place of every W that the adapter speaks of."""
    vlm, tensors = Vlm.load(base), load_file(adapter / "adapter_model.safetensors")
    weights = vlm.model.state_dict()
    for name, down in tensors.items():
        place, found, _ = name.partition(".lora_A.")
        if found:
            up = tensors[f"{place}.lora_B.weight"]
            weights[f"{place.removeprefix('base_model.model.')}.weight"] += ALPHA / RANK * up @ down
    return vlm


def change_tensors(adapter: Path, change: Any) -> None:
    """Writes an adapter's tensors as ``change`` makes them."""
    file = adapter / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
