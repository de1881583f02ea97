"""Does the critic rank? On held-out states its best candidate should make progress more often than a random one.

States are drawn from the behaviour policy's evaluation episodes; progress is what the simulator's oracle says.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from digiq_ray.core.actions import ActionType
from digiq_ray.core.episodes import Episode
from digiq_ray.core.policies import ActRequest
from digiq_ray.core.rng import seed_of
from digiq_ray.core.settings import RunSettings
from digiq_ray.diagnostics.sensitivity import action_sensitivity
from digiq_ray.evaluation.statistics import wilson
from digiq_ray.learner.data import shares
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.training import OnStep
from digiq_ray.loops.stages.probe import Probe
from digiq_ray.loops.stages.replay import replay
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.simphone.oracle import makes_progress
from emulator_workers.simphone.phone import SimPhone


def request(episode: Episode, number: int, seed: int) -> ActRequest:
    """State ``number`` of an episode as a request."""
    texts = tuple(step.action_text or "" for step in episode.steps[:number])
    return ActRequest(episode.steps[number].screen, episode.task.text, texts, seed)


def _draw_states(store: EpisodeStore, settings: RunSettings) -> list[tuple[SimPhone, ActRequest]]:
    rng = random.Random(seed_of("ranking", settings.seed))
    ids = sorted(store.episode_ids())
    rng.shuffle(ids)
    found: list[tuple[SimPhone, ActRequest]] = []
    for episode in store.episodes(ids[: max(1, settings.evaluate.ranking_states // 3)]):
        moments = [phone.clone() for phone, _ in replay(episode, settings)]
        numbers = range(len(episode.steps) - 1)
        for number in rng.sample(numbers, min(3, len(numbers))):
            found.append((moments[number], request(episode, number, seed_of("ranking", episode.episode_id, number))))
    return found


def _rate(successes: float, n: int) -> dict[str, Any]:
    low, high = wilson(round(successes), n)
    return {"rate": successes / n, "successes": round(successes), "n": n, "ci95": [low, high]}


def rank(root: Path, settings: RunSettings, on_step: OnStep) -> dict[str, Any]:
    """Shares of held-out states in which a candidate makes progress, by how it is picked."""
    states = _draw_states(EpisodeStore(RunPaths(root).evaluation("behaviour", "sampled")), settings)
    views = Probe(root, settings).look([asked for _, asked in states])
    best = likely = any_ = random_ = 0.0
    unparsable = idle = 0
    width = max(len(view.q) for view in views)
    q_values, weights = np.zeros((len(views), width)), np.zeros((len(views), width))
    for done, ((phone, _), view) in enumerate(zip(states, views, strict=True), 1):
        options = view.candidates
        good = np.array([makes_progress(phone, action) for action in options.actions])
        odds = shares(options.counts)
        q_values[done - 1, : len(odds)], weights[done - 1, : len(odds)] = view.q, odds
        random_ += float((odds * good).sum())
        likely += bool(good[int(np.argmax(options.counts))])
        any_ += bool(good.any())
        chosen = options.actions[view.best.index] if view.best.index is not None else None
        unparsable += chosen is None
        idle += chosen is not None and chosen.type in (ActionType.WAIT, ActionType.COMPLETE, ActionType.IMPOSSIBLE)
        best += view.best.index is not None and bool(good[view.best.index])
        on_step(done, len(states))
    n = len(states)
    return {
        "rows": n,
        "states": n,
        "best_candidate": _rate(best, n),
        "random_candidate": _rate(random_, n),
        "most_likely": _rate(likely, n),
        "any_candidate": _rate(any_, n),
        "best_is_unparsable": unparsable,
        "best_is_noop": idle,
        **action_sensitivity(q_values, weights),
    }
