"""A small critic to train: shared by tests, and run as a process that can be killed.

``python small_critic.py ROOT STEPS EVERY``: trains in ROOT, prints how many steps are done after each, and writes the
weights, the optimiser state and the curves at the end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from digiq_ray.core.settings import CriticSettings
from digiq_ray.critic.dataset import EpisodeFrame, build
from digiq_ray.critic.heads import Critic, CriticShape, HeadShape
from digiq_ray.critic.training import CriticTrainer
from digiq_ray.learner.training import OnStep, train
from digiq_ray.store.directory import StorePath

STATES, ACTIONS, DIM = 12, 24, 6


def make_trainer(steps: int = 23, *, width: int = 8, learning_rate: float = 1e-2) -> CriticTrainer:
    """A critic of random episodes; all that is random has a seed."""
    generator = torch.Generator().manual_seed(0)
    frames = [
        EpisodeFrame(
            rewards=[0.0, 0.0, float(start % 2)],
            terminal=start % 3 > 0,
            states=[start, start + 1, start + 2, start + 3],
            actions=[2 * start, 2 * start + 2, 2 * start + 4],
            candidates=[[2 * (start + i), 2 * (start + i) + 1] for i in range(3)],
            weights=[[0.7, 0.3]] * 3,
        )
        for start in range(STATES - 3)
    ]
    data = build(
        frames,
        torch.randn(STATES, DIM, generator=generator),
        torch.randn(ACTIONS, DIM, generator=generator),
        gamma=0.9,
        steps=1,
    )
    head = HeadShape((width,), dropout=0.3)
    critic = Critic(CriticShape(state_dim=DIM, action_dim=DIM, q=head, v=head), seed=1)
    critic.v_heads.normalise.fit(data.state_features)
    critic.q_heads.normalise.fit(data.action_features)
    settings = CriticSettings(steps=steps, batch=8, learning_rate=learning_rate, tau=0.05)
    return CriticTrainer(critic, data, settings, seed=2)


def state_of(trainer: CriticTrainer) -> dict[str, torch.Tensor]:
    """Everything that training changes."""
    found = {
        f"{name}/{key}": value
        for name, module in trainer.modules().items()
        for key, value in module.state_dict().items()
    }
    for index, entry in trainer.optimizer.state_dict()["state"].items():
        found |= {f"optimizer/{index}/{key}": value for key, value in entry.items()}
    return found


def train_in(
    root: Path,
    trainer: Any,
    *,
    every: int = 5,
    on_step: OnStep = lambda done, total: None,
    points: int = 4,
    checkpoints: StorePath | None = None,
    **options: Any,
):
    """Trains with logs, and checkpoints if no other place is given, under ``root``; returns the curves."""
    return train(
        trainer,
        name="critic",
        checkpoints=checkpoints or root / "checkpoints",
        logs=root / "logs",
        every=every,
        on_step=on_step,
        points=points,
        **options,
    )


def main(root: Path, steps: int, every: int) -> None:
    """Trains to the end and leaves the result in ``root``."""
    trainer = make_trainer(steps)
    curves = train_in(root, trainer, every=every, on_step=lambda done, total: print(done, flush=True))
    save_file({key: value.clone() for key, value in state_of(trainer).items()}, root / "result.safetensors")
    (root / "curves.json").write_text(json.dumps(curves))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
