"""One step of the original's files, whatever stage of its pipeline wrote it, with typed fields.

Candidates come as a list, as one text joined with ``<split>``, or as one that was joined twice by mistake (every piece
has one character), which can be taken apart exactly. Features come as arrays or lists of arrays, of two widths, and
are zeros where the original failed to make them: those are missing here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digiq_ray.store.legacy.errors import FormatError
from digiq_ray.store.legacy.prompt import task_of
from digiq_ray.store.legacy.report import Findings

Feature = NDArray[np.floating[Any]]

SPLIT = "<split>"
MOST_CANDIDATES = 4096
_LONGEST_FEATURE = 1 << 16
_LONGEST_TEXT = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LegacyStep:
    """One step.

    Attributes:
        task: The goal.
        observation: The prompt, if it is there.
        action: What the policy wrote.
        reward: The evaluator's verdict on the screen after the action.
        done: Whether the episode ended here.
        state, next_state: Features of the screens before and after the action ``[dim]``; ``None`` if missing.
        candidates: What the policy might have written here; the first is what it wrote.
        features: One for each candidate ``[dim]``, ``None`` if missing.
        image, next_image: Paths of screens, if there are any.
        mc_return, trajectory_reward: The return and the sum of rewards as stored, if they are there.
        layout: Which stage wrote it: ``digirl``, ``digiq``, ``gradio`` or ``vllm``.
    """

    task: str
    observation: str | None
    action: str
    reward: float
    done: bool
    state: Feature | None
    next_state: Feature | None
    candidates: tuple[str, ...]
    features: tuple[Feature | None, ...]
    image: str | None
    next_image: str | None
    mc_return: float | None
    trajectory_reward: float | None
    layout: str

    @property
    def nbytes(self) -> int:
        """Bytes of its features and (one for each character) texts."""
        features = (*self.features, self.state, self.next_state)
        texts = (self.task, self.action, self.observation or "", *self.candidates)
        return sum(one.nbytes for one in features if one is not None) + sum(map(len, texts))


def read_step(raw: Mapping[str, Any], findings: Findings) -> LegacyStep:
    """A step with typed fields; what is unusual about it is counted in ``findings``.

    Raises:
        FormatError: a field that every stage writes is missing, or one has another kind of value.
    """
    action = _required(raw, "action", str)
    candidates = _candidates(raw, action, findings)
    features = _features(raw, findings)
    if features and not candidates:
        candidates = (action,)
    if features and len(features) != len(candidates):
        findings["ragged_candidates"] += 1
    observation = _optional(raw, "observation", str)
    task = _optional(raw, "task", str)
    return LegacyStep(
        task=task_of(observation or "") if task is None else task,
        observation=observation,
        action=action,
        reward=_number(_required(raw, "reward", int | float)),
        done=bool(_required(raw, "done", int)),
        state=_state(raw, "image_features", findings),
        next_state=_state(raw, "next_image_features", findings),
        candidates=candidates,
        features=(*features, *[None] * len(candidates))[: len(candidates)],
        image=_optional(raw, "image_path", str),
        next_image=_optional(raw, "next_image_path", str),
        mc_return=_optional(raw, "mc_return", int | float),
        trajectory_reward=_optional(raw, "trajectory_reward", int | float),
        layout=_layout(raw),
    )


def split_candidates(joined: str, action: str, findings: Findings) -> tuple[str, ...]:
    """The candidates in a joined text.

    One that was joined twice has pieces of one character each; put together they are the text that was joined once.
    That is believed if its first candidate is then ``action``; otherwise nothing is known but the action.
    """
    pieces = tuple(joined.split(SPLIT))
    if len(pieces) < 2 or any(len(piece) != 1 for piece in pieces):
        return pieces
    findings["corrupt_candidates"] += 1
    repaired = tuple("".join(pieces).split(SPLIT))
    if repaired[0] != action:
        return (action,)
    findings["repaired_candidates"] += 1
    return repaired


def _candidates(raw: Mapping[str, Any], action: str, findings: Findings) -> tuple[str, ...]:
    value = raw.get("action_list")
    if value is None:
        return ()
    found = split_candidates(value, action, findings) if type(value) is str else value
    if type(found) not in (list, tuple) or any(type(text) is not str for text in found):
        raise FormatError("action_list is neither a list of texts nor a text")
    if len(found) > MOST_CANDIDATES:
        raise FormatError(f"action_list has {len(found):,} actions; {MOST_CANDIDATES:,} are allowed")
    if any(len(text) > _LONGEST_TEXT for text in found):
        raise FormatError(f"action_list has an action of more than {_LONGEST_TEXT:,} characters")
    if found and found[0] != action:
        findings["other_first_candidates"] += 1
    return tuple(found)


def _features(raw: Mapping[str, Any], findings: Findings) -> list[Feature | None]:
    value = raw.get("q_rep_out_list")
    if value is None:
        value = [] if raw.get("q_rep_out") is None else [raw["q_rep_out"]]
    if isinstance(value, np.ndarray) and value.ndim == 2:
        value = list(value)
    if type(value) is not list or len(value) > MOST_CANDIDATES:
        raise FormatError(f"q_rep_out_list is neither a list nor an array of at most {MOST_CANDIDATES:,} features")
    return [_vector("q_rep_out_list", one, "zero_features", findings) for one in value]


def _state(raw: Mapping[str, Any], name: str, findings: Findings) -> Feature | None:
    return _vector(name, raw.get(name), "zero_state_features", findings)


def _vector(name: str, value: object, count: str, findings: Findings) -> Feature | None:
    if value is None:
        return None
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu" or value.size not in range(_LONGEST_FEATURE):
        raise FormatError(f"{name} is not an array of at most {_LONGEST_FEATURE:,} numbers")
    if value.ndim > 2 or value.size != max(value.shape, default=0):
        raise FormatError(f"{name} holds an array {list(value.shape)}, not one vector")
    with np.errstate(over="ignore"):
        vector: Feature = value.reshape(-1).astype(np.float16 if value.dtype == np.float16 else np.float32, copy=False)
    if not vector.any() or not np.isfinite(vector).all():
        findings[count] += 1
        return None
    return vector


def _layout(raw: Mapping[str, Any]) -> str:
    if isinstance(raw.get("q_rep_out_list"), list):
        return "gradio"
    if "pred_q_response" in raw or "state_summarization" in raw:
        return "vllm"
    return "digiq" if {"action_list", "q_rep_out_list", "q_rep_out"} & raw.keys() else "digirl"


def _required(raw: Mapping[str, Any], name: str, kind: Any) -> Any:
    if raw.get(name) is None:
        raise FormatError(f"has no {name!r}: not a step of a trajectory file")
    return _optional(raw, name, kind)


def _optional(raw: Mapping[str, Any], name: str, kind: Any) -> Any:
    value = raw.get(name)
    if value is not None and not isinstance(value, kind):
        raise FormatError(f"{name} is of type {type(value).__name__}")
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        raise FormatError(f"{name} has {len(value):,} characters; {_LONGEST_TEXT:,} are allowed")
    return value


def _number(value: float) -> float:
    if not math.isfinite(value):
        raise FormatError("reward is not a finite number")
    return float(value)
