"""Outputs as values, and their errors."""

import math

import pytest
import torch

from digiq_ray.critic.losses import Histogram, Logistic, Regression, readout

LOSSES = ("mse", "huber", "logistic", "hl_gauss")


def made(loss: str):
    return readout(loss, bins=21, low=0.0, high=1.0)


def test_the_squared_error_of_twins_is_the_sum_of_their_means():
    values = torch.tensor([[[1.0], [2.0]], [[0.0], [4.0]]])
    assert Regression().error(values, torch.zeros(2)).item() == pytest.approx((1 + 4) / 2 + 16 / 2)


def test_a_large_error_counts_linearly_with_huber():
    def error(by):
        return Regression(huber=True).error(torch.full((1, 1, 1), by), torch.zeros(1)).item()

    assert error(0.05) == pytest.approx(0.05**2 / 2)
    assert error(3.0) - error(2.0) == pytest.approx(0.1)


def test_the_cross_entropy_of_a_logit_is_that_of_the_textbook():
    outputs, target = torch.tensor([[[0.4]]]), torch.tensor([0.3])
    p = 1 / (1 + math.exp(-0.4))
    assert Logistic(0.0, 1.0).error(outputs, target).item() == pytest.approx(
        -0.3 * math.log(p) - 0.7 * math.log(1 - p), rel=1e-6
    )


def test_a_histogram_of_a_target_sums_to_1_and_has_its_mean():
    shares = Histogram(51, 0.0, 1.0).histogram(torch.tensor([0.1, 0.5, 0.83]))
    assert shares.sum(-1).tolist() == pytest.approx([1.0] * 3)
    assert (shares @ Histogram(51, 0.0, 1.0).centres).tolist() == pytest.approx([0.1, 0.5, 0.83], abs=2e-3)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_learned_towards_a_target_reads_as_it(loss):
    form = made(loss)
    outputs = torch.zeros(2, 3, form.outputs, requires_grad=True)
    target = torch.tensor([0.1, 0.5, 0.9])
    optimizer = torch.optim.Adam([outputs], 0.1)
    for _ in range(400):
        optimizer.zero_grad()
        form.error(outputs, target).backward()
        optimizer.step()
    assert form.values(outputs).detach().flatten().tolist() == pytest.approx([0.1, 0.5, 0.9] * 2, abs=0.02)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_head_may_have_a_target_of_its_own(loss):
    form, outputs = made(loss), torch.randn(2, 4, made(loss).outputs)
    own = torch.rand(2, 4)
    apart = sum(form.error(outputs[i : i + 1], own[i]) for i in range(2))
    assert form.error(outputs, own).item() == pytest.approx(apart.item(), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(4, 1), (2, 3), (3,), (1, 4, 1)])
def test_targets_that_would_broadcast_are_refused(loss, shape):
    with pytest.raises(ValueError, match="do not fit"):
        made(loss).error(torch.zeros(2, 4, made(loss).outputs), torch.zeros(shape))


@pytest.mark.parametrize("loss", ["logistic", "hl_gauss"])
def test_targets_beyond_the_bounds_count_as_the_bound(loss):
    form, outputs = made(loss), torch.randn(1, 2, made(loss).outputs)
    assert torch.equal(form.error(outputs, torch.tensor([-3.0, 7.0])), form.error(outputs, torch.tensor([0.0, 1.0])))
