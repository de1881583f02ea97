"""Best-of-N: which candidate of a state is imitated, if any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.actions import parse_action
from digiq_ray.core.errors import InputError
from digiq_ray.policy.best_of_n import (
    StateCandidates,
    best_of_n,
    draw,
    likelihood,
    similar,
    support,
    without_unlikely,
)

TEXTS = ["tap 0.10 0.10", "tap 0.12 0.12", "tap 0.80 0.80", "back", "type red", "swipe 0.5 0.8 0.5 0.2", "tap red", ""]

drawn = st.dictionaries(st.sampled_from(TEXTS), st.integers(0, 9), min_size=1)


def choose(candidates, q, value=0.0, *, margin=-np.inf, min_support=1, radius=0.0, min_probability=0.0):
    return best_of_n(
        candidates,
        np.array(q, dtype=np.float64),
        value,
        margin=margin,
        min_support=min_support,
        radius=radius,
        min_probability=min_probability,
    )


@given(drawn, st.data(), st.integers(1, 6), st.sampled_from([0.0, 0.05]), st.floats(-1, 1), st.floats(-1, 1))
def test_what_is_chosen_is_the_best_of_the_valid_and_supported(
    make_candidates, counts, data, min_support, radius, value, margin
):
    candidates = make_candidates(counts)
    q = data.draw(st.lists(st.floats(-2, 2), min_size=len(counts), max_size=len(counts)))
    choice = choose(candidates, q, value, margin=margin, min_support=min_support, radius=radius)
    counted = support(candidates, radius)
    valid = [i for i, action in enumerate(candidates.actions) if action is not None]
    allowed = [i for i in valid if counted[i] >= min_support]
    allowed = allowed or [i for i in valid if counted[i] == max(counted[j] for j in valid)]
    if not allowed:
        assert choice.index is None
        return
    best = max(q[i] for i in allowed)
    assert choice.advantage == pytest.approx(best - value)
    if choice.advantage <= margin:
        assert choice.index is None
    else:
        assert choice.index in allowed
        assert q[choice.index] == best
        assert choice.support == counted[choice.index]


@given(drawn, st.data())
def test_the_order_of_the_candidates_does_not_matter(make_candidates, counts, data):
    texts = data.draw(st.permutations(list(counts)))
    q = dict(zip(counts, np.random.default_rng(0).permutation(len(counts)).tolist(), strict=True))
    first = choose(make_candidates(counts), [q[text] for text in counts], min_support=3)
    other = choose(make_candidates({text: counts[text] for text in texts}), [q[t] for t in texts], min_support=3)
    chosen = None if first.index is None else list(counts)[first.index]
    assert chosen == (None if other.index is None else texts[other.index])


def test_the_candidate_with_the_highest_q_is_chosen(make_candidates):
    assert choose(make_candidates({"back": 1, "home": 1, "enter": 1}), [0.1, 0.9, 0.3]).index == 1


def test_an_unparsable_candidate_is_never_chosen(make_candidates):
    choice = choose(make_candidates({"tap nowhere": 9, "back": 1}), [5.0, 0.0], min_support=3)
    assert choice.index == 1


def test_nothing_is_chosen_where_nothing_is_valid(make_candidates):
    choice = choose(make_candidates({"tap nowhere": 9, "": 3}), [5.0, 0.0])
    assert (choice.index, choice.support) == (None, 0)


@pytest.mark.parametrize(("margin", "index"), [(0.19, 0), (0.21, None)])
def test_the_advantage_must_exceed_the_margin(make_candidates, margin, index):
    choice = choose(make_candidates({"back": 1}), [0.7], 0.5, margin=margin)
    assert choice.index == index
    assert choice.advantage == pytest.approx(0.2)


def test_an_advantage_equal_to_the_margin_is_not_enough(make_candidates):
    assert choose(make_candidates({"back": 1}), [0.5], 0.5, margin=0.0).index is None


def test_a_candidate_that_was_drawn_too_rarely_is_left_out(make_candidates):
    candidates = make_candidates({"back": 2, "home": 3})
    assert choose(candidates, [0.9, 0.1], min_support=3).index == 1
    assert choose(candidates, [0.9, 0.1], min_support=2).index == 0


def test_where_all_are_rare_the_most_frequent_valid_one_is_kept(make_candidates):
    candidates = make_candidates({"back": 1, "home": 2, "tap nowhere": 13})
    assert choose(candidates, [0.9, 0.1, 0.5], min_support=3).index == 1


def test_an_executed_action_that_was_never_drawn_again_can_be_kept(make_candidates):
    choice = choose(make_candidates({"back": 0, "": 16}), [0.9, 0.1], min_support=3)
    assert (choice.index, choice.support) == (0, 0)


def test_touches_within_the_radius_support_each_other(make_candidates):
    candidates = make_candidates({"tap 0.10 0.10": 2, "tap 0.12 0.12": 2, "tap 0.80 0.80": 3})
    assert support(candidates, 0.05).tolist() == [4, 4, 3]
    assert support(candidates, 0.0).tolist() == [2, 2, 3]
    assert choose(candidates, [0.9, 0.1, 0.5], min_support=3, radius=0.05).index == 0
    assert choose(candidates, [0.9, 0.1, 0.5], min_support=3, radius=0.0).index == 2


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        ("tap 0.50 0.50", "tap 0.55 0.45", True),
        ("tap 0.50 0.50", "tap 0.56 0.50", False),
        ("tap 0.50 0.50", "long_press 0.50 0.50", False),
        ("swipe 0.50 0.80 0.50 0.20", "swipe 0.52 0.80 0.50 0.22", True),
        ("swipe 0.50 0.80 0.50 0.20", "swipe 0.50 0.80 0.50 0.40", False),
        ("swipe 0.50 0.80 0.50 0.20", "swipe 0.80 0.80 0.50 0.20", False),
        ("type red", "type red", True),
        ("type red", "type green", False),
        ("back", "back", True),
        ("back", "home", False),
    ],
)
def test_actions_are_alike_by_type_and_place(first, second, alike):
    assert similar(parse_action(first), parse_action(second), 0.05) == alike
    assert similar(parse_action(second), parse_action(first), 0.05) == alike


def many(*counts: int) -> StateCandidates:
    texts = [f"tap 0.{i}0 0.50" for i in range(len(counts))]
    return StateCandidates(texts, [parse_action(text) for text in texts], counts)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 20), st.integers(0, 99))
def test_n_are_drawn_without_replacement(counts, n, seed):
    left = draw(many(*counts), n, np.random.default_rng(seed))
    assert sum(left.counts) == min(n, sum(counts))
    before = dict(zip(many(*counts).texts, counts, strict=True))
    assert all(0 < count <= before[text] for text, count in zip(left.texts, left.counts, strict=True))


@given(st.integers(0, 99))
def test_the_executed_action_takes_a_place_even_if_it_was_never_drawn(seed):
    left = draw(many(30, 30, 0), 4, np.random.default_rng(seed), keep="tap 0.20 0.50")
    assert "tap 0.20 0.50" in left.texts
    assert sum(left.counts) == 4


def test_a_candidate_is_drawn_in_proportion_to_its_samples():
    found = [sum(draw(many(48, 16), 16, np.random.default_rng(seed)).counts[:1]) for seed in range(400)]
    assert np.mean(found) == pytest.approx(12.0, abs=0.4)


SHARES = {"tap 0.10 0.10": 0.1, "tap 0.12 0.12": 0.15, "back": 0.4, "": 0.3}


def test_a_likely_candidate_may_win_though_it_was_drawn_once(make_candidates):
    candidates = make_candidates({"tap 0.10 0.10": 1, "back": 1, "": 14}, SHARES)
    assert choose(candidates, [0.9, 0.5, 2.0], min_probability=0.2).index == 1
    assert choose(candidates, [0.9, 0.5, 2.0], min_probability=0.1).index == 0


def test_probabilities_of_touches_close_to_each_other_add_up(make_candidates):
    candidates = make_candidates({"tap 0.10 0.10": 1, "tap 0.12 0.12": 1, "back": 1, "": 1}, SHARES)
    assert likelihood(candidates, 0.05).tolist() == pytest.approx([0.25, 0.25, 0.4, 0.0])
    assert likelihood(candidates, 0.0).tolist() == pytest.approx([0.1, 0.15, 0.4, 0.0])
    assert choose(candidates, [0.9, 0.1, 0.5, 0.0], min_probability=0.2, radius=0.05).index == 0
    assert choose(candidates, [0.9, 0.1, 0.5, 0.0], min_probability=0.2).index == 2


def test_where_nothing_is_as_likely_the_likeliest_stays(make_candidates):
    candidates = make_candidates({"tap 0.10 0.10": 8, "tap 0.12 0.12": 1}, SHARES)
    assert choose(candidates, [0.9, 0.1], min_probability=0.5).index == 1


def test_an_action_that_was_not_drawn_has_no_probability(make_candidates):
    candidates = make_candidates({"home": 0, "back": 16}, SHARES)
    assert choose(candidates, [0.9, 0.1], min_probability=0.2).index == 1
    with pytest.raises(InputError, match=r"no log-probabilities: .*critic.backup_support"):
        choose(make_candidates({"home": 8, "back": 8}), [0.9, 0.1], min_probability=0.2)


def test_what_is_drawn_keeps_its_probability(make_candidates):
    candidates = make_candidates({"tap 0.10 0.10": 4, "back": 4, "": 8}, SHARES)
    kept = draw(candidates, 5, np.random.default_rng(0))
    assert kept.probabilities().tolist() == pytest.approx([SHARES[text] for text in kept.texts])


def test_counts_of_the_unlikely_become_0(make_candidates):
    candidates = make_candidates({"tap 0.10 0.10": 4, "back": 4, "": 8}, SHARES)
    assert list(without_unlikely(candidates, 0.2).counts) == [0, 4, 8]
    assert without_unlikely(candidates, 0.9) == candidates
