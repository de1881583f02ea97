"""LoRA adapters in peft's format: read with the model that they name, and merged into its weights.

What is merged is a model like any other: every backend serves it, at its usual speed, and nothing else has to know of
adapters. ``hub.adapter_base`` finds an adapter and its base. Tensors are read from safetensors only; ``peft`` makes the
layers, so that what it knows (rank patterns, DoRA, rank-stabilised scales, modules trained whole) is understood here.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from digiq_ray.core.errors import ModelError

_TENSORS, _PICKLE = "adapter_model.safetensors", "adapter_model.bin"
_PEFT_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError, AttributeError, IndexError)


def merge(model: Any, directory: Path) -> Any:
    """A Transformers model with the adapter in ``directory`` merged into its weights, which change in place.

    Raises:
        ModelError: the adapter is not whole, not readable, not LoRA, or not for this model. The model is of no use
            any more.
    """
    tensors = _read(directory)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what peft warns of is an error below, or of no meaning here
            merged, misfits = _merged(model, directory, tensors)
    except _PEFT_ERRORS as error:
        reason = " ".join(str(error).split())[:240]
        raise ModelError(f"the adapter in {str(directory)!r} does not fit its base: {reason}") from error
    if misfits:
        raise ModelError(
            f"the adapter in {str(directory)!r} does not fit its base: of {len(misfits)} tensors one of the two knows "
            f"nothing, the first is {misfits[0]}"
        )
    return merged.requires_grad_(True)  # peft has frozen it


def _read(directory: Path) -> dict[str, torch.Tensor]:
    file = directory / _TENSORS
    if not file.is_file():
        unsafe = f": {_PICKLE} is a pickle and is never read, save it again" if (directory / _PICKLE).exists() else ""
        raise ModelError(f"there is no {_TENSORS} in {str(directory)!r}{unsafe}")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} is not readable: {error}") from error


def _merged(model: Any, directory: Path, tensors: dict[str, torch.Tensor]) -> tuple[Any, list[str]]:
    """The merged model, and the names of tensors that only the adapter or only the adapted model has."""
    from peft import LoraConfig, PeftConfig, PeftModel, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(directory))
    if not isinstance(config, LoraConfig):
        raise ModelError(f"the adapter in {str(directory)!r} is of the kind {config.peft_type}, not LoRA")
    config.inference_mode = True
    config.megatron_config = None  # with one, peft imports whatever module the file names
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = ends[0].weight is ends[1].weight
    adapted = PeftModel(model, config)
    if tied and (model.get_input_embeddings(), model.get_output_embeddings()) != ends:
        raise ModelError(
            f"the adapter in {str(directory)!r} changes the embeddings of a model that shares them between its input "
            "and its output: that cannot be merged"
        )
    result = set_peft_model_state_dict(adapted, tensors)
    absent = [name for name in result.missing_keys if ".default" in name]  # the base's own tensors count as missing too
    misfits = sorted([*absent, *result.unexpected_keys])
    return (model if misfits else adapted.merge_and_unload(safe_merge=True)), misfits
