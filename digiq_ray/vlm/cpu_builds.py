"""Lets Transformers and vLLM be imported where torch is a CPU build and its companions from PyPI are CUDA builds.

PyPI has torchvision, torchaudio, torchcodec and triton for Linux as CUDA builds only, and vLLM brings them. Beside a
CPU torch, ``import torchvision`` ends in "operator torchvision::nms does not exist", and the mere presence of the
others can end Transformers' import in a missing CUDA library. ``install`` mends both for one process: torchvision's
operators are declared (without code, which the image transforms never call) while it is imported, and only if its own
library could not be loaded; the others are hidden, so that every library takes them for absent.

It must run before Transformers is imported, so ``digiq_ray.vlm`` calls it when it is imported itself. vLLM starts its
engine, its workers and its model inspector as new interpreters, which import Transformers before any plugin is loaded;
they are reached by a ``sitecustomize`` module in ``serve/vllm_site``, which ``serve.vllm_start`` puts on their
``PYTHONPATH``. Nothing is written into the environment's packages, torch is not imported early, and beside a CUDA torch
nothing happens at all.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

#: Built for CUDA on PyPI, and of no use without it or for screenshots.
HIDDEN = ("torchaudio", "torchcodec", "triton")
_OPERATORS = ("nms", "qnms")
_FIRST_USERS = ("torchvision._autograd_registrations", "torchvision._meta_registrations")
_kept: list[object] = []


def install() -> None:
    """Mends this process's imports if torch is a CPU build; a second call changes nothing."""
    if any(isinstance(finder, _Torchvision) for finder in sys.meta_path) or not _torch_is_for_cpu():
        return
    for name in HIDDEN:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # how Python marks a module as absent
    if "torchvision" not in sys.modules:
        sys.meta_path.insert(0, _Torchvision())


class _Torchvision(importlib.abc.MetaPathFinder):
    """Finds nothing; declares operators when torchvision, having tried its own library, is about to describe them."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Declares the operators in time, and leaves the module to the other finders."""
        if fullname in _FIRST_USERS and not _kept:
            _declare_operators()


def _declare_operators() -> None:
    import torch

    if sys.modules["torchvision.extension"]._has_ops():
        return
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        fragment.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(fragment)


def _torch_is_for_cpu() -> bool:
    """Read from torch's ``version.py``, which says it without importing torch."""
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        return False
    file = Path(next(iter(found.submodule_search_locations)), "version.py")
    spec = importlib.util.spec_from_file_location("_torch_version", file)
    if spec is None or spec.loader is None:
        return False
    version = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(version)
    return not any(getattr(version, kind, None) for kind in ("cuda", "hip", "xpu"))
