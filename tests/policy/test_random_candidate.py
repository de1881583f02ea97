"""The control without a critic: a random valid candidate."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.policy.best_of_n import random_candidate

uniform = st.floats(0, 1, exclude_max=True)
drawn = st.dictionaries(st.sampled_from(["back", "home", "enter", "tap red", ""]), st.integers(0, 20), min_size=1)


@given(drawn, uniform)
def test_it_is_valid_and_was_drawn_where_anything_valid_was(make_candidates, counts, number):
    candidates = make_candidates(counts)
    index = random_candidate(candidates, number)
    valid = [i for i, action in enumerate(candidates.actions) if action is not None]
    was_drawn = [i for i in valid if candidates.counts[i]]
    if valid:
        assert index in (was_drawn or valid)
    else:
        assert index is None


@pytest.mark.parametrize("edge", [0.0, 1.0 - 2.0**-53])
def test_the_edges_of_the_interval_give_a_candidate(make_candidates, edge):
    index = random_candidate(make_candidates({"tap red": 3, "back": 1, "home": 2, "": 1}), edge)
    assert index == (1 if edge == 0.0 else 2)


def test_each_is_drawn_as_often_as_by_the_behaviour_policy(make_candidates):
    candidates = make_candidates({"back": 1, "tap red": 8, "home": 3})
    shares = Counter(random_candidate(candidates, number / 4000) for number in range(4000))
    assert shares == {0: 1000, 2: 3000}
