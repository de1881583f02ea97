"""Bad input at the commands of the recipe: one clear line, exit code 2, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from digiq_ray.cli.main import main
from digiq_ray.core.config import dump_yaml
from digiq_ray.core.settings import RunSettings


def _line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


def test_a_wrong_flag_names_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--sed", "3"]) == 2
    assert "--seed" in _line(capsys)


def test_an_unknown_key_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--set", "critic.gama=0.9"]) == 2
    assert "critic.gamma" in _line(capsys)


def test_a_missing_configuration_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["demo", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in _line(capsys)


def test_a_task_set_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--task-set", "chess"]) == 2
    assert "general" in _line(capsys)


def test_settings_that_contradict_each_other_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--set", "candidates.k=2", "--set", "policy.min_support=3"]) == 2
    assert "min_support" in _line(capsys)


def test_a_run_of_another_configuration_is_kept(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_yaml(RunSettings(seed=4)))
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "seed=4" in _line(capsys)
    assert (tmp_path / "config.yaml").read_text() == dump_yaml(RunSettings(seed=4))


def test_no_keep_going_refuses_a_run_that_is_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_yaml(RunSettings()))
    assert main(["demo", "--no-keep-going", "--out", str(tmp_path)]) == 2
    assert "--no-keep-going" in _line(capsys)


def test_a_place_where_no_directory_can_be_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "run")]) == 2
    assert _line(capsys).endswith("(Not a directory); give another --out")


def test_a_missing_model_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["collect", "--serial", "--out", str(tmp_path / "run"), "--set", f"vlm.model={tmp_path / 'none'}"]
    assert main(words) == 2
    assert "none" in _line(capsys)


def test_dry_run_prints_the_configuration_and_does_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["demo", "--dry-run", "--seed", "7", "--out", str(tmp_path / "run")]) == 0
    assert "seed: 7" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KB."""
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


def test_a_full_disk_is_one_line_and_loses_nothing(small_disk: Path) -> None:
    words = ["collect", "--serial", "--out", str(small_disk / "run")]
    sets = ["--set", "collect.episodes=120", "--set", "devices.slots=16"]
    done = subprocess.run(
        [sys.executable, "-m", "digiq_ray.cli.main", *words, *sets], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "no space is left" in lines[0]
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    again = subprocess.run(
        [sys.executable, "-m", "digiq_ray.cli.main", *words, *sets], capture_output=True, text=True, timeout=120
    )
    assert again.returncode == 0, again.stderr
