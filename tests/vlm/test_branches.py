"""Branches that share the row of their prefix are worth what they are in rows of their own, whichever are left."""

import pytest
import torch
from vlm_helpers import TASKS, fresh, png

from digiq_ray.vlm.batching import run_prefix
from digiq_ray.vlm.branches import OwnRows, SharedRows, branches
from digiq_ray.vlm.model import Vlm

OWNERS = (0, 0, 0, 1, 2, 2)


@pytest.fixture(params=("tiny", "llava_next", "idefics3", "qwen2_5_vl"))
def vlm(request):
    if request.param == "tiny":
        return fresh(request.getfixturevalue("tiny"))
    return Vlm.load(request.getfixturevalue("family_path")(request.param))


def prefix_of(vlm):
    """Screens of two sizes, and prompts of different lengths."""
    screens = [vlm.transform.prepare(png(96, 192, shift)) for shift in (0, 60)] + [vlm.transform.prepare(png(120, 80))]
    prompts = [[*vlm.prefix_ids(s, t, ()), *vlm.act_ids()] for s, t in zip(screens, TASKS, strict=True)]
    return run_prefix(vlm, screens, prompts)


def tokens(count, seed):
    return torch.randint(5, 40, (count,), generator=torch.Generator().manual_seed(seed))


def same(one, other):
    torch.testing.assert_close(one.last, other.last, atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_in_a_shared_row_each_grows_as_in_a_row_of_its_own(vlm):
    shared, own = (kind(vlm, prefix_of(vlm), OWNERS) for kind in (SharedRows, OwnRows))
    assert shared.last.shape == (len(OWNERS), vlm.hidden_size)
    same(shared, own)
    for number in range(3):
        for one in (shared, own):
            one.step(tokens(len(OWNERS), number))
        same(shared, own)


@torch.inference_mode()
@pytest.mark.parametrize("chosen", [[0, 2, 4, 5], [5, 1], [3], [4, 2, 0]])
def test_those_that_are_left_grow_as_before(vlm, chosen):
    shared, own = (kind(vlm, prefix_of(vlm), OWNERS) for kind in (SharedRows, OwnRows))
    for number in range(2):
        for one in (shared, own):
            one.step(tokens(len(OWNERS), number))
    for one in (shared, own):
        one.keep(chosen)
    same(shared, own)
    for number in range(2):
        for one in (shared, own):
            one.step(tokens(len(chosen), 10 + number))
        same(shared, own)
    for one in (shared, own):
        one.keep([len(chosen) - 1])
        one.step(tokens(1, 20))
    same(shared, own)


@torch.inference_mode()
def test_keys_and_values_of_a_prefix_are_held_once(tiny):
    prefix = prefix_of(tiny)
    length = prefix.mask.shape[1]
    grown = branches(tiny, prefix, OWNERS)
    grown.step(tokens(len(OWNERS), 0))
    assert prefix.cache.layers[0].keys.shape[::2] == (3, length + 3)
    grown.keep([4, 5])
    assert prefix.cache.layers[0].keys.shape[::2] == (1, length + 2)


@torch.inference_mode()
def test_rows_are_shared_where_that_saves_anything_and_is_right(tiny, family_path):
    assert isinstance(branches(tiny, prefix_of(tiny), OWNERS), SharedRows)
    assert isinstance(branches(tiny, prefix_of(tiny), (0, 1, 2)), OwnRows)
    other = Vlm.load(family_path("gemma3"))
    assert isinstance(branches(other, prefix_of(other), OWNERS), OwnRows)
