"""Random numbers are pure functions of named integers: stable over machines, independent of the batch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.rng import seed_of, uniforms

MASK = 2**64 - 1
seeds = st.integers(0, 2**63 - 1)


def splitmix64(state: int) -> int:
    """The published algorithm, in Python's integers."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_the_reference_has_the_published_first_outputs():
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert splitmix64(1234567) == 6457827717110365317


@given(seeds, seeds)
def test_a_number_is_splitmix64_of_seed_and_counter(seed, counter):
    expected = (splitmix64(splitmix64(seed) ^ counter) >> 11) * 2.0**-53
    assert float(uniforms(seed, counter)) == expected


def test_numbers_are_the_same_on_every_machine():
    np.testing.assert_array_equal(uniforms([0, 1], [0, 1]), [0.6524484863740322, 0.9140224628703029])


@given(st.lists(seeds, min_size=1, max_size=20), st.randoms())
def test_a_number_does_not_depend_on_what_shares_its_batch(batch, random):
    alone = {seed: float(uniforms(seed, 7)) for seed in batch}
    shuffled = random.sample(batch, len(batch))
    assert uniforms(shuffled, 7).tolist() == [alone[seed] for seed in shuffled]


def test_seeds_and_counters_are_broadcast():
    grid = uniforms(np.arange(3)[:, None], np.arange(4))
    assert grid.shape == (3, 4)
    assert grid[2, 1] == uniforms(2, 1)


def test_numbers_are_uniform():
    numbers = uniforms(5, np.arange(100_000))
    assert numbers.min() >= 0.0
    assert numbers.max() < 1.0
    shares, _ = np.histogram(numbers, bins=10, range=(0, 1))
    # Each tenth holds 10,000 with a standard deviation of 95.
    assert np.abs(shares - 10_000).max() < 500


def test_neighbouring_seeds_have_uncorrelated_numbers():
    counters = np.arange(20_000)
    correlation = np.corrcoef(uniforms(1, counters), uniforms(2, counters))[0, 1]
    # The standard deviation of the correlation of independent numbers is 0.007.
    assert abs(correlation) < 0.04


def test_a_seed_is_the_same_in_every_process():
    assert seed_of("collect", "general/test/0", 3) == 4814889985726726800


def test_a_seed_depends_on_every_part_and_on_their_order():
    assert len({seed_of("a", 1), seed_of("a", 2), seed_of("b", 1), seed_of(1, "a"), seed_of("a1")}) == 5


@given(st.lists(st.one_of(st.text(), st.integers(), st.floats())))
def test_a_seed_fits_into_63_bits(parts):
    assert 0 <= seed_of(*parts) < 2**63
