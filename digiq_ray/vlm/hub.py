"""Where a model is: a directory, or an id on the Hugging Face hub. Imports neither torch nor Transformers.

A directory may hold a whole model or a LoRA adapter, which names the whole model that it belongs to. What an adapter
means depends on nothing else: not on what a server had loaded before.
"""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError

from digiq_ray.core.errors import ModelError

ADAPTER = "adapter_config.json"
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # no pickles


def adapter_base(source: str | Path) -> str | None:
    """The whole model that an adapter belongs to (a directory or an id); ``None`` if ``source`` is no adapter.

    Raises:
        ModelError: the adapter does not say, or says another adapter.
    """
    file = Path(source) / ADAPTER
    if not file.is_file():
        return None
    try:
        base = json.loads(file.read_text()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{file} is not readable: {error}") from error
    if not isinstance(base, str) or not base:
        raise ModelError(f"the adapter in {str(source)!r} names no base model (base_model_name_or_path in {ADAPTER})")
    if (Path(base) / ADAPTER).is_file():
        raise ModelError(f"the base {base!r} of the adapter in {str(source)!r} is an adapter itself: merge them first")
    return base


def weights_directory(source: str | Path) -> Path:
    """The directory that has a whole model's files: ``source``; of an id the hub's cache, into which they are fetched.

    Raises:
        ModelError: they cannot be fetched.
    """
    path = find_model(source)
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(str(source), allow_patterns=_FILES))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot fetch the weights of {str(source)!r}: {_first_sentence(error)}") from error


def find_model(source: str | Path) -> Path:
    """Looks whether there is a model, before much is started for it.

    Args:
        source: A directory or an id; of an id its ``config.json`` is fetched into the hub's cache.

    Returns:
        Where it would be on disk; that does not exist for an id.

    Raises:
        ModelError: there is no model, or an adapter's base is missing.
    """
    path, base = Path(source), adapter_base(source)
    if base is not None:
        try:
            find_model(base)
        except ModelError as error:
            raise ModelError(f"the base of the adapter in {str(source)!r} is missing: {error}") from error
    elif path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"cannot load a model from {str(source)!r}: there is no config.json in it")
    elif path.is_absolute() or str(source).startswith("."):
        raise ModelError(f"cannot load a model from {str(source)!r}: there is no such directory")
    else:
        try:
            hf_hub_download(str(source), "config.json")
        except (OSError, ValueError) as error:
            raise ModelError(
                f"cannot load a model from {str(source)!r}: there is no such directory here, "
                f"and the hub says: {_first_sentence(error)}"
            ) from error
    return path


def model_file(source: str | Path, name: str) -> Path | None:
    """A file of a whole model, ``None`` if there is none of that name; of an id it is fetched into the hub's cache.

    Raises:
        ModelError: there is no model, or the file cannot be fetched.
    """
    path = find_model(source)
    if path.is_dir():
        return path / name if (path / name).is_file() else None
    try:
        return Path(hf_hub_download(str(source), name))
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot fetch {name} of {str(source)!r}: {_first_sentence(error)}") from error


def _first_sentence(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0]
