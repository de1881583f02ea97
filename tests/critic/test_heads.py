"""Heads, the critic that holds them, and its target."""

import json

import pytest
import torch

from digiq_ray.critic.heads import Critic, CriticShape, HeadShape, Normaliser, make_head, polyak

SMALL = HeadShape((8,))


def make_critic(**options) -> Critic:
    seed = options.pop("seed", 0)
    return Critic(CriticShape(**{"state_dim": 3, "action_dim": 5, "q": SMALL, "v": SMALL} | options), seed=seed)


def test_standardised_training_data_has_mean_0_and_deviation_1():
    features = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 7 + 3
    layer = Normaliser(4)
    layer.fit(features)
    out = layer(features)
    assert torch.allclose(out.mean(0), torch.zeros(4), atol=1e-3)
    assert torch.allclose(out.std(0, unbiased=False), torch.ones(4), atol=1e-2)


def test_a_feature_that_never_varies_becomes_0():
    layer = Normaliser(2)
    layer.fit(torch.full((10, 2), 5.0))
    assert layer(torch.full((1, 2), 5.0)).tolist() == [[0.0, 0.0]]


def test_outliers_are_clamped_to_6_deviations():
    layer = Normaliser(1)
    layer.fit(torch.tensor([[-1.0], [1.0]]))
    assert layer(torch.tensor([[1e6], [-1e6]])).tolist() == [[6.0], [-6.0]]


def test_whitened_training_data_has_the_identity_as_covariance():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2000, 3, generator=generator) @ torch.tensor([[2.0, 1, 0], [0, 1, 1], [0, 0, 1]]) + 5
    layer = Normaliser(3, "whiten")
    layer.fit(features)
    out = layer(features)
    assert torch.allclose(out.T @ out / len(out), torch.eye(3), atol=0.02)


def test_features_may_stay_as_they_are():
    layer = Normaliser(2, "none")
    layer.fit(torch.full((3, 2), 9.0))
    assert layer(torch.tensor([[1e6, -3.0]])).tolist() == [[1e6, -3.0]]


@pytest.mark.parametrize(("widths", "found"), [((), [5]), ((7,), [5, 7]), ((0, 4, 4), [5, 5, 4, 4])])
def test_a_head_has_the_wanted_widths_and_one_output(widths, found):
    head = make_head(5, HeadShape(widths))
    assert [layer.in_features for layer in head if isinstance(layer, torch.nn.Linear)] == found
    assert head(torch.zeros(4, 5)).shape == (4, 1)


@pytest.mark.parametrize(
    ("dim", "widths", "parameters"), [(10752, (0, 3840, 3840, 3840), 186_410_497), (5120, (2304,) * 3, 22_422_529)]
)
def test_the_released_codes_heads_have_as_many_parameters_as_there(dim, widths, parameters):
    with torch.device("meta"):
        head = make_head(dim, HeadShape(widths, activation="relu", layer_norm=False))
    assert sum(one.numel() for one in head.parameters()) == parameters


def test_dropout_leaves_out_input_features_in_training_only():
    heads = make_critic(q=HeadShape((8,), dropout=0.5)).q_heads
    features = torch.randn(64, 5)
    assert not torch.equal(heads(features), heads(features))
    heads.eval()
    assert torch.equal(heads(features), heads(features))


def test_q_and_v_give_one_value_for_each_row():
    critic = make_critic()
    assert critic.q(torch.zeros(4, 5)).shape == (4,)
    assert critic.v(torch.zeros(6, 3)).shape == (6,)
    assert critic.q_heads(torch.zeros(4, 5)).shape == (2, 4, 1)
    assert critic.q_heads.values(torch.zeros(4, 5)).shape == (2, 4)


def test_the_twins_are_independent():
    first, second = make_critic().q_heads.values(torch.ones(1, 5))[:, 0].tolist()
    assert first != second


@pytest.mark.parametrize(
    ("aggregate", "combine"),
    [
        ("min", lambda values: values.amin(0)),
        ("mean", lambda values: values.mean(0)),
        ("max", lambda values: values.amax(0)),
        ("pessimistic", lambda values: values.mean(0) - values.std(0, unbiased=False)),
    ],
)
def test_heads_become_one_value_by_the_aggregate(aggregate, combine):
    critic, features = make_critic(aggregate=aggregate, heads=4), torch.randn(20, 5)
    assert torch.equal(critic.q(features), combine(critic.q_heads.values(features)))


def test_a_shape_comes_back_from_json():
    shape = CriticShape(state_dim=3, action_dim=5, q=HeadShape((4, 4), dropout=0.1), loss="hl_gauss", heads=3)
    assert CriticShape.from_json(json.loads(json.dumps(shape.to_json()))) == shape


def test_a_target_may_start_from_weights_of_its_own():
    critic = make_critic()
    critic.q_heads.normalise.fit(torch.randn(9, 5) + 2)
    target = critic.target(seed=7)
    assert not torch.equal(critic.q(torch.ones(1, 5)), target.q(torch.ones(1, 5)))
    assert torch.equal(critic.q_heads.normalise.mean, target.q_heads.normalise.mean)
    assert not any(parameter.requires_grad for parameter in target.parameters())


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
    critic.v_heads.normalise.fit(torch.randn(9, 3))
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
    critic.q_heads.normalise.fit(torch.randn(9, 5) + 4)
    polyak(target, critic, 0.01)
    assert torch.equal(target.q_heads.normalise.mean, critic.q_heads.normalise.mean)
