"""Checkpoints of a training that is under way: written while it goes on, local or in S3, never unpickled.

A checkpoint is two files: ``<step>.safetensors`` (weights and optimiser state) and, published after it, the manifest
``<step>.json`` (step, curves, the optimiser's numbers, fingerprints of what the training is of, checksums). It exists
when its manifest does; older ones are then removed. A training stands still only while its state is copied in memory;
a thread writes the copy. At most one is under way, so the state takes its memory twice; the copy's is kept for the next
one, because asking the system for new memory costs more than copying. One process at a time may write to a place.
Restoring gives bit-identical training on a CPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from digiq_ray.core.errors import CheckpointMismatchError, DigiQError, DiskFullError, StoreError
from digiq_ray.learner.background import Background
from digiq_ray.learner.curves import Curves
from digiq_ray.learner.directories import says_disk_full
from digiq_ray.learner.fingerprints import Fingerprints
from digiq_ray.store.content import StoreUnreachableError
from digiq_ray.store.directory import StorePath, create_directory

_TENSORS, _MANIFEST = ".safetensors", ".json"
_FILE = re.compile(r"(\d{8,})\.(safetensors|json)")
_FORMAT = 1
_PATIENCE_S = 600.0


class Saved(Protocol):
    """What has a state: a module, an optimiser."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""
        ...


class Loaded(Protocol):
    """What takes a state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Takes it."""
        ...


@dataclass(frozen=True, slots=True)
class Restored:
    """Where a training goes on: the next step and the curves so far."""

    step: int
    curves: Curves


class Checkpoints:
    """The checkpoints of one training; as a context it waits, at its end, for the one that is being written.

    Args:
        place: Where they lie: a directory, or ``s3://BUCKET/PREFIX``; made if missing.
        fingerprints: What the training is of.
        deadline: Seconds that a wait for a checkpoint may take.

    Raises:
        StoreError: the place cannot be made or reached.
    """

    def __init__(
        self, place: StorePath, fingerprints: Fingerprints | None = None, *, deadline: float = _PATIENCE_S
    ) -> None:
        self._directory = create_directory(place)
        self._fingerprints = fingerprints or Fingerprints()
        self._writing = Background(deadline)
        self._copies: dict[str, torch.Tensor] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except DigiQError as failed:
            if error is None:
                raise
            error.add_note(str(failed))

    def save(self, step: int, modules: Mapping[str, Saved], optimizer: Saved, curves: Curves) -> None:
        """Copies the state before ``step`` and begins to publish the copy; what came before is then removed.

        Waits first for a checkpoint that is still being written. What goes wrong with this one is raised by ``check``,
        ``wait`` or the next ``save``; the checkpoint before is whole then.

        Raises:
            DeadlineExceededError: the checkpoint before was not written in time.
            DiskFullError: no space was left for it.
            StoreError: the place could not be written or reached.
        """
        self._writing.wait()
        tensors, numbers = _state(modules, optimizer)
        self._copies = _copied(tensors, self._copies)
        manifest = {
            "format": _FORMAT,
            "step": step,
            "fingerprints": self._fingerprints.to_json(),
            "curves": dataclasses.asdict(curves),
            **numbers,
        }
        stem, copies = f"{step:08d}", self._copies
        name = f"writing the checkpoint {self._directory.path / stem}"
        self._writing.start(name, lambda: self._write(stem, copies, manifest))

    def check(self) -> None:
        """Raises what went wrong with a checkpoint that was being written; does not wait."""
        self._writing.check()

    def wait(self) -> None:
        """Returns when every checkpoint that was begun is published; raises what ``save`` names."""
        self._writing.wait()

    def restore(self, modules: Mapping[str, Loaded], optimizer: Loaded) -> Restored | None:
        """Loads the newest checkpoint, if there is one, and removes what writers that died left behind.

        Raises:
            CheckpointMismatchError: it is of other data, features or settings.
            StoreError: it does not fit the modules, or cannot be read.
        """
        self._directory.sweep(0)
        stem = max(self._stems(_MANIFEST), key=int, default=None)
        if stem is None:
            return None
        try:
            return self._load(stem, modules, optimizer)
        except (StoreUnreachableError, CheckpointMismatchError):
            raise
        except (
            StoreError,
            OSError,
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
            RuntimeError,
            SafetensorError,
        ) as e:
            reason = " ".join(str(e).split())[:160]
            raise StoreError(
                f"the checkpoint {self._directory.path / stem} does not fit this training "
                f"({type(e).__name__}: {reason}); remove it to begin the training again"
            ) from e

    def clear(self) -> None:
        """Removes all of them."""
        for stem in self._stems(_MANIFEST) | self._stems(_TENSORS):
            self._remove(stem)

    def _write(self, stem: str, tensors: Mapping[str, torch.Tensor], manifest: dict[str, Any]) -> None:
        def write(path: Path) -> None:
            save_file(dict(tensors), path)
            manifest["tensors"] = {"bytes": path.stat().st_size, "blake2b": _digest(path)}

        try:
            self._remove(stem)  # of a process that died before its manifest was there
            self._directory.publish_file(stem + _TENSORS, write)
            manifest["checksum"] = _checksum(manifest)
            self._directory.publish(stem + _MANIFEST, json.dumps(manifest).encode())
            for older in (self._stems(_MANIFEST) | self._stems(_TENSORS)) - {stem}:
                self._remove(older)
        except Exception as error:
            if says_disk_full(error) and not isinstance(error, DiskFullError):
                raise DiskFullError(
                    f"no space is left for the checkpoint {self._directory.path / stem}; free some and repeat the "
                    "command: the checkpoint before is whole"
                ) from error
            raise

    def _load(self, stem: str, modules: Mapping[str, Loaded], optimizer: Loaded) -> Restored:
        with self._directory.reading(stem + _MANIFEST) as file:
            content = bytes(file.read())
        manifest = json.loads(content)
        if manifest.pop("checksum") != _checksum(manifest):
            raise ValueError("its manifest was changed")
        self._fingerprints.require(manifest["fingerprints"], where=str(self._directory.path / stem))
        with self._directory.file(stem + _TENSORS) as path:
            if _digest(path) != manifest["tensors"]["blake2b"]:
                raise ValueError("its tensors do not match their checksum")
            tensors = load_file(path)
        _give(tensors, manifest, modules, optimizer)
        return Restored(int(manifest["step"]), Curves(**manifest["curves"]))

    def _stems(self, suffix: str) -> set[str]:
        matches = (_FILE.fullmatch(name) for name in self._directory.names(suffix))
        return {match[1] for match in matches if match}

    def _remove(self, stem: str) -> None:
        self._directory.remove(stem + _MANIFEST)  # first: without it there is no checkpoint
        self._directory.remove(stem + _TENSORS)


def _state(modules: Mapping[str, Saved], optimizer: Saved) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, Any]]]:
    """All tensors of a training, by name, and its optimiser's groups and numbers."""
    tensors = {
        f"module/{name}/{key}": value for name, module in modules.items() for key, value in module.state_dict().items()
    }
    state = optimizer.state_dict()
    numbers: dict[str, dict[str, Any]] = {}
    for index, entry in state["state"].items():
        for key, value in entry.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{index}/{key}"] = value
            else:
                numbers.setdefault(str(index), {})[key] = value
    return tensors, {"groups": json.loads(json.dumps(state["param_groups"])), "numbers": numbers}


@torch.no_grad()
def _copied(tensors: Mapping[str, torch.Tensor], into: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous copies on the CPU, in the memory of earlier ones where they fit."""
    copies = {}
    for name, value in tensors.items():
        copy = into.get(name)
        if copy is None or (copy.shape, copy.dtype) != (value.shape, value.dtype):
            copy = torch.empty(value.shape, dtype=value.dtype)
        copies[name] = copy.copy_(value)
    return copies


def _give(
    tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any], modules: Mapping[str, Loaded], optimizer: Loaded
) -> None:
    """The reverse of ``_state``."""
    for name, module in modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
    state = {int(index): dict(numbers) for index, numbers in manifest["numbers"].items()}
    for key, value in tensors.items():
        kind, index, name = key.split("/", 2)
        if kind == "optimizer":
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": manifest["groups"]})


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _checksum(manifest: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=16).hexdigest()
