"""Episodes: returns, terminal or truncated, and names that are the same everywhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.episodes import Episode, StopReason, discounted_returns, episode_id, screen_hash
from digiq_ray.core.tasks import Task


def episode(stop_reason: StopReason) -> Episode:
    return Episode(
        episode_id="e",
        task=Task("general/test/0", "Open the clock", 10, "test"),
        steps=(),
        stop_reason=stop_reason,
        policy_version="0",
        device="simphone-0",
        judge="oracle",
    )


def test_the_return_of_a_success_after_five_steps_is_that_of_the_original_files():
    returns = discounted_returns([0, 0, 0, 0, 1], 0.95)
    assert returns[0] == pytest.approx(0.81450625, abs=1e-12)
    assert returns[-1] == 1.0


def test_no_rewards_have_no_returns():
    assert discounted_returns([], 0.95) == []


@given(st.lists(st.floats(-10, 10), max_size=20), st.floats(0, 1))
def test_returns_are_discounted_sums_of_what_follows(rewards, gamma):
    expected = [sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards))) for t in range(len(rewards))]
    assert discounted_returns(rewards, gamma) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("stop_reason", "terminal"),
    [
        (StopReason.SUCCESS, True),
        (StopReason.AGENT_STOP, True),
        (StopReason.TIME_LIMIT, False),
        (StopReason.DEVICE_ERROR, False),
    ],
)
def test_only_success_and_a_stop_by_the_agent_are_terminal(stop_reason, terminal):
    assert episode(stop_reason).is_terminal is terminal


@pytest.mark.parametrize("stop_reason", StopReason)
def test_only_the_judge_makes_a_success(stop_reason):
    assert episode(stop_reason).success is (stop_reason is StopReason.SUCCESS)


def test_the_same_attempt_has_the_same_name_in_every_process():
    assert episode_id("run", "general/test/0", 0) == "7063c3457fa15153820763ed275b9ecf"


def test_run_task_and_attempt_each_change_the_name():
    names = {episode_id(run, task, attempt) for run in ("a", "b") for task in ("s", "t") for attempt in (0, 1)}
    assert len(names) == 8


def test_a_screen_hash_depends_on_the_bytes_only():
    assert screen_hash(b"abc") == screen_hash(bytes(bytearray(b"abc")))
    assert screen_hash(b"abc") != screen_hash(b"abd")
    assert len(screen_hash(b"")) == 32
