"""Models that many tests of this folder read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from vlm_helpers import ACTIONS, FAMILIES, TASKS, png

from digiq_ray.vlm.batching import answer_logprobs
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import make_vlm
from emulator_workers.simphone.lessons import words


@pytest.fixture(scope="session")
def family_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where a random model of a family is saved, made when it is first asked for."""
    made: dict[str, Path] = {}

    def path(name: str) -> Path:
        if name not in made:
            torch.manual_seed(0)
            model, processor = FAMILIES[name]()
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, 0, 0.2)
            made[name] = tmp_path_factory.mktemp(name)
            model.save_pretrained(made[name])
            processor.save_pretrained(made[name])
        return made[name]

    return path


@pytest.fixture(scope="session")
def tiny() -> Vlm:
    """A random tiny VLM, with weights so large that every token matters; tests must not change it."""
    vlm = make_vlm(words(), seed=1)
    with torch.no_grad():
        for parameter in vlm.language_model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)
        vlm.model.get_output_embeddings().weight.mul_(3)
    return vlm


@pytest.fixture(scope="session")
def acting() -> Vlm:
    """A tiny VLM that was taught for seconds to say one of six actions; tests must not change it."""
    torch.manual_seed(0)
    vlm = make_vlm(words(), seed=2)
    screen = vlm.transform.prepare(png())
    optimizer = torch.optim.AdamW(vlm.model.parameters(), 3e-3)
    chosen = [(task, action) for task in TASKS for action in ACTIONS]
    for step in range(60):
        batch = [chosen[(7 * step + 5 * i) % len(chosen)] for i in range(12)]
        prompts = [[*vlm.prefix_ids(screen, task, ()), *vlm.act_ids()] for task, _ in batch]
        answers = [vlm.answer_ids(action) for _, action in batch]
        logprobs, _ = answer_logprobs(vlm, [screen] * len(batch), prompts, answers)
        optimizer.zero_grad()
        (-logprobs.sum(1).mean()).backward()
        optimizer.step()
    return vlm
