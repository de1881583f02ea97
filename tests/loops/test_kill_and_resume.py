"""kill -9 in the middle: the same command finishes, with the same rows as a run that was never killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from small_recipe import descendant, finish, kill_tree, report_of, rows_of, start, wait_for

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("unbroken") / "run"
    code, out, err = finish(start("run", "--serial", "--out", str(root)))
    assert code == 0, out + err
    return root


def test_a_killed_run_is_continued_to_the_same_result(unbroken: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    moments = (
        ("the first episodes", lambda: list((root / "episodes").glob("*.parquet"))),
        ("a checkpoint of stage 1", lambda: list((root / "checkpoints" / "finetune").glob("0*"))),
        ("a checkpoint of a policy", lambda: list((root / "checkpoints" / "digi_q").glob("0*"))),
        ("an evaluation", lambda: list((root / "evaluation").glob("*/*/*.parquet"))),
    )
    for what, found in moments:
        process = start("run", "--serial", "--out", str(root))
        wait_for(found, process, what)
        kill_tree(process)
    code, out, err = finish(start("run", "--serial", "--out", str(root)))
    assert code == 0, out + err
    assert rows_of(root) == rows_of(unbroken)
    assert report_of(root)["policies"] == report_of(unbroken)["policies"]


def test_on_ray_killed_phones_learner_and_demo_change_no_row(unbroken: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    process = start("demo", "--out", str(root))
    phone = wait_for(lambda: descendant(process, "EmulatorWorker"), process, "a phone actor")
    assert isinstance(phone, psutil.Process)
    os.kill(phone.pid, signal.SIGKILL)
    wait_for(lambda: (root / "stages" / "candidates.json").exists(), process, "the end of sampling candidates")
    learner = wait_for(lambda: descendant(process, "Learner"), process, "a learner actor")
    assert isinstance(learner, psutil.Process)
    os.kill(learner.pid, signal.SIGKILL)
    wait_for(lambda: (root / "stages" / "train-critic.json").exists(), process, "the end of training the critic")
    kill_tree(process)
    code, out, err = finish(start("demo", "--out", str(root)))
    assert code == 0, out + err
    assert rows_of(root) == rows_of(unbroken)
