"""How unlike the training states a state is."""

import numpy as np
import pytest
import torch

from digiq_ray.critic import novelty as module
from digiq_ray.critic.novelty import Novelty, shares_beyond, shrunk


def correlated(n: int, *, seed: int = 0) -> torch.Tensor:
    """Two features that are nearly the same, with a deviation of 5, and a third of its own."""
    generator = torch.Generator().manual_seed(seed)
    common, own = torch.randn(n, 1, generator=generator) * 5, torch.randn(n, 2, generator=generator)
    return torch.cat([common, common + 0.1 * own[:, :1], own[:, 1:]], 1) + 20


@pytest.fixture
def fitted() -> Novelty:
    made = Novelty(3)
    made.fit(correlated(4000))
    return made


def test_a_threshold_is_a_share_of_the_training_states(fitted):
    found = fitted(correlated(4000))
    for share in (0.5, 0.9, 0.99):
        assert float((found > share).float().mean()) == pytest.approx(1 - share, abs=2e-3)
    assert float(found.max()) < 1.0


def test_states_like_those_of_training_are_as_novel(fitted):
    found = fitted(correlated(4000, seed=1))
    assert float((found > 0.9).float().mean()) == pytest.approx(0.1, abs=0.03)


def test_a_state_that_breaks_a_correlation_is_farther_than_all_though_each_of_its_features_is_usual(fitted):
    usual, broken = torch.tensor([[25.0, 25.0, 20.0]]), torch.tensor([[25.0, 15.0, 20.0]])
    assert float(fitted(usual)[0]) < 0.7
    assert float(fitted(broken)[0]) == 1.0


def test_what_is_kept_survives_as_tensors(fitted):
    other = Novelty(3)
    other.load_state_dict(fitted.state_dict())
    states = correlated(50, seed=2)
    assert torch.equal(other(states), fitted(states))


def test_blocks_change_nothing(fitted, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_ROWS", 300)
    other = Novelty(3)
    other.fit(correlated(4000))
    assert torch.allclose(other.knots, fitted.knots, atol=1e-3)


@pytest.mark.parametrize("features", [torch.full((5, 8), 0.1), torch.randn(3, 8), torch.zeros(1, 8)])
def test_few_states_or_equal_ones_give_finite_distances(features):
    made = Novelty(8)
    made.fit(features)
    found = made(torch.cat([features, torch.full((1, 8), 1e4)]))
    assert bool(torch.isfinite(made.knots).all())
    assert float(found[-1]) == 1.0
    assert float(found[:-1].max()) < 1.0


def test_the_shrunk_covariance_is_that_of_the_formula():
    # n = 10, d = 2: share = 16 / ((11 - 1) * (10 - 8)) = 0.8 of the mean variance 2
    found = shrunk(torch.diag(torch.tensor([3.0, 1.0])), 10)
    assert torch.allclose(found, torch.diag(torch.tensor([2.2, 1.8])))


def test_many_samples_are_hardly_shrunk_and_the_trace_stays():
    features = correlated(100_000)
    covariance = torch.cov(features.T)
    found = shrunk(covariance, 100_000)
    assert torch.allclose(found, covariance, atol=2e-3)
    assert float(shrunk(covariance, 4).trace()) == pytest.approx(float(covariance.trace()), rel=1e-5)


def test_shares_beyond():
    found = shares_beyond([0.2, 0.5, 0.95, 0.995, 1.0], 0.4)
    assert found == pytest.approx(
        {"median": 0.95, "beyond_90": 0.6, "beyond_99": 0.4, "beyond_limit": 0.8, "beyond_all": 0.2}
    )
    assert shares_beyond(list(np.linspace(0, 0.999, 7)), 1.0)["beyond_limit"] == 0.0
