"""The Hugging Face hub as a machine without a network has it: what its cache holds."""

from pathlib import Path

import pytest
from huggingface_hub import constants


def cached_model(monkeypatch: pytest.MonkeyPatch, place: Path, name: str, source: str | Path) -> Path:
    """Puts the files of ``source`` into a cache in ``place`` as the model ``name``; returns their directory there."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, variable, str(place))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model, commit = place / f"models--{name.replace('/', '--')}", "0" * 40
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    for file in Path(source).iterdir():
        if file.is_file():
            (snapshot / file.name).symlink_to(file.absolute())
    return snapshot
