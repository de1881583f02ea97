"""From episodes to the tensors that a critic trains on."""

import dataclasses
import math

import pytest
import torch

from digiq_ray.core.errors import StoreError
from digiq_ray.critic.dataset import EpisodeFrame, build

STATES, ACTIONS = torch.arange(10.0).reshape(5, 2), torch.arange(12.0).reshape(4, 3)
TERMINAL = EpisodeFrame(
    rewards=[0.0, 1.0],
    terminal=True,
    states=[0, 1, 2],
    actions=[3, 0],
    candidates=[[3, 1, 2], [0]],
    weights=[[0.5, 0.25, 0.25], [1.0]],
)
TRUNCATED = EpisodeFrame(
    rewards=[0.0], terminal=False, states=[3, 4], actions=[1], candidates=[[1, 2]], weights=[[0.75, 0.25]]
)


def built(*frames: EpisodeFrame, steps: int = 1, states: torch.Tensor = STATES, actions: torch.Tensor = ACTIONS):
    return build(frames, states, actions, gamma=0.5, steps=steps)


def test_episodes_become_transitions_one_after_the_other():
    data = built(TERMINAL, TRUNCATED)
    assert len(data) == 3
    assert data.state.tolist() == [0, 1, 3]
    assert data.action.tolist() == [3, 0, 1]
    assert data.reward.tolist() == [0.0, 1.0, 0.0]
    assert data.successor.tolist() == [1, 2, 4]


def test_a_truncated_end_bootstraps_from_its_last_state_and_a_terminal_one_from_nothing():
    assert built(TERMINAL, TRUNCATED).discount.tolist() == [0.5, 0.0, 0.5]


def test_several_steps_reach_no_further_than_their_episode():
    data = built(TERMINAL, TRUNCATED, steps=5)
    assert data.reward.tolist() == [0.5, 1.0, 0.0]
    assert data.successor.tolist() == [2, 2, 4]
    assert data.discount.tolist() == [0.0, 0.0, 0.5]


def test_in_the_released_codes_way_a_truncated_end_is_worth_nothing():
    data = build([TERMINAL, TRUNCATED], STATES, ACTIONS, gamma=0.5, steps=1, truncated_ends=True)
    assert data.discount.tolist() == [0.5, 0.0, 0.0]


def test_returns_sum_up_all_that_follows_without_a_bootstrap():
    assert built(TERMINAL, TRUNCATED).returns.tolist() == [0.5, 1.0, 0.0]


def test_candidates_are_padded_with_no_row_and_weight_0():
    data = built(TERMINAL, TRUNCATED)
    assert data.candidates.tolist() == [[3, 1, 2], [0, -1, -1], [1, 2, -1]]
    assert data.weights.tolist() == [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.75, 0.25, 0.0]]


def test_tensors_have_the_types_that_training_takes():
    data = built(dataclasses.replace(TERMINAL, rewards=[0, 1]))
    assert {data.reward.dtype, data.discount.dtype, data.weights.dtype} == {torch.float32}
    assert {data.state.dtype, data.action.dtype, data.successor.dtype, data.candidates.dtype} == {torch.int64}


def test_features_are_not_copied():
    data = built(TERMINAL)
    assert data.state_features.data_ptr() == STATES.data_ptr()
    assert data.action_features.data_ptr() == ACTIONS.data_ptr()


@pytest.mark.parametrize("frames", [[], [EpisodeFrame([], True, [0], [], [], [])]], ids=["none", "no action"])
def test_data_without_a_transition_is_refused(frames):
    with pytest.raises(StoreError, match="there is no transition to train a critic on"):
        built(*frames)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["states", "actions"])
def test_features_that_are_not_finite_are_refused(bad, kind):
    features = {"states": STATES.clone(), "actions": ACTIONS.clone()}
    features[kind][1, 1] = bad
    with pytest.raises(StoreError, match=f"{kind[:-1]} features hold values that are not finite"):
        built(TERMINAL, **features)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_refused(bad):
    with pytest.raises(StoreError, match="a reward is not a finite number"):
        built(dataclasses.replace(TERMINAL, rewards=[0.0, bad]))


def test_a_state_without_candidates_is_refused():
    with pytest.raises(StoreError, match="a state has no candidates: run digiq candidates"):
        built(dataclasses.replace(TERMINAL, candidates=[[3], []], weights=[[1.0], []]))
