"""Replaying episodes of simulated phones.

The phone is a function of its seed and of the actions, so any moment of an episode can be visited again, at any scale.
"""

from __future__ import annotations

from collections.abc import Iterator

from digiq_ray.core.episodes import Episode
from digiq_ray.core.policies import ActResult
from digiq_ray.core.settings import RunSettings
from digiq_ray.evaluation.judges import OracleJudge
from emulator_workers.environment import Environment
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.phone import SimPhone
from emulator_workers.simphone.style import Style
from emulator_workers.simphone.world import Release


def replay(
    episode: Episode, settings: RunSettings, *, scale: int = 1, style: Style | None = None
) -> Iterator[tuple[SimPhone, bytes]]:
    """The phone and its screen at each of the ``T + 1`` observations. The phone is live: clone it to keep it.

    ``style`` is the look that the episode was played with, if that was not one of the two of collection.
    """
    device = SimulatedDevice(scale=scale, release=Release(settings.tasks.release), style=style)
    device.start()
    environment = Environment(device, OracleJudge())
    observation = environment.reset(episode.task)
    for step in episode.steps:
        yield device.phone, observation.screen
        if step.action_text is not None:
            observation, *_ = environment.step(ActResult(step.action_text, 0.0, episode.policy_version))
    environment.close()
