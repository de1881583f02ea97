"""Film strips for the report: the same held-out tasks before and after, drawn sharp, with Q under each candidate."""

from __future__ import annotations

import io

from digiq_ray.core.episodes import Episode
from digiq_ray.core.rng import seed_of
from digiq_ray.evaluation.html import CandidateView, FilmStrip, FrameView
from digiq_ray.loops.clusters import OnProgress
from digiq_ray.loops.run import Run
from digiq_ray.loops.stages.devices import held_out_tasks, relearned_kinds
from digiq_ray.loops.stages.probe import Probe, StateView
from digiq_ray.loops.stages.ranking import request
from digiq_ray.loops.stages.replay import replay
from digiq_ray.store.episodes import EpisodeStore
from emulator_workers.simphone.screens import render

SCALE = 3
TASKS = 2
MOST_CANDIDATES = 6


def film_strips(run: Run, on_progress: OnProgress) -> list[FilmStrip]:
    """Strips of a few tasks that the behaviour policy failed and the new policy solves, before and after each.

    The tasks are the first such in the order of the test set (those that need a relearned control come first): they
    show what was learned, and prove nothing.
    """
    before = EpisodeStore(run.paths.evaluation("behaviour", "sampled"))
    after = EpisodeStore(run.paths.evaluation("digi_q", "sampled"))
    failed = _by_task(before, success=False)
    solved = _by_task(after, success=True)
    kinds = relearned_kinds(run.settings)
    tasks = [task for task in held_out_tasks(run.settings) if task.task_id in failed and task.task_id in solved]
    tasks.sort(key=lambda task: task.kind not in kinds)
    probe = Probe(run.root, run.settings)
    strips = []
    chosen = tasks[:: max(1, len(tasks) // TASKS)][:TASKS]
    for number, task in enumerate(chosen):
        for title, store, ids in (("before", before, failed), ("after", after, solved)):
            (episode,) = store.episodes([ids[task.task_id]])
            strips.append(_strip(run, probe, title, episode))
        on_progress(number + 1, len(chosen))
    return strips


def _by_task(store: EpisodeStore, *, success: bool) -> dict[str, str]:
    rows = store.table(["task_id", "episode_id", "stop_reason", "is_first"]).to_pylist()
    return {
        row["task_id"]: row["episode_id"]
        for row in rows
        if row["is_first"] and (row["stop_reason"] == "success") == success
    }


def _strip(run: Run, probe: Probe, title: str, episode: Episode) -> FilmStrip:
    pictures = []
    for phone, _ in replay(episode, run.settings):
        encoded = io.BytesIO()
        render(phone, SCALE).save(encoded, "PNG", optimize=True)
        pictures.append(encoded.getvalue())
    numbers = range(len(episode.steps) - 1)
    asked = [request(episode, number, seed_of("strip", episode.episode_id, number)) for number in numbers]
    executed = [episode.steps[number].action_text for number in numbers]
    views = probe.look(asked, executed)
    frames = [_frame(pictures[number], episode, number, views[number]) for number in numbers]
    frames.append(FrameView(pictures[-1], str(episode.stop_reason)))
    return FilmStrip(
        title=title,
        task=episode.task.text,
        outcome=str(episode.stop_reason),
        success=episode.success,
        frames=frames,
    )


def _frame(picture: bytes, episode: Episode, number: int, view: StateView) -> FrameView:
    step, options = episode.steps[number], view.candidates
    order = sorted(range(len(view.q)), key=lambda index: -view.q[index])[:MOST_CANDIDATES]
    candidates = []
    for index in order:
        action = options.actions[index]
        candidates.append(
            CandidateView(
                text=options.texts[index],
                x=action.x if action else None,
                y=action.y if action else None,
                q=float(view.q[index]),
                advantage=float(view.q[index] - view.v),
                count=options.counts[index],
                chosen=index == view.best.index,
            )
        )
    done = step.action
    return FrameView(
        image_png=picture,
        action_text=step.action_text or "",
        x=done.x if done else None,
        y=done.y if done else None,
        x2=done.x2 if done else None,
        y2=done.y2 if done else None,
        q=float(view.q[options.texts.index(step.action_text or "")]),
        v=view.v,
        novelty=view.novelty,
        candidates=candidates,
    )
