"""The objectives as functions: targets of n steps, expectations over candidates, errors of twins."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.episodes import discounted_returns
from digiq_ray.critic.objectives import best_q, conservatism, expected_q, n_step, q_target

rewards_lists = st.lists(st.floats(-2, 2), min_size=1, max_size=12)
gammas = st.floats(0.1, 1.0)


def target_by_definition(rewards, values, t, steps_left, *, terminal, gamma) -> float:
    """``r_t + gamma * (target of the next state)``, ending in V after the steps or in nothing after a terminal end."""
    if t == len(rewards):
        return 0.0 if terminal else values[t]
    if steps_left == 0:
        return values[t]
    rest = target_by_definition(rewards, values, t + 1, steps_left - 1, terminal=terminal, gamma=gamma)
    return rewards[t] + gamma * rest


@given(rewards_lists, st.data(), gammas, st.integers(0, 14), st.booleans())
def test_n_step_targets_are_those_of_the_definition(rewards, data, gamma, steps, terminal):
    values = data.draw(st.lists(st.floats(-2, 2), min_size=len(rewards) + 1, max_size=len(rewards) + 1))
    found = n_step(rewards, terminal=terminal, gamma=gamma, steps=steps)
    for t in range(len(rewards)):
        target = found.reward[t] + found.discount[t] * values[found.successor[t]]
        expected = target_by_definition(rewards, values, t, steps or len(rewards), terminal=terminal, gamma=gamma)
        assert target == pytest.approx(expected, abs=1e-9)


@given(rewards_lists, gammas)
def test_without_a_bootstrap_the_targets_are_the_monte_carlo_returns(rewards, gamma):
    found = n_step(rewards, terminal=True, gamma=gamma, steps=0)
    assert found.reward == pytest.approx(discounted_returns(rewards, gamma), abs=1e-9)
    assert found.discount == [0.0] * len(rewards)


def test_the_return_of_the_original_data():
    found = n_step([0, 0, 0, 0, 1], terminal=True, gamma=0.95, steps=0)
    assert found.reward[0] == pytest.approx(0.81450625)


@given(rewards_lists, gammas, st.integers(0, 14))
def test_a_truncated_end_bootstraps_and_a_terminal_one_does_not(rewards, gamma, steps):
    truncated = n_step(rewards, terminal=False, gamma=gamma, steps=steps)
    terminal = n_step(rewards, terminal=True, gamma=gamma, steps=steps)
    assert truncated.discount[-1] == pytest.approx(gamma)
    assert terminal.discount[-1] == 0.0
    assert truncated.successor[-1] == terminal.successor[-1] == len(rewards)
    assert (truncated.reward, truncated.successor) == (terminal.reward, terminal.successor)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="steps=-1"):
        n_step([1.0], terminal=True, gamma=0.9, steps=-1)


def test_a_target_is_reward_plus_discounted_value():
    target = q_target(torch.tensor([1.0, 2.0]), torch.tensor([0.9, 0.0]), torch.tensor([10.0, 10.0]))
    assert target.tolist() == pytest.approx([10.0, 2.0])


@given(st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 9)), min_size=1, max_size=6))
def test_the_expectation_weighs_each_candidate_by_its_multiplicity(pairs):
    counts = [count for _, count in pairs]
    drawn = [value for value, count in pairs for _ in range(count)]
    if not drawn:
        return
    weights = torch.tensor([[count / sum(counts) for count in counts]], dtype=torch.float64)
    values = torch.tensor([[value for value, _ in pairs]], dtype=torch.float64)
    assert expected_q(values, weights).item() == pytest.approx(sum(drawn) / len(drawn), abs=1e-9)


def test_the_best_candidate_is_sought_among_those_with_weight():
    values, weights = (
        torch.tensor([[0.1, 0.9, 0.4], [-3.0, -2.0, 0.0]]),
        torch.tensor([[0.5, 0.0, 0.5], [0.9, 0.1, 0.0]]),
    )
    assert best_q(values, weights).tolist() == pytest.approx([0.4, -2.0])


def test_conservatism_is_the_soft_maximum_over_candidates_less_the_executed_action():
    values = torch.tensor([[[1.0, 3.0, 99.0]], [[0.0, 0.0, 99.0]]])
    present = torch.tensor([[True, True, False]])
    executed = torch.tensor([[1.0], [0.0]])
    expected = (math.log(math.exp(1 / 2) + math.exp(3 / 2)) * 2 - 1.0) + 2 * math.log(2)
    assert conservatism(values, present, executed, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_conservatism_lowers_what_stands_out_and_raises_what_was_done():
    values = torch.tensor([[[0.2, 0.9, 0.1]]], requires_grad=True)
    executed = values[..., 0]
    conservatism(values, torch.ones(1, 3, dtype=torch.bool), executed, 0.1).backward()
    done, standing_out, low = values.grad[0, 0].tolist()
    assert done < 0 < standing_out
    assert low < 1e-2
