"""``digiq data``: what the commands print, their JSON, their exit codes, and that bad input ends in one line."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from digiq_ray.cli.main import main
from digiq_ray.core.actions import ActionType, press, tap
from digiq_ray.core.episodes import Episode, Step, StopReason
from digiq_ray.core.tasks import Task
from digiq_ray.store.candidates import Candidate, CandidateStore
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.features import FeatureKey, FeatureStore, Fingerprint

_TABLE = {"data": ("digiq_ray.cli.data:data", "data sets")}
_FINGERPRINT = Fingerprint(model="m", layer=3, pooling="last", prompt="p", image="i")

_ROW = np.ones(4, np.float16).tobytes()

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``digiq data ...``: exit code, stdout, stderr."""

    def run_it(*words: object) -> tuple[int, str, str]:
        code = main(["data", *map(str, words)], table=_TABLE)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_it


def _json(result: tuple[int, str, str]) -> dict[str, Any]:
    return json.loads(result[1].splitlines()[-1])


def _png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 80), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def _episode(number: int, reason: StopReason, shades: tuple[int | None, ...] = (0, 0, 200)) -> Episode:
    """Two actions, of which the first changes nothing, unless ``shades`` says otherwise (``None``: a lost screen)."""
    screens = [b"" if shade is None else _png(shade) for shade in shades]
    steps = [
        Step(screens[0], "tap 0.50 0.50", tap(0.5, 0.5), None, 0.0, -0.5, 1.0, 2.0),
        Step(screens[1], "hello", None, "unknown action 'hello'", 1.0, None, 2.0, 3.0),
        Step(screens[2], None, None, None, 0.0, None, 3.0, 3.0),
    ]
    if number % 2:
        steps[1] = Step(screens[1], "back", press(ActionType.BACK), None, 0.0, None, 2.0, 3.0)
    split = "test" if number >= 4 else "train"
    task = Task(task_id=f"t/{number % 3}", text=f"goal {number % 3}", horizon=5, split=split)
    return Episode(f"{number:032d}", task, tuple(steps), reason, f"v{number % 2}", f"phone-{number % 2}", "oracle")


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    """Six episodes in six segments: 2 successes, 1 device error, 3 that ran out of time."""
    store = EpisodeStore.create(tmp_path / "episodes")
    reasons = [StopReason.SUCCESS] * 2 + [StopReason.DEVICE_ERROR] + [StopReason.TIME_LIMIT] * 3
    for number, reason in enumerate(reasons):
        store.append([_episode(number, reason)])
    return store.path


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    store = CandidateStore.create(tmp_path / "candidates")
    shared = {"step": 0, "logprob": -1.0, "policy_version": "v1", "temperature": 1.0}
    one = {"action_text": "tap 0.50 0.50", "action": tap(0.5, 0.5), "parse_error": None, "is_behaviour": True}
    two = {"action_text": "hello", "action": None, "parse_error": "unknown", "is_behaviour": False}
    for episode in "ab":
        store.append(episode, [Candidate(episode_id=episode, multiplicity=3, **kind, **shared) for kind in (one, two)])
    return store.path


@pytest.fixture
def features(tmp_path: Path) -> Path:
    store = FeatureStore.create(tmp_path / "features")
    keys = [FeatureKey("e", i, None if i % 2 else f"tap {i}") for i in range(6)]
    store.append("a", keys, np.ones((6, 4), np.float16), _FINGERPRINT)
    return store.path


def _break(path: Path, suffix: str) -> str:
    name = sorted(name for name in os.listdir(path) if name.endswith(suffix))[0]
    content = bytearray((path / name).read_bytes())
    content[content.index(_ROW) if suffix == ".arrow" else 40] ^= 255
    (path / "fresh").write_bytes(content)
    os.replace(path / "fresh", path / name)
    return name


def test_the_group_lists_its_commands(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(name in out for name in ("info", "verify", "compact", "snapshot", "export"))


def test_an_unknown_command_names_the_nearest(run: Run) -> None:
    assert run("verfy") == (2, "", "digiq: no such command verfy; did you mean verify?\n")


@pytest.mark.parametrize("command", ["info", "verify", "compact", "snapshot"])
def test_a_missing_data_set_is_one_line(run: Run, tmp_path: Path, command: str) -> None:
    code, _, err = run(command, tmp_path / "nothing")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "does not exist" in err


def test_info_counts_episodes(run: Run, episodes: Path) -> None:
    report = _json(run("info", episodes, "--json"))
    assert (report["episodes"], report["steps"], report["segments"]) == (6, 12, 6)
    assert report["bytes"] == sum(path.stat().st_size for path in episodes.iterdir())
    assert report["stop_reasons"] == {"success": 2, "device_error": 1, "time_limit": 3}
    assert report["splits"] == {"train": 4, "test": 2}
    assert report["policy_versions"] == {"v0": 3, "v1": 3}
    assert report["devices"] == {"phone-0": 3, "phone-1": 3}
    assert report["action_types"] == {"tap": 6, "back": 3}
    assert report["versions"] == {"2": 6}
    assert report["parse_errors"] == 3
    assert (report["screens"], report["unique_screens"], report["lost_screens"]) == (18, 2, 0)


def test_info_leaves_device_errors_out_of_success_rates(run: Run, episodes: Path) -> None:
    report = _json(run("info", episodes, "--json"))
    everything = report["success"]["all"]
    assert (everything["episodes"], everything["n"], everything["successes"]) == (6, 5, 2)
    assert everything["success_rate"] == pytest.approx(0.4)
    assert everything["ci95"] == pytest.approx([0.1176, 0.7693], abs=1e-4)
    assert report["success"]["split test"]["successes"] == 0
    assert report["tasks"]["t/2"] == {
        "episodes": 2,
        "successes": 0,
        "n": 1,
        "success_rate": 0.0,
        "ci95": [0, pytest.approx(0.7935, abs=1e-4)],
    }


def test_info_tells_how_often_an_action_changed_the_screen(run: Run, episodes: Path) -> None:
    balance = _json(run("info", episodes, "--json"))["label_balance"]
    assert (balance["successes"], balance["n"]) == (6, 12)


def test_a_lost_screen_counts_neither_as_changed_nor_as_not(run: Run, tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "lost")
    store.append([_episode(0, StopReason.SUCCESS, (0, None, 200)), _episode(1, StopReason.SUCCESS, (0, 1, None))])
    report = _json(run("info", store.path, "--json"))
    assert (report["label_balance"]["successes"], report["label_balance"]["n"]) == (1, 1)
    assert (report["screens"], report["lost_screens"]) == (4, 2)


@pytest.mark.slow
def test_info_labels_steps_by_their_pixels(run: Run, tmp_path: Path) -> None:
    store = EpisodeStore.create(tmp_path / "episodes")
    store.append([_episode(0, StopReason.SUCCESS, (0, 2, 200)), _episode(1, StopReason.SUCCESS, (0, None, 9))])
    report = _json(run("info", store.path, "--labels", 10, "--json"))
    assert (report["label_balance"]["successes"], report["label_balance"]["n"]) == (2, 2)
    assert (report["labels"]["successes"], report["labels"]["n"]) == (1, 2)


def test_info_is_a_table_for_people(run: Run, episodes: Path) -> None:
    code, out, _ = run("info", episodes)
    assert code == 0
    for text in ("6 (12 steps)", "40.0% (11.8% to 76.9%)", "split test", "t/2", "50.0%", "success 2"):
        assert text in out


def test_info_counts_screens_that_had_not_settled_if_there_are_any(run: Run, episodes: Path) -> None:
    assert _json(run("info", episodes, "--json"))["settle_tags"] == {}
    assert "not settled" not in run("info", episodes)[1]
    episode = _episode(9, StopReason.SUCCESS)
    tagged = (
        dataclasses.replace(step, settle_tag=tag)
        for step, tag in zip(episode.steps, ("frozen", None, "blank"), strict=True)
    )
    EpisodeStore(episodes).append([dataclasses.replace(episode, steps=tuple(tagged))])
    assert _json(run("info", episodes, "--json"))["settle_tags"] == {"frozen": 1, "blank": 1}
    assert "blank 1, frozen 1" in run("info", episodes)[1]


def test_info_counts_an_episode_that_is_there_twice_once(run: Run, episodes: Path, tmp_path: Path) -> None:
    other = EpisodeStore.create(tmp_path / "other")
    name = str(other.append([_episode(0, StopReason.SUCCESS), _episode(9, StopReason.SUCCESS)]))
    os.rename(other.path / name, episodes / name)
    report = _json(run("info", episodes, "--json"))
    assert (report["episodes"], report["steps"], report["segments"]) == (7, 14, 7)


def test_info_of_candidates(run: Run, candidates: Path) -> None:
    report = _json(run("info", candidates, "--json"))
    counts = {
        key: report[key] for key in ("shards", "episodes", "states", "candidates", "samples", "valid", "behaviour")
    }
    assert counts == {
        "shards": 2,
        "episodes": 2,
        "states": 2,
        "candidates": 4,
        "samples": 12,
        "valid": 2,
        "behaviour": 2,
    }
    assert "samples" in run("info", candidates)[1]


def test_info_of_features(run: Run, features: Path) -> None:
    report = _json(run("info", features, "--json"))
    assert (report["features"], report["of_states"], report["of_actions"]) == (6, 3, 3)
    assert (report["dim"], report["dtype"], report["fingerprint"]["layer"]) == (4, "float16", 3)
    assert "float16" in run("info", features)[1]


def test_info_of_an_empty_directory(run: Run, tmp_path: Path) -> None:
    assert _json(run("info", tmp_path, "--json"))["kind"] == "empty"


@pytest.mark.parametrize("kind", ["episodes", "candidates", "features"])
def test_verify_says_that_a_whole_data_set_is_whole(run: Run, request: pytest.FixtureRequest, kind: str) -> None:
    path = request.getfixturevalue(kind)
    code, out, err = run("verify", path, "--json")
    assert (code, err) == (0, "")
    assert "all whole" in out
    assert _json((code, out, err))["kind"] == kind


@pytest.mark.parametrize(("kind", "suffix"), [("episodes", ".parquet"), ("features", ".arrow")])
def test_verify_names_a_broken_file_and_ends_with_2(
    run: Run, request: pytest.FixtureRequest, kind: str, suffix: str
) -> None:
    path = request.getfixturevalue(kind)
    name = _break(path, suffix)
    code, out, err = run("verify", path, "--json")
    assert (code, len(err.splitlines())) == (2, 1)
    assert name in err
    assert "--repair" in err
    report = _json((code, out, err))
    assert (report["broken"], report["findings"][0]["file"]) == (1, name)


def test_repair_says_what_is_lost_and_ends_with_0(run: Run, episodes: Path) -> None:
    name = _break(episodes, ".parquet")
    code, out, _ = run("verify", episodes, "--repair", "--json")
    report = _json((code, out, ""))["repair"]
    assert (code, report["lost_episodes"], report["lost_rows"]) == (0, 1, 3)
    assert Path(report["set_aside"][name]).is_file()
    assert "lost: 1 episode, 3 rows" in out
    assert run("verify", episodes)[0] == 0
    assert _json(run("info", episodes, "--json"))["episodes"] == 5


def test_verify_takes_the_kind_if_no_file_can_say_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"nothing")
    code, _, err = run("verify", tmp_path)
    assert code == 2
    assert "give the kind" in err
    assert run("verify", tmp_path, "--kind", "features")[0] == 2
    assert run("verify", tmp_path, "--kind", "features", "--repair")[0] == 0


def test_compact_merges_and_prunes(run: Run, episodes: Path) -> None:
    before = sorted(os.listdir(episodes))
    code, out, _ = run("compact", episodes)
    assert code == 0
    assert "6 segments became 1 (1 merge)" in out
    assert "6 replaced segments can be deleted with --prune" in out
    assert set(before) < set(os.listdir(episodes))
    report = _json(run("compact", episodes, "--prune", "--json"))
    assert (report["removed"], report["segments_after"]) == (before, 1)
    assert len(os.listdir(episodes)) == 1
    assert _json(run("info", episodes, "--json"))["episodes"] == 6


def test_a_dry_run_of_compact_writes_nothing(run: Run, episodes: Path) -> None:
    before = sorted(os.listdir(episodes))
    code, out, _ = run("compact", episodes, "--dry-run")
    assert code == 0
    assert "would merge 6 segments" in out
    assert sorted(os.listdir(episodes)) == before


def test_prune_says_which_snapshot_pins_a_segment(run: Run, episodes: Path) -> None:
    run("snapshot", episodes, "--name", "run-1")
    code, out, _ = run("compact", episodes, "--prune")
    assert code == 0
    assert out.count("snapshot run-1 pins it") == 6
    assert len(EpisodeStore(episodes, snapshot="run-1")) == 6


def test_compact_is_for_episodes(run: Run, features: Path) -> None:
    code, _, err = run("compact", features)
    assert code == 2
    assert "holds features" in err


def test_a_target_of_nothing_is_refused(run: Run, episodes: Path) -> None:
    code, _, err = run("compact", episodes, "--target-mb", 0)
    assert (code, "--target-mb" in err) == (2, True)


def test_snapshot_prints_hash_episodes_and_segments(run: Run, episodes: Path, tmp_path: Path) -> None:
    out_file = tmp_path / "snapshot.json"
    report = _json(run("snapshot", episodes, "--out", out_file, "--json"))
    written = json.loads(out_file.read_text())
    assert (report["episodes"], report["segments"]) == (6, 6)
    assert written["snapshot_hash"] == report["snapshot_hash"] == EpisodeStore(episodes).snapshot().snapshot_hash
    assert f"{report['snapshot_hash']}: 6 episodes in 6 segments" in run("snapshot", episodes)[1]


def test_named_snapshots_are_listed(run: Run, episodes: Path) -> None:
    assert "no snapshots" in run("snapshot", episodes, "--list")[1]
    taken = _json(run("snapshot", episodes, "--name", "one", "--json"))
    listed = _json(run("snapshot", episodes, "--list", "--json"))["snapshots"]
    assert listed == [{"name": "one", "snapshot_hash": taken["snapshot_hash"], "segments": 6}]
    assert "one" in run("info", episodes)[1]


def test_a_name_that_is_taken_is_refused(run: Run, episodes: Path) -> None:
    run("snapshot", episodes, "--name", "one")
    EpisodeStore(episodes).append([_episode(9, StopReason.SUCCESS)])
    code, _, err = run("snapshot", episodes, "--name", "one")
    assert code == 2
    assert "give another name" in err


def test_candidates_have_snapshots_and_features_have_none(run: Run, candidates: Path, features: Path) -> None:
    assert _json(run("snapshot", candidates, "--name", "one", "--json"))["episodes"] == 2
    code, _, err = run("snapshot", features)
    assert (code, "holds features" in err) == (2, True)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.binary(max_size=200), st.binary(max_size=50).map(lambda noise: b"PAR1" + noise + b"PAR1")),
    name=st.sampled_from(["a.parquet", "01J00000000000000000000001.parquet", "a.arrow", "_a.snapshot.json"]),
    command=st.sampled_from(["info", "verify", "compact", "snapshot"]),
)
def test_no_bytes_end_in_anything_but_one_line(
    run: Run, tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str, command: str
) -> None:
    path = tmp_path_factory.mktemp("fuzz")
    (path / name).write_bytes(content)
    code, _, err = run(command, path)
    assert code in (0, 2)
    assert len(err.splitlines()) == (code == 2)
    assert os.listdir(path) == [name]
