"""Exporting: what torch.load reads, what the original trains on, and the way there and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from legacy_files import CANDIDATES, HORIZON, LAYOUTS, autoui, make_trajectories, make_trajectory, save

from digiq_ray.core.actions import ActionType, press, swipe, tap, type_text
from digiq_ray.core.episodes import Episode, Step, StopReason
from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.core.tasks import Task
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.legacy.emit import write_trajectories
from digiq_ray.store.legacy.exporting import export_trajectories
from digiq_ray.store.legacy.file import LegacyFile
from digiq_ray.store.legacy.importing import import_trajectories
from digiq_ray.store.legacy.prompt import observation_text
from digiq_ray.store.legacy.settings import ImportSettings

RELEASED = {
    "observation", "next_observation", "image_features", "next_image_features", "image_path", "video_path", "task",
    "reward", "done", "action", "trajectory_reward", "mc_return", "action_list", "q_rep_out", "q_rep_out_list",
}  # fmt: skip


def load(path: Path) -> list[list[dict[str, object]]]:
    return torch.load(path, weights_only=False)


def back(path: Path, out: Path) -> None:
    import_trajectories(path, out, settings=ImportSettings(horizon=HORIZON))


@pytest.fixture
def exported(import_list, out, tmp_path):
    """Imports a layout, exports it, and gives what torch.load reads."""

    def run(layout: str, **options: object) -> list[list[dict[str, object]]]:
        import_list(make_trajectories(layout))
        export_trajectories(out, tmp_path / "back.pt", **options)
        return load(tmp_path / "back.pt")

    return run


@pytest.mark.parametrize("layout", ["digiq", "gradio", "vllm"])
def test_torch_load_reads_the_released_keys_with_their_values(exported, layout):
    wanted = [steps for steps in make_trajectories(layout) if steps]
    found = exported(layout)
    assert [len(steps) for steps in found] == [4, HORIZON]
    assert {key for steps in found for step in steps for key in step} == RELEASED
    for one, two in zip(
        (step for steps in found for step in steps), (s for steps in wanted for s in steps), strict=True
    ):
        for key in ("observation", "task", "reward", "done", "trajectory_reward"):
            assert one[key] == two[key], key
        if two is not wanted[1][-1]:  # which of the samples there was not executed is not kept
            assert (one["action"], one["next_observation"]) == (two["action"], two["next_observation"])
        np.testing.assert_array_equal(one["image_features"], two["image_features"])
        assert one["mc_return"] == pytest.approx(two["mc_return"])
        assert one["q_rep_out_list"].shape == np.asarray(two["q_rep_out_list"]).shape


def test_the_executed_action_comes_first_with_its_feature(exported):
    wanted, found = make_trajectories("digiq")[0], exported("digiq")[0]
    for one, two in zip(found, wanted, strict=True):
        texts = one["action_list"].split("<split>")
        assert texts[0] == one["action"] == two["action"]
        assert sorted(texts) == sorted(two["action_list"].split("<split>"))
        np.testing.assert_array_equal(one["q_rep_out"], two["q_rep_out"])
        np.testing.assert_array_equal(one["q_rep_out_list"][0], two["q_rep_out"])


def test_without_candidates_there_are_no_keys_for_them(exported):
    assert {key for step in exported("digirl")[0] for key in step} == RELEASED - {
        "action_list",
        "q_rep_out",
        "q_rep_out_list",
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_import_export_import_changes_nothing(import_list, out, tmp_path, read_content, layout):
    import_list(make_trajectories(layout))
    export_trajectories(out, tmp_path / "back.pt")
    back(tmp_path / "back.pt", tmp_path / "again")
    assert read_content(tmp_path / "again") == read_content(out)


TEXTS = st.one_of(
    st.builds(autoui, st.integers(0, 100).map(lambda n: n / 100), st.just(0.5)),
    st.sampled_from(["nonsense", "a", "", "a<split>b", '"action_type": "PRESS_BACK"', "käse\n"]),
)


@st.composite
def odd_trajectories(draw: st.DrawFn) -> list[list[dict[str, object]]]:
    """Trajectories with all that importing knows to be unusual."""
    layout = draw(st.sampled_from(LAYOUTS))
    found = []
    for seed in range(draw(st.integers(1, 3))):
        length = draw(st.integers(0, HORIZON))
        steps = make_trajectory(layout, length=length, success=draw(st.booleans()), seed=seed)
        for step in steps:
            texts = draw(st.lists(TEXTS, min_size=CANDIDATES, max_size=CANDIDATES))
            step["action"] = draw(st.sampled_from([texts[0], "other"]))
            if "action_list" in step:
                step["action_list"] = texts if draw(st.booleans()) else texts[: draw(st.integers(1, CANDIDATES))]
                for row in draw(st.sets(st.integers(0, CANDIDATES - 1))):
                    step["q_rep_out_list"][row] = np.zeros_like(step["q_rep_out"])
                if draw(st.integers(0, 4)) == 0:
                    del step["q_rep_out_list"], step["q_rep_out"], step["action_list"]
            if draw(st.integers(0, 4)) == 0:
                step["image_features"] = np.zeros_like(step["image_features"])
        if steps and draw(st.booleans()):
            steps[-1]["done"] = False
        found.append(steps)
    if not any(found):
        found.append(make_trajectory(layout, length=1, success=True))
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trajectories=odd_trajectories())
def test_the_way_there_and_back_changes_nothing_whatever_the_file_holds(tmp_path_factory, content_of, trajectories):
    folder = tmp_path_factory.mktemp("round")
    back(save(folder / "file.pt", trajectories), folder / "one")
    export_trajectories(folder / "one", folder / "back.pt", pad=False)
    back(folder / "back.pt", folder / "two")
    assert content_of(folder / "two") == content_of(folder / "one")


def test_screens_go_there_and_back(tmp_path, read_content):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(5):
        (pictures / f"1715155211.5_{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes([number]))
    path = save(tmp_path / "file.pt", make_trajectories("digiq")[:1])
    import_trajectories(path, tmp_path / "one", images=pictures)
    export_trajectories(tmp_path / "one", tmp_path / "back.pt", images=tmp_path / "written")
    import_trajectories(tmp_path / "back.pt", tmp_path / "two", images=tmp_path / "written")
    assert read_content(tmp_path / "two") == read_content(tmp_path / "one")
    assert all(step.screen for one in EpisodeStore(tmp_path / "two" / "episodes").episodes() for step in one.steps)


def test_every_step_gets_equally_many_candidates_because_the_original_needs_it(import_list, out, tmp_path):
    steps = make_trajectory("gradio", length=3, success=True)
    steps[1]["action_list"] = steps[1]["action_list"][:2]
    steps[1]["q_rep_out_list"] = steps[1]["q_rep_out_list"][:2]
    import_list([steps])
    report = export_trajectories(out, tmp_path / "back.pt")
    (found,) = load(tmp_path / "back.pt")
    assert [step["q_rep_out_list"].shape[0] for step in found] == [CANDIDATES] * 3
    assert [len(step["action_list"].split("<split>")) for step in found] == [CANDIDATES] * 3
    assert report["padded"] == CANDIDATES - 2


def own_episode(stop_reason: StopReason = StopReason.TIME_LIMIT) -> Episode:
    """An episode of this project: other texts, every action executed."""
    actions = [tap(0.25, 0.5), type_text('a "b"'), swipe(0.5, 0.8, 0.5, 0.2), press(ActionType.WAIT)]
    steps = [Step(b"png", f"own text {action.type}", action, None, 0.0, None, 1.0, 2.0) for action in actions]
    steps.append(Step(b"png", None, None, None, 0.0, None, 3.0, 3.0))
    task = Task(task_id="t/1", text="Find the mug", horizon=4, split="train")
    return Episode("episode-1", task, steps, stop_reason, "v1", "sim", "oracle")


def test_a_store_of_this_project_is_written_in_the_originals_words(tmp_path):
    EpisodeStore.create(tmp_path / "own" / "episodes").append([own_episode()])
    report = export_trajectories(tmp_path / "own", tmp_path / "own.pt")
    (steps,) = load(tmp_path / "own.pt")
    assert [step["done"] for step in steps] == [False] * 4 + [True]
    assert steps[0]["action"] == autoui(0.25, 0.5)
    assert steps[1]["observation"] == observation_text("Find the mug", tap(0.25, 0.5), first=False)
    assert steps[3]["action"] == "own text wait"
    assert report["unparsable_actions"] == 1
    back(tmp_path / "own.pt", tmp_path / "back")
    (episode,) = EpisodeStore(tmp_path / "back" / "episodes").episodes()
    assert [step.action for step in episode.steps[:3]] == [step.action for step in own_episode().steps[:3]]


def test_an_episode_that_a_device_cut_short_ends_without_done(tmp_path):
    EpisodeStore.create(tmp_path / "own" / "episodes").append([own_episode(StopReason.DEVICE_ERROR)])
    export_trajectories(tmp_path / "own", tmp_path / "own.pt")
    assert not any(step["done"] for step in load(tmp_path / "own.pt")[0])


def test_the_golden_prompts():
    assert observation_text("Go to ebay.com", None, first=True) == "Previous Actions: Goal: Go to ebay.com</s>"
    assert observation_text("Go to ebay.com", tap(0.6779, 0.7852), first=False) == (
        'Previous Actions: "action_type": "DUAL_POINT", "touch_point": "[0.7852, 0.6779]", '
        '"lift_point": "[0.7852, 0.6779]", "typed_text": "" Goal: Go to ebay.com</s>'
    )
    assert observation_text("x", press(ActionType.WAIT), first=False) == "Previous Actions:  Goal: x</s>"
    assert "STATUS_TASK_COMPLETE" in observation_text("x", press(ActionType.IMPOSSIBLE), first=False)


def test_an_existing_file_is_not_overwritten(import_list, out, tmp_path):
    import_list(make_trajectories("digiq"))
    (tmp_path / "back.pt").write_bytes(b"mine")
    with pytest.raises(InputError, match="exists; give another --out"):
        export_trajectories(out, tmp_path / "back.pt")
    assert (tmp_path / "back.pt").read_bytes() == b"mine"


def test_an_export_that_fails_leaves_nothing(import_list, out, tmp_path):
    import_list(make_trajectories("digiq"))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "place").mkdir()
    with pytest.raises(KeyboardInterrupt):
        export_trajectories(out, tmp_path / "place" / "back.pt", on_progress=interrupt)
    assert list((tmp_path / "place").iterdir()) == []


def test_a_directory_without_episodes_is_refused(tmp_path):
    with pytest.raises(StoreError, match="episodes"):
        export_trajectories(tmp_path, tmp_path / "back.pt")
    EpisodeStore.create(tmp_path / "episodes")
    with pytest.raises(StoreError, match="holds no episodes"):
        export_trajectories(tmp_path, tmp_path / "back.pt")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trajectories=st.lists(st.lists(st.dictionaries(st.text(max_size=5), PLAIN, max_size=4), max_size=3), max_size=4))
def test_torch_load_and_the_importer_read_what_is_written(tmp_path_factory, trajectories):
    path = tmp_path_factory.mktemp("emit") / "file.pt"
    with path.open("wb") as file:
        write_trajectories(file, trajectories)
    assert load(path) == trajectories
    assert list(LegacyFile.open(path).trajectories()) == trajectories


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3), (0, 4)])
def test_torch_load_reads_the_arrays_that_are_written(tmp_path, dtype, shape):
    array = np.arange(np.prod(shape), dtype=dtype).reshape(shape)
    path = tmp_path / "file.pt"
    with path.open("wb") as file:
        write_trajectories(file, [[{"a": array}]])
    for found in (load(path), list(LegacyFile.open(path).trajectories())):
        np.testing.assert_array_equal(found[0][0]["a"], array)
        assert found[0][0]["a"].dtype == array.dtype.newbyteorder("=")


def test_what_has_no_place_in_a_file_is_refused(tmp_path):
    with (tmp_path / "file.pt").open("wb") as file, pytest.raises(TypeError, match="set has no place"):
        write_trajectories(file, [[{"a": {1}}]])
