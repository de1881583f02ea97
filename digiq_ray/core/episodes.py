"""Episodes in the sense of RLDS: ``T + 1`` observations for ``T`` actions; the last one has no action.

Last and not terminal means truncated: by the horizon or by a failing device. Only a success and a stop by the agent
are terminal, because only then the value of what comes after is known to be zero.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from digiq_ray.core.actions import Action
from digiq_ray.core.tasks import Task


class StopReason(enum.StrEnum):
    """Why an episode ended."""

    SUCCESS = "success"
    AGENT_STOP = "agent_stop"
    TIME_LIMIT = "time_limit"
    DEVICE_ERROR = "device_error"

    @property
    def is_terminal(self) -> bool:
        """Whether the task itself ended, so that nothing is bootstrapped past it."""
        return self in (StopReason.SUCCESS, StopReason.AGENT_STOP)


@dataclass(frozen=True, slots=True)
class Step:
    """One observation and what was done there.

    Attributes:
        screen: Encoded image (PNG or JPEG bytes) before the action; empty if it was lost (imported data).
        action_text: What the policy wrote; ``None`` on the last step.
        action: The parsed action; ``None`` on the last step or if ``parse_error`` is set.
        parse_error: Why ``action_text`` is not an action, else ``None``.
        reward: Reward for this action (0 on the last step).
        behaviour_logprob: Natural logarithm of the policy's probability of ``action_text``, if known.
        started_at, ended_at: Unix time in seconds around the action.
        settle_tag: How the wait for ``screen`` ended if it did not settle: ``unsettled``, ``frozen`` or ``blank``;
            ``None`` if it settled, or was taken as it was.
    """

    screen: bytes
    action_text: str | None
    action: Action | None
    parse_error: str | None
    reward: float
    behaviour_logprob: float | None
    started_at: float
    ended_at: float
    settle_tag: str | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """A finished episode: ``len(steps) == T + 1``."""

    episode_id: str
    task: Task
    steps: Sequence[Step]
    stop_reason: StopReason
    policy_version: str
    device: str
    judge: str

    @property
    def success(self) -> bool:
        """Whether the judge saw the goal reached."""
        return self.stop_reason is StopReason.SUCCESS

    @property
    def is_terminal(self) -> bool:
        """Whether the last state is terminal (not truncated)."""
        return self.stop_reason.is_terminal


def episode_id(run: str, task_id: str, attempt: int) -> str:
    """The deterministic name of an episode: writing it twice is found, whoever writes."""
    return hashlib.blake2b(f"{run}\x1f{task_id}\x1f{attempt}".encode(), digest_size=16).hexdigest()


def screen_hash(screen: bytes) -> str:
    """Content hash of an encoded image (32 hexadecimal digits)."""
    return hashlib.blake2b(screen, digest_size=16).hexdigest()


def discounted_returns(rewards: Sequence[float], gamma: float) -> list[float]:
    """Monte Carlo return-to-go of each step: ``G_t = sum_k gamma^(k - t) r_k`` (no bootstrap at the end)."""
    returns: list[float] = []
    value = 0.0
    for reward in reversed(rewards):
        value = reward + gamma * value
        returns.append(value)
    return returns[::-1]
