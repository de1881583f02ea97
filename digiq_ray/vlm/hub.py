"""Where a model is: a directory, or an id on the Hugging Face hub. Imports neither torch nor Transformers."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download

from digiq_ray.core.errors import ModelError


def find_model(source: str | Path) -> Path:
    """Looks whether there is a model, before much is started for it.

    Args:
        source: A directory or an id; of an id its ``config.json`` is fetched into the hub's cache.

    Returns:
        Where it would be on disk; that does not exist for an id.

    Raises:
        ModelError: there is no model.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"cannot load a model from {str(source)!r}: there is no config.json in it")
    elif path.is_absolute() or str(source).startswith("."):
        raise ModelError(f"cannot load a model from {str(source)!r}: there is no such directory")
    else:
        try:
            hf_hub_download(str(source), "config.json")
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0].partition(". ")[0]
            raise ModelError(
                f"cannot load a model from {str(source)!r}: there is no such directory here, and the hub says: {reason}"
            ) from error
    return path
