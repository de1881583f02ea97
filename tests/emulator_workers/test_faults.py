import threading
import time

import pytest
from fake_phones import FakePhone, MutePhone, encode, page_task
from hypothesis import given
from hypothesis import strategies as st

from digiq_ray.core.errors import InputError
from emulator_workers.devices.base import DeviceUnreachable, Key, SessionLost
from emulator_workers.faults import Fault, FaultKind, FaultPlan, FaultyDevice


def started(*faults: Fault, seconds: float = 0.01) -> FaultyDevice:
    device = FaultyDevice(FakePhone(), FaultPlan(faults=faults, seconds=seconds))
    device.start()
    device.prepare(page_task(3))
    return device


def struck(device: FaultyDevice) -> dict[FaultKind, int]:
    return {kind: count for kind, count in device.injected.items() if count}


def test_without_faults_every_call_goes_through():
    phone = FakePhone()
    device = FaultyDevice(phone, FaultPlan())
    device.start()
    device.prepare(page_task(3))
    device.reset()
    device.tap(0.9, 0.5, 70)
    device.swipe(0.1, 0.2, 0.3, 0.4)
    device.press(Key.HOME)
    device.type_text("x")
    device.screenshot()
    device.close()
    assert phone.calls == [
        *("start", "prepare", "reset HOME", "tap 0.9 0.5 70", "swipe 0.1 0.2 0.3 0.4"),
        *("press home", "type x", "screenshot", "close"),
    ]
    assert struck(device) == {}


def test_a_crash_lasts_until_a_restart():
    device = started(Fault(FaultKind.CRASH, call=2))
    device.reset()
    for _ in range(3):
        with pytest.raises(SessionLost):
            device.tap(0.9, 0.5)
    assert not device.healthy()
    device.close()
    device.start()
    assert device.reset().image == encode(0)
    assert struck(device) == {FaultKind.CRASH: 1}


def test_unreachable_fails_one_call():
    device = started(Fault(FaultKind.UNREACHABLE, call=1))
    with pytest.raises(DeviceUnreachable):
        device.reset()
    assert device.reset().image == encode(0)


def test_the_first_call_is_the_start():
    device = FaultyDevice(FakePhone(), FaultPlan(faults=(Fault(FaultKind.UNREACHABLE, call=0),)))
    with pytest.raises(DeviceUnreachable):
        device.start()


def test_a_hang_blocks_and_then_fails():
    device = started(Fault(FaultKind.HANG, call=1), seconds=0.05)
    began = time.monotonic()
    with pytest.raises(DeviceUnreachable, match="hung"):
        device.reset()
    assert time.monotonic() - began >= 0.05


def test_closing_wakes_a_call_that_hangs():
    device = started(Fault(FaultKind.HANG, call=1), seconds=60)
    closer = threading.Timer(0.05, device.close)
    closer.start()
    began = time.monotonic()
    with pytest.raises(DeviceUnreachable):
        device.reset()
    closer.join(5)
    assert time.monotonic() - began < 30


def test_slow_blocks_and_goes_on():
    device = started(Fault(FaultKind.SLOW, call=1), seconds=0.05)
    began = time.monotonic()
    assert device.reset().image == encode(0)
    assert time.monotonic() - began >= 0.05


def test_a_wrong_frame_is_the_one_before():
    device = started(Fault(FaultKind.WRONG_FRAME, step=1))
    before = device.reset()
    device.tap(0.9, 0.5)
    assert device.screenshot() == before
    assert device.screenshot().image == encode(1)
    assert struck(device) == {FaultKind.WRONG_FRAME: 1}


def test_a_broken_image_is_cut_in_half():
    device = started(Fault(FaultKind.BROKEN_IMAGE, step=0))
    assert device.reset().image == encode(0)[: len(encode(0)) // 2]
    assert device.screenshot().image == encode(0)


def test_a_frame_fault_on_a_touch_waits_for_the_frame():
    device = started(Fault(FaultKind.BROKEN_IMAGE, call=2))
    device.reset()
    device.tap(0.9, 0.5)
    assert struck(device) == {}
    assert device.screenshot().image != encode(1)
    assert struck(device) == {FaultKind.BROKEN_IMAGE: 1}


def test_there_is_no_wrong_frame_before_the_first():
    device = started(Fault(FaultKind.WRONG_FRAME, step=0))
    assert device.reset().image == encode(0)
    device.tap(0.9, 0.5)
    assert device.screenshot().image == encode(0)


def test_steps_count_from_each_reset_and_a_fault_strikes_once():
    device = started(Fault(FaultKind.UNREACHABLE, step=2))
    device.reset()
    device.screenshot()
    device.reset()
    device.screenshot()
    with pytest.raises(DeviceUnreachable):
        device.screenshot()
    device.reset()
    device.screenshot()
    device.screenshot()
    assert struck(device) == {FaultKind.UNREACHABLE: 1}


def test_it_knows_success_and_the_task_as_the_device_does():
    device = started()
    device.prepare(page_task(0))
    assert device.succeeded()


def test_it_does_not_know_success_if_the_device_does_not():
    device = FaultyDevice(MutePhone(), FaultPlan())
    with pytest.raises(InputError, match="cannot tell"):
        device.succeeded()


@given(seed=st.integers(0, 2**63 - 1), calls=st.lists(st.integers(0, 10_000), min_size=1))
def test_draws_depend_on_the_seed_and_the_call_alone(seed, calls):
    rates = {FaultKind.CRASH: 0.3, FaultKind.SLOW: 0.3}
    in_order = [FaultPlan(rates=rates, seed=seed).draw(call) for call in calls]
    backwards = [FaultPlan(rates=rates, seed=seed).draw(call) for call in reversed(calls)]
    assert in_order == backwards[::-1]


def test_draws_come_at_their_rates():
    plan = FaultPlan(rates={FaultKind.CRASH: 0.1, FaultKind.WRONG_FRAME: 0.3}, seed=5)
    draws = [plan.draw(call) for call in range(20_000)]
    assert draws.count(FaultKind.CRASH) / 20_000 == pytest.approx(0.1, abs=0.01)
    assert draws.count(FaultKind.WRONG_FRAME) / 20_000 == pytest.approx(0.3, abs=0.015)
    assert draws.count(None) / 20_000 == pytest.approx(0.6, abs=0.015)


@pytest.mark.parametrize("rates", [{FaultKind.CRASH: -0.1}, {FaultKind.CRASH: 0.6, FaultKind.SLOW: 0.5}])
def test_rates_that_are_no_probabilities_are_refused(rates):
    with pytest.raises(InputError, match="fault rates"):
        FaultPlan(rates=rates)


@pytest.mark.parametrize("where", [{}, {"call": 1, "step": 1}])
def test_a_fault_needs_one_place(where):
    with pytest.raises(InputError, match="either call or step"):
        Fault(FaultKind.CRASH, **where)
