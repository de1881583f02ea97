from pathlib import Path

import pytest

from digiq_ray.core.actions import tap
from digiq_ray.core.episodes import Episode, Step, StopReason, episode_id
from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.core.tasks import Task, TaskSet
from digiq_ray.evaluation.statistics import wilson
from digiq_ray.evaluation.summary import policy_result
from digiq_ray.store.episodes import EpisodeStore

RELEARNED = frozenset({"alarm", "note"})
KINDS = ("open", "alarm", "note", "open", "alarm")
TASKS = TaskSet(
    "general/test",
    [Task(f"t/{index}", f"do {index % 4}", 10, "test", kind=kind) for index, kind in enumerate(KINDS)],
)
SUCCESS, TIME_LIMIT, DEVICE_ERROR = StopReason.SUCCESS, StopReason.TIME_LIMIT, StopReason.DEVICE_ERROR


def play(index: int, stop_reason: StopReason, *, attempt: int = 0, actions: int = 2, at: float = 0.0) -> Episode:
    steps = [
        Step(b"screen", "tap 0.50 0.50", tap(0.5, 0.5), None, 0.0, None, at + i, at + i + 1) for i in range(actions)
    ]
    steps.append(Step(b"screen", None, None, None, 0.0, None, at + actions, at + actions))
    task = TASKS[index] if index < len(TASKS) else Task(f"t/{index}", "another", 10, "test", kind="open")
    return Episode(
        episode_id=episode_id("run", task.task_id, attempt),
        task=task,
        steps=steps,
        stop_reason=stop_reason,
        policy_version="digi_q-3",
        device="sim",
        judge="oracle",
    )


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return EpisodeStore.create(tmp_path / "episodes")


def result(store: EpisodeStore, *episodes: Episode) -> dict:
    store.append(episodes)
    return policy_result(store, tasks=TASKS, relearned=RELEARNED)


def test_every_task_counts_once(store):
    found = result(store, *[play(i, SUCCESS if i < 3 else TIME_LIMIT) for i in range(5)])
    assert (found["successes"], found["n"], found["success_rate"]) == (3, 5, 0.6)
    assert found["ci95"] == list(wilson(3, 5))
    assert (found["tasks"], found["unique_tasks"], found["infra_errors"]) == ("general/test", 4, 0)


def test_results_are_split_by_kind(store):
    found = result(store, *[play(i, SUCCESS if KINDS[i] == "alarm" else TIME_LIMIT) for i in range(5)])
    assert {kind: (part["successes"], part["n"]) for kind, part in found["by_kind"].items()} == {
        "alarm": (2, 2),
        "note": (0, 1),
        "open": (0, 2),
    }


def test_relearned_tasks_are_the_kinds_that_are_named(store):
    found = result(store, *[play(i, SUCCESS if i in (0, 1) else TIME_LIMIT) for i in range(5)])
    assert found["relearned"] == {"success_rate": 1 / 3, "successes": 1, "n": 3, "ci95": list(wilson(1, 3))}


def test_device_errors_are_apart_from_n(store):
    found = result(store, play(0, DEVICE_ERROR), play(1, DEVICE_ERROR), *[play(i, SUCCESS) for i in (2, 3, 4)])
    assert (found["successes"], found["n"], found["infra_errors"]) == (3, 3, 2)
    assert found["stop_reasons"] == {"device_error": 2, "success": 3}


def test_a_judged_episode_stands_for_a_task_whose_device_failed_before(store):
    others = [play(i, TIME_LIMIT) for i in (1, 2, 3, 4)]
    found = result(store, play(0, DEVICE_ERROR, at=1), play(0, SUCCESS, attempt=1, at=9), *others)
    assert (found["successes"], found["n"], found["infra_errors"]) == (1, 5, 0)


@pytest.mark.parametrize("first", [0, 1])
def test_a_second_try_does_not_improve_the_result(store, first):
    tries = [play(0, TIME_LIMIT, attempt=first, at=1), play(0, SUCCESS, attempt=1 - first, at=9)]
    found = result(store, *tries, *[play(i, TIME_LIMIT) for i in (1, 2, 3, 4)])
    assert (found["successes"], found["n"]) == (0, 5)


def test_episodes_of_other_tasks_are_ignored(store):
    found = result(store, *[play(i, TIME_LIMIT) for i in range(5)], play(77, SUCCESS))
    assert (found["successes"], found["n"]) == (0, 5)


def test_mean_length_counts_actions_of_judged_episodes(store):
    found = result(store, play(0, DEVICE_ERROR, actions=9), *[play(i, SUCCESS, actions=i) for i in (1, 2, 3, 4)])
    assert found["mean_length"] == 2.5


def test_nothing_judged_has_no_rate_and_no_interval(store):
    found = result(store, *[play(i, DEVICE_ERROR) for i in range(5)])
    assert (found["success_rate"], found["ci95"], found["n"], found["infra_errors"]) == (None, None, 0, 5)
    assert found["mean_length"] is None


def test_missing_episodes_are_counted_and_named(store):
    with pytest.raises(StoreError, match=r"2 of 5 tasks of general/test have no episode \(first: t/3\)"):
        result(store, *[play(i, SUCCESS) for i in range(3)])


def test_an_empty_store_misses_every_task(store):
    with pytest.raises(StoreError, match="5 of 5 tasks"):
        result(store)


def test_tasks_that_share_an_id_are_refused(store):
    twice = TaskSet("general/test", [TASKS[0], TASKS[0]])
    with pytest.raises(InputError, match="2 tasks with 1 ids"):
        policy_result(store, tasks=twice, relearned=RELEARNED)


def test_the_policy_that_was_scored_is_named(store):
    assert result(store, *[play(i, SUCCESS) for i in range(5)])["policy_versions"] == {"digi_q-3": 5}


def test_screens_are_not_read(store, monkeypatch):
    asked: list[str] = []
    table = store.table
    monkeypatch.setattr(store, "table", lambda columns=None: asked.extend(columns or ["everything"]) or table(columns))
    result(store, *[play(i, SUCCESS) for i in range(5)])
    assert asked
    assert not {"everything", "screen"} & set(asked)
