"""The benchmark of the transports finds what differs, and nothing where nothing does."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import transports
from benchmarks._transport_episodes import Comparison, RecordedActions, all_overlap, compare
from benchmarks.report import Spread
from benchmarks.transports import Outcome, Transports
from digiq_ray.core.actions import ActionType, parse_action
from digiq_ray.core.config import dump_yaml, load_config
from digiq_ray.core.episodes import Episode, Step, StopReason
from digiq_ray.core.errors import InputError, StoreError
from digiq_ray.core.policies import ActRequest
from digiq_ray.core.rng import seed_of
from digiq_ray.core.settings import RunSettings
from digiq_ray.core.tasks import Task
from digiq_ray.vlm.tiny import SHIPPED
from emulator_workers.jobs import make_jobs
from emulator_workers.pool import PoolReport
from emulator_workers.stats import RolloutStats
from tests.emulator_workers.appium_testing import need_adb, need_chromium

_SUCCESS, _LATE, _BROKEN = StopReason.SUCCESS, StopReason.TIME_LIMIT, StopReason.DEVICE_ERROR
TASK = Task("t/0", "open maps", 5, "test")


def screen(colour: int, size: tuple[int, int] = (4, 6), level: int = 1, mode: str = "RGB") -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, (colour, 0, 9)).convert(mode).save(encoded, "PNG", compress_level=level)
    return encoded.getvalue()


def episode(
    actions: list[str], *, screens: list[bytes] | None = None, end: StopReason = _SUCCESS, name: str = "a"
) -> Episode:
    shown = screens if screens is not None else [screen(number) for number in range(len(actions) + 1)]
    steps = [
        Step(image, text, None if text is None else parse_action(text), None, 0.0, None, 1.0, 1.5)
        for image, text in zip(shown, [*actions, None], strict=True)
    ]
    return Episode(name, TASK, steps, end, "v1", "phone", "oracle")


def test_equal_episodes_have_no_difference() -> None:
    found = compare([episode(["home", "back"])], [episode(["home", "back"])])
    assert found == Comparison(episodes=1, actions=2, screens=3)
    assert found.exact


def test_screens_are_compared_as_pixels_not_as_files() -> None:
    one, other = [screen(200, level=1)], [screen(200, level=9, mode="RGBA")]
    assert one != other
    assert compare([episode([], screens=one)], [episode([], screens=other)]).exact


def test_a_screen_that_differs_is_counted_and_named() -> None:
    image, touched = Image.open(io.BytesIO(screen(2))), io.BytesIO()
    image.putpixel((1, 1), (3, 0, 9))
    image.save(touched, "PNG")
    other = episode(["home"], screens=[screen(1), touched.getvalue()])
    found = compare([episode(["home"], screens=[screen(1), screen(2)])], [other])
    assert (found.screens, found.different, found.parted) == (2, 1, 0)
    assert found.first == "t/0 (open maps), step 1: 1 of 24 pixels"


def test_a_screen_of_another_size_differs() -> None:
    found = compare([episode([], screens=[screen(1)])], [episode([], screens=[screen(1, (6, 4))])])
    assert found.first == "t/0 (open maps), step 0: 4x6 against 6x4 pixels"


def test_screens_are_compared_up_to_the_action_where_episodes_part() -> None:
    one = episode(["home", "back", "home"])
    other = episode(["home", "enter", "home"], screens=[screen(0), screen(1), screen(9), screen(9)], end=_LATE)
    found = compare([one], [other])
    expected = Comparison(episodes=1, actions=1, parted=1, parted_alike=1, outcomes=1, screens=2)
    assert found == expected


def test_an_episode_that_parts_after_another_screen_does_not_part_alike() -> None:
    other = episode(["back"], screens=[screen(9), screen(1)])
    found = compare([episode(["home"])], [other])
    assert (found.parted, found.parted_alike, found.different, found.screens) == (1, 0, 1, 1)


def test_an_episode_that_a_device_error_cut_short_parts_and_says_why() -> None:
    found = compare([episode(["home", "back"])], [episode(["home"], end=_BROKEN)])
    assert (found.parted, found.cut, found.parted_alike, found.different, found.screens) == (1, 1, 0, 0, 2)
    assert not found.exact


def test_episodes_of_other_jobs_are_not_compared() -> None:
    with pytest.raises(StoreError, match="play the same jobs"):
        compare([episode([])], [episode([], name="b")])


def test_intervals_overlap_only_if_each_two_do() -> None:
    assert all_overlap([(0.1, 0.4), (0.2, 0.5), (0.4, 0.9)])
    assert not all_overlap([(0.1, 0.4), (0.3, 0.6), (0.5, 0.9)])


def test_recorded_actions_are_written_again_by_the_seed_of_their_step() -> None:
    jobs = make_jobs([TASK, replace(TASK, task_id="t/1")], run="r", seed=3)
    recorded = {job.episode_id: episode([text, "back"]) for job, text in zip(jobs, ["home", "enter"], strict=True)}
    policy = RecordedActions(jobs, recorded)

    def asked(job: int, step: int) -> ActRequest:
        return ActRequest(b"", "", (), seed_of(jobs[job].seed, step))

    texts = [result.text for result in policy.act([asked(1, 0), asked(0, 0), asked(0, 1), asked(0, 2)])]
    assert texts[:3] == ["enter", "home", "back"]
    assert parse_action(texts[3]).type is ActionType.COMPLETE


def outcome(interval: tuple[float, float], comparison: Comparison | None = None) -> Outcome:
    result = {"ci95": list(interval), "successes": 5, "n": 10, "success_rate": 0.5, "infra_errors": 0}
    report = PoolReport(10, 0, {}, RolloutStats(device_errors={"SessionLost": 2}), 1.0)
    return Outcome(
        result=result, report=report, step_seconds=Spread(0.1, 0.1, 0.2), comparison=comparison or Comparison()
    )


GOOD = Comparison(episodes=10, actions=50, screens=60)


def verdict(chromium: tuple[float, float] = (0.3, 0.7), stub: Comparison = GOOD, again: Comparison = GOOD) -> list[str]:
    outcomes = {
        "simulated": outcome((0.3, 0.7)),
        "stub": outcome((0.3, 0.7), stub),
        "chromium": outcome(chromium, replace(GOOD, different=60, parted=4)),
    }
    return transports.failures(outcomes, outcome((0.3, 0.7), again))


def test_equal_screens_and_overlapping_intervals_pass() -> None:
    assert verdict() == []
    assert verdict(stub=replace(GOOD, parted=2, parted_alike=2, outcomes=1)) == []


def test_what_must_not_be_is_named() -> None:
    assert verdict(chromium=(0.8, 0.9)) == ["the 95 % intervals do not all overlap"]
    assert "1 of 60 screens differ; the first: here" in verdict(stub=replace(GOOD, different=1, first="here"))[0]
    assert "done again: 1 of 60" in verdict(again=replace(GOOD, different=1))[0]
    assert "1 episodes were not whole, 2 ended differently" in verdict(again=replace(GOOD, parted=1, outcomes=2))[0]


def test_a_line_of_the_table_leaves_out_what_was_not_compared() -> None:
    alone, compared = outcome((0.3, 0.7)).row("simulated"), outcome((0.3, 0.7), GOOD).row("stub")
    assert list(alone) == list(compared)
    assert (alone["screens"], compared["screens"], compared["different"]) == (None, 60, 0)
    assert (alone["device_errors"], alone["ci95"]) == (2, "0.300 to 0.700")


def test_a_run_without_a_trained_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no trained policy"):
        Transports(tmp_path, tasks=1, root=tmp_path, serial=True)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose trained policy is the untrained model."""
    root = tmp_path / "run"
    (root / "models").mkdir(parents=True)
    (root / "models" / "digi_q").symlink_to(SHIPPED, target_is_directory=True)
    (root / "config.yaml").write_text(dump_yaml(load_config(RunSettings, None, ["devices.slots=2"])))
    return root


@pytest.mark.slow
def test_three_transports_agree(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need_adb()
    need_chromium()
    words = [str(run), "--tasks", "1", "--serial", "--keep", str(tmp_path / "kept"), "--json", str(tmp_path / "t.json")]
    monkeypatch.setattr(sys, "argv", ["transports", *words])
    transports.main()
    found = json.loads((tmp_path / "t.json").read_text())
    rows = {row["transport"]: row for row in found["rows"]}
    assert list(rows) == ["simulated", "stub", "chromium", "stub, done again"]
    again = rows["stub, done again"]
    assert (again["successes"], again["n"]) == (rows["simulated"]["successes"], 1)
    assert again["screens"] == again["actions"] + 1 > 1
    assert (again["different"], again["device_errors"], again["parted"]) == (0, 0, 0)
    assert found["ratios"]["screens_different"] == 0
    assert found["ratios"]["intervals_overlap"] == 1
    assert "stub, done again" in capsys.readouterr().out
