"""Features that are read in blocks: the same normalisation as of a whole tensor."""

import pytest
import torch

from digiq_ray.critic import features as module
from digiq_ray.critic.features import Selection, blocks
from digiq_ray.critic.heads import Normaliser

FEATURES = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 7) + 5


def test_blocks_follow_each_other_and_hold_no_more_than_they_may():
    found = list(blocks(FEATURES, 4 * 6 * 300))
    assert [len(block) for block in found] == [300, 300, 300, 100]
    assert torch.equal(torch.cat(found), FEATURES)
    assert list(blocks(FEATURES[:0])) == []
    assert len(list(blocks(FEATURES[:3], 1))) == 3


def test_a_selection_reads_its_rows_of_others():
    found = Selection(FEATURES, torch.tensor([7, 3, 7]))
    assert len(found) == 3
    assert torch.equal(found[1:], FEATURES[[3, 7]])
    assert torch.equal(found[torch.tensor([2, 1])], FEATURES[[7, 3]])


def fitted(kind, features):
    layer = Normaliser(6, kind)
    layer.fit(features)
    return layer.mean, layer.scale


@pytest.mark.parametrize("kind", ["standardise", "whiten"])
def test_a_normaliser_that_sees_blocks_is_that_of_the_whole(monkeypatch, kind):
    whole = fitted(kind, FEATURES)
    monkeypatch.setattr(module.blocks, "__defaults__", (4 * 6 * 7,))
    assert len(list(blocks(FEATURES))) == 143
    for one, other in zip(fitted(kind, FEATURES), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_one_block_gives_the_very_bits_of_its_mean_and_deviation():
    mean, scale = fitted("standardise", FEATURES)
    assert torch.equal(mean, FEATURES.mean(0))
    assert torch.equal(scale, FEATURES.std(0, unbiased=False) + 1e-3)
