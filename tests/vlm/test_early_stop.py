"""Early stopping: when it ends, and that its state is all in what a checkpoint holds."""

import pytest

from digiq_ray.vlm.early_stop import EarlyStop


def stopped_after(measures, patience: int) -> int | None:
    stop = EarlyStop(100, 10, patience)
    for number, measure in enumerate(measures, 1):
        stop.note(measure)
        if stop.stopped:
            return number
    return None


@pytest.mark.parametrize(
    ("measures", "patience", "end"),
    [
        ([0.5, 0.6, 0.7, 0.8], 1, None),
        ([0.5, 0.4], 1, 2),
        ([0.5, 0.5], 1, 2),
        ([0.5, 0.4, 0.6, 0.6, 0.6], 2, 5),
        ([0.5, 0.4], 2, None),
    ],
)
def test_it_stops_when_the_best_lies_back_far_enough(measures, patience, end):
    assert stopped_after(measures, patience) == end


def test_it_is_due_every_so_many_updates():
    stop = EarlyStop(7, 3, 1)
    assert [done for done in range(1, 8) if stop.is_due(done)] == [3, 6]


def test_its_state_goes_through_a_checkpoint():
    one, other = EarlyStop(30, 10, 2), EarlyStop(30, 10, 2)
    one.note(1 / 3)
    one.note(0.2)
    other.load_state_dict(one.state_dict())
    assert other.curve() == one.curve() == [[10, 1 / 3], [20, 0.2]]
    other.note(0.1)
    assert other.stopped
    assert not one.stopped
