import pytest

from emulator_workers.devices.base import Recovery
from emulator_workers.phases import Deadlines, Phase, Watch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(clock):
    return Watch(clock)


def test_each_phase_is_booked_with_what_it_took(watch, clock):
    for phase, seconds in ((Phase.RESET, 3.0), (Phase.ACT, 1.0), (Phase.ACT, 2.0)):
        with watch.phase(phase):
            clock.now += seconds
    assert (watch.seconds[Phase.RESET], watch.seconds[Phase.ACT], watch.seconds[Phase.JUDGE]) == (3.0, 3.0, 0.0)


def test_a_phase_that_fails_is_booked_too(watch, clock):
    def fail() -> None:
        clock.now += 2.0
        raise OSError

    with pytest.raises(OSError), watch.phase(Phase.ACT):  # noqa: PT011 - any will do
        fail()
    assert (watch.seconds[Phase.ACT], watch.current()) == (2.0, None)


def test_the_present_phase_is_told_while_it_goes_on(watch, clock):
    assert watch.current() is None
    with watch.phase(Phase.JUDGE):
        clock.now += 4.0
        assert watch.current() == (Phase.JUDGE, 4.0)
    assert watch.current() is None


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.POLICY])
def test_a_phase_past_its_deadline_is_a_hung_device(watch, clock, phase):
    deadlines = Deadlines()
    with watch.phase(phase):
        clock.now += deadlines.of(phase)
        assert watch.overrun(deadlines) is None
        clock.now += 0.1
        error = watch.overrun(deadlines)
    assert error is not None
    assert f"hangs in {phase}" in str(error)
    assert error.recovery is Recovery.REPLACE_DEVICE


def test_a_slow_policy_is_no_hung_device(watch, clock):
    with watch.phase(Phase.POLICY):
        clock.now += 1e6
        assert watch.overrun(Deadlines()) is None


def test_the_shortest_deadline_is_found():
    assert Deadlines(judge=0.5).shortest == 0.5
