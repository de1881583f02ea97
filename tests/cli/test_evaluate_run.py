"""``digiq evaluate --run``: the policies of a finished run on other devices, in a run of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from digiq_ray.cli.main import main
from digiq_ray.core.config import dump_yaml, load_config
from digiq_ray.core.settings import RunSettings
from digiq_ray.store.episodes import EpisodeStore
from digiq_ray.vlm.tiny import SHIPPED
from emulator_workers.backends import end_servers
from tests.emulator_workers.appium_testing import need_chromium


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A run whose trained policy is the shipped model."""
    root = tmp_path / "run"
    (root / "models" / "critic").mkdir(parents=True)
    for name in ("digi_q", "feature_vlm"):
        (root / "models" / name).symlink_to(SHIPPED, target_is_directory=True)
    words = ["devices.slots=2", "evaluate.episodes=3", "collect.episodes=4"]
    (root / "config.yaml").write_text(dump_yaml(load_config(RunSettings, None, words)))
    return root


def evaluate(source: Path, out: Path, *words: str) -> int:
    return main(["evaluate", "--run", str(source), "--out", str(out), "--serial", *words])


def contents(root: Path) -> dict[str, float]:
    return {str(path): path.lstat().st_mtime for path in sorted(root.rglob("*"))}


def last_json(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    (only,) = captured.err.strip().splitlines()
    return only


def test_a_policy_is_scored_in_a_run_of_its_own_and_the_source_is_not_touched(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = contents(source), tmp_path / "new"
    assert evaluate(source, out, "--episodes", "2", "--json") == 0
    printed = capsys.readouterr().out
    report = json.loads(printed.splitlines()[-1])
    assert contents(source) == before
    result = report["policies"]["digi_q"]
    assert (list(report["policies"]), result["n"], result["greedy"]["n"], result["infra_errors"]) == (
        *(["digi_q"], 2, 2, 0),
    )
    assert (report["run"], report["device"], report["command"]) == (str(source), "simulated", "evaluate")
    assert json.loads((out / "report.json").read_text())["policies"] == report["policies"]
    assert EpisodeStore(out / "evaluation" / "digi_q" / "sampled").summary().episodes == 2
    low, high = (round(100 * bound) for bound in result["ci95"])
    assert f"({low}–{high}%)" in printed
    assert "Infra errors" in printed


def test_the_same_command_plays_nothing_again_and_another_policy_joins(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, out = ["--set", "evaluate.greedy=false"], tmp_path / "new"
    assert evaluate(source, out, *words) == 0
    store = EpisodeStore(out / "evaluation" / "digi_q" / "sampled")
    played = store.table(["started_at"])
    assert evaluate(source, out, *words, "--policy", "digi_q", "--policy", "behaviour", "--json") == 0
    captured = capsys.readouterr()
    assert "done before" in captured.err
    report = json.loads(captured.out.splitlines()[-1])
    assert set(report["policies"]) == {"digi_q", "behaviour"}
    assert report["policies"]["behaviour"]["n"] == 3
    assert EpisodeStore(store.path).table(["started_at"]).equals(played)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policy", "feature_vlm"], "has no policy 'feature_vlm'; it has behaviour, digi_q"),
        (["--device", "android"], "either devices.udids or devices.avd"),
    ],
)
def test_what_cannot_be_is_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert evaluate(source, tmp_path / "new", *words) == 2
    assert said in line(capsys)
    assert not (tmp_path / "new").exists()


def test_a_configuration_beside_the_run_is_refused(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(source, tmp_path / "new", "--config", str(source / "config.yaml")) == 2
    assert "--run brings its own settings" in line(capsys)


@pytest.mark.parametrize("inside", ["", "scores"])
def test_nothing_is_written_into_the_source(source: Path, capsys: pytest.CaptureFixture[str], inside: str) -> None:
    assert evaluate(source, source / inside) == 2
    assert "is not touched; give another --out" in line(capsys)
    assert not (source / "stages").exists()


def test_a_directory_that_is_no_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path / "none", tmp_path / "new") == 2
    assert "none holds no run" in line(capsys)


def test_one_directory_scores_the_policies_of_one_run(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, out = source.with_name("other"), tmp_path / "new"
    assert evaluate(source, out, "--episodes", "1", "--set", "evaluate.greedy=false") == 0
    source.rename(other)
    capsys.readouterr()
    assert evaluate(other, out, "--episodes", "1", "--set", "evaluate.greedy=false") == 2
    assert f"scores the policies of {source}" in line(capsys)


def test_policies_are_named_only_with_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--policy", "digi_q", "--out", str(tmp_path)]) == 2
    assert "--policy is for --run" in line(capsys)


def test_a_policy_is_scored_on_a_browser(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need_chromium()
    words = ["--device", "chromium", "--episodes", "1", "--set", "evaluate.greedy=false", "--json"]
    try:
        assert evaluate(source, tmp_path / "new", *words) == 0
    finally:
        end_servers()
    report = last_json(capsys)
    assert (report["device"], report["policies"]["digi_q"]["infra_errors"]) == ("chromium", 0)
    devices = EpisodeStore(tmp_path / "new" / "evaluation" / "digi_q" / "sampled").table(["device"])["device"]
    (name,) = set(devices.to_pylist())
    assert re.fullmatch(r"chromium-\d+", name)  # numbered in this process, in which other tests make devices too
