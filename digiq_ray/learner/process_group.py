"""The torch process group of the workers that Ray Train has started: gloo on CPUs, NCCL on GPUs.

Ray Train would make one itself whose meeting place listens on every interface of a machine. This one listens on the
address alone by which Ray knows the node: on loopback, where Ray is local.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psutil
import ray
from ray import train
from ray.train.backend import Backend
from ray.train.collective import broadcast_from_rank_zero
from ray.train.torch import TorchConfig
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not said to be so


class _SharedGpus(Backend):
    share_cuda_visible_devices = True  # the GPUs of one machine reach each other directly


class Ungrouped(TorchConfig):
    """Ray Train's configuration for torch, but that workers join their group themselves, by ``process_group``."""

    @property
    def backend_cls(self) -> type[Backend]:
        """See ``BackendConfig``."""
        return _SharedGpus


@contextmanager
def process_group(*, on_gpu: bool, seconds: float) -> Iterator[None]:
    """The default process group of a Ray Train worker, which must be in it as long as the others are.

    Args:
        on_gpu: Whether each worker has a GPU.
        seconds: How long a worker waits for the others.
    """
    here, context, limit = ray.util.get_node_ip_address(), train.get_context(), timedelta(seconds=seconds)
    os.environ["GLOO_SOCKET_IFNAME"] = interface_of(here)
    rank, size = context.get_world_rank(), context.get_world_size()
    meeting = meeting_place(here, limit) if rank == 0 else None
    host, port = broadcast_from_rank_zero((meeting.host, meeting.port) if meeting else None)
    store = meeting or TCPStore(host, port, is_master=False, timeout=limit)
    distributed.init_process_group("nccl" if on_gpu else "gloo", store=store, rank=rank, world_size=size, timeout=limit)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def meeting_place(address: str, limit: timedelta) -> TCPStore:
    """Where processes find each other: it listens on ``address`` only; calls of it wait for ``limit`` at most."""
    listener = socket.create_server((address, 0))
    host, port = listener.getsockname()[:2]
    return TCPStore(
        host, port, is_master=True, timeout=limit, wait_for_workers=False, master_listen_fd=listener.detach()
    )


def interface_of(address: str) -> str:
    """The network interface that has an address of this machine."""
    interfaces = psutil.net_if_addrs().items()
    return next(name for name, places in interfaces if any(place.address == address for place in places))
