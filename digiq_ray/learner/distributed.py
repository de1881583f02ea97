"""The spread of a training over the processes of a torch process group: DDP for heads, FSDP for VLMs.

Whoever starts the processes has joined them (Ray Train does, see ``worker_group``): gloo on CPUs, NCCL on GPUs, each
process with a GPU of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from digiq_ray.core.spread import ALONE, Run, Spread


class _Runs(nn.Module):
    """Runs work as the forward pass of a module: that is what DDP and FSDP hook into."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return work(*args, **kwargs)


class Group(Spread):
    """The processes of the default process group."""

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        on_gpu = distributed.get_backend() == distributed.Backend.NCCL
        self._device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")

    def mean(self, figures: dict[str, float]) -> dict[str, float]:
        """See ``Spread``."""
        values = torch.tensor(list(figures.values()), dtype=torch.float64, device=self._device)
        distributed.all_reduce(values)
        return dict(zip(figures, (values / self.size).tolist(), strict=True))

    def replicated(self, module: nn.Module) -> Run:
        """See ``Spread``."""
        run: Run = DistributedDataParallel(_Runs(module.to(self._device)), forward_sync_buffers=False)
        return run

    def sharded(self, module: nn.Module) -> Run:
        """See ``Spread``; repeated layers are gathered one at a time, the rest at once."""
        mesh = init_device_mesh(self._device.type, (self.size,))
        layers = set(getattr(module, "_no_split_modules", None) or ())
        for stack in [part for part in module.modules() if isinstance(part, nn.ModuleList)]:
            for layer in stack:
                if type(layer).__name__ in layers:
                    fully_shard(layer, mesh=mesh)
        run = _Runs(module)
        fully_shard(run, mesh=mesh)
        return run

    def wait(self) -> None:
        """See ``Spread``."""
        distributed.barrier()


def joined() -> Spread:
    """The spread of the process group that this process has joined, or of this process alone."""
    return Group() if distributed.is_available() and distributed.is_initialized() else ALONE
