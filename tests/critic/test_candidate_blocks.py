"""Targets of candidates are computed in blocks of rows: which blocks, changes nothing."""

import pytest
import torch

from digiq_ray.core.settings import CriticSettings
from digiq_ray.critic import training
from digiq_ray.critic.dataset import EpisodeFrame, build
from digiq_ray.critic.heads import Critic, CriticShape, HeadShape


def _first_step(**options) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    states, actions = torch.randn(4, 3, generator=generator), torch.randn(9, 5, generator=generator)
    candidates = [[0, 1, 2], [3, 4], [5, 6, 7, 8]]
    frame = EpisodeFrame(
        [0.0, 0.0, 1.0], True, [0, 1, 2, 3], [0, 3, 5], candidates, [[1 / len(one)] * len(one) for one in candidates]
    )
    data = build([frame], states, actions, gamma=0.9, steps=1)
    head = HeadShape((8,))
    critic = Critic(CriticShape(state_dim=3, action_dim=5, q=head, v=head), seed=1)
    settings = CriticSettings(batch=16, steps=1, dropout=0.0, **options)
    return training.CriticTrainer(critic, data, settings, seed=0).step(0)


@pytest.mark.parametrize("backup", ["candidates", "best"])
@pytest.mark.parametrize("targets", ["shared", "own"])
def test_blocks_of_any_size_give_the_same_figures(backup, targets, monkeypatch):
    whole = _first_step(backup=backup, targets=targets)
    monkeypatch.setattr(training, "_BLOCK_ROWS", 7)
    assert _first_step(backup=backup, targets=targets) == pytest.approx(whole, rel=1e-5)
