"""Models that stages hand to each other."""

import json

import pytest
import torch

from digiq_ray.core.errors import ModelError, StoreError
from digiq_ray.critic.heads import Critic, CriticShape, HeadShape
from digiq_ray.critic.novelty import Novelty
from digiq_ray.learner.models import cached_extractor, cached_vlm, load_critic, load_novelty, resolve, save_critic
from digiq_ray.vlm.model import Vlm
from digiq_ray.vlm.tiny import SHIPPED, make_vlm

SHAPE = CriticShape(state_dim=3, action_dim=5, q=HeadShape((6, 6)), v=HeadShape((6,)), aggregate="mean")


@pytest.fixture
def critic() -> Critic:
    made = Critic(SHAPE, seed=1)
    made.q_heads.normalise.fit(torch.randn(20, 5) + 2)
    return made


@pytest.fixture
def novelty() -> Novelty:
    made = Novelty(3)
    made.fit(torch.randn(40, 3))
    return made


def test_a_saved_critic_gives_the_same_values(tmp_path, critic, novelty):
    save_critic(critic, novelty, tmp_path / "critic")
    loaded = load_critic(tmp_path / "critic")
    states, actions = torch.randn(9, 3), torch.randn(9, 5)
    assert torch.equal(loaded.v(states), critic.v(states))
    assert torch.equal(loaded.q(actions), critic.q(actions))
    assert loaded.shape == SHAPE
    assert not loaded.training
    assert torch.equal(load_novelty(tmp_path / "critic")(states), novelty(states))


def test_a_critic_that_was_published_without_novelty_says_so(tmp_path, critic, novelty):
    save_critic(critic, novelty, tmp_path / "critic")
    (tmp_path / "critic" / "novelty.safetensors").unlink()
    load_critic(tmp_path / "critic")
    with pytest.raises(StoreError, match=r"no readable novelty of states in .*run digiq train-critic"):
        load_novelty(tmp_path / "critic")


def test_a_missing_critic_is_a_typed_error(tmp_path):
    with pytest.raises(StoreError, match=r"no readable critic in .*nowhere .*run digiq train-critic"):
        load_critic(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["critic.safetensors", "critic.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\x00"], ids=["empty", "list", "bytes"])
def test_a_broken_critic_is_a_typed_error(tmp_path, critic, novelty, name, content):
    save_critic(critic, novelty, tmp_path / "critic")
    (tmp_path / "critic" / name).write_bytes(content)
    with pytest.raises(StoreError, match="no readable critic"):
        load_critic(tmp_path / "critic")


def test_a_critic_whose_weights_do_not_fit_its_card_is_a_typed_error(tmp_path, critic, novelty):
    save_critic(critic, novelty, tmp_path / "critic")
    card = json.loads((tmp_path / "critic" / "critic.json").read_text())
    (tmp_path / "critic" / "critic.json").write_text(json.dumps(card | {"heads": 3}))
    with pytest.raises(StoreError, match="no readable critic"):
        load_critic(tmp_path / "critic")


def test_tiny_is_the_model_that_ships_and_anything_else_is_itself():
    assert resolve("tiny") == SHIPPED
    assert resolve("some/model") == "some/model"


def test_a_model_is_loaded_once_in_a_process(tmp_path):
    make_vlm(["red"], hidden=16, layers=2, vision=16, vision_layers=1).save(tmp_path, version="v1")
    cached_vlm.cache_clear()
    first = cached_vlm(str(tmp_path))
    assert isinstance(first, Vlm)
    assert first.version == "v1"
    assert cached_vlm(str(tmp_path)) is first


def test_cutting_an_extractor_leaves_the_policy_of_the_same_path_whole(tmp_path):
    make_vlm(["red"], hidden=16, layers=2, vision=16, vision_layers=1).save(tmp_path)
    extractor, policy = cached_extractor(str(tmp_path), 1, "last"), cached_vlm(str(tmp_path))
    assert len(extractor.vlm.model.model.language_model.layers) == 1
    assert len(policy.model.model.language_model.layers) == 2


def test_a_model_that_is_not_there_is_a_typed_error(tmp_path):
    with pytest.raises(ModelError, match="cannot load"):
        cached_vlm(str(tmp_path / "nowhere"))
