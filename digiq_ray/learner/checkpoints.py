"""Checkpoints of a training that is under way: safetensors and a manifest, published atomically, never unpickled.

A checkpoint is one directory ``<step>`` with ``tensors.safetensors`` (weights and optimiser state) and
``manifest.json`` (step, curves, the optimiser's numbers). It appears under its name only when it is whole and on the
disk; older ones are then removed. Restoring gives bit-identical training on a CPU.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from digiq_ray.core.errors import StoreError
from digiq_ray.learner.curves import Curves
from digiq_ray.learner.directories import publish_directory

_TENSORS, _MANIFEST = "tensors.safetensors", "manifest.json"


@dataclass(frozen=True, slots=True)
class Restored:
    """Where a training goes on: the next step and the curves so far."""

    step: int
    curves: Curves


class Checkpoints:
    """The checkpoints of one training in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(
        self, step: int, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, curves: Curves
    ) -> None:
        """Publishes the state before ``step`` and removes what came before.

        Raises:
            DiskFullError: no space is left; the checkpoint before is whole.
            StoreError: the directory cannot be written; the checkpoint before is whole.
        """
        tensors = {
            f"module/{name}/{key}": value
            for name, module in modules.items()
            for key, value in module.state_dict().items()
        }
        state = optimizer.state_dict()
        numbers: dict[str, dict[str, Any]] = {}
        for index, entry in state["state"].items():
            for key, value in entry.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer/{index}/{key}"] = value
                else:
                    numbers.setdefault(str(index), {})[key] = value
        manifest = {
            "step": step,
            "curves": dataclasses.asdict(curves),
            "groups": state["param_groups"],
            "numbers": numbers,
        }

        def write(hidden: Path) -> None:
            save_file(_apart(tensors), hidden / _TENSORS)
            (hidden / _MANIFEST).write_text(json.dumps(manifest))

        final = self._directory / f"{step:08d}"
        publish_directory(final, write)
        for other in self._directory.iterdir():
            if other != final:
                shutil.rmtree(other, ignore_errors=True)

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
            tensors = load_file(directory / _TENSORS)
            manifest = json.loads((directory / _MANIFEST).read_text())
            for name, module in modules.items():
                prefix = f"module/{name}/"
                module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
            state = {int(index): dict(numbers) for index, numbers in manifest["numbers"].items()}
            for key, value in tensors.items():
                kind, index, name = key.split("/", 2)
                if kind == "optimizer":
                    state.setdefault(int(index), {})[name] = value
            optimizer.load_state_dict({"state": state, "param_groups": manifest["groups"]})
            return Restored(int(manifest["step"]), Curves(**manifest["curves"]))
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:120]
            raise StoreError(
                f"the checkpoint {directory} does not fit this training ({type(error).__name__}: {reason}); "
                "remove it to begin the stage again"
            ) from error

    def _names(self) -> list[str]:
        if not self._directory.is_dir():
            return []
        return sorted(entry.name for entry in self._directory.iterdir() if entry.name.isdigit())


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, copied only where the format asks for it: those that share memory, or are not contiguous."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        found[name] = tensor.detach().clone() if storage in seen else tensor.detach().contiguous()
        seen.add(storage)
    return found
