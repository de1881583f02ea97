"""Sharded modules and their optimisers as if they were whole: what checkpoints and published models hold.

A process has a part of each sharded tensor. All processes gather together, one tensor after the other, and process 0
keeps what they gather in the memory of its CPU. What is not sharded is passed on as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from digiq_ray.vlm.model import Vlm

State = Mapping[str, Any]


def whole_vlm(vlm: Vlm, load: Callable[[], Vlm]) -> Vlm:
    """The same VLM with whole parameters in every process: itself, if nothing of it is sharded.

    Args:
        vlm: With what it has learnt.
        load: Gives another one of the same architecture, which takes the weights.
    """
    if not any(isinstance(parameter, DTensor) for parameter in vlm.model.parameters()):
        return vlm
    other = load()
    into = other.model.state_dict()
    with torch.no_grad():
        for name, value in vlm.model.state_dict().items():
            into[name].copy_(value.full_tensor() if isinstance(value, DTensor) else value)
    return other


def whole_state(part: nn.Module | torch.optim.Optimizer) -> dict[str, Any]:
    """``state_dict()`` with whole tensors; where processes but the first had parts of them, they get empty ones."""
    if isinstance(part, nn.Module):
        values = part.state_dict(keep_vars=True)
        whole = {id(value): _whole(value) for value in values.values()}  # one under several names stays one
        return {name: whole[id(value)] for name, value in values.items()}
    state = part.state_dict()
    entries = {index: {key: _whole(value) for key, value in entry.items()} for index, entry in state["state"].items()}
    return {**state, "state": entries}


def load_whole_state(part: nn.Module | torch.optim.Optimizer, state: State) -> None:
    """The reverse of ``whole_state``, from a state that all processes have."""
    if isinstance(part, nn.Module):
        now = part.state_dict()
        part.load_state_dict({name: _part(value, now.get(name)) for name, value in state.items()})
        return
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    entries = {
        index: {key: _part(value, parameters[index]) for key, value in entry.items()}
        for index, entry in state["state"].items()
    }
    part.load_state_dict({**state, "state": entries})


@dataclass(frozen=True, slots=True)
class Gathered:
    """A state that was taken before."""

    state: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """It."""
        return self.state


@dataclass(frozen=True, slots=True)
class Loading:
    """A module or an optimiser that takes whole tensors."""

    part: nn.Module | torch.optim.Optimizer

    def load_state_dict(self, state: State, /) -> None:
        """See ``load_whole_state``."""
        load_whole_state(self.part, state)


def _whole(value: Any) -> Any:
    if not isinstance(value, DTensor):
        return value.detach() if isinstance(value, torch.Tensor) else value
    gathered = value.full_tensor().detach()
    return gathered.cpu() if distributed.get_rank() == 0 else gathered.new_empty(0)


def _part(value: Any, model: torch.Tensor | None) -> Any:
    """This process's part of a whole tensor, which is sharded as ``model`` of the same shape is."""
    if not isinstance(model, DTensor) or not isinstance(value, torch.Tensor) or value.shape != model.shape:
        return value
    value = value.to(model.device, model.dtype)
    return distribute_tensor(value, model.device_mesh, model.placements, src_data_rank=None)
