"""From the original's steps to an episode in the sense of RLDS, its candidates and its features.

The original records one step for each action and, at the horizon, one for an action that it never executed (it stops
instead). There that action is no action of the episode but one more sample at its last state: ``T`` steps become
``T - 1`` actions and ``T`` observations, truncated. Otherwise ``T`` steps are ``T`` actions and ``T + 1`` observations.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from digiq_ray.core.episodes import Episode, Step, StopReason, discounted_returns
from digiq_ray.core.tasks import Task
from digiq_ray.store.candidates import Candidate
from digiq_ray.store.features import FeatureKey
from digiq_ray.store.legacy.errors import FormatError
from digiq_ray.store.legacy.paths import started_at
from digiq_ray.store.legacy.prompt import observation_text, read_action
from digiq_ray.store.legacy.report import Findings
from digiq_ray.store.legacy.step import Feature, LegacyStep, read_step

LEGACY = "legacy"
"""Policy version, device and judge of what was imported: the files do not name them."""

_MOST_STEPS = 10_000
_MOST_BYTES = 512 << 20
_RETURN_TOLERANCE = 1e-6


class KeyedFeature(NamedTuple):
    """A feature and what it is of."""

    key: FeatureKey
    feature: Feature


@dataclass(frozen=True, slots=True)
class LegacyTrajectory:
    """A trajectory that is not empty, and its position in the file."""

    index: int
    steps: Sequence[LegacyStep]

    @property
    def nbytes(self) -> int:
        """Bytes of its features and texts."""
        return sum(step.nbytes for step in self.steps)

    def ended_by_horizon(self, horizon: int) -> bool:
        """Whether the last action was never executed."""
        last = self.steps[-1]
        return len(self.steps) == horizon and last.reward == 0 and last.done

    def actions(self, horizon: int) -> int:
        """How many actions were executed."""
        return len(self.steps) - self.ended_by_horizon(horizon)


def read_trajectory(index: int, raw: Sequence[dict[str, object]], findings: Findings) -> LegacyTrajectory | None:
    """A trajectory with typed fields; ``None`` if it has no step. Counts what is unusual in ``findings``.

    Raises:
        FormatError: it is no trajectory of the original; the message says which step and why.
    """
    findings["trajectories"] += 1
    findings["steps"] += len(raw)
    if not raw:
        findings["empty"] += 1
        return None
    if len(raw) > _MOST_STEPS:
        raise FormatError(f"trajectory {index} has {len(raw):,} steps; {_MOST_STEPS:,} are allowed")
    steps: list[LegacyStep] = []
    size = 0
    for number, fields in enumerate(raw):
        try:
            steps.append(read_step(fields, findings))
        except FormatError as error:
            raise FormatError(f"trajectory {index}, step {number}: {error}") from error
        size += steps[-1].nbytes
        if size > _MOST_BYTES:
            raise FormatError(
                f"trajectory {index} has more than 512 MiB of texts and features: none of the original's has"
            )
    return LegacyTrajectory(index, steps)


def task_of(trajectory: LegacyTrajectory, *, horizon: int, split: str) -> Task:
    """The task; its id is made of the goal's text."""
    text = trajectory.steps[0].task
    name = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return Task(task_id=f"{LEGACY}/{split}/{name}", text=text, horizon=horizon, split=split)


def to_episode(
    trajectory: LegacyTrajectory, name: str, screens: Sequence[bytes], *, task: Task, findings: Findings
) -> Episode:
    """The episode.

    Args:
        trajectory: Its steps.
        name: Its id.
        screens: One for each observation (``trajectory.actions(horizon) + 1``), empty if missing.
        task: Its task.
        findings: Counts how it ended and which actions mean nothing.
    """
    truncated = trajectory.ended_by_horizon(task.horizon)
    last = trajectory.steps[-1]
    if any(step.reward > 0 for step in trajectory.steps):
        reason = StopReason.SUCCESS
    elif truncated:
        reason = StopReason.TIME_LIMIT
    else:
        reason = StopReason.AGENT_STOP if last.done else StopReason.DEVICE_ERROR
    counted = {StopReason.TIME_LIMIT: "truncated", StopReason.DEVICE_ERROR: "unfinished"}
    findings["episodes"] += 1
    findings[counted.get(reason, reason.value)] += 1
    when = started_at(trajectory.steps[0].image)
    steps = []
    for screen, step in zip(screens, trajectory.steps[: trajectory.actions(task.horizon)], strict=False):
        action, problem = read_action(step.action)
        findings["unparsable_actions"] += action is None
        steps.append(Step(screen, step.action, action, problem, step.reward, None, when, when))
    steps.append(Step(screens[-1], None, None, None, 0.0, None, when, when))
    return Episode(name, task, tuple(steps), reason, LEGACY, LEGACY, LEGACY)


def to_candidates(trajectory: LegacyTrajectory, name: str, *, horizon: int, findings: Findings) -> list[Candidate]:
    """The different candidates of each state that has some, with how often each was drawn beside the executed one."""
    found: list[Candidate] = []
    executed = trajectory.actions(horizon)
    for number, step in enumerate(trajectory.steps):
        if not step.candidates:
            continue
        behaviour = step.action if number < executed else None
        drawn = Counter(step.candidates[step.candidates[0] == behaviour :])
        for text in sorted({*drawn} if behaviour is None else {*drawn, behaviour}):
            action, problem = read_action(text)
            findings["candidates"] += 1
            findings["unparsable_candidates"] += action is None
            found.append(
                Candidate(
                    episode_id=name,
                    step=number,
                    action_text=text,
                    action=action,
                    parse_error=problem,
                    multiplicity=drawn[text],
                    logprob=None,
                    is_behaviour=text == behaviour,
                    policy_version=LEGACY,
                    temperature=None,
                )
            )
    return found


def action_features(trajectory: LegacyTrajectory, name: str, findings: Findings) -> list[KeyedFeature]:
    """Features of the different candidates of each state; of one drawn twice, the first."""
    found: list[KeyedFeature] = []
    for number, step in enumerate(trajectory.steps):
        kept: dict[str, Feature] = {}
        for text, feature in zip(step.candidates, step.features, strict=True):
            if feature is None:
                continue
            if text not in kept:
                kept[text] = feature
            elif not np.array_equal(kept[text], feature):
                findings["differing_features"] += 1
        findings["missing_features"] += len({*step.candidates}) - len(kept)
        found += [KeyedFeature(FeatureKey(name, number, text), feature) for text, feature in kept.items()]
    return found


def state_features(
    trajectory: LegacyTrajectory, name: str, *, horizon: int, stack: bool, findings: Findings
) -> list[KeyedFeature]:
    """Features of the observations that have one, ascending by step.

    Args:
        trajectory: Its steps.
        name: The episode's id.
        horizon: As for ``LegacyTrajectory.actions``.
        stack: Puts the feature of the observation before in front of each (its own at the first), ``[2 dim]``.
        findings: Counts where a step does not begin where the one before led to.
    """
    steps = trajectory.steps
    single: list[Feature | None] = [step.state for step in steps]
    single.append(steps[-1].next_state)
    for number, step in enumerate(steps[:-1], start=1):
        if single[number] is None:
            single[number] = step.next_state
        elif step.next_state is not None and not np.array_equal(single[number], step.next_state):  # type: ignore[arg-type]
            findings["broken_sequences"] += 1
    single = single[: trajectory.actions(horizon) + 1]
    chosen = stack_frames(single) if stack else single
    return [
        KeyedFeature(FeatureKey(name, number, None), feature)
        for number, feature in enumerate(chosen)
        if feature is not None
    ]


def stack_frames(features: Sequence[Feature | None]) -> list[Feature | None]:
    """Each state's feature behind that of the state before (the first behind itself), as the original's V sees them."""
    before = [features[0], *features[:-1]]
    return [
        None if one is None or two is None else np.concatenate([one, two])
        for one, two in zip(before, features, strict=True)
    ]


def check_stored(trajectory: LegacyTrajectory, *, gamma: float, findings: Findings) -> None:
    """Counts steps whose stored return, sum of rewards or prompt is not what the rewards, the task and actions give."""
    rewards = [step.reward for step in trajectory.steps]
    previous = None
    for number, (step, value) in enumerate(zip(trajectory.steps, discounted_returns(rewards, gamma), strict=True)):
        if step.mc_return is not None and not abs(step.mc_return - value) <= _RETURN_TOLERANCE:
            findings["differing_returns"] += 1
        if step.trajectory_reward is not None and not abs(step.trajectory_reward - sum(rewards)) <= _RETURN_TOLERANCE:
            findings["differing_rewards"] += 1
        prompt = observation_text(step.task, previous, first=number == 0)
        findings["differing_prompts"] += step.observation not in (None, prompt)
        previous = read_action(step.action)[0]
