"""A checkpoint of another training is refused: with other data, features or settings, and with a message that helps."""

import dataclasses

import pytest
import torch
from small_critic import make_trainer, state_of, train_in
from small_runs import CANDIDATES, FINGERPRINT, make_run, make_settings

from digiq_ray.core.errors import CheckpointMismatchError
from digiq_ray.learner.critic import train_critic
from digiq_ray.learner.fingerprints import Fingerprints
from digiq_ray.store.features import FeatureKey, FeatureStore

MINE = Fingerprints(
    data={"episodes": "1a"}, features={"layer": 2, "pooling": "last"}, configuration={"critic": {"gamma": 0.9}}
)


class Killed(BaseException):
    """Stands for the end of the process."""


def kill(done: int, total: int) -> None:
    if done == 15:
        raise Killed


def nothing(done: int, total: int) -> None:
    """Nobody wants to know."""


def test_equal_fingerprints_pass_also_after_a_manifest():
    MINE.require(MINE.to_json(), where="here")
    listed = Fingerprints(configuration={"widths": (8, 8)})
    listed.require(Fingerprints(configuration={"widths": [8, 8]}).to_json(), where="here")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"data": {"episodes": "2b"}}, "data.episodes was '2b' and is '1a'"),
        ({"features": {"layer": 3, "pooling": "last"}}, "features.layer was 3 and is 2"),
        ({"configuration": {"critic": {"gamma": 0.95}}}, "configuration.critic.gamma was 0.95 and is 0.9"),
        ({"data": {}}, "data.episodes was None and is '1a'"),
    ],
)
def test_a_difference_is_named_with_what_it_was_and_is(other, said):
    with pytest.raises(CheckpointMismatchError) as raised:
        MINE.require(dataclasses.replace(MINE, **other).to_json(), where="/run/checkpoints/critic/00000005")
    text = str(raised.value)
    assert text.startswith(
        f"/run/checkpoints/critic/00000005: the checkpoint is of another training: {said}; give another"
    )
    assert "another --out" in text
    assert "remove the checkpoint" in text
    assert "\n" not in text


def test_further_differences_are_counted():
    other = Fingerprints({"episodes": "2b"}, {"layer": 4, "pooling": "mean"}, {"critic": {"gamma": 0.5}})
    said = r"gamma was .*, features\.layer was .*pooling was .* \(and 1 more\); give"
    with pytest.raises(CheckpointMismatchError, match=said):
        MINE.require(other.to_json(), where="here")


def test_a_training_refuses_the_checkpoint_of_another_and_leaves_it_for_its_own(tmp_path):
    other = dataclasses.replace(MINE, data={"episodes": "2b"})
    whole = make_trainer()
    curves = train_in(tmp_path / "whole", whole, fingerprints=MINE)
    with pytest.raises(Killed):
        train_in(tmp_path / "run", make_trainer(), fingerprints=MINE, on_step=kill)
    with pytest.raises(CheckpointMismatchError, match=r"checkpoints/00000015|checkpoints/00000010"):
        train_in(tmp_path / "run", make_trainer(), fingerprints=other)
    resumed, seen = make_trainer(), []
    assert train_in(tmp_path / "run", resumed, fingerprints=MINE, on_step=lambda done, _: seen.append(done)) == curves
    assert seen[0] > 10, "the refusal cost nothing"
    assert all(torch.equal(value, state_of(resumed)[key]) for key, value in state_of(whole).items())


# A critic of a run.


def killed_run(root, **sections):
    paths = make_run(root)
    with pytest.raises(Killed):
        train_critic(root, make_settings(**sections), kill)
    return paths


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"seed": 1}, r"configuration\.seed was 0 and is 1"),
        (
            {"critic": {"steps": 40, "batch": 8, "q_widths": [8], "v_widths": [8], "gamma": 0.5}},
            r"configuration\.critic\.gamma was 0\.9 and is 0\.5",
        ),
    ],
)
def test_a_critic_does_not_go_on_with_other_settings(tmp_path, sections, said):
    killed_run(tmp_path)
    with pytest.raises(CheckpointMismatchError, match=said):
        train_critic(tmp_path, make_settings(**sections), nothing)


def test_settings_that_do_not_matter_to_a_critic_may_change(tmp_path):
    killed_run(tmp_path)
    train_critic(tmp_path, make_settings(learner={"checkpoint_every": 3, "processes": 1}), nothing)


def test_a_critic_does_not_go_on_with_features_of_another_model(tmp_path):
    paths = killed_run(tmp_path)
    (paths.snapshots / "learner.json").unlink()  # as who embeds again and means to train on that
    other = dataclasses.replace(FINGERPRINT, model="another", layer=3)
    for kind in ("states", "actions"):
        store = FeatureStore(paths.features / kind)
        view = store.open()
        keys, rows = [FeatureKey(**row) for row in view.keys.to_pylist()], view.rows(range(len(view)))
        (paths.features / kind / "0.arrow").unlink()
        store.append("0", keys, rows, other)
    with pytest.raises(
        CheckpointMismatchError, match=r"features\.layer was 2 and is 3, features\.model was 'm' and is 'anoth"
    ):
        train_critic(tmp_path, make_settings(), nothing)


def test_a_critic_does_not_go_on_with_other_candidates(tmp_path):
    paths = killed_run(tmp_path)
    (paths.snapshots / "learner.json").unlink()
    for file in paths.candidates.glob("*.parquet"):
        file.unlink()
    fewer = {key: options for key, options in CANDIDATES.items() if key != ("cut", 1)}
    made = make_run(tmp_path / "other", fewer)
    for file in made.candidates.glob("*.parquet"):
        file.rename(paths.candidates / file.name)
    with pytest.raises(CheckpointMismatchError, match=r"data\.candidates was"):
        train_critic(tmp_path, make_settings(), nothing)
