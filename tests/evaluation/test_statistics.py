import pytest
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.errors import InputError
from digiq_ray.evaluation.statistics import Difference, Proportion, difference, intervals_apart, wilson


@st.composite
def proportions(draw: st.DrawFn) -> Proportion:
    n = draw(st.integers(1, 5000))
    return Proportion(draw(st.integers(0, n)), n)


# The first from this project's design, the others from Newcombe, Statistics in Medicine 17 (1998), 857-872, table I.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(62, 200, 0.250, 0.377), (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)],
)
def test_wilson_gives_the_published_interval(successes, n, low, high):
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-4)


# Newcombe, Statistics in Medicine 17 (1998), 873-890, table II, method 10.
@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ],
)
def test_difference_gives_the_published_interval(a, b, low, high):
    found = difference(Proportion(*a), Proportion(*b))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


@given(proportions())
def test_wilson_stays_in_bounds_and_holds_the_rate(p):
    low, high = wilson(p.successes, p.n)
    assert 0 <= low <= p.rate <= high <= 1
    assert low < high


@given(proportions())
def test_wilson_of_failures_is_the_mirror_image(p):
    low, high = wilson(p.successes, p.n)
    assert wilson(p.n - p.successes, p.n) == pytest.approx((1 - high, 1 - low))


@given(proportions())
def test_more_trials_at_the_same_rate_give_a_shorter_interval(p):
    few, many = wilson(p.successes, p.n), wilson(4 * p.successes, 4 * p.n)
    assert many[1] - many[0] < few[1] - few[0]


@given(proportions(), st.floats(0.1, 2), st.floats(2.1, 4))
def test_more_confidence_gives_a_wider_interval(p, less, more):
    inner, outer = wilson(p.successes, p.n, less), wilson(p.successes, p.n, more)
    assert outer[0] <= inner[0] <= inner[1] <= outer[1]


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5), (0, -3)])
def test_counts_that_cannot_be_are_refused(successes, n):
    with pytest.raises(InputError, match=r"trials"):
        wilson(successes, n)


@given(proportions(), proportions())
def test_difference_holds_the_observed_one_in_bounds(a, b):
    found = difference(a, b)
    assert -1 - 1e-9 <= found.low <= found.value <= found.high <= 1 + 1e-9
    assert found.value == pytest.approx(a.rate - b.rate)


@given(proportions(), proportions())
def test_swapping_the_two_mirrors_the_difference(a, b):
    there, back = difference(a, b), difference(b, a)
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


@given(proportions(), proportions())
def test_intervals_apart_imply_a_clear_difference(a, b):
    if intervals_apart(wilson(a.successes, a.n), wilson(b.successes, b.n)):
        assert difference(a, b).clear


@pytest.mark.parametrize(
    ("a", "b", "apart"),
    [((0.1, 0.2), (0.3, 0.4), True), ((0.1, 0.3), (0.3, 0.4), False), ((0.1, 0.9), (0.3, 0.4), False)],
)
def test_intervals_are_apart_only_without_a_common_point(a, b, apart):
    assert intervals_apart(a, b) is apart
    assert intervals_apart(b, a) is apart


@pytest.mark.parametrize(("low", "high", "clear"), [(0.1, 0.3, True), (-0.3, -0.1, True), (-0.1, 0.3, False)])
def test_a_difference_is_clear_if_its_interval_leaves_out_zero(low, high, clear):
    assert Difference((low + high) / 2, low, high).clear is clear
