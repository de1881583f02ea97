"""Learning rates over a training."""

from itertools import pairwise

import pytest

from digiq_ray.core.schedules import schedule


@pytest.mark.parametrize(
    ("kind", "middle", "end"), [("constant", 2.0, 2.0), ("linear", 1.1, 0.2), ("cosine", 1.1, 0.2)]
)
def test_a_rate_falls_from_its_peak_to_a_tenth(kind, middle, end):
    rate = schedule(kind, 2.0, 1000, warmup=0)
    assert (rate(0), rate(500)) == pytest.approx((2.0, middle))
    assert rate(1000) == pytest.approx(end)


def test_a_rate_rises_over_the_warm_up():
    rate = schedule("constant", 1.0, 100, warmup=4)
    assert [rate(i) for i in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_a_rate_rises_and_then_falls_in_a_line():
    rate = schedule("linear", 1.0, 100, warmup=10)
    values = [rate(step) for step in range(100)]
    assert values[0] < values[5] < max(values) <= 1.0
    assert values.index(max(values)) == 9
    falls = [after - before for before, after in pairwise(values[10:])]
    assert falls == pytest.approx([-0.009] * len(falls))
