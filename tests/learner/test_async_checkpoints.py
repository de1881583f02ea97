"""Checkpoints that are written while training goes on: what stands still, what waits, and where errors arrive."""

import threading
import time

import pytest
import torch
from safetensors.torch import save_file
from small_critic import make_trainer, state_of, train_in
from small_runs import make_run, make_settings
from test_training import CountingTrainer

from digiq_ray.core.errors import DeadlineExceededError, DiskFullError, StoreError
from digiq_ray.learner import checkpoints as module
from digiq_ray.learner.checkpoints import Checkpoints
from digiq_ray.learner.critic import train_critic
from digiq_ray.learner.curves import Curves
from digiq_ray.learner.training import TrainingDivergedError
from digiq_ray.loops.run import Run
from digiq_ray.store.directory import open_directory

SOON = 60.0


class Gate:
    """A writing of tensors that waits until it is told to go on, and counts how many are under way."""

    def __init__(self, monkeypatch) -> None:
        self.opened, self.begun = threading.Event(), threading.Semaphore(0)
        self.running, self.most, self._lock = 0, 0, threading.Lock()
        monkeypatch.setattr(module, "save_file", self._save)

    def _save(self, tensors, path) -> None:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self.begun.release()
        assert self.opened.wait(SOON)
        save_file(tensors, path)
        with self._lock:
            self.running -= 1


@pytest.fixture
def gate(monkeypatch) -> Gate:
    return Gate(monkeypatch)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, gate):
    seen = []

    def on_step(done, total):
        seen.append(done)
        if done == 9:  # four steps after the checkpoint of step 5 was begun, which is not written yet
            assert gate.begun.acquire(timeout=SOON)
            assert gate.running == 1
            assert not list((tmp_path / "checkpoints").glob("*.json"))
            gate.opened.set()

    train_in(tmp_path, CountingTrainer(12), on_step=on_step)
    assert seen == list(range(1, 13))


def test_what_is_written_is_the_state_of_the_step_that_it_was_begun_after(tmp_path, gate):
    trainer, kept = make_trainer(), Checkpoints(tmp_path)
    for index in range(5):
        trainer.step(index)
    then = {key: value.clone() for key, value in state_of(trainer).items()}
    curves = Curves(3, {"td_error": [[3, 0.5]]}, {"td_error": 0.25}, 2)
    kept.save(5, trainer.modules(), trainer.optimizer, curves)
    for index in range(5, 9):
        trainer.step(index)
        curves.add(index + 1, {"td_error": 1.0}, last=False)
    gate.opened.set()
    kept.wait()
    fresh = make_trainer()
    restored = Checkpoints(tmp_path).restore(fresh.modules(), fresh.optimizer)
    assert restored.curves == Curves(3, {"td_error": [[3, 0.5]]}, {"td_error": 0.25}, 2)
    assert all(torch.equal(value, state_of(fresh)[key]) for key, value in then.items())
    assert not all(torch.equal(value, state_of(trainer)[key]) for key, value in then.items()), "it learned on"


def test_each_checkpoint_has_its_own_state_though_their_copies_share_memory(tmp_path):
    trainer = make_trainer()
    with Checkpoints(tmp_path) as kept:
        for step in (3, 6):
            for index in range(step - 3, step):
                trainer.step(index)
            kept.save(step, trainer.modules(), trainer.optimizer, Curves(1))
            kept.wait()
            fresh = make_trainer()
            assert Checkpoints(tmp_path).restore(fresh.modules(), fresh.optimizer).step == step
            assert all(torch.equal(value, state_of(fresh)[key]) for key, value in state_of(trainer).items())


def test_at_most_one_checkpoint_is_under_way(tmp_path, gate):
    timer = threading.Timer(0.2, gate.opened.set)
    timer.start()
    train_in(tmp_path, CountingTrainer(20), every=1)
    timer.join()
    assert gate.most == 1
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.json")] == ["00000019.json"]


def test_the_end_of_a_training_waits_for_its_checkpoint(tmp_path, gate):
    timer = threading.Timer(0.2, gate.opened.set)
    timer.start()
    train_in(tmp_path, CountingTrainer(6))
    assert gate.opened.is_set()
    timer.join()
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.json")] == ["00000005.json"]


def test_a_checkpoint_that_hangs_ends_the_training_with_its_name(tmp_path, gate):
    with pytest.raises(
        DeadlineExceededError,
        match=r"^writing the checkpoint .*/00000005: not done after 0\.1 s; .*run the same command",
    ):
        train_in(tmp_path, CountingTrainer(6), deadline=0.1)
    gate.opened.set()


def test_an_error_of_writing_reaches_the_training_at_its_next_step(tmp_path, monkeypatch):
    def fail(tensors, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "save_file", fail)
    seen = []

    def on_step(done, total):
        seen.append(done)
        if done == 5:
            deadline = time.monotonic() + SOON
            while any(one.name.startswith("writing the checkpoint") for one in threading.enumerate()):
                assert time.monotonic() < deadline

    with pytest.raises(DiskFullError, match="no space is left"):
        train_in(tmp_path, CountingTrainer(1000), on_step=on_step, every=5)
    assert seen == [1, 2, 3, 4, 5]


def test_an_error_of_the_last_checkpoint_is_not_lost(tmp_path, monkeypatch):
    def fail(tensors, path):
        raise StoreError("the place went away")

    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(StoreError, match="the place went away"):
        train_in(tmp_path, CountingTrainer(6))


def test_what_ends_a_training_is_not_hidden_by_its_checkpoint(tmp_path, gate):
    with pytest.raises(TrainingDivergedError, match="number became nan") as raised:
        train_in(tmp_path, CountingTrainer(20, bad={7: float("nan")}), deadline=0.1)
    assert any("not done after 0.1 s" in note for note in raised.value.__notes__)
    gate.opened.set()


# In S3.


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_training_resumes_exactly_from_a_checkpoint_in_s3(tmp_path, s3_url):
    whole, curves = make_trainer(), None
    curves = train_in(tmp_path / "whole", whole)
    for last in (3, 8, 17):

        def kill(done, total, last=last):
            if done == last:
                raise Killed

        with pytest.raises(Killed):
            train_in(tmp_path / "killed", make_trainer(), checkpoints=s3_url, on_step=kill)
    resumed, seen = make_trainer(), []
    again = train_in(tmp_path / "killed", resumed, checkpoints=s3_url, on_step=lambda done, total: seen.append(done))
    assert again == curves
    assert seen == list(range(16, 24)), "it went on from the checkpoint of step 15"
    assert all(torch.equal(value, state_of(resumed)[key]) for key, value in state_of(whole).items())
    assert not (tmp_path / "killed" / "checkpoints").exists()


def test_a_changed_object_in_s3_is_noticed(tmp_path, s3_url):
    import boto3

    trainer = make_trainer()
    with Checkpoints(s3_url) as kept:
        kept.save(5, trainer.modules(), trainer.optimizer, Curves(1))
    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    client.put_object(Bucket=bucket, Key=f"{prefix}/00000005.safetensors", Body=b"something else")
    with pytest.raises(StoreError, match=r"s3://.*/00000005 does not fit this training .*checksum"):
        Checkpoints(s3_url).restore(trainer.modules(), trainer.optimizer)


def test_checkpoints_are_cleared_wherever_they_lie(tmp_path, s3_url):
    trainer = make_trainer()
    for place in (tmp_path / "here", s3_url):
        with Checkpoints(place) as kept:
            kept.save(5, trainer.modules(), trainer.optimizer, Curves(1))
        Checkpoints(place).clear()
        assert Checkpoints(place).restore(trainer.modules(), trainer.optimizer) is None
    assert list((tmp_path / "here").iterdir()) == []


def test_an_s3_that_does_not_answer_is_said_and_not_taken_for_a_broken_checkpoint(s3_url, s3_environment):
    trainer = make_trainer()
    with Checkpoints(s3_url) as kept:
        kept.save(5, trainer.modules(), trainer.optimizer, Curves(1))
        kept.wait()
        s3_environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        s3_environment.setenv("DIGIQ_S3_PATIENCE_S", "0.5")
        with pytest.raises(StoreError, match=r"waited .* for 127\.0\.0\.1:9"):
            kept.restore(trainer.modules(), trainer.optimizer)
        kept.save(10, trainer.modules(), trainer.optimizer, Curves(1))
        with pytest.raises(StoreError, match=r"waited .* for 127\.0\.0\.1:9"):
            kept.wait()


def test_a_critic_of_a_run_keeps_its_checkpoints_where_the_settings_say(tmp_path, s3_url):
    def kill(done, total):
        if done == 27:
            raise Killed

    elsewhere = make_settings(learner={"checkpoint_every": 1, "checkpoints": s3_url})
    whole, killed = make_run(tmp_path / "whole"), make_run(tmp_path / "killed")
    figures = train_critic(whole.root, make_settings(), lambda done, total: None)
    with pytest.raises(Killed):
        train_critic(killed.root, elsewhere, kill)
    seen = []
    assert train_critic(killed.root, elsewhere, lambda done, total: seen.append(done)) == figures
    assert seen == list(range(21, 41))
    assert [one.name for one in (killed.root / "checkpoints").iterdir()] == ["critic_data"]
    assert open_directory(f"{s3_url}/killed/critic").names(".json") == ["00000030.json"]


def test_a_run_that_is_done_clears_checkpoints_elsewhere_too(tmp_path, s3_url):
    run = Run(tmp_path / "run", make_settings(learner={"checkpoints": s3_url}))
    trainer = make_trainer()
    for name in ("finetune", "critic", "critic_mc", "digirl_values", "digi_q", "filtered_bc", "random_candidate"):
        with Checkpoints(run.paths.checkpoints(name, s3_url)) as kept:
            kept.save(5, trainer.modules(), trainer.optimizer, Curves(1))
        assert open_directory(f"{s3_url}/run/{name}").names("") != []
    run.clear_checkpoints()
    for name in ("finetune", "critic", "critic_mc", "digirl_values", "digi_q", "filtered_bc", "random_candidate"):
        assert open_directory(f"{s3_url}/run/{name}").names("") == []


def test_a_place_for_checkpoints_that_cannot_be_one_is_refused_before_anything_begins(tmp_path):
    with pytest.raises(StoreError, match=r"^gs://bucket/a: only local directories and s3://BUCKET/PREFIX"):
        Run(tmp_path / "run", make_settings(learner={"checkpoints": "gs://bucket/a"}))
    assert not (tmp_path / "run").exists()
