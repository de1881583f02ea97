"""Checkpoints: exact resume after a kill at any step, and what can go wrong with one."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from small_critic import make_trainer, state_of, train_in

from digiq_ray.core.errors import DiskFullError, StoreError
from digiq_ray.learner import checkpoints as module
from digiq_ray.learner.checkpoints import Checkpoints
from digiq_ray.learner.curves import Curves


class Killed(BaseException):
    """Stands for the end of the process."""


def assert_equal_states(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


def trained(steps_done: int, **options):
    trainer = make_trainer(**options)
    for index in range(steps_done):
        trainer.step(index)
    return trainer


def save(directory: Path, trainer, step: int, curves: Curves | None = None) -> None:
    with Checkpoints(directory) as kept:
        kept.save(step, trainer.modules(), trainer.optimizer, curves or Curves(1))


def restore(directory: Path, trainer):
    return Checkpoints(directory).restore(trainer.modules(), trainer.optimizer)


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


# One checkpoint.


def test_a_checkpoint_gives_back_every_bit(tmp_path):
    trainer, fresh = trained(7), make_trainer()
    curves = Curves(3, {"td_error": [[3, 0.1], [6, 1 / 3]]}, {"td_error": 0.7}, 1)
    save(tmp_path, trainer, 7, curves)
    restored = restore(tmp_path, fresh)
    assert (restored.step, restored.curves) == (7, curves)
    assert_equal_states(state_of(trainer), state_of(fresh))
    groups, fresh_groups = trainer.optimizer.param_groups[0], fresh.optimizer.param_groups[0]
    assert {k: v for k, v in groups.items() if k not in ("params", "betas")} == {
        k: v for k, v in fresh_groups.items() if k not in ("params", "betas")
    }
    assert tuple(fresh_groups["betas"]) == tuple(groups["betas"])


def test_without_a_checkpoint_nothing_is_restored(tmp_path):
    assert restore(tmp_path / "none", make_trainer()) is None


def test_only_the_newest_checkpoint_is_kept_and_restored(tmp_path):
    for step in (5, 10, 100):
        save(tmp_path, trained(step, steps=200), step)
    assert names(tmp_path) == ["00000100.json", "00000100.safetensors"]
    assert restore(tmp_path, make_trainer()).step == 100


def test_a_checkpoint_may_be_saved_again(tmp_path):
    save(tmp_path, trained(5), 5)
    trainer = trained(6)
    save(tmp_path, trainer, 5)
    fresh = make_trainer()
    restore(tmp_path, fresh)
    assert_equal_states(state_of(trainer), state_of(fresh))
    assert names(tmp_path) == ["00000005.json", "00000005.safetensors"]


def test_what_dead_writers_left_is_never_restored_and_is_removed(tmp_path):
    save(tmp_path, trained(5), 5)
    hidden = tmp_path / ".00000010.safetensors.0123456789abcdef.tmp"
    hidden.mkdir()
    (hidden / ".tmpAbCdEf").write_bytes(b"half")
    (tmp_path / "00000010.safetensors").write_bytes(b"whole, but without a manifest")
    assert restore(tmp_path, make_trainer()).step == 5
    assert names(tmp_path) == ["00000005.json", "00000005.safetensors", "00000010.safetensors"]
    save(tmp_path, trained(10), 10)
    assert names(tmp_path) == ["00000010.json", "00000010.safetensors"]
    assert restore(tmp_path, make_trainer()).step == 10


def test_weights_that_share_memory_are_saved(tmp_path):
    module_of = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    module_of[1].weight = module_of[0].weight
    optimizer = torch.optim.AdamW(module_of.parameters())
    with Checkpoints(tmp_path) as kept_in:
        kept_in.save(1, {"m": module_of}, optimizer, Curves(1))
    kept = module_of[0].weight.detach().clone()
    with torch.no_grad():
        module_of[0].weight.zero_()
    Checkpoints(tmp_path).restore({"m": module_of}, optimizer)
    assert torch.equal(module_of[0].weight, kept)
    assert module_of[1].weight is module_of[0].weight


# Resuming.


def test_a_training_killed_after_any_step_ends_like_one_that_was_not(tmp_path):
    every = 5  # a point of the curves stands for 6 steps: most checkpoints are in the middle of a stretch
    whole = make_trainer()
    curves = train_in(tmp_path / "whole", whole, every=every)
    for last in range(1, whole.steps + 1):
        root = tmp_path / str(last)

        def kill(done, total, last=last):
            if done == last:
                raise Killed

        with pytest.raises(Killed):
            train_in(root, make_trainer(), every=every, on_step=kill)
        resumed, seen = make_trainer(), []
        assert train_in(root, resumed, every=every, on_step=lambda done, total, s=seen: s.append(done)) == curves
        assert_equal_states(state_of(whole), state_of(resumed))
        saved = min(last, whole.steps - 1) // every * every
        assert seen == list(range(saved + 1, whole.steps + 1)), "it went on from the newest checkpoint"


def test_a_training_killed_again_and_again_ends_like_one_that_was_not(tmp_path):
    whole = make_trainer()
    curves = train_in(tmp_path / "whole", whole)
    for last in (2, 8, 9, 16, 22):

        def kill(done, total, last=last):
            if done == last:
                raise Killed

        with pytest.raises(Killed):
            train_in(tmp_path / "killed", make_trainer(), on_step=kill)
    resumed = make_trainer()
    assert train_in(tmp_path / "killed", resumed) == curves
    assert_equal_states(state_of(whole), state_of(resumed))


def run_child(root: Path, steps: int, kill_after: int | None) -> None:
    child = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("small_critic.py")), str(root), str(steps), "40"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        for line in child.stdout:
            if kill_after is not None and int(line) >= kill_after:
                os.kill(child.pid, signal.SIGKILL)
                break
        assert child.wait(timeout=60) == (0 if kill_after is None else -signal.SIGKILL)
    finally:
        child.kill()
        child.stdout.close()
        child.wait(timeout=60)


@pytest.mark.slow
def test_kill_9_at_ten_random_moments_changes_nothing(tmp_path):
    steps = 600
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = make_trainer(steps)
        curves = train_in(tmp_path / "whole", whole, every=40)
    finally:
        torch.set_num_threads(threads)
    root = tmp_path / "killed"
    for moment in sorted(random.Random(0).sample(range(30, steps - 10), 10)):
        run_child(root, steps, kill_after=moment)
        assert not (root / "result.safetensors").exists()
    assert [name for name in names(root / "checkpoints") if name.endswith(".json")] != []
    run_child(root, steps, kill_after=None)
    assert_equal_states(load_file(root / "result.safetensors"), state_of(whole))
    assert json.loads((root / "curves.json").read_text()) == curves


# What goes wrong.


def no_space_on_flush(monkeypatch):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fail)


def no_space_for_tensors(monkeypatch):
    def fail(tensors, path):
        Path(path).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", fail)


@pytest.mark.parametrize("fill", [no_space_on_flush, no_space_for_tensors])
def test_a_full_disk_is_a_typed_error_and_the_checkpoint_before_stays(tmp_path, monkeypatch, fill):
    trainer = trained(5)
    save(tmp_path, trainer, 5)
    fill(monkeypatch)
    with pytest.raises(
        DiskFullError, match=r"no space is left (for|to write) .*00000010.*(repeat the|run the same) comm"
    ):
        save(tmp_path, trained(10), 10)
    monkeypatch.undo()
    assert names(tmp_path) == ["00000005.json", "00000005.safetensors"]
    fresh = make_trainer()
    assert restore(tmp_path, fresh).step == 5
    assert_equal_states(state_of(trainer), state_of(fresh))


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    save(tmp_path, trained(5, width=16), 5)
    with pytest.raises(StoreError, match=r"0005 does not fit this training .*remove it to begin the training again"):
        restore(tmp_path, make_trainer())


@pytest.mark.parametrize("name", ["00000005.safetensors", "00000005.json"])
@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"\x00\xff garbage"], ids=["empty", "list", "bytes"])
def test_a_broken_checkpoint_is_refused(tmp_path, name, content):
    save(tmp_path, trained(5), 5)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        StoreError, match=r"00000005 does not fit this training .*; remove it to begin the training again"
    ):
        restore(tmp_path, make_trainer())


def test_a_checkpoint_whose_tensors_are_gone_is_refused(tmp_path):
    save(tmp_path, trained(5), 5)
    (tmp_path / "00000005.safetensors").unlink()
    with pytest.raises(StoreError, match=r"00000005 does not fit this training .*is gone"):
        restore(tmp_path, make_trainer())


def test_one_changed_bit_of_the_tensors_is_noticed(tmp_path):
    save(tmp_path, trained(5), 5)
    file = tmp_path / "00000005.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StoreError, match="its tensors do not match their checksum"):
        restore(tmp_path, make_trainer())


def test_a_changed_number_of_the_manifest_is_noticed(tmp_path):
    save(tmp_path, trained(5), 5)
    file = tmp_path / "00000005.json"
    file.write_text(file.read_text().replace('"step": 5', '"step": 6'))
    with pytest.raises(StoreError, match="its manifest was changed"):
        restore(tmp_path, make_trainer())


def test_nothing_of_a_checkpoint_is_unpickled(tmp_path):
    save(tmp_path, trained(5), 5)
    assert names(tmp_path) == ["00000005.json", "00000005.safetensors"]
    manifest = json.loads((tmp_path / "00000005.json").read_text())
    assert manifest["step"] == 5
    assert manifest["tensors"]["bytes"] == (tmp_path / "00000005.safetensors").stat().st_size
