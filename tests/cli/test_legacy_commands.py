"""``digiq import`` and ``digiq export-legacy``: what they print, and how they refuse."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from digiq_ray.cli.main import main
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.store.legacy.emit import write_trajectories
from digiq_ray.store.legacy.tasks import load_task_set

TABLE = {
    "import": ("digiq_ray.cli.legacy:import_", "Imports."),
    "export-legacy": ("digiq_ray.cli.legacy:export_legacy", "Exports."),
}
AITW = Path(__file__).parents[1] / "data" / "aitw"
WORDS = '"action_type": "PRESS_BACK", "touch_point": "[-1.0, -1.0]", "lift_point": "[-1.0, -1.0]", "typed_text": ""'


def run(*argv: object) -> int:
    return main([str(word) for word in argv], table=TABLE)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A trajectory of two steps, the second a success."""
    step = {
        "observation": "Previous Actions: Goal: Find the mug</s>",
        "image_features": np.ones(3, np.float32),
        "next_image_features": np.ones(3, np.float32),
        "task": "Find the mug",
        "action": f"Action Plan: [PRESS_BACK] ; Action Decision: {WORDS}",
        "action_list": [f"Action Plan: [PRESS_BACK] ; Action Decision: {WORDS}", "nonsense"],
        "q_rep_out_list": np.ones((2, 4), np.float32),
    }
    path = tmp_path / "file.pt"
    with path.open("wb") as opened:
        write_trajectories(opened, [[step | {"reward": 0, "done": False}, step | {"reward": 1, "done": True}], []])
    return path


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_an_import_prints_a_table_and_ends_with_its_report(file, tmp_path, capsys):
    assert run("import", file, "--out", tmp_path / "out", "--json") == 0
    printed = capsys.readouterr().out.splitlines()
    report = json.loads(printed[-1])
    assert (report["counts"]["trajectories"], report["counts"]["empty"], report["episodes_added"]) == (2, 1, 1)
    assert any("trajectories without a step: left out" in line for line in printed)
    assert report["counts"]["unparsable_candidates"] == 2
    assert json.loads(Path(report["report"]).read_text())["counts"] == report["counts"]


def test_the_same_import_again_adds_nothing(file, tmp_path, capsys):
    run("import", file, "--out", tmp_path / "out")
    assert run("import", file, "--out", tmp_path / "out", "--json") == 0
    assert last_line(capsys)["episodes_added"] == 0


def test_settings_come_from_options_and_files(file, tmp_path, capsys):
    config = tmp_path / "import.yaml"
    config.write_text("horizon: 7\n")
    run("import", file, "--out", tmp_path / "out", "--config", config, "--set", "split=test", "--json")
    assert last_line(capsys)["horizon"] == 7
    (episode,) = EpisodeStore(tmp_path / "out" / "episodes").episodes()
    assert (episode.task.horizon, episode.task.split) == (7, "test")


def test_an_export_goes_back_to_the_same_episodes(file, tmp_path, capsys):
    run("import", file, "--out", tmp_path / "one")
    assert run("export-legacy", tmp_path / "one", "--out", tmp_path / "back.pt", "--json") == 0
    report = last_line(capsys)
    assert (report["trajectories"], report["steps"]) == (1, 2)
    assert run("import", tmp_path / "back.pt", "--out", tmp_path / "two") == 0
    one, two = (next(iter(EpisodeStore(tmp_path / name / "episodes").episodes())) for name in ("one", "two"))
    assert (one.task, one.steps) == (two.task, two.steps)


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_a_file_that_would_run_code_is_one_line_with_the_type_and_ends_with_2(tmp_path, capsys):
    path, canary, out = tmp_path / "evil.pt", tmp_path / "canary", tmp_path / "out"
    path.write_bytes(pickle.dumps([[{"task": Evil(f"touch {canary}")}]]))
    assert run("import", path, "--out", out) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"digiq: {path}: refused: it names posix.system,")
    assert (captured.err.count("\n"), captured.out) == (1, "")
    assert not canary.exists()
    assert not out.exists()


@pytest.mark.parametrize("keep", [0, 10, 500, -30])
def test_a_file_that_is_cut_off_is_one_line_and_ends_with_2(file, tmp_path, capsys, keep):
    file.write_bytes(file.read_bytes()[:keep])
    assert run("import", file, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["import"], "give either a trajectory file"),
        (["import", "a.pt", "--tasks", "b_test.txt"], "give either a trajectory file"),
        (["import", "a.pt"], "--out is missing"),
        (["import", "a.pt", "--out", "x", "--drop-overlap"], "--drop-overlap is for task lists"),
        (["import", "none.pt", "--out", "x"], "none.pt: cannot be read: No such file or directory"),
        (["import", "a.pt", "--out", "x", "--horizon", "0"], "--set: horizon is 0"),
        (["import", "--tasks", "none_test.txt", "--horizon", "3"], "none_test.txt: cannot be read"),
        (["export-legacy", "none", "--out", "x.pt"], "none/episodes: the data set does not exist"),
        (["export-legacy", "none"], "missing option '--out'"),
    ],
)
def test_wrong_usage_is_one_line_and_ends_with_2(tmp_path, capsys, monkeypatch, argv, line):
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"digiq: {line}")
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_task_lists_are_compared_and_saved(tmp_path, capsys):
    lists = [word for split in ("train", "test") for word in ("--tasks", AITW / f"webshop_{split}.txt")]
    assert run("import", *lists, "--out", tmp_path, "--drop-overlap", "--json") == 0
    printed = capsys.readouterr().out.splitlines()
    report = json.loads(printed[-1])
    assert report["overlaps"][0]["normalised"] == {"unique": 77, "rows": 214, "evaluated_rows": 56}
    assert report["tasks"] == {"webshop/train": 438, "webshop/test": 360 - 214}
    assert any("webshop/test" in line and "193" in line and "146" in line for line in printed)
    assert len(load_task_set(tmp_path / "webshop-test.json")) == 146


def test_task_lists_can_be_looked_at_without_saving(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("import", "--tasks", AITW / "general_train.txt", "--json") == 0
    assert last_line(capsys)["sets"] == [{"name": "general/train", "rows": 545, "unique": 545, "duplicates": 0}]
    assert list(tmp_path.iterdir()) == []
