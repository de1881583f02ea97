"""The learner as a plain object, and as a Ray actor whose process is killed in the middle."""

import logging
import os
import signal
import time

import pytest
import ray
import torch
from small_runs import make_run, make_settings

from digiq_ray.core.errors import DigiQError, StoreError
from digiq_ray.learner.actor import CONTROL, Learner
from digiq_ray.learner.critic import train_critic
from digiq_ray.learner.models import load_critic


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_learner_runs_a_training_and_tells_how_far_it_is():
    learner, seen = Learner(), []

    def training(number, on_step):
        for done in range(1, 4):
            on_step(done, 3)
            seen.append(learner.progress())
        return {"rows": number}

    assert learner.run(training, 7) == {"rows": 7}
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert learner.pid() == os.getpid()


def test_progress_starts_again_with_each_training():
    learner, seen = Learner(), []
    learner.run(lambda on_step: on_step(3, 3) or {})

    def training(on_step):
        seen.append(learner.progress())
        return {}

    learner.run(training)
    assert seen == [(0, 0)]


def test_what_a_training_raises_comes_through():
    def training(on_step):
        raise StoreError("nothing there")

    with pytest.raises(DigiQError, match="nothing there"):
        Learner().run(training)


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_kill_9_of_the_learner_changes_nothing(tmp_path):
    settings = make_settings(
        critic={"steps": 900, "batch": 8, "q_widths": [8], "v_widths": [8]}, learner={"checkpoint_every": 10}
    )
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    figures = Learner().run(train_critic, whole.root, settings)
    hire = ray.remote(concurrency_groups={CONTROL: 1})(Learner).options(num_cpus=0, max_restarts=3, max_task_retries=3)
    learner = hire.remote()
    pid = ray.get(learner.pid.remote(), timeout=60)
    result = learner.run.remote(train_critic, killed.root, settings)

    deadline = time.monotonic() + 60
    while (done := ray.get(learner.progress.options(concurrency_group=CONTROL).remote(), timeout=60)[0]) < 250:
        assert time.monotonic() < deadline, "the training did not get on"
    os.kill(pid, signal.SIGKILL)
    assert done < 900, "it was killed in the middle"
    assert not killed.model("critic").exists()

    assert ray.get(result, timeout=120) == figures
    assert ray.get(learner.pid.remote(), timeout=60) != pid
    one, other = (load_critic(paths.model("critic")).state_dict() for paths in (whole, killed))
    assert all(torch.equal(one[name], other[name]) for name in one)
