"""Trainings on Ray that are spread over several processes: what they give, what they survive, what they raise."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import psutil
import pytest
import ray
from ray import train
from small_runs import make_run, make_settings
from torch.distributed import TCPStore

from digiq_ray.core.config import load_config
from digiq_ray.core.errors import ConfigError, InputError, StoreError, WorkerLostError
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner.critic import train_critic
from digiq_ray.learner.models import load_critic
from digiq_ray.learner.process_group import interface_of, meeting_place
from digiq_ray.learner.worker_group import meaning, stops_at_errors_on_purpose
from digiq_ray.loops.demo import make_cluster
from digiq_ray.loops.offline import RECIPE
from digiq_ray.loops.ray_cluster import RayCluster
from digiq_ray.loops.run import Run

NEAR = 1e-5
CRITIC = {"steps": 500, "batch": 9, "q_widths": [8], "v_widths": [8]}


@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    """A Ray with room for two workers."""
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


def workers() -> list[psutil.Process]:
    """The processes that a training is spread over."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if title_of(one) == "ray::RayTrainWorker"]


def title_of(process):
    """What it calls itself; nothing if it has ended meanwhile."""
    with suppress(psutil.NoSuchProcess):  # a zombie too
        return next(iter(process.cmdline()), "")
    return ""


@pytest.mark.slow
@pytest.mark.usefixtures("local")
def test_kill_9_of_one_of_two_workers_changes_nothing(tmp_path):
    whole, spread = make_run(tmp_path / "whole"), make_run(tmp_path / "spread")
    figures = train_critic(whole.root, make_settings(critic=CRITIC), lambda done, total: None)
    settings = make_settings(critic=CRITIC, learner={"checkpoint_every": 1, "workers": 2})
    killed: list[int] = []

    def seen(done: int, total: int) -> None:
        if done > total / 4 and not killed:
            both = workers()
            assert len(both) == 2
            killed.append(both[1].pid)
            os.kill(both[1].pid, signal.SIGKILL)
            assert not spread.model("critic").exists(), "it was killed in the middle"

    cluster = RayCluster(settings)
    try:
        result = cluster.learn([(train_critic, (spread.root, settings))], seen)[0]
    finally:
        cluster.close()
    assert killed
    assert result["td_error"] == pytest.approx(figures["td_error"], abs=NEAR)
    one, other = (load_critic(paths.model("critic")).state_dict() for paths in (whole, spread))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) < NEAR


def test_what_trains_nothing_is_never_spread(tmp_path):
    asked: dict[str, bool] = {}

    class Noting:
        """A cluster that notes how it is asked to learn."""

        def learn(self, trainings, on_progress, *, alone=False):
            asked[trainings[0][0].__name__] = alone
            return [{"rows": 0} for _ in trainings]

    run = Run(tmp_path / "run", RunSettings())
    for stage in RECIPE:
        if stage.name in ("finetune", "train-critic", "train-policy", "rank"):
            stage.work(run, Noting(), lambda done, total: None)
    assert asked == {"finetune": False, "train_critic": False, "train_policy": False, "rank": True}


def test_an_error_on_purpose_ends_the_training_at_once():
    found = StoreError("no episodes")
    wrapped = RuntimeError("in a worker")
    wrapped.__cause__ = found
    with pytest.raises(StoreError, match="no episodes"):
        stops_at_errors_on_purpose().after_exception(None, {0: RuntimeError("connection closed"), 1: wrapped})
    stops_at_errors_on_purpose().after_exception(None, {0: RuntimeError("connection closed")})
    assert meaning(train.ControllerError(found)) is found


def test_lost_processes_are_named():
    lost = train.WorkerGroupError("", {0: RuntimeError("connection closed"), 1: ray.exceptions.ActorDiedError()})
    assert isinstance(meaning(lost), WorkerLostError)


@pytest.mark.parametrize(
    "error", [train.WorkerGroupError("", {0: KeyError("x")}), train.ControllerError(KeyError("x"))]
)
def test_what_nobody_raised_on_purpose_is_passed_on(error):
    assert meaning(error) is error


def test_every_process_needs_its_share_of_every_batch():
    chosen = load_config(RunSettings, None, ["learner.workers=4", "policy.batch=4"])
    assert chosen.learner.spread
    with pytest.raises(ConfigError, match=r"policy\.batch=3 cannot be shared among learner\.workers=4"):
        load_config(RunSettings, None, ["learner.workers=4", "policy.batch=3"])


@pytest.mark.parametrize("given", ["learner.workers=2", "learner.use_gpu=true"])
def test_a_spread_training_needs_ray(given):
    with pytest.raises(InputError, match="leave out --serial"):
        make_cluster(load_config(RunSettings, None, [given]), serial=True)


def test_processes_meet_on_one_address_only():
    store = meeting_place("127.0.0.1", timedelta(seconds=10))
    listening = [
        place.laddr for place in psutil.Process().net_connections("inet") if place.status == psutil.CONN_LISTEN
    ]
    assert [place.ip for place in listening if place.port == store.port] == ["127.0.0.1"]
    TCPStore(store.host, store.port, is_master=False, timeout=timedelta(seconds=10)).set("word", "said")
    assert store.get("word") == b"said"


def test_the_interface_of_an_address_is_found():
    name = interface_of("127.0.0.1")
    assert any(place.address == "127.0.0.1" for place in psutil.net_if_addrs()[name])
