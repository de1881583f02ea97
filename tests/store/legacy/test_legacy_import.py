"""Importing every layout of the original's files: episodes, candidates, features, and what is said about them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from legacy_files import (
    ACTION_DIM,
    CANDIDATES,
    HORIZON,
    LAYOUTS,
    STATE_DIM,
    autoui,
    make_trajectories,
    make_trajectory,
    save,
)

from digiq_ray.core.actions import tap
from digiq_ray.core.episodes import StopReason
from digiq_ray.core.errors import InputError
from digiq_ray.learner.data import FeatureViews, blocks_of, frames
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.pins import PinnedStores
from digiq_ray.store.candidates import CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureStore
from digiq_ray.store.legacy.importing import import_trajectories
from digiq_ray.store.legacy.settings import ImportSettings

WITH_CANDIDATES = [layout for layout in LAYOUTS if layout != "digirl"]


def episodes(out):
    return list(EpisodeStore(out / "episodes").episodes())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_recognised_and_gives_the_same_episodes(import_list, out, layout):
    report = import_list(make_trajectories(layout))
    success, limit = episodes(out)
    assert report["layout"] == layout
    assert [len(success.steps), len(limit.steps)] == [5, HORIZON]
    assert [success.stop_reason, limit.stop_reason] == [StopReason.SUCCESS, StopReason.TIME_LIMIT]
    assert [step.reward for step in success.steps] == [0, 0, 0, 1, 0]
    assert success.task.text == "Search for mug 1"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_report_counts_what_is_in_the_file(import_list, layout):
    counts = import_list(make_trajectories(layout))["counts"]
    assert {name: counts[name] for name in ("trajectories", "steps", "empty", "episodes", "success", "truncated")} == {
        "trajectories": 3,
        "steps": 14,
        "empty": 1,
        "episodes": 2,
        "success": 1,
        "truncated": 1,
    }
    unusual = ("differing_returns", "differing_rewards", "differing_prompts", "broken_sequences", "zero_features")
    assert [counts[name] for name in unusual] == [0] * 5


def test_the_path_of_a_screen_is_known_to_be_after_the_action_in_the_first_stage_only(import_list, tmp_path):
    assert import_list(make_trajectories("digirl"))["image_paths"] == "after"
    path = save(tmp_path / "other.pt", make_trajectories("digiq"))
    assert import_trajectories(path, tmp_path / "other")["image_paths"] == "before"


def test_actions_are_parsed_and_their_texts_kept(import_list, out):
    steps = make_trajectories("digiq")
    import_list(steps)
    first = episodes(out)[0].steps[0]
    assert first.action_text == steps[0][0]["action"]
    assert first.action is not None
    assert autoui(first.action.x, first.action.y) == first.action_text


def test_an_action_that_is_none_is_kept_with_the_reason(import_list, out):
    steps = make_trajectory("digirl", length=2, success=False)
    steps[1]["action"] = "nonsense"
    report = import_list([steps])
    assert episodes(out)[0].steps[1].parse_error == "action_type is missing"
    assert report["counts"]["unparsable_actions"] == 1


def test_the_action_at_the_horizon_was_never_executed_and_is_a_sample_of_the_last_state(import_list, out):
    trajectories = make_trajectories("digiq")
    import_list(trajectories)
    episode = episodes(out)[1]
    assert (episode.steps[-1].action_text, episode.is_terminal) == (None, False)
    rows = CandidateStore(out / "candidates").for_state(episode.episode_id, HORIZON - 1)
    assert sum(row.multiplicity for row in rows) == CANDIDATES
    assert trajectories[2][-1]["action"] in {row.action_text for row in rows}
    assert not any(row.is_behaviour for row in rows)


def test_a_trajectory_that_ends_without_done_was_cut_short(import_list, out):
    steps = make_trajectory("digirl", length=3, success=False)
    steps[-1]["done"] = False
    assert import_list([steps])["counts"]["unfinished"] == 1
    assert episodes(out)[0].stop_reason is StopReason.DEVICE_ERROR


def test_an_end_before_the_horizon_without_success_is_the_agents(import_list, out):
    import_list([make_trajectory("digirl", length=3, success=False)])
    assert (episodes(out)[0].stop_reason, len(episodes(out)[0].steps)) == (StopReason.AGENT_STOP, 4)


@pytest.mark.parametrize(
    ("name", "length", "horizon"), [("general-3trajs.pt", 4, 10), ("webshop.pt", 4, 20), ("mine.pt", 4, 4)]
)
def test_the_horizon_follows_from_the_name_or_else_the_longest_trajectory(tmp_path, out, name, length, horizon):
    path = save(tmp_path / name, [make_trajectory("digirl", length=length, success=True)])
    assert import_trajectories(path, out)["horizon"] == horizon


def test_the_time_in_the_path_of_a_screen_is_when_the_episode_began(import_list, out):
    import_list(make_trajectories("digiq"))
    assert episodes(out)[0].steps[0].started_at == 1715155211.5


@pytest.mark.parametrize("layout", WITH_CANDIDATES)
def test_candidates_are_unique_with_multiplicity_beside_the_executed_action(import_list, out, layout):
    steps = make_trajectory(layout, length=1, success=True)
    texts = [autoui(0.1, 0.1), autoui(0.2, 0.2), autoui(0.2, 0.2), autoui(0.1, 0.1)]
    steps[0] |= {"action": texts[0], "action_list": texts if layout == "gradio" else "<split>".join(texts)}
    import_list([steps])
    rows = CandidateStore(out / "candidates").for_state(episodes(out)[0].episode_id, 0)
    assert [(row.action, row.multiplicity, row.is_behaviour) for row in rows] == [
        (tap(0.1, 0.1), 1, True),
        (tap(0.2, 0.2), 2, False),
    ]


@pytest.mark.parametrize("layout", WITH_CANDIDATES)
def test_features_of_states_and_candidates_are_those_of_the_file(import_list, out, layout):
    trajectories = make_trajectories(layout)
    import_list(trajectories)
    name = episodes(out)[0].episode_id
    states, actions = (FeatureStore(out / "features" / kind).open() for kind in ("states", "actions"))
    assert (states.dim, actions.dim, states.fingerprint.model) == (STATE_DIM, ACTION_DIM, "legacy")
    last = trajectories[0][3]
    rows = states.rows(states.locate([(name, 3, None), (name, 4, None)]))
    np.testing.assert_array_equal(rows, [last["image_features"], last["next_image_features"]])
    row = actions.rows(actions.locate([(name, 3, last["action"])]))
    np.testing.assert_array_equal(row[0], last["q_rep_out"])


def test_features_in_half_precision_stay_so(import_list, out):
    steps = make_trajectory("digiq", length=2, success=True)
    for step in steps:
        step["q_rep_out_list"] = step["q_rep_out_list"].astype(np.float16)
    import_list([steps])
    assert FeatureStore(out / "features" / "actions").open().dtype == np.float16


def test_zero_features_are_missing(import_list, out):
    steps = make_trajectory("gradio", length=1, success=True)
    steps[0]["q_rep_out_list"][1] = np.zeros(ACTION_DIM, np.float32)
    counts = import_list([steps])["counts"]
    assert (counts["zero_features"], counts["missing_features"]) == (1, 1)
    assert len(FeatureStore(out / "features" / "actions").open()) == CANDIDATES - 1


def test_candidates_that_were_joined_twice_are_taken_apart(import_list, out):
    steps = make_trajectory("vllm", length=2, success=True)
    plain = [step["action_list"] for step in steps]
    for step in steps:
        step["action_list"] = "<split>".join(step["action_list"])
    counts = import_list([steps])["counts"]
    assert (counts["corrupt_candidates"], counts["repaired_candidates"]) == (2, 2)
    texts = {row.action_text for row in CandidateStore(out / "candidates").for_state(episodes(out)[0].episode_id, 0)}
    assert texts == set(plain[0].split("<split>"))


def test_characters_that_do_not_begin_with_the_executed_action_are_not_taken_for_candidates(import_list):
    steps = make_trajectory("vllm", length=1, success=True)
    steps[0]["action_list"] = "<split>".join("garbage")
    counts = import_list([steps])["counts"]
    assert (counts["corrupt_candidates"], counts["repaired_candidates"], counts["candidates"]) == (1, 0, 1)


def test_ragged_candidates_are_counted_and_paired_as_far_as_they_go(import_list, out):
    steps = make_trajectory("gradio", length=1, success=True)
    del steps[0]["q_rep_out_list"][2:]
    counts = import_list([steps])["counts"]
    assert (counts["ragged_candidates"], counts["missing_features"]) == (1, CANDIDATES - 2)


def test_a_step_without_features_among_others_is_imported_without(import_list, out):
    steps = make_trajectory("gradio", length=3, success=True)
    for key in ("q_rep_out_list", "q_rep_out", "action_list"):
        del steps[1][key]
    import_list([steps])
    assert len(FeatureStore(out / "features" / "actions").open()) == 2 * CANDIDATES


def test_stored_returns_of_another_discount_are_counted(import_list):
    assert import_list(make_trajectories("digirl"), gamma=0.5)["counts"]["differing_returns"] == 3


def test_the_golden_return_is_found_right(import_list):
    steps = make_trajectory("digirl", length=5, success=True)
    assert float(steps[0]["mc_return"]) == pytest.approx(0.81450625)
    assert import_list([steps])["counts"]["differing_returns"] == 0


def test_states_that_do_not_follow_from_the_step_before_are_counted(import_list):
    steps = make_trajectory("digirl", length=3, success=True)
    steps[1]["image_features"] = steps[1]["image_features"] + 1
    assert import_list([steps])["counts"]["broken_sequences"] == 1


def test_stacked_frames_are_those_of_the_original(import_list, out):
    steps = make_trajectory("digirl", length=2, success=True)
    import_list([steps], frame_stack=True)
    x0, x1, after = steps[0]["image_features"], steps[1]["image_features"], steps[1]["next_image_features"]
    rows = FeatureStore(out / "features" / "states").open().rows([0, 1, 2])
    np.testing.assert_array_equal(rows, [[*x0, *x0], [*x0, *x1], [*x1, *after]])


@pytest.mark.parametrize("layout", WITH_CANDIDATES)
def test_the_learner_reads_what_was_imported(import_list, out, layout):
    import_list(make_trajectories(layout))
    stores = PinnedStores.open(RunPaths(out))
    views = FeatureViews.open(out / "features", stores.snapshots)
    [block] = blocks_of(stores.episodes, stores.candidates, views, out)
    found = list(frames(block.episodes, block.candidates, block.index))
    assert [(len(frame.rewards), len(frame.states), frame.terminal) for frame in found] == [
        (4, 5, True),
        (9, 10, False),
    ]


def test_a_second_import_adds_nothing(import_list, out, read_content):
    first = import_list(make_trajectories("digiq"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    second = import_list(make_trajectories("digiq"))
    assert (first["episodes_added"], second["episodes_added"]) == (2, 0)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert first["counts"] == second["counts"]


@pytest.mark.parametrize("failing", ["episodes", "candidates", "states", "actions"])
def test_an_import_that_was_cut_short_completes_when_it_is_repeated(
    import_list, out, tmp_path, monkeypatch, read_content, failing
):
    trajectories = [make_trajectory("digiq", length=3, success=True, seed=seed) for seed in range(20)]
    owner = {"episodes": EpisodeStore, "candidates": CandidateStore}.get(failing, FeatureStore)
    append, calls = owner.append, []

    def interrupted(self, *args):
        calls.append(self.path.name)
        if calls.count(failing) == 2:
            raise KeyboardInterrupt
        return append(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, "append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            import_list(trajectories)
    import_list(trajectories)
    whole = tmp_path / "whole"
    import_trajectories(tmp_path / "file.pt", whole, settings=ImportSettings(horizon=HORIZON))
    assert read_content(out) == read_content(whole)


def test_the_same_file_with_other_settings_is_refused(import_list, out):
    import_list(make_trajectories("digiq"))
    with pytest.raises(InputError, match="imported with horizon 10, not 7"):
        import_list(make_trajectories("digiq"), horizon=7)


def test_another_file_with_features_of_another_length_is_refused(import_list, out):
    import_list(make_trajectories("digiq"))
    steps = make_trajectory("digiq", length=1, success=True)
    steps[0]["q_rep_out_list"] = np.ones((CANDIDATES, 3), np.float32)
    del steps[0]["q_rep_out"]
    with pytest.raises(InputError, match="action_dim 8, this file has 3"):
        import_list([steps])


def test_two_files_can_lie_in_one_store(import_list, out):
    import_list(make_trajectories("digiq"))
    assert import_list([make_trajectory("digiq", length=2, success=True, seed=9)])["episodes_added"] == 1
    assert len(EpisodeStore(out / "episodes")) == 3


def test_the_report_lies_beside_the_stores(import_list, out):
    report = import_list(make_trajectories("digiq"))
    with open(report["report"]) as file:
        kept = json.load(file)
    assert kept["counts"] == report["counts"]


def test_features_can_be_left_out(import_list, out):
    import_list(make_trajectories("digiq"), features=False)
    assert not (out / "features").exists()
    assert len(EpisodeStore(out / "episodes")) == 2


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda step: step.pop("action"), "trajectory 0, step 1: has no 'action'"),
        (lambda step: step.update(reward="much"), "trajectory 0, step 1: reward is of type str"),
        (lambda step: step.update(reward=float("nan")), "trajectory 0, step 1: reward is not a finite number"),
        (lambda step: step.update(image_features=[1.0]), "image_features is not an array"),
        (lambda step: step.update(image_features=np.ones((2, 3))), r"image_features holds an array \[2, 3\]"),
        (lambda step: step.update(image_features=np.ones(3, np.float32)), "features of states of different lengths"),
        (lambda step: step.update(task="x" * 70_000), "task has 70,000 characters"),
        (lambda step: step.update(action_list=["x" * 70_000]), "an action of more than 65,536 characters"),
        (lambda step: step.update(action_list=["x"] * 5000), "action_list has 5,000 actions"),
        (lambda step: step.update(action_list=7), "action_list is neither"),
        (lambda step: step.update(q_rep_out_list="x"), "q_rep_out_list is neither"),
        (lambda step: (step.pop("task"), step.pop("observation")), "neither a task nor a prompt"),
    ],
)
def test_a_step_that_is_none_is_named_and_nothing_is_written(import_list, out, change, line):
    steps = make_trajectory("digiq", length=3, success=True)
    change(steps[1])
    with pytest.raises(InputError, match=line):
        import_list([steps])
    assert not out.exists()


def test_a_task_that_is_missing_is_read_from_the_prompt(import_list, out):
    steps = make_trajectory("digirl", length=1, success=True)
    del steps[0]["task"]
    import_list([steps])
    assert episodes(out)[0].task.text == "Search for mug 0"


@pytest.mark.parametrize("trajectories", [[], [[]], [[], []]])
def test_a_file_without_a_step_is_refused(import_list, out, trajectories):
    with pytest.raises(InputError, match="holds no step"):
        import_list(trajectories)
    assert not out.exists()


def test_a_defect_in_writing_is_not_blamed_on_the_file(import_list, monkeypatch):
    def broken(self, episodes):
        raise ValueError("a defect")

    monkeypatch.setattr(EpisodeStore, "append", broken)
    with pytest.raises(ValueError, match="a defect"):
        import_list(make_trajectories("digiq"))
