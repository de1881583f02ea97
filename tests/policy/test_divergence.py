"""The divergence from the behaviour policy, by its formula and on a VLM."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from digiq_ray.policy.divergence import ProbeState, candidate_logprobs, divergence

LOGPROBS = arrays(np.float64, (2, 5), elements=st.floats(-200.0, 0.0))


@given(LOGPROBS)
def test_it_is_never_negative_and_0_between_equals(logprobs):
    new, old = logprobs
    assert divergence([new], [old]) >= 0.0
    assert divergence([new], [new]) == 0.0


@given(LOGPROBS, st.floats(-50.0, 0.0))
def test_only_proportions_count(logprobs, less):
    new, old = logprobs
    assert divergence([new + less], [old]) == pytest.approx(divergence([new], [old]), abs=1e-6)


def test_it_is_the_mean_over_states_of_the_textbook_sum():
    new, old = np.log([0.9, 0.1]), np.log([0.5, 0.5])
    expected = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert divergence([new, old], [old, old]) == pytest.approx(expected / 2)
    assert divergence([old], [new]) != pytest.approx(expected), "the direction matters"


def test_without_states_it_is_0():
    assert divergence([], []) == 0.0


def test_logprobs_of_candidates_do_not_depend_on_the_batch(small_vlm, make_state):
    states = [
        ProbeState(*make_state(small_vlm, (220, 30, 30)), ["back", "tap 0.20 0.20"]),
        ProbeState(*make_state(small_vlm, (30, 220, 30)), ["type green"]),
    ]
    whole, parts = (candidate_logprobs(small_vlm, states, batch=size) for size in (64, 1))
    assert [len(one) for one in whole] == [2, 1]
    for one, other in zip(whole, parts, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert candidate_logprobs(small_vlm, []) == []
