"""DigiRL's value functions: their labels, and that they learn them."""

import pytest
import torch

from digiq_ray.core.settings import CriticSettings
from digiq_ray.critic.dataset import EpisodeFrame
from digiq_ray.critic.heads import CriticShape, HeadShape
from digiq_ray.critic.values import ValueHeads, ValueTrainer, labelled


def frame(rewards: list[float], start: int) -> EpisodeFrame:
    rows = list(range(start, start + len(rewards) + 1))
    return EpisodeFrame(rewards, True, rows, rows[:-1], [[row] for row in rows[:-1]], [[1.0]] * len(rewards))


FRAMES = [frame([0.0, 1.0], 0), frame([0.0, 0.0], 3), frame([1.0, 0.0], 6)]


def test_labels_say_whether_rewards_lie_ahead_and_the_state_after_has_that_of_its_step():
    first, states = labelled(FRAMES)
    assert list(zip(first.rows.tolist(), first.labels.tolist(), strict=True)) == [(0, 1.0), (3, 0.0), (6, 1.0)]
    pairs = list(zip(states.rows.tolist(), states.labels.tolist(), strict=True))
    assert pairs[:4] == [(0, 1.0), (1, 1.0), (1, 1.0), (2, 1.0)]
    assert pairs[8:] == [(6, 1.0), (7, 1.0), (7, 0.0), (8, 0.0)]


def make_trainer(seed: int = 0) -> ValueTrainer:
    features = torch.randn(9, 5, generator=torch.Generator().manual_seed(4))
    shape = CriticShape(state_dim=5, action_dim=5, v=HeadShape((16,)))
    settings = CriticSettings(steps=150, batch=16, learning_rate=1e-2)
    return ValueTrainer(ValueHeads(shape, seed=seed), features, *labelled(FRAMES), settings, seed=seed)


def test_they_learn_what_happened():
    trainer = make_trainer()
    figures = [trainer.step(index) for index in range(trainer.steps)]
    for name in ("instruction_error", "state_error"):
        assert figures[-1][name] < 0.5 * figures[0][name]
    values = trainer.values.eval()
    features = torch.randn(9, 5, generator=torch.Generator().manual_seed(4))
    assert values.instruction(features[[0, 3, 6]]).round().tolist() == [1.0, 0.0, 1.0]
    assert values.state(features[[0, 2, 3, 8]]).round().tolist() == [1.0, 1.0, 0.0, 0.0]
    assert values.state(features[[7]]).item() == pytest.approx(0.5, abs=0.2), "after a success, and before none"


def test_the_smaller_of_two_heads_counts():
    values = ValueHeads(CriticShape(state_dim=5, action_dim=5, heads=7, loss="mse"), seed=0).eval()
    features = torch.randn(4, 5)
    heads = values.of_states.values(features)
    assert heads.shape == (2, 4)
    assert torch.equal(values.state(features), heads.amin(0))


def test_the_same_seed_trains_the_same_weights():
    one, other, another = make_trainer(), make_trainer(), make_trainer(seed=1)
    for trainer in (one, other, another):
        for index in range(5):
            trainer.step(index)
    weights = [torch.cat([p.flatten() for p in trainer.values.parameters()]) for trainer in (one, other, another)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
