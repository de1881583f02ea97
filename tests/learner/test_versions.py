"""Versions of a policy: numbered, atomic, named by answers and episodes; an old reader keeps reading."""

import os
from pathlib import Path

import pytest
import torch
from small_runs import make_run, make_settings, png

from digiq_ray.core.errors import StoreError
from digiq_ray.core.policies import ActRequest
from digiq_ray.core.settings import RunSettings
from digiq_ray.learner import policy
from digiq_ray.learner.paths import RunPaths
from digiq_ray.learner.policy import train_policy
from digiq_ray.learner.versions import PolicyVersion, PolicyVersions
from digiq_ray.loops.stages.score import player
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import make_vlm
from serve.app.sources import find_sources
from serve.engine import open_engine
from serve.players import local_policy


class Killed(BaseException):
    """Stands for the end of the process."""


def text(content: str):
    def write(directory: Path, version: str) -> None:
        (directory / "config.json").write_text(content)
        (directory / "version").write_text(version)

    return write


@pytest.fixture
def versions(tmp_path) -> PolicyVersions:
    return PolicyVersions.of(RunPaths(tmp_path), "digi_q")


def test_versions_are_numbered_and_the_latest_can_be_asked_for(versions, tmp_path):
    first, second = versions.publish("aa", text("1")), versions.publish("bb", text("2"))
    assert (first, second) == (PolicyVersion("digi_q", 1, "aa"), PolicyVersion("digi_q", 2, "bb"))
    assert versions.all() == [first, second]
    assert versions.latest() == second
    assert (versions.path(second) / "version").read_text() == str(second) == "digi_q-2-bb"
    assert (tmp_path / "models" / "digi_q" / "config.json").read_text() == "2"
    assert PolicyVersions.of(RunPaths(tmp_path), "digi_q").latest() == second


def test_ten_versions_are_in_the_order_of_their_numbers(versions):
    for number in range(1, 12):
        assert versions.publish(f"{number:02x}", text("")).number == number
    assert [one.number for one in versions.all()] == list(range(1, 12))


def test_a_version_is_found_by_the_name_that_episodes_have(versions):
    first = versions.publish("aa", text("1"))
    versions.publish("bb", text("2"))
    assert versions.path("digi_q-1-aa") == versions.path(first)
    with pytest.raises(StoreError, match=r"there is no version digi_q-1-bb; there are: digi_q-1-aa, digi_q-2-bb"):
        versions.path("digi_q-1-bb")


def test_without_a_version_there_is_no_latest(versions):
    assert versions.all() == []
    with pytest.raises(StoreError, match=r"no version of digi_q is published in .*: train it first"):
        versions.latest()


def test_the_same_weights_again_are_the_same_version(versions):
    first = versions.publish("aa", text("1"))
    assert versions.publish("aa", text("never written")) == first
    assert (versions.path(first) / "config.json").read_text() == "1"
    assert versions.publish("bb", text("2")).number == 2
    assert versions.publish("aa", text("3")).number == 3, "an older one that is published again is the latest"


def test_an_old_reader_keeps_reading(versions, tmp_path):
    first = versions.publish("aa", text("1"))
    resolved = (tmp_path / "models" / "digi_q").resolve()
    with open(resolved / "config.json") as reading:
        versions.publish("bb", text("2"))
        assert reading.read() == "1"
    assert (resolved / "config.json").read_text() == "1"
    assert resolved == versions.path(first).resolve()


def test_a_version_appears_whole_and_the_one_before_stays_the_latest_until_then(versions, tmp_path):
    first = versions.publish("aa", text("1"))

    def dies(directory: Path, version: str) -> None:
        (directory / "config.json").write_text("half")
        assert versions.all() == [first]
        raise Killed

    with pytest.raises(Killed):
        versions.publish("bb", dies)
    assert versions.latest() == first
    assert (tmp_path / "models" / "digi_q" / "config.json").read_text() == "1"


@pytest.mark.parametrize("call", ["symlink", "replace"])
def test_a_process_that_dies_before_the_link_is_changed_is_made_good(versions, tmp_path, monkeypatch, call):
    versions.publish("aa", text("1"))

    def die(*arguments):
        raise Killed

    monkeypatch.setattr(os, call, die)
    with pytest.raises(Killed):
        versions.publish("bb", text("2"))
    monkeypatch.undo()
    assert (tmp_path / "models" / "digi_q" / "config.json").read_text() == "1"
    again = versions.publish("bb", text("2"))
    assert again.number == 2
    assert (tmp_path / "models" / "digi_q" / "config.json").read_text() == "2"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["digi_q"]


def test_what_a_writer_that_died_left_is_removed(versions, tmp_path):
    left = tmp_path / "policies" / "digi_q" / ".0001-aa.123"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert versions.all() == []
    versions.publish("bb", text("1"))
    assert [path.name for path in left.parent.iterdir()] == ["0001-bb"]


def test_a_run_may_be_moved(versions, tmp_path):
    versions.publish("aa", text("1"))
    (tmp_path / "moved").mkdir()
    for name in ("models", "policies"):
        os.rename(tmp_path / name, tmp_path / "moved" / name)
    assert (tmp_path / "moved" / "models" / "digi_q" / "config.json").read_text() == "1"


# The stage that publishes, and who reads.


@pytest.fixture
def model(tmp_path) -> str:
    make_vlm(["red", "shop"], hidden=16, layers=2, vision=16, vision_layers=1, seed=1).save(tmp_path / "vlm")
    return str(tmp_path / "vlm")


def trained(root: Path, settings: RunSettings) -> PolicyVersion:
    train_policy(root, "filtered_bc", settings, lambda done, total: None)
    return PolicyVersions.of(RunPaths(root), "filtered_bc").latest()


def test_a_trained_policy_is_a_version_that_actions_and_the_server_name(tmp_path, model, monkeypatch):
    paths, settings = make_run(tmp_path / "run"), make_settings(vlm={"model": model})
    version = trained(paths.root, settings)
    vlm = Vlm.load(paths.model("filtered_bc"))
    assert (version.number, version.fingerprint, vlm.version) == (1, vlm.weights_hash, str(version))

    engine = open_engine("transformers", max_tokens=4, batch=1)
    try:
        plays = player(settings, paths.root, "filtered_bc")
        acted = local_policy(engine, plays).act([ActRequest(png((1, 2, 3)), "shop red", (), 0)])
    finally:
        engine.close()
    assert acted[0].policy_version == str(version)

    (paths.root / "config.yaml").write_text("{}\n")
    found = find_sources(str(paths.root), "filtered_bc").policy
    assert Path(found) == PolicyVersions.of(paths, "filtered_bc").path(version)


def test_who_began_with_a_version_plays_it_on_while_the_next_is_published(tmp_path, model):
    paths, settings = make_run(tmp_path / "run"), make_settings(vlm={"model": model})
    first = trained(paths.root, settings)
    before = player(settings, paths.root, "filtered_bc").model
    weights = {key: value.clone() for key, value in Vlm.load(before).model.state_dict().items()}

    versions, other = PolicyVersions.of(paths, "filtered_bc"), Vlm.load(model)
    second = versions.publish(other.weights_hash, lambda hidden, version: other.save(hidden, version=version))
    assert second.number == 2
    assert all(torch.equal(value, weights[key]) for key, value in Vlm.load(before).model.state_dict().items())
    assert Vlm.load(before).version == str(first)
    assert Vlm.load(player(settings, paths.root, "filtered_bc").model).version == str(second)


def test_a_training_that_is_repeated_publishes_no_second_version(tmp_path, model, monkeypatch):
    monkeypatch.setattr(policy, "_PROBED", 2)
    root, settings = make_run(tmp_path / "run").root, make_settings(vlm={"model": model})
    assert trained(root, settings) == trained(root, settings)
