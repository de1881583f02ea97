"""What the tests of serving share: small saved VLMs and a store of three short episodes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from vllm_testing import need_vllm, random_vlm

from digiq_ray.core.actions import ParseError, parse_action
from digiq_ray.core.episodes import Episode, Step, StopReason
from digiq_ray.core.policies import ActRequest
from digiq_ray.core.tasks import Task
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.vlm.tiny import make_vlm

#: Executed actions of each episode; ``lost`` lost its device before anything was done.
EXECUTED: dict[str, tuple[str, ...]] = {"cut": ("home", "tap red", "wait"), "lost": (), "won": ("back",)}


def png(shade: int) -> bytes:
    """A picture of one shade."""
    encoded = io.BytesIO()
    Image.new("RGB", (96, 192), (shade, 90, 255 - shade)).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture(autouse=True)
def torch_threads():
    """Engines set the number of torch's threads for their process; tests leave it as it was."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of three small random VLMs; their policy versions are ``v0`` to ``v2``."""
    paths = []
    for seed in range(3):
        path = tmp_path_factory.mktemp(f"v{seed}")
        vlm = make_vlm(["red", "shop"], hidden=16, layers=2, vision=16, vision_layers=1, seed=seed)
        vlm.save(path, version=f"v{seed}")
        paths.append(str(path))
    return paths


@pytest.fixture(scope="session")
def llavas(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of three random models that vLLM can run; their policy versions are ``v0`` to ``v2``."""
    need_vllm()
    paths = []
    for seed in range(3):
        path = tmp_path_factory.mktemp(f"llava{seed}")
        random_vlm("llava", seed=seed).save(path, version=f"v{seed}")
        paths.append(str(path))
    return paths


@pytest.fixture(scope="session")
def requests() -> list[ActRequest]:
    """Requests that differ in everything."""
    return [ActRequest(png(20 * n), f"shop red {n}", ("back",) * (n % 3), seed=100 + n) for n in range(7)]


@pytest.fixture
def episodes(tmp_path: Path) -> EpisodeStore:
    """A store of the episodes in ``EXECUTED``."""

    def step(number: int, text: str) -> Step:
        try:
            action, problem = parse_action(text), None
        except ParseError as error:
            action, problem = None, str(error)
        return Step(png(40 * number), text, action, problem, 0.0, -1.0, 1.0, 2.0)

    ends = {"cut": StopReason.TIME_LIMIT, "lost": StopReason.DEVICE_ERROR, "won": StopReason.SUCCESS}
    store = EpisodeStore.create(tmp_path / "episodes")
    for name, texts in EXECUTED.items():
        last = Step(png(250), None, None, None, 0.0, None, 3.0, 3.0)
        steps = (*(step(number, text) for number, text in enumerate(texts)), last)
        task = Task(task_id=f"t/{name}", text="shop red", horizon=3, split="train")
        store.append([Episode(name, task, steps, ends[name], "base", "simulated", "oracle")])
    return store


@pytest.fixture(scope="session")
def executed() -> dict[str, tuple[str, ...]]:
    """Executed actions of each episode."""
    return EXECUTED
