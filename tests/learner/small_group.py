"""Processes that are joined as Ray Train joins its workers, by gloo on loopback, without a Ray; and what they train."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from small_critic import make_trainer, state_of, train_in
from small_runs import make_settings
from torch import distributed
from torch.multiprocessing.spawn import spawn

from digiq_ray.core.settings import CriticSettings, RunSettings
from digiq_ray.core.spread import Spread
from digiq_ray.critic.heads import Critic
from digiq_ray.critic.training import CriticTrainer
from digiq_ray.critic.values import Labelled, ValueHeads, ValueTrainer
from digiq_ray.learner.critic import shape_of, train_critic
from digiq_ray.learner.distributed import joined
from digiq_ray.learner.policy import train_policy
from digiq_ray.learner.process_group import interface_of
from digiq_ray.learner.stage1 import finetune
from digiq_ray.learner.training import OnStep

DEADLINE = 240.0
UPDATES = 20
#: Each has its own way to share a batch: evenly or not, with a process that has no part in the conservative term.
CRITICS: dict[str, dict[str, Any]] = {
    "even": {"batch": 16},
    "uneven": {"batch": 13, "clip": 0.5, "conservative": 1.0},
    "few": {"batch": 3, "conservative": 1.0},
    "own": {"batch": 7, "targets": "own", "hard_copy": False, "heads": 3, "aggregate": "pessimistic"},
    "histogram": {"batch": 9, "loss": "hl_gauss", "backup": "best", "dropout": 0.0},
    "returns": {"batch": 9, "objective": "mc", "loss": "logistic", "conservative": 0.0},
}


class Killed(Exception):
    """Stands for the end of a process."""


def in_group(work: Callable[..., None], size: int, *arguments: Any) -> None:
    """Runs ``work(*arguments)`` in ``size`` processes; raises what one of them raised."""
    meeting = Path(arguments[0]) / "meeting"
    context = spawn(_process, (size, str(meeting), work, arguments), nprocs=size, join=False)
    end = time.monotonic() + DEADLINE
    try:
        while not context.join(timeout=max(0.0, end - time.monotonic())):
            assert time.monotonic() < end, "the processes did not end"
    finally:
        for process in context.processes:
            process.kill()


def _process(rank: int, size: int, meeting: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = interface_of("127.0.0.1")
    limit = timedelta(seconds=DEADLINE)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size, timeout=limit)
    try:
        work(*arguments)
    finally:
        distributed.destroy_process_group()


def nothing(done: int, total: int) -> None:
    """What a training tells of its steps to nobody."""


def settings(**sections: Any) -> RunSettings:
    """Of stages that take a second: shares of 3 and 2 of each batch, a checkpoint in the middle, early stopping."""
    return make_settings(
        **{
            "critic": {"steps": UPDATES, "batch": 13, "q_widths": [8], "v_widths": [8]},
            "policy": {"steps": 4, "batch": 5, "min_support": 1, "support_radius": 0.0, "margin": -10.0},
            "finetune": {"steps": 6, "batch": 5, "patience": 5, "evaluate_every": 2},
            "learner": {"checkpoint_every": 2},
            **sections,
        }
    )


def stages(root: Path) -> None:
    """The stages that train, on a run in ``root`` that has its stores."""
    figures = {
        "critic": train_critic(root, settings(), nothing),
        "mc": train_policy(root, "mc", settings(), nothing),
        "filtered_bc": train_policy(root, "filtered_bc", settings(tuning={"method": "lora", "rank": 2}), nothing),
        "finetune": finetune(root, settings(), nothing),  # the critics' features are not of its model
    }
    if joined().rank == 0:
        (root / "figures.json").write_text(json.dumps(figures))


def critic_trainer(options: dict[str, Any], spread: Spread) -> CriticTrainer:
    data = make_trainer().data
    chosen = CriticSettings(steps=UPDATES, **{"q_widths": [8], "v_widths": [8], "learning_rate": 1e-2, **options})
    critic = Critic(shape_of(chosen, data.state_features.shape[1], data.action_features.shape[1]), seed=1)
    critic.v_heads.normalise.fit(data.state_features)
    critic.q_heads.normalise.fit(data.action_features)
    return CriticTrainer(critic, data, chosen, seed=2, spread=spread)


def value_trainer(spread: Spread) -> ValueTrainer:
    data = make_trainer().data
    chosen = CriticSettings(steps=UPDATES, batch=13, v_widths=[8], clip=0.5, learning_rate=1e-2)
    dim = data.state_features.shape[1]
    rows = torch.arange(len(data.state_features))
    first, states = Labelled(rows[::2], (rows[::2] % 3 > 0).float()), Labelled(rows, (rows % 2).float())
    return ValueTrainer(
        ValueHeads(shape_of(chosen, dim, dim), seed=1),
        data.state_features,
        first,
        states,
        chosen,
        seed=3,
        spread=spread,
    )


def heads(root: Path) -> None:
    """Trains all kinds of heads and writes weights, optimiser states and the figures of each step."""
    trainers = {name: critic_trainer(options, joined()) for name, options in CRITICS.items()}
    for name, trainer in {**trainers, "values": value_trainer(joined())}.items():
        figures = []
        for index in range(UPDATES):
            torch.manual_seed(index)
            figures.append(trainer.step(index))
        if joined().rank == 0:
            save_file({key: value.clone() for key, value in state_of(trainer).items()}, root / f"{name}.safetensors")
            (root / f"{name}.json").write_text(json.dumps(figures))


def critic_to_the_end(root: Path, killed_at: int | None = None) -> None:
    """Trains a critic with checkpoints; at ``killed_at`` all processes fail."""
    spread = joined()
    trainer = critic_trainer(CRITICS["uneven"], spread)
    curves = train_in(root, trainer, every=4, on_step=fails_at(killed_at), spread=spread)
    if spread.rank == 0:
        save_file({key: value.clone() for key, value in state_of(trainer).items()}, root / "end.safetensors")
        (root / "end.json").write_text(json.dumps(curves))


def fails_at(step: int | None) -> OnStep:
    """A process that is killed when so many steps are done."""

    def on_step(done: int, total: int) -> None:
        if done == step:
            raise Killed

    return on_step


def everything(root: Path) -> None:
    """All that tests compare: heads, stages, and trainings that were killed and go on. Stores must be there."""
    heads(root / "heads")
    stages(root / "run")
    with suppress(Killed):
        finetune(root / "killed", settings(), fails_at(5))
    finetune(root / "killed", settings(), nothing)
    critic_to_the_end(root / "whole")
    with suppress(Killed):
        critic_to_the_end(root / "broken", killed_at=10)
    critic_to_the_end(root / "broken")
    with suppress(Killed):
        critic_to_the_end(root / "handed", killed_at=10)
