"""A training's share of the cores."""

import os

import pytest
import torch

from digiq_ray.learner.actor import Learner
from digiq_ray.learner.threads import MOST, share_of_cores


@pytest.mark.parametrize(
    ("cores", "trainings", "threads"), [(2, 1, 2), (2, 3, 1), (64, 1, MOST), (64, 32, 2), (1, 1, 1)]
)
def test_the_share_is_that_of_the_number_of_trainings(monkeypatch, cores, trainings, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    before = torch.get_num_threads()
    with share_of_cores(trainings):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == before


def test_a_learner_gives_a_training_its_share(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    before, learner = torch.get_num_threads(), Learner()
    try:
        for at_once, threads in ((1, 2), (2, 1)):
            figures = learner.run(lambda on_step: {"threads": torch.get_num_threads()}, at_once=at_once)
            assert figures == {"threads": threads}
    finally:
        torch.set_num_threads(before)
