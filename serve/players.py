"""How a policy is made in the process that plays: where models are far away, nothing heavy is imported there.

An emulator worker is pickled with one of the functions below; Torch alone would cost it three seconds and 200 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digiq_ray.core.policies import Policy
from serve.engine import EnginePolicy, RemoteEngine
from serve.protocols import Engine, Reader

ANSWER_SECONDS = 120.0  # for an action, with loading the model


@dataclass(frozen=True, slots=True)
class Rerank:
    """How a critic judges samples.

    Attributes:
        samples: How many are drawn in each state.
        reader: What features are read from.
        critic: Directory of the critic.
        min_support, radius, min_probability: See ``policy.best_of_n``.
        max_novelty: Where a state is farther from the critic's training states than this share of them, the first
            sample is taken: there Q is a guess.
    """

    samples: int
    reader: Reader
    critic: Path
    min_support: int
    radius: float
    min_probability: float = 0.0
    max_novelty: float = 1.0


@dataclass(frozen=True, slots=True)
class Player:
    """Who plays: a model, its temperature where it samples, and how a critic judges its samples, if one does."""

    model: str
    temperature: float
    rerank: Rerank | None = None


def local_policy(engine: Engine, player: Player) -> Policy:
    """The policy of ``player``, with an engine of this process or a remote one."""
    if player.rerank is None:
        return EnginePolicy(engine, model=player.model, temperature=player.temperature, deadline=ANSWER_SECONDS)
    from serve.rerank import RerankPolicy  # a critic is Torch

    return RerankPolicy(
        engine, model=player.model, temperature=player.temperature, rerank=player.rerank, deadline=ANSWER_SECONDS
    )


def remote_policy(engines: Sequence[Any], player: Player) -> Policy:
    """The policy of ``player``, whose models are in engine actors."""
    return local_policy(RemoteEngine.in_turn(engines, deadline=ANSWER_SECONDS), player)
