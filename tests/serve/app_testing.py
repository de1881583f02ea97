"""What the tests of the HTTP application share: a run's directory, pictures, and the application on a port."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from PIL import Image

from digiq_ray.core.config import dump_yaml
from digiq_ray.core.settings import RunSettings
from digiq_ray.critic.heads import Critic, CriticShape, HeadShape
from digiq_ray.critic.novelty import Novelty
from digiq_ray.learner.models import save_critic
from digiq_ray.learner.paths import RunPaths
from digiq_ray.vlm.tiny import load_tiny
from serve.app.access import Access
from serve.app.http import make_app
from serve.app.metrics import Metrics
from serve.app.opening import open_service
from serve.app.service import Service
from serve.app.settings import ServeArguments
from serve.protocols import Piece, Sampling, State

TOKEN = "a-token-of-the-tests-only"
SOON = 30.0


def picture(shade: int = 40, size: tuple[int, int] = (96, 192), kind: str = "PNG") -> bytes:
    """An encoded picture of one shade."""
    encoded = io.BytesIO()
    Image.new("RGB", size, (shade, 90, 255 - shade)).save(encoded, kind)
    return encoded.getvalue()


def uri(data: bytes, kind: str = "image/png") -> str:
    """A data URI."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def make_run(root: Path) -> Path:
    """A run's directory: the tiny VLM as policy and for features, and an untrained critic."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.yaml").write_text(dump_yaml(RunSettings()))
    paths, vlm = RunPaths(root), load_tiny()
    for name in ("digi_q", "feature_vlm"):
        vlm.save(paths.model(name), version=name)
    shape = CriticShape(state_dim=96, action_dim=192, q=HeadShape((16,)), v=HeadShape((16,)))
    novelty = Novelty(96)
    novelty.fit(torch.randn(400, 96, generator=torch.Generator().manual_seed(0)))
    save_critic(Critic(shape, seed=3), novelty, paths.model("critic"))
    return root


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition, what: str, deadline: float = SOON) -> None:
    """Waits for what can only be asked for."""
    ends = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < ends, f"{what} did not happen in {deadline:g} s"
        time.sleep(0.02)


def _service_of(policy: HeldPolicy, arguments: ServeArguments) -> Service:
    return Service(
        policy=policy,
        features=None,
        critic=None,
        novelty=None,
        lacking="held",
        limits=arguments.limits,
        metrics=Metrics(),
    )


class HeldPolicy:
    """A policy that writes one token and then waits at its gate; it knows how many wait and how many were left."""

    version = "held"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.waiting = self.left = 0

    async def _pieces(self, sampling: Sampling) -> AsyncIterator[Piece]:
        yield Piece(0, "back", -1.0, 1, None, self.version, 3)
        self.waiting += 1
        try:
            while not self.gate.is_set():
                await asyncio.sleep(0.01)
        except BaseException:
            self.left += 1
            raise
        finally:
            self.waiting -= 1
        yield Piece(0, "", -1.0, 1, "stop", self.version, 3)

    def act(self, state: State, sampling: Sampling) -> AsyncIterator[Piece]:
        return self._pieces(sampling)

    def chat(self, text: str, screens: Sequence[bytes], sampling: Sampling) -> AsyncIterator[Piece]:
        return self._pieces(sampling)

    async def publish(self, version: str, checkpoint: str) -> None:
        self.version = version

    async def healthy(self) -> bool:
        return not self.gate.is_set()

    async def close(self) -> None:
        self.gate.set()


@contextmanager
def served(arguments: ServeArguments, tokens: list[str], policy: HeldPolicy | None = None) -> Iterator[str]:
    """The application in this process, without Ray, on a port of its own; its URL. ``policy`` replaces the models."""
    port = free_port()

    async def run(started: threading.Event) -> None:
        service = await open_service(arguments) if policy is None else _service_of(policy, arguments)
        config = uvicorn.Config(make_app(service, Access(tokens)), host="127.0.0.1", port=port, log_level="warning")
        servers.append(uvicorn.Server(config))
        started.set()
        await servers[0].serve()
        await service.close()

    servers: list[uvicorn.Server] = []
    made = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(run(made)), daemon=True)
    thread.start()
    assert made.wait(SOON), "the models were not loaded"
    until(lambda: servers[0].started, "the server's start")
    yield f"http://127.0.0.1:{port}"
    servers[0].should_exit = True
    thread.join(SOON)
    assert not thread.is_alive(), "the server did not end"
