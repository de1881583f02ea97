import dataclasses

import pytest

from emulator_workers.checks.conformance import STEPS, conformance
from emulator_workers.devices.base import ActionRejected, DeviceUnreachable, Reset
from emulator_workers.simphone.device import SimulatedDevice


def failed(device) -> list[str]:
    return [result.name for result in conformance(device) if not result.passed]


def test_the_simulated_phone_passes_every_step():
    results = list(conformance(SimulatedDevice()))
    assert [result.name for result in results] == [name for name, _ in STEPS]
    assert all(result.passed for result in results)
    assert all(result.seconds >= 0 for result in results)


class Cut(SimulatedDevice):
    """Half of each screenshot."""

    def screenshot(self):
        frame = super().screenshot()
        return dataclasses.replace(frame, image=frame.image[: len(frame.image) // 2])


class Stale(SimulatedDevice):
    """Screens from before they were asked for."""

    def screenshot(self):
        return dataclasses.replace(super().screenshot(), monotonic=0.0)


class Shrunk(SimulatedDevice):
    """Says another size than its frames have."""

    def start(self):
        super().start()
        self.info = dataclasses.replace(self.info, width=10)


class Keyless(SimulatedDevice):
    """Refuses keys."""

    def press(self, key):
        raise ActionRejected("no such key")


class NoSnapshot(SimulatedDevice):
    """Fails to load its snapshot."""

    def reset(self, level=Reset.HOME):
        if level is Reset.SNAPSHOT:
            raise DeviceUnreachable("the snapshot is gone")
        return super().reset(level)


class Undead(SimulatedDevice):
    """Lives on after it was closed."""

    def close(self):
        pass


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (Cut, "screenshots"),
        (Stale, "screenshots"),
        (Shrunk, "reset"),
        (Keyless, "keys"),
        (NoSnapshot, "reset snapshot"),
        (Undead, "close"),
    ],
)
def test_what_is_wrong_is_found_and_the_other_steps_go_on(device, expected):
    found = failed(device())
    assert expected in found
    assert "start" not in found


def test_a_device_that_does_not_start_is_not_checked_further():
    class Dead(SimulatedDevice):
        def start(self):
            raise DeviceUnreachable("no answer")

    results = list(conformance(Dead()))
    assert [(result.name, result.passed) for result in results] == [("start", False)]
    assert results[0].detail == "DeviceUnreachable: no answer"


def test_the_device_is_closed_when_the_checks_are_broken_off():
    device = SimulatedDevice()
    steps = conformance(device)
    next(steps)
    assert device.healthy() or device.info is not None
    steps.close()
    assert device.info is None
