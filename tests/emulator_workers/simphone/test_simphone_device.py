import io

import pytest
from PIL import Image
from simphone_helpers import a_task

from digiq_ray.evaluation.judges import KnowsSuccess
from emulator_workers.devices.base import ActionRejected, DeviceUnreachable, Key, Reset, SessionLost
from emulator_workers.environment import TaskAware
from emulator_workers.faults import Fault, FaultKind, FaultPlan, FaultyDevice
from emulator_workers.simphone.device import SimulatedDevice
from emulator_workers.simphone.phone import CALM, Hazards
from emulator_workers.simphone.style import HELD_OUT
from emulator_workers.simphone.tasks import build
from emulator_workers.simphone.world import HEIGHT, WIDTH, Release


def running(**options):
    device = SimulatedDevice(**{"hazards": CALM, **options})
    device.start()
    device.prepare(a_task(kind="open", app="mail"))
    device.reset()
    return device


def test_it_wants_tasks_and_knows_success():
    assert isinstance(SimulatedDevice(), TaskAware)
    assert isinstance(SimulatedDevice(), KnowsSuccess)


@pytest.mark.parametrize("scale", [1, 3])
def test_info_and_frames_have_the_size_of_the_scale(scale):
    device = running(scale=scale, name="p1")
    frame = device.screenshot()
    assert (device.info.kind, device.info.name) == ("simulated", "p1")
    assert (device.info.width, device.info.height) == (frame.width, frame.height) == (WIDTH * scale, HEIGHT * scale)
    assert Image.open(io.BytesIO(frame.image)).size == (frame.width, frame.height)


def test_a_device_without_a_task_says_what_is_missing():
    device = SimulatedDevice()
    device.start()
    with pytest.raises(SessionLost, match="prepare"):
        device.reset()
    device.prepare(a_task())
    with pytest.raises(SessionLost, match="reset"):
        device.screenshot()


def test_a_device_that_was_not_started_cannot_be_reset():
    device = SimulatedDevice()
    device.prepare(a_task())
    with pytest.raises(SessionLost, match="start"):
        device.reset()


@pytest.mark.parametrize("level", list(Reset))
def test_every_reset_starts_the_task_afresh(level):
    device = running(hazards=None)
    first = device.reset().image
    device.tap(0.5, 0.5)
    device.screenshot()
    assert device.reset(level).image == first


def test_preparing_another_task_starts_another_phone():
    device = running()
    tasks = build("webshop", "train", 2)
    device.prepare(tasks[1])
    device.reset()
    assert device.phone.task == tasks[1]


def test_success_is_what_the_phone_says():
    device = running()
    assert not device.succeeded()
    mail = next(e for e in device.phone.elements() if e.name == "mail")
    device.tap(*mail.centre)
    assert device.succeeded()


def test_release_and_style_reach_the_phone():
    device = running(release=Release.TEXTBOOK, style=HELD_OUT)
    assert (device.phone.release, device.phone.style) == (Release.TEXTBOOK, HELD_OUT)


def test_the_updated_release_is_the_default():
    device = running()
    assert device.phone.release is Release.UPDATED


def test_typing_without_focus_is_rejected_and_with_focus_is_not():
    device = running()
    with pytest.raises(ActionRejected, match="focus"):
        device.type_text("milk")
    device.phone.state.screen = "notes"
    device.tap(0.5, 0.25)
    device.type_text("buy milk")
    assert device.phone.state.typed == "buy milk"


def test_keys_reach_the_phone():
    device = running()
    device.phone.state.screen = "notes"
    device.tap(0.5, 0.25)
    device.type_text("buy milk")
    device.press(Key.ENTER)
    assert device.phone.state.notes == ()
    device.press(Key.BACK)
    assert device.phone.state.notes == ("buy milk",)
    device.press(Key.HOME)
    assert device.phone.state.screen == "home"


def test_time_passes_with_frames_only():
    device = running()
    frame = device.phone.state.frame
    device.tap(0.01, 0.99)
    assert device.phone.state.frame == frame
    device.screenshot()
    assert device.phone.state.frame == frame + 1


@pytest.mark.parametrize(
    ("kind", "error"),
    [(FaultKind.CRASH, SessionLost), (FaultKind.UNREACHABLE, DeviceUnreachable), (FaultKind.HANG, DeviceUnreachable)],
)
def test_faults_on_request_strike_the_simulated_phone(kind, error):
    device = FaultyDevice(SimulatedDevice(), FaultPlan(faults=(Fault(kind, step=1),), seconds=0.01))
    device.start()
    device.prepare(a_task())
    device.reset()
    with pytest.raises(error):
        device.screenshot()


def test_a_wrong_frame_on_request_is_the_one_before():
    device = FaultyDevice(SimulatedDevice(), FaultPlan(faults=(Fault(FaultKind.WRONG_FRAME, step=1),)))
    device.start()
    device.prepare(a_task())
    first = device.reset().image
    assert device.screenshot().image == first
    assert device.screenshot().image != first


def test_a_page_that_loads_is_there_after_one_frame_of_waiting() -> None:
    task = next(task for task in build("webshop", "train", 50) if task.kind == "go")
    device = SimulatedDevice(hazards=Hazards(ad=0.0, lag=0.0, slow=1.0, not_responding=0.0))
    device.start()
    device.prepare(task)
    device.reset()
    for tag, name in (("app", "browser"), ("shop", task.goal["shop"])):
        element = next(e for e in device.phone.elements() if (e.tag, e.name) == (tag, name))
        device.tap(*element.centre)
        device.screenshot()
    assert device.phone.state.loading
    device.screenshot()
    assert not device.phone.state.loading
    assert device.phone.state.screen == "shop"
