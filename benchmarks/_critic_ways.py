"""One way of training a critic, in a process of its own: ``python -m benchmarks._critic_ways WAY CASE PATH UPDATES``.

Prints one JSON object. The clock runs over the updates after the first; peak memory is the kernel's high-water mark of
this process from its start, loading included. ``ours`` is the stage ``train-critic`` itself, up to its last update.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import _feature_sets
from benchmarks._critic_original import Inputs, OriginalTrainer, released_inputs, vlm_inputs
from benchmarks._feature_ways import replay_buffers
from digiq_ray.core.settings import RunSettings
from digiq_ray.critic.heads import Critic
from digiq_ray.learner.critic import shape_of, train_critic

FILE = "trajectories.pt"
INPUTS: dict[str, Inputs] = {"released": released_inputs, "vlm": vlm_inputs}
"""What the heads see, and the name of the run whose features are that."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is trained: a preset, what differs from it, and what the heads see."""

    preset: str
    inputs: str
    critic: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "legacy": Case("legacy", "released"),
    "legacy_bfloat16": Case("legacy", "released", {"precision": "bfloat16"}),
    "paper": Case("paper", "vlm"),
    "paper_executed": Case("paper", "vlm", {"backup": "executed"}),
    "default": Case("default", "vlm"),
}


def settings_of(case: Case, updates: int, **critic: Any) -> RunSettings:
    """The settings of a case; ends by step limits count as ends, since the original's data do not tell them apart."""
    return RunSettings.model_validate(
        {"preset": case.preset, "critic": {"truncation": "end", "steps": updates, **case.critic, **critic}}
    )


def original_trainer(case: Case, settings: RunSettings) -> OriginalTrainer:
    """The original's trainer with heads of our shape."""
    inputs, chosen = INPUTS[case.inputs], settings.critic
    q, v = inputs(*empty_batch())
    critic = Critic(shape_of(chosen, state_dim=v.shape[1], action_dim=q.shape[1]), seed=settings.seed)
    return OriginalTrainer(critic, critic.target(seed=None if chosen.hard_copy else 1), chosen, inputs)


def empty_batch() -> tuple[Any, ...]:
    """A batch of one with nothing in it, which has the lengths of all features."""
    return [""], torch.zeros(1, 2 * _feature_sets.STATE_DIM), [""], torch.zeros(1, _feature_sets.ACTION_DIM)


class Clock:
    """Seconds from the end of the first update to that of the last, by the clock and of the processor."""

    def __init__(self, updates: int) -> None:
        self._updates, self._began, self._computed = updates, 0.0, 0.0

    def __call__(self, done: int, total: int) -> None:
        """Told after each update; after the last it prints the figures and ends the process."""
        if done == 1:
            self._began, self._computed = time.perf_counter(), time.process_time()
        if done == self._updates:
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            figures = {
                "update_s": (time.perf_counter() - self._began) / (done - 1),
                "update_cpu_s": (time.process_time() - self._computed) / (done - 1),
                "peak_mb": int(status["VmHWM"].split()[0]) / 1000,
            }
            print(json.dumps(figures))
            sys.exit()


def original(case: Case, path: Path, clock: Clock, updates: int, *, validate: bool) -> None:
    """The released code's way."""
    found = replay_buffers(path / FILE)
    trainer = original_trainer(case, settings_of(case, updates))
    for done in range(updates):
        trainer.train(found.train, found.validation if validate else None)
        clock(done + 1, updates)


def ours(case: Case, path: Path, clock: Clock, updates: int) -> None:
    """The stage of this project."""
    train_critic(path / case.inputs, settings_of(case, updates), clock)


WAYS: dict[str, Callable[[Case, Path, Clock, int], None]] = {
    "original": partial(original, validate=False),
    "original_validated": partial(original, validate=True),
    "ours": ours,
}


def main(way: str, case: str, path: str, updates: str) -> None:
    """Runs one way in this process."""
    number = int(updates) + 1
    WAYS[way](CASES[case], Path(path), Clock(number), number)


if __name__ == "__main__":
    main(*sys.argv[1:])
