import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator_workers.devices.base import Recovery, Reset
from emulator_workers.recovery import LATE_FAILURES, STEADY_STEPS, Ladder, Rung


@pytest.mark.parametrize(
    ("recovery", "rung", "reset"),
    [
        (Recovery.NONE, Rung.RELAUNCH_APP, Reset.HOME),
        (Recovery.NEW_SESSION, Rung.NEW_SESSION, Reset.SESSION),
        (Recovery.RESTORE_DEVICE, Rung.SNAPSHOT, Reset.SNAPSHOT),
        (Recovery.REPLACE_DEVICE, Rung.REPLACE, Reset.HOME),
    ],
)
def test_the_first_failure_is_answered_by_what_its_error_asks_for(recovery, rung, reset):
    ladder = Ladder(6)
    assert ladder.failed(recovery, in_reset=False) is rung
    assert (ladder.rung, ladder.reset) == (rung, reset)


def test_each_failure_climbs_a_rung_up_to_another_device():
    ladder = Ladder(100)
    climbed = [ladder.failed(Recovery.NONE, in_reset=False) for _ in range(5)]
    assert climbed == [Rung.RELAUNCH_APP, Rung.NEW_SESSION, Rung.SNAPSHOT, Rung.REBOOT, Rung.REPLACE]


def test_a_new_device_begins_at_the_foot():
    ladder = Ladder(100)
    ladder.failed(Recovery.REPLACE_DEVICE, in_reset=False)
    assert ladder.failed(Recovery.NEW_SESSION, in_reset=False) is Rung.NEW_SESSION


def test_a_device_in_good_order_is_only_relaunched():
    ladder = Ladder(6)
    ladder.failed(Recovery.RESTORE_DEVICE, in_reset=True)
    ladder.finished()
    assert (ladder.rung, ladder.reset, ladder.failed_resets) == (None, Reset.HOME, 0)


def test_a_reset_that_went_well_does_not_lower_the_ladder():
    ladder = Ladder(6)
    ladder.failed(Recovery.NEW_SESSION, in_reset=False)
    ladder.was_reset()
    assert ladder.failed(Recovery.NEW_SESSION, in_reset=False) is Rung.SNAPSHOT


def test_a_fault_after_some_good_steps_is_a_new_one():
    ladder = Ladder(6)
    ladder.failed(Recovery.RESTORE_DEVICE, in_reset=False)
    assert ladder.failed(Recovery.NEW_SESSION, in_reset=False, good_steps=STEADY_STEPS) is Rung.NEW_SESSION
    assert ladder.failed(Recovery.NEW_SESSION, in_reset=False, good_steps=STEADY_STEPS - 1) is Rung.SNAPSHOT


def test_a_device_that_always_fails_late_climbs_in_the_end():
    ladder = Ladder(6)
    climbed = [ladder.failed(Recovery.NEW_SESSION, in_reset=False, good_steps=9) for _ in range(LATE_FAILURES + 4)]
    assert climbed[:LATE_FAILURES] == [Rung.NEW_SESSION] * LATE_FAILURES
    assert climbed[-1] is Rung.NEW_SESSION, "the device that replaced it begins at the foot"
    assert climbed[-2] is Rung.REPLACE


def test_so_many_failed_resets_in_a_row_give_the_place_up():
    ladder = Ladder(3)
    assert [ladder.failed(Recovery.NEW_SESSION, in_reset=True) for _ in range(3)][-1] is Rung.GIVE_UP


@given(failures=st.lists(st.tuples(st.sampled_from(Recovery), st.booleans()), min_size=1, max_size=30))
def test_the_ladder_never_goes_down_by_failing_and_asks_for_no_less_than_the_error(failures):
    ladder, rungs = Ladder(10**6), []
    for recovery, in_reset in failures:
        rungs.append(ladder.failed(recovery, in_reset=in_reset))
        assert rungs[-1] >= {0: 0, 1: 1, 2: 2, 3: 4}[recovery.value]
    for before, after in itertools.pairwise(rungs):
        assert after > before or before is Rung.REPLACE
