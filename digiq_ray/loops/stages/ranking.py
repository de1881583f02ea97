"""Does the critic rank? On held-out states its best candidate should make progress more often than a random one.

States are drawn from the behaviour policy's evaluation episodes; progress is what the simulator's oracle says.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digiq_ray.core.actions import ActionType
from digiq_ray.core.episodes import Episode
from digiq_ray.core.policies import ActRequest
from digiq_ray.core.rng import seed_of
from digiq_ray.core.settings import RunSettings
from digiq_ray.critic.novelty import shares_beyond
from digiq_ray.diagnostics.sensitivity import action_sensitivity
from digiq_ray.evaluation.statistics import wilson
from digiq_ray.learner.data import shares
from digiq_ray.learner.events import log_figures
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.training import OnStep
from digiq_ray.loops.stages.probe import Probe, StateView
from digiq_ray.loops.stages.replay import replay
from digiq_ray.policy.best_of_n import StateCandidates
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.simphone.oracle import makes_progress
from emulator_workers.simphone.phone import SimPhone
from emulator_workers.simphone.style import Style


def request(episode: Episode, number: int, seed: int) -> ActRequest:
    """State ``number`` of an episode as a request."""
    texts = tuple(step.action_text or "" for step in episode.steps[:number])
    return ActRequest(episode.steps[number].screen, episode.task.text, texts, seed)


def draw_states(
    store: EpisodeStore, settings: RunSettings, style: Style | None = None
) -> list[tuple[SimPhone, ActRequest]]:
    """States of episodes, three of each, with the phone as it stood there; ``style`` as in ``replay``."""
    rng = random.Random(seed_of("ranking", settings.seed))
    ids = sorted(store.episode_ids())
    rng.shuffle(ids)
    found: list[tuple[SimPhone, ActRequest]] = []
    for episode in store.episodes(ids[: max(1, settings.evaluate.ranking_states // 3)]):
        moments = [phone.clone() for phone, _ in replay(episode, settings, style=style)]
        numbers = range(len(episode.steps) - 1)
        for number in rng.sample(numbers, min(3, len(numbers))):
            found.append((moments[number], request(episode, number, seed_of("ranking", episode.episode_id, number))))
    return found


def rate(successes: float, n: int) -> dict[str, Any]:
    """A share of ``n`` with its Wilson interval."""
    low, high = wilson(round(successes), n)
    return {"rate": successes / n, "successes": round(successes), "n": n, "ci95": [low, high]}


def which_progress(phone: SimPhone, options: StateCandidates) -> NDArray[np.bool_]:
    """Which candidates make progress, by the oracle."""
    return np.array([makes_progress(phone, action) for action in options.actions], dtype=np.bool_)


def ranking_figures(views: Sequence[StateView], progress: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
    """How often a candidate makes progress, by how it is picked.

    Args:
        views: The states, at least one.
        progress: Of each, which candidates make progress.
    """
    n, width = len(views), max(len(view.q) for view in views)
    best = likely = any_ = random_ = 0.0
    unparsable = idle = 0
    q_values, weights = np.zeros((n, width)), np.zeros((n, width))
    for row, (view, good) in enumerate(zip(views, progress, strict=True)):
        options = view.candidates
        odds = shares(options.counts)
        q_values[row, : len(odds)], weights[row, : len(odds)] = view.q, odds
        random_ += float((odds * good).sum())
        likely += bool(good[int(np.argmax(options.counts))])
        any_ += bool(good.any())
        chosen = options.actions[view.best.index] if view.best.index is not None else None
        unparsable += chosen is None
        idle += chosen is not None and chosen.type in (ActionType.WAIT, ActionType.COMPLETE, ActionType.IMPOSSIBLE)
        best += view.best.index is not None and bool(good[view.best.index])
    return {
        "states": n,
        "best_candidate": rate(best, n),
        "random_candidate": rate(random_, n),
        "most_likely": rate(likely, n),
        "any_candidate": rate(any_, n),
        "best_is_unparsable": unparsable,
        "best_is_noop": idle,
        **action_sensitivity(q_values, weights),
    }


def rank(root: Path, settings: RunSettings, on_step: OnStep) -> dict[str, Any]:
    """Shares of held-out states in which a candidate makes progress, by how it is picked; and how novel they are."""
    states = draw_states(EpisodeStore(RunPaths(root).evaluation("behaviour", "sampled")), settings)
    views = Probe(root, settings).look([asked for _, asked in states])
    progress = []
    for done, ((phone, _), view) in enumerate(zip(states, views, strict=True), 1):
        progress.append(which_progress(phone, view.candidates))
        on_step(done, len(states))
    novelty = shares_beyond([view.novelty for view in views], settings.policy.max_novelty)
    log_figures(RunPaths(root).logs, "novelty_held_out", novelty)
    return {"rows": len(views), **ranking_figures(views, progress), "novelty": novelty}
