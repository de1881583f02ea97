"""From an episode, its candidates and its features back to the steps that the original would have recorded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from digiq_ray.core.actions import Action, ActionType, press
from digiq_ray.core.episodes import Episode, StopReason, discounted_returns, screen_hash
from digiq_ray.store.candidates import Candidate
from digiq_ray.store.legacy.paths import PLACEHOLDER
from digiq_ray.store.legacy.prompt import observation_text, read_action, written_action
from digiq_ray.store.legacy.report import Findings
from digiq_ray.store.legacy.source import Source
from digiq_ray.store.legacy.step import SPLIT, split_candidates

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_STOP = written_action("", press(ActionType.COMPLETE)) or ""


def image_paths(episode: Episode) -> list[str]:
    """The path of each observation's screen, ``len(episode.steps)``, as the original would name it."""
    name = episode.episode_id
    folder = name if _SAFE.fullmatch(name) else screen_hash(name.encode())
    when = episode.steps[0].started_at
    return [f"{PLACEHOLDER}/{folder}/{when!r}_{number}.png" for number in range(len(episode.steps))]


def to_steps(
    episode: Episode, source: Source, *, gamma: float, width: int, counts: Findings
) -> list[dict[str, object]]:
    """The steps, with the keys of the released Digi-Q files.

    Args:
        episode: Of ``T`` actions; one that the horizon ended becomes ``T + 1`` steps, another one ``T``.
        source: Where its candidates and features are.
        gamma: Discount of the returns.
        width: Candidates that each step gets at least, if the episode's store has candidates at all.
        counts: Counts actions that the original's grammar has no words for.
    """
    executed = len(episode.steps) - 1
    paths = image_paths(episode)
    features = source.state_features(episode.episode_id, len(episode.steps))
    length = executed + (episode.stop_reason is StopReason.TIME_LIMIT)
    rewards = [step.reward for step in episode.steps][:length]
    returns = discounted_returns(rewards, gamma)
    steps = []
    for number in range(length):
        after = min(number + 1, executed)
        candidates = source.candidates_of(episode.episode_id, number)
        columns = _columns(episode, number, candidates)
        action = columns[0] if columns else _Column(_STOP, _STOP)
        step: dict[str, Any] = {
            "observation": _prompt(episode, number),
            "next_observation": observation_text(
                episode.task.text, read_action(action.written)[0] or episode.steps[number].action, first=False
            ),
            "image_path": paths[number],
            "video_path": None,
            "task": episode.task.text,
            "reward": _whole(rewards[number]),
            "done": number == length - 1 and episode.stop_reason is not StopReason.DEVICE_ERROR,
            "action": action.written,
            "trajectory_reward": _whole(sum(rewards)),
            "mc_return": returns[number],
        }
        if features is not None:
            step |= {"image_features": features[number], "next_image_features": features[after]}
        if source.candidates is not None and (width or candidates):
            padded = [*columns, *[action] * (width - len(columns))]
            step["action_list"] = _joined([column.written for column in padded])
            found = source.action_features(episode.episode_id, number, [column.text for column in padded])
            if found is not None:
                step |= {"q_rep_out_list": found, "q_rep_out": found[0]}
            counts["padded"] += len(padded) - len(columns)
        counts["unparsable_actions"] += sum(read_action(column.written)[0] is None for column in columns[:1])
        steps.append(step)
    return steps


class _Column(NamedTuple):
    """An action as its store has it, and as the original reads it (as it is, if it has no words for it)."""

    text: str
    written: str


def _columns(episode: Episode, number: int, candidates: Sequence[Candidate]) -> list[_Column]:
    """The action at a state, which is the executed one if there is one, and then every sample."""
    step = episode.steps[number]
    found = [] if step.action_text is None else [_column(step.action_text, step.action)]
    for candidate in candidates:
        found += [_column(candidate.action_text, candidate.action)] * candidate.multiplicity
    return found


def _column(text: str, action: Action | None) -> _Column:
    return _Column(text, written_action(text, action) or text)


def _joined(texts: list[str]) -> str | list[str]:
    """The texts joined as the original has them; the list if that could not be taken apart again."""
    joined = SPLIT.join(texts)
    return joined if split_candidates(joined, texts[0], Findings()) == tuple(texts) else texts


def _prompt(episode: Episode, number: int) -> str:
    previous = episode.steps[number - 1].action if number else None
    return observation_text(episode.task.text, previous, first=number == 0)


def _whole(value: float) -> float | int:
    return int(value) if value.is_integer() and abs(value) < 1 << 31 else value
