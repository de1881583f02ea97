"""Checkpoints of a training that is under way: safetensors and a manifest, published atomically, never unpickled.

A checkpoint is one directory ``<step>`` with ``tensors.safetensors`` (weights and optimiser state) and
``manifest.json`` (step, figures, the optimiser's numbers). It appears under its name only when it is whole; older ones
are then removed. Restoring gives bit-identical training on a CPU.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from digiq_ray.core.errors import DiskFullError, StoreError, is_disk_full

Figures = dict[str, list[list[float]]]


@dataclass(frozen=True, slots=True)
class Restored:
    """Where a training goes on: the next step and the figures so far."""

    step: int
    figures: Figures


class Checkpoints:
    """The checkpoints of one training in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(
        self, step: int, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, figures: Figures
    ) -> None:
        """Publishes the state before ``step`` and removes what came before.

        Raises:
            DiskFullError: no space is left; the checkpoint before is whole.
        """
        tensors = {
            f"module/{name}/{key}": value.detach().clone().contiguous()
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }
        state = optimizer.state_dict()
        numbers: dict[str, dict[str, float]] = {}
        for index, entry in state["state"].items():
            for key, value in entry.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer/{index}/{key}"] = value.clone().contiguous()
                else:
                    numbers.setdefault(str(index), {})[key] = value
        hidden = self._directory / f".{step}.{os.getpid()}"
        final = self._directory / f"{step:08d}"
        manifest = {"step": step, "figures": figures, "groups": state["param_groups"], "numbers": numbers}
        try:
            shutil.rmtree(hidden, ignore_errors=True)
            hidden.mkdir(parents=True)
            save_file(tensors, hidden / "tensors.safetensors")
            (hidden / "manifest.json").write_text(json.dumps(manifest))
            for file in hidden.iterdir():
                _sync(file)
            shutil.rmtree(final, ignore_errors=True)
            hidden.rename(final)
            _sync(self._directory)
        except Exception as error:
            shutil.rmtree(hidden, ignore_errors=True)
            if is_disk_full(error):
                raise DiskFullError(
                    f"no space is left for a checkpoint in {self._directory}; free some and repeat the command: "
                    "the checkpoint before is whole"
                ) from error
            raise
        for other in self._names():
            if other != final.name:
                shutil.rmtree(self._directory / other, ignore_errors=True)

    def restore(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> Restored | None:
        """Loads the newest checkpoint, if there is one.

        Raises:
            StoreError: it does not fit the modules, or cannot be read.
        """
        names = self._names()
        if not names:
            return None
        directory = self._directory / names[-1]
        try:
            tensors = load_file(directory / "tensors.safetensors")
            manifest = json.loads((directory / "manifest.json").read_text())
            for name, module in modules.items():
                prefix = f"module/{name}/"
                module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
            state: dict[int, dict[str, object]] = {
                int(index): dict(numbers) for index, numbers in manifest["numbers"].items()
            }
            for key, value in tensors.items():
                kind, index, name = key.split("/", 2)
                if kind == "optimizer":
                    state.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict({"state": state, "param_groups": manifest["groups"]})
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise StoreError(
                f"the checkpoint {directory} does not fit this training ({type(error).__name__}: "
                f"{str(error).splitlines()[0][:120]}); remove it to begin the stage again"
            ) from error
        return Restored(manifest["step"], manifest["figures"])

    def clear(self) -> None:
        """Removes all checkpoints: the training is done and its result is published."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _names(self) -> list[str]:
        if not self._directory.is_dir():
            return []
        return sorted(entry.name for entry in self._directory.iterdir() if entry.name.isdigit())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
