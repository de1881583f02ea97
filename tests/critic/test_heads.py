"""Heads, the critic that holds them, and its target."""

import pytest
import torch

from digiq_ray.core.errors import ConfigError
from digiq_ray.critic.heads import Critic, HeadShape, Standardise, make_head, polyak

SMALL = HeadShape(width=8, depth=1)


def make_critic(**options) -> Critic:
    return Critic(**{"state_dim": 3, "action_dim": 5, "shape": SMALL} | options)


def test_standardised_training_data_has_mean_0_and_deviation_1():
    features = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 7 + 3
    layer = Standardise(4)
    layer.fit(features)
    out = layer(features)
    assert torch.allclose(out.mean(0), torch.zeros(4), atol=1e-3)
    assert torch.allclose(out.std(0, unbiased=False), torch.ones(4), atol=1e-2)


def test_a_feature_that_never_varies_becomes_0():
    layer = Standardise(2)
    layer.fit(torch.full((10, 2), 5.0))
    assert layer(torch.full((1, 2), 5.0)).tolist() == [[0.0, 0.0]]


def test_outliers_are_clamped_to_6_deviations():
    layer = Standardise(1)
    layer.fit(torch.tensor([[-1.0], [1.0]]))
    assert layer(torch.tensor([[1e6], [-1e6]])).tolist() == [[6.0], [-6.0]]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_head_has_the_wanted_depth_and_one_output(depth):
    head = make_head(5, HeadShape(width=7, depth=depth))
    assert sum(isinstance(layer, torch.nn.Linear) for layer in head) == depth + 1
    assert head(torch.zeros(4, 5)).shape == (4, 1)


def test_q_and_v_give_one_value_for_each_row():
    critic = make_critic()
    assert critic.q(torch.zeros(4, 5)).shape == (4,)
    assert critic.v(torch.zeros(6, 3)).shape == (6,)
    assert critic.q_heads(torch.zeros(4, 5)).shape == (2, 4)


def test_the_twins_are_independent():
    first, second = make_critic().q_heads(torch.ones(1, 5))[:, 0].tolist()
    assert first != second


@pytest.mark.parametrize(("aggregate", "combine"), [("min", torch.amin), ("mean", torch.mean)])
def test_twins_become_one_value_by_the_aggregate(aggregate, combine):
    critic, features = make_critic(aggregate=aggregate), torch.randn(20, 5)
    assert torch.equal(critic.q(features), combine(critic.q_heads(features), 0))


def test_another_aggregate_is_refused():
    with pytest.raises(ConfigError, match="aggregate='max': it must be min or mean"):
        make_critic(aggregate="max")


def test_the_seed_alone_decides_the_weights_and_nothing_else_is_drawn():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one = make_critic(seed=4)
    assert torch.equal(torch.rand(1), expected)
    two, other = make_critic(seed=4), make_critic(seed=5)
    features = torch.ones(1, 5)
    assert torch.equal(one.q(features), two.q(features))
    assert not torch.equal(one.q(features), other.q(features))


def test_the_target_is_an_equal_frozen_copy_with_memory_of_its_own():
    critic = make_critic()
    critic.v_heads.standardise.fit(torch.randn(9, 3))
    target = critic.target()
    assert all(torch.equal(a, b) for a, b in zip(critic.parameters(), target.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(critic.buffers(), target.buffers(), strict=True))
    assert not any(parameter.requires_grad for parameter in target.parameters())
    with torch.no_grad():
        next(critic.parameters()).add_(1.0)
    assert not torch.equal(next(critic.parameters()), next(target.parameters()))


@pytest.mark.parametrize(("updates", "share"), [(10, 0.6513), (44, 0.9903)])
def test_a_target_at_0_moves_towards_1_by_the_known_share(updates, share):
    slow, fast = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    with torch.no_grad():
        for one in slow.parameters():
            one.zero_()
        for one in fast.parameters():
            one.fill_(1.0)
    for _ in range(updates):
        polyak(slow, fast, 0.1)
    assert slow.weight.item() == pytest.approx(share, abs=1e-4)


def test_a_target_takes_over_standardisation_that_was_fitted_late():
    critic = make_critic()
    target = critic.target()
    critic.q_heads.standardise.fit(torch.randn(9, 5) + 4)
    polyak(target, critic, 0.01)
    assert torch.equal(target.q_heads.standardise.mean, critic.q_heads.standardise.mean)
