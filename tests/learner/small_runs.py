"""A run of four short episodes, made by hand: the stores that the learner reads, with features that hold Q and V.

``win`` succeeds, ``cut`` runs out of time, ``stop`` is ended by the agent, ``dead`` loses its device before anything is
done. The first number of each feature is the value of its state or action; the second keeps it from being all zeros.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from digiq_ray.core.actions import Action, ParseError, parse_action
from digiq_ray.core.episodes import Episode, Step, StopReason
from digiq_ray.core.settings import RunSettings
from digiq_ray.core.tasks import Task
from digiq_ray.learner.paths import RunPaths
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore
from digiq_ray.store.fingerprint import Fingerprint
from digiq_ray.vlm.features import layer_number
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import SHIPPED

FINGERPRINT = Fingerprint(model="m", layer=2, pooling="last", prompt="p", image="i")
EXECUTED: dict[str, tuple[str, ...]] = {
    "cut": ("home", "tap red"),
    "dead": (),
    "stop": ("complete",),
    "win": ("tap 0.10 0.10", "back"),
}
ENDS = {
    "cut": StopReason.TIME_LIMIT,
    "dead": StopReason.DEVICE_ERROR,
    "stop": StopReason.AGENT_STOP,
    "win": StopReason.SUCCESS,
}
#: For each state, how often each text was drawn and its Q. V of a state is 0.5.
CANDIDATES: dict[tuple[str, int], dict[str, tuple[int, float]]] = {
    ("cut", 0): {"home": (4, 0.2), "back": (4, 0.8)},
    ("cut", 1): {"tap red": (6, 0.9), "enter": (2, 0.7)},
    ("stop", 0): {"complete": (0, 0.3), "wait": (8, 0.4)},
    ("win", 0): {"tap 0.10 0.10": (3, 0.6), "tap 0.90 0.90": (1, 0.95), "home": (4, 0.1)},
    ("win", 1): {"back": (8, 0.9)},
}


def png(colour: tuple[int, int, int], size: tuple[int, int] = (96, 192)) -> bytes:
    """A picture of one colour."""
    encoded = io.BytesIO()
    Image.new("RGB", size, colour).save(encoded, "PNG")
    return encoded.getvalue()


def parsed(text: str) -> tuple[Action | None, str | None]:
    """The action in a text, or why there is none."""
    try:
        return parse_action(text), None
    except ParseError as error:
        return None, str(error)


def make_episode(name: str, texts: tuple[str, ...], stop: StopReason) -> Episode:
    """An episode whose reward comes with the last action, if it succeeds. Each screen has its own colour."""
    steps = []
    for number, text in enumerate(texts):
        action, problem = parsed(text)
        reward = float(stop is StopReason.SUCCESS and number == len(texts) - 1)
        steps.append(Step(png((200, 60 * number, 10)), text, action, problem, reward, -1.0, 1.0, 2.0))
    steps.append(Step(png((10, 10, 10)), None, None, None, 0.0, None, 3.0, 3.0))
    task = Task(task_id=f"general/train/{name}", text="shop red", horizon=2, split="train")
    return Episode(name, task, tuple(steps), stop, "base", "simulated", "oracle")


def make_candidate(key: tuple[str, int], text: str, count: int, logprob: float | None = None) -> Candidate:
    """A candidate as sampling writes it."""
    action, problem = parsed(text)
    return Candidate(
        episode_id=key[0],
        step=key[1],
        action_text=text,
        action=action,
        parse_error=problem,
        multiplicity=count,
        logprob=logprob,
        is_behaviour=text == EXECUTED[key[0]][key[1]],
        policy_version="base",
        temperature=1.0,
    )


def make_run(
    root: Path,
    candidates: Mapping[tuple[str, int], Mapping[str, tuple[int, float]]] = CANDIDATES,
    probabilities: Mapping[str, float] | None = None,
    fingerprint: Fingerprint = FINGERPRINT,
) -> RunPaths:
    """Writes the stores of the run under ``root``; ``probabilities`` are those of texts, in whichever state."""
    logprobs = {text: math.log(share) for text, share in (probabilities or {}).items()}
    paths = RunPaths(root)
    EpisodeStore.create(paths.episodes).append([make_episode(n, EXECUTED[n], ENDS[n]) for n in EXECUTED])
    rows = [
        make_candidate(key, text, count, logprobs.get(text))
        for key, options in candidates.items()
        for text, (count, _) in options.items()
    ]
    CandidateStore.create(paths.candidates).append("0", rows)
    action_keys = [FeatureKey(*key, text) for key, options in candidates.items() for text in options]
    q = [value for options in candidates.values() for _, value in options.values()]
    state_keys = [FeatureKey(name, step, None) for name in EXECUTED for step in range(len(EXECUTED[name]) + 1)]
    for kind, keys, values in (("actions", action_keys, q), ("states", state_keys, [0.5] * len(state_keys))):
        features = np.stack([np.array(values), np.ones(len(values))], 1).astype(np.float32)
        FeatureStore.create(paths.features / kind).append("0", keys, features, fingerprint)
    return paths


def fingerprint_of_settings() -> Fingerprint:
    """That of features that the shipped model gives with the settings as they are."""
    vlm, chosen = Vlm.outline(SHIPPED), RunSettings().features
    return replace(
        FINGERPRINT,
        layer=layer_number(vlm, chosen.layer),
        pooling=chosen.pooling,
        prompt=vlm.template.digest,
        image=vlm.transform.description,
    )


def make_settings(**sections: object) -> RunSettings:
    """Settings of a training that takes a second."""
    defaults: dict[str, object] = {
        "critic": {"steps": 40, "batch": 8, "q_widths": [8], "v_widths": [8]},
        "policy": {"steps": 4, "batch": 4, "min_support": 2, "support_radius": 0.0},
        "finetune": {"steps": 4, "batch": 4},
        "learner": {"checkpoint_every": 1},
    }
    return RunSettings(**{**defaults, **sections})
